"""Guide pixels beside masks: what cloud does to them is undone, and clear pixels stay as they are."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the models need the models extra")
pytestmark = pytest.mark.torch

from satfuse.models.bayesian.mask_edge import (
    CLOUDS,
    THIN,
    UNDER,
    cloud_spectra,
    edge_classes,
    filter_edges,
    fit_edges,
)
from satfuse.sensors.bands import S2_BANDS, S2_NAMES

CLASSES = len(THIN) * len(UNDER) ** 2
BLURRED = {f"detail{n}": torch.ones(sum(b.gsd_m == n for b in S2_BANDS), 1) for n in (20, 60)}


def valid_with_hole(size=120, hole=slice(40, 70)):
    valid = np.ones((size, size), bool)
    valid[hole, hole] = False
    return valid


def classes_of(valid, pixel_m=10):
    return edge_classes(torch.from_numpy(valid)[None, None], S2_NAMES, pixel_m)[0].numpy()


def clear_spectra(count, seed=0):
    """(12, count): mixtures of five surfaces, so that cloud is none of them."""
    surfaces = np.random.default_rng(5).uniform(0.03, 0.4, (5, 12)).cumsum(1) / 6
    rng = np.random.default_rng(seed)
    return (rng.dirichlet(np.ones(5), count) @ surfaces).T + rng.normal(0, 0.0005, (12, count))


def clouded(valid, seed=0):
    """The true image (12, y, x) and the seen one: thin cloud beside the hole, and the cloud itself in blurred bands."""
    rng = np.random.default_rng(seed)
    truth = clear_spectra(valid.size, seed).reshape(12, *valid.shape)
    near, rest = np.divmod(classes_of(valid), len(UNDER) ** 2)
    under = {20: np.array(UNDER)[rest // len(UNDER)], 60: np.array(UNDER)[rest % len(UNDER)]}
    cloud, thin, thick = (
        cloud_spectra(S2_NAMES)[0][:, None, None],
        abs(rng.normal(0, 1, valid.shape)),
        rng.random(),
    )
    opacity = np.stack(
        [np.array(THIN)[near] * thin + 0.8 * thick * under.get(b.gsd_m, 0) for b in S2_BANDS]
    )
    return truth, truth + opacity * (cloud - truth)


def filtered(seen, valid):
    classes = classes_of(valid)
    edges = fit_edges(seen[:, valid], classes[valid], S2_NAMES, BLURRED)
    maps = {
        "edge_matrix": torch.from_numpy(edges.matrix),
        "edge_offset": torch.from_numpy(edges.offset),
    }
    out = filter_edges(torch.from_numpy(seen)[None], torch.from_numpy(classes)[None], maps)[
        0
    ].numpy()
    return out, edges, valid & (classes > 0)


def rms(error):
    return np.sqrt(np.square(error).mean())


def test_classes_tell_how_near_the_mask_is_and_what_lies_under_it():
    classes = classes_of(valid_with_hole(hole=slice(40, 72)))
    near, rest = np.divmod(classes, len(UNDER) ** 2)
    of_20, of_60 = np.divmod(rest, len(UNDER))
    row = 55
    np.testing.assert_array_equal(near[row, 34:40], [0, 0, 0, 0, 1, 2])
    np.testing.assert_array_equal(near[row, 72:76], [2, 1, 0, 0])
    # native pixels begin at multiples of 2 and 6; a third of the one from 36 on is masked, all of
    # the one from 42 on
    assert of_20[row, 39] > 0 and not of_20[row, :39].any()
    assert (of_60[row, 33:40] > 0).all() and of_60[row, 39] == 2 and not of_60[row, :33].any()
    assert classes.max() < CLASSES and not classes[:33, :33].any()
    assert not classes[~valid_with_hole(hole=slice(40, 72))].any()


@pytest.mark.parametrize("pixel_m", [10, 20, 30, 60, 100])
def test_without_masks_there_is_no_class(pixel_m):
    assert not classes_of(np.ones((60, 60), bool), pixel_m).any()


def test_classes_know_only_what_is_near():
    """Of a part of the image with a margin of one coarse pixel they are those of the whole."""
    valid = np.random.default_rng(1).random((150, 150)) > 0.001
    whole = classes_of(valid)
    assert len(np.unique(whole[60:90])) > 3
    for part, inside, place in (
        (np.s_[30:120, :], np.s_[30:60, :], np.s_[60:90, :]),
        (np.s_[:, 30:120], np.s_[:, 30:60], np.s_[:, 60:90]),
        (np.s_[60:150, 60:150], np.s_[30:60, 30:60], np.s_[90:120, 90:120]),
    ):
        np.testing.assert_array_equal(classes_of(valid[part])[inside], whole[place])


@pytest.mark.parametrize("seed", range(3))
def test_cloud_beside_masks_is_taken_out(seed):
    valid = valid_with_hole()
    truth, seen = clouded(valid, seed)
    out, edges, near = filtered(seen, valid)
    before, after = rms((seen - truth)[:, near]), rms((out - truth)[:, near])
    assert after < 0.25 * before
    away = classes_of(valid) == 0
    np.testing.assert_array_equal(out[:, away], seen[:, away])
    assert (edges.error.diagonal(axis1=1, axis2=2) > -1e-12).all()


def test_a_mask_that_leaves_nothing_costs_nothing():
    valid = valid_with_hole()
    truth, _ = clouded(valid)
    out, edges, _ = filtered(truth, valid)
    np.testing.assert_allclose(out, truth, atol=1e-9)
    assert not edges.error.any() or np.abs(edges.error).max() < 1e-12


def test_sharp_bands_take_nothing_from_under_a_mask():
    """Bands that are as sharp as the pixels differ from the others beside the mask only."""
    valid = valid_with_hole()
    _, seen = clouded(valid)
    classes = classes_of(valid)
    sharp = {name: torch.zeros_like(m) for name, m in BLURRED.items()}
    edges = fit_edges(seen[:, valid], classes[valid], S2_NAMES, sharp)
    only_under = np.arange(1, len(UNDER) ** 2)  # not beside the mask
    np.testing.assert_allclose(
        edges.matrix[only_under], np.broadcast_to(np.eye(12), (15, 12, 12)), atol=1e-9
    )


def test_few_pixels_and_few_bands():
    valid = valid_with_hole(20, slice(2, 18))
    spectra = clear_spectra(valid.sum())[[2, 3]]
    edges = fit_edges(spectra, classes_of(valid)[valid], ("B03", "B04"), {})
    assert edges.matrix.shape == (CLASSES, 2, 2) and np.isfinite(edges.matrix).all()


def test_clouds_are_white_and_darker_in_the_infrared():
    values = cloud_spectra(("B02", "B04", "B12"))
    assert (
        values.shape == (len(CLOUDS), 3)
        and (values[:, 2] < values[:, 0]).all()
        and (values[:, :2] > 0.8).all()
    )
