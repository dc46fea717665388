"""Guide pixels at mask edges: cloud is removed from them, and clear pixels stay as they are."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the models need the models extra")
pytestmark = pytest.mark.torch

from satfuse.models.bayesian.mask_edge_filter import (
    CLOUDS,
    EDGE_OPACITY,
    MASKED_SHARE,
    N_CLASSES,
    cloud_spectra,
    edge_classes,
    filter_edges,
    fit_edge_filter,
)
from satfuse.sensors.bands import S2_BANDS, S2_NAMES

DIGITS = len(MASKED_SHARE)
COARSER = {f"detail{n}": torch.ones(sum(b.gsd_m == n for b in S2_BANDS), 1) for n in (20, 60)}


def valid_with_hole(size=120, hole=slice(40, 70)):
    valid = np.ones((size, size), bool)
    valid[hole, hole] = False
    return valid


def classes_of(valid, pixel_m=10):
    return edge_classes(torch.from_numpy(valid)[None, None], S2_NAMES, pixel_m)[0].numpy()


def digits_of(classes):
    """Distance class, class of the 20 m and class of the 60 m pixel."""
    distance, native = np.divmod(classes, DIGITS**2)
    return distance, *np.divmod(native, DIGITS)


def clear_spectra(count, seed=0):
    """(12, count): mixtures of five surfaces, none of them like cloud."""
    surfaces = np.random.default_rng(5).uniform(0.03, 0.4, (5, 12)).cumsum(1) / 6
    rng = np.random.default_rng(seed)
    return (rng.dirichlet(np.ones(5), count) @ surfaces).T + rng.normal(0, 0.0005, (12, count))


def clouded(valid, seed=0):
    """The true image (12, y, x), and one with cloud.

    Thin cloud around the hole, and the opaque cloud of the hole in bands whose native pixels reach
    into it.
    """
    rng = np.random.default_rng(seed)
    truth = clear_spectra(valid.size, seed).reshape(12, *valid.shape)
    distance, of_20_m, of_60_m = digits_of(classes_of(valid))
    share = {20: np.array(MASKED_SHARE)[of_20_m], 60: np.array(MASKED_SHARE)[of_60_m]}
    cloud = cloud_spectra(S2_NAMES)[0][:, None, None]
    thin = np.array(EDGE_OPACITY)[distance] * abs(rng.normal(0, 1, valid.shape))
    thick = rng.random()
    opacity = np.stack([thin + 0.8 * thick * share.get(b.gsd_m, 0) for b in S2_BANDS])
    return truth, truth + opacity * (cloud - truth)


def filtered(image, valid):
    """The filtered image, the filter, and where there are mask edges."""
    classes = classes_of(valid)
    edges = fit_edge_filter(image[:, valid], classes[valid], S2_NAMES, COARSER)
    maps = {
        "edge_matrix": torch.from_numpy(edges.matrix),
        "edge_offset": torch.from_numpy(edges.offset),
    }
    out = filter_edges(torch.from_numpy(image)[None], torch.from_numpy(classes)[None], maps)
    return out[0].numpy(), edges, valid & (classes > 0)


def rms(error):
    return np.sqrt(np.square(error).mean())


def test_classes_are_distance_to_the_mask_and_masked_shares():
    hole = slice(40, 72)
    classes = classes_of(valid_with_hole(hole=hole))
    distance, of_20_m, of_60_m = digits_of(classes)
    row = 55
    np.testing.assert_array_equal(distance[row, 34:40], [0, 0, 0, 0, 1, 2])
    np.testing.assert_array_equal(distance[row, 72:76], [2, 1, 0, 0])
    # native pixels begin at multiples of 2 and 6; of the one from 36 on a third is masked, of the
    # one from 42 on all
    assert of_20_m[row, 39] > 0
    assert not of_20_m[row, :39].any()
    assert (of_60_m[row, 33:40] > 0).all()
    assert of_60_m[row, 39] == 2
    assert not of_60_m[row, :33].any()
    assert classes.max() < N_CLASSES
    assert not classes[:33, :33].any()
    assert not classes[~valid_with_hole(hole=hole)].any()


@pytest.mark.parametrize("pixel_m", [10, 20, 30, 60, 100])
def test_without_masks_there_is_no_class(pixel_m):
    assert not classes_of(np.ones((60, 60), bool), pixel_m).any()


def test_classes_of_a_tile_are_those_of_the_whole():
    """A margin of one coarse pixel is enough."""
    valid = np.random.default_rng(1).random((150, 150)) > 0.001
    whole = classes_of(valid)
    assert len(np.unique(whole[60:90])) > 3
    for part, core_of_part, core in (
        (np.s_[30:120, :], np.s_[30:60, :], np.s_[60:90, :]),
        (np.s_[:, 30:120], np.s_[:, 30:60], np.s_[:, 60:90]),
        (np.s_[60:150, 60:150], np.s_[30:60, 30:60], np.s_[90:120, 90:120]),
    ):
        np.testing.assert_array_equal(classes_of(valid[part])[core_of_part], whole[core])


@pytest.mark.parametrize("seed", range(3))
def test_cloud_at_mask_edges_is_removed(seed):
    valid = valid_with_hole()
    truth, cloudy = clouded(valid, seed)
    out, edges, at_edge = filtered(cloudy, valid)
    before, after = (rms((image - truth)[:, at_edge]) for image in (cloudy, out))
    assert after < 0.25 * before
    away = classes_of(valid) == 0
    np.testing.assert_array_equal(out[:, away], cloudy[:, away])
    assert (edges.covariance.diagonal(axis1=1, axis2=2) > -1e-12).all()


def test_a_mask_without_residual_cloud_changes_nothing():
    valid = valid_with_hole()
    truth, _ = clouded(valid)
    out, edges, _ = filtered(truth, valid)
    np.testing.assert_allclose(out, truth, atol=1e-9)
    assert np.abs(edges.covariance).max() < 1e-12


def test_sharp_bands_are_not_affected_by_masked_neighbours():
    """If all bands are as sharp as the pixels, only classes with thin cloud are filtered."""
    valid = valid_with_hole()
    _, cloudy = clouded(valid)
    classes = classes_of(valid)
    sharp = {name: torch.zeros_like(m) for name, m in COARSER.items()}
    edges = fit_edge_filter(cloudy[:, valid], classes[valid], S2_NAMES, sharp)
    without_thin_cloud = edges.matrix[1 : DIGITS**2]
    identity = np.broadcast_to(np.eye(12), (15, 12, 12))
    np.testing.assert_allclose(without_thin_cloud, identity, atol=1e-9)


def test_few_pixels_and_few_bands():
    valid = valid_with_hole(20, slice(2, 18))
    spectra = clear_spectra(valid.sum())[[2, 3]]
    edges = fit_edge_filter(spectra, classes_of(valid)[valid], ("B03", "B04"), {})
    assert edges.matrix.shape == (N_CLASSES, 2, 2)
    assert np.isfinite(edges.matrix).all()


def test_clouds_are_white_and_darker_in_the_infrared():
    values = cloud_spectra(("B02", "B04", "B12"))
    assert values.shape == (len(CLOUDS), 3)
    assert (values[:, 2] < values[:, 0]).all()
    assert (values[:, :2] > 0.8).all()
