"""Detail of the natively coarser guide bands, where the truth is known."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the models need the models extra")
pytestmark = pytest.mark.torch

from satfuse.models.bayesian.native_blur import (
    add_detail,
    detail_error,
    detail_power,
    fit_detail,
    lay,
    levels,
)
from satfuse.sensors.bands import S2_BANDS, S2_NAMES
from satfuse.simulate.scenes.factory import biome_scene
from satfuse.simulate.scenes.protocol import Protocol, native_blur

FINE = [b.gsd_m == 10 for b in S2_BANDS]


def linear_scene(size=240, seed=0):
    """(12, size, size): sharp 10 m bands, and others that are linear functions of them."""
    rng = np.random.default_rng(seed)
    blobs = rng.random((4, size // 4, size // 4)).repeat(4, 1).repeat(4, 2)
    fine = 0.1 + 0.2 * blobs + 0.1 * rng.random((4, size, size))
    mix = rng.dirichlet(np.ones(4), 12)
    out = np.einsum("bf,fyx->byx", mix, fine)
    out[FINE] = fine
    return out.astype(np.float32)


def run(guide, pixel_m, valid=None):
    guide = torch.from_numpy(guide)[None].double()
    valid = (
        torch.ones(1, 1, *guide.shape[-2:], dtype=bool)
        if valid is None
        else torch.from_numpy(valid)[None, None]
    )
    maps, _ = fit_detail(guide, valid, S2_NAMES, pixel_m)
    return add_detail(guide, valid, S2_NAMES, pixel_m, maps)[0].numpy(), maps


def test_levels_are_the_native_sizes():
    found = levels(("B8A", "B04", "B01", "B12"))
    assert [(level.native_m, level.blurred, level.finer) for level in found] == [
        (20, [0, 3], [1]),
        (60, [2], [0, 1, 3]),
    ]
    assert levels(("B04", "B08")) == levels(("B11", "B12")) == levels(("band1", "band2")) == []


@pytest.mark.parametrize(("pixel_m", "native"), [(10, (20, 60)), (20, (60,)), (30, (60,))])
def test_lost_detail_comes_back(pixel_m, native):
    truth = linear_scene()
    seen = native_blur(truth, pixel_m)
    found, maps = run(seen, pixel_m)
    assert set(maps) == {f"detail{n}" for n in native}
    blurred = [b.gsd_m in native for b in S2_BANDS]
    before, after = (np.sqrt(np.square(image - truth)[blurred].mean()) for image in (seen, found))
    assert after < 1e-3 < 0.05 * before
    np.testing.assert_array_equal(found[FINE], seen[FINE].astype(float))


@pytest.mark.parametrize("pixel_m", [10, 20, 30, 60, 100])
def test_sharp_bands_are_left_alone(pixel_m):
    truth = linear_scene()
    found, maps = run(truth, pixel_m)
    np.testing.assert_array_equal(found, truth.astype(float))
    assert not any(m.any() for m in maps.values())


@pytest.mark.parametrize("sharp", [True, False])
@pytest.mark.parametrize("seed", [0, 2])
def test_noise_and_clouds_do_not_hide_which_bands_are_sharp(seed, sharp):
    """Snow is dark where 20 m bands are, and little of it is left between the clouds."""
    protocol = Protocol(noise=0.003, cloud=0.4, equal_blur=sharp)
    scene = biome_scene("snow", ratio=30, protocol=protocol, seed=seed, fine_px=120)
    image, valid = (
        torch.from_numpy(scene.guide)[None].double(),
        torch.from_numpy(scene.guide_valid)[None, None],
    )
    maps, _ = fit_detail(image * valid, valid, S2_NAMES, 10)
    for name, linear in maps.items():
        assert (linear.any(1) != sharp).all(), name


def test_some_bands_sharp_and_some_blurred():
    truth = linear_scene()
    seen = native_blur(truth, 10)
    sharp = S2_NAMES.index("B11")
    seen[sharp] = truth[sharp]
    found, _ = run(seen, 10)
    np.testing.assert_array_equal(found[sharp], truth[sharp].astype(float))
    assert np.sqrt(np.square(found - truth).mean()) < 1e-3


def test_unrelated_bands_gain_nothing_false():
    """Detail that the finer bands do not tell of is not invented: the error does not grow."""
    rng = np.random.default_rng(1)
    truth = rng.random((12, 240, 240)).astype(np.float32)
    seen = native_blur(truth, 10)
    found, _ = run(seen, 10)
    before, after = (
        np.sqrt(np.square(image - truth)[~np.array(FINE)].mean()) for image in (seen, found)
    )
    assert after < 1.02 * before


def test_invalid_pixels_do_not_spread():
    truth = linear_scene()
    seen = native_blur(truth, 10)
    valid = np.ones((240, 240), bool)
    valid[60:120, 90:150] = False
    spoiled = np.where(valid, seen, np.float32(50))
    found, _ = run(spoiled, 10, valid)
    far = np.ones((240, 240), bool)
    far[48:132, 78:162] = False  # two native pixels around
    assert np.sqrt(np.square(found - truth)[:, far].mean()) < 1e-3
    assert np.abs(found - truth)[:, valid].max() < 0.3


def test_detail_is_learned_between_scattered_masks():
    """Where no large block is free of masked pixels."""
    truth = linear_scene()
    seen = native_blur(truth, 10)
    valid = np.random.default_rng(0).random(truth.shape[1:]) > 0.02
    found, _ = run(np.where(valid, seen, 0).astype(np.float32), 10, valid)
    before, after = (np.sqrt(np.square(image - truth)[:, valid].mean()) for image in (seen, found))
    assert after < 0.2 * before


def test_nothing_valid_or_nothing_to_learn_from():
    guide = linear_scene(size=60)
    found, maps = run(guide, 10, np.zeros((60, 60), bool))
    np.testing.assert_array_equal(found, guide.astype(float))
    assert set(maps) == {"detail20", "detail60"} and not any(m.any() for m in maps.values())
    constant = np.full((12, 60, 60), 0.2, np.float32)
    np.testing.assert_allclose(run(constant, 10)[0], constant, atol=1e-6)


@pytest.mark.parametrize("step", [2, 3, 4, 7])
def test_laying_keeps_ramps_and_sizes_that_steps_do_not_divide(step):
    y, x = np.mgrid[:45, :50]
    ramp = torch.from_numpy(0.3 * y - 0.2 * x)[None, None].double()
    valid = torch.ones(1, 1, 45, 50, dtype=bool)
    out = lay(ramp, valid, step)
    assert out.shape == ramp.shape
    inner = (..., slice(step, -2 * step), slice(step, -2 * step))
    np.testing.assert_allclose(out[inner], ramp[inner], atol=1e-9)
    np.testing.assert_allclose(lay(torch.full_like(ramp, 0.3), valid, step), 0.3, atol=1e-12)


@pytest.mark.parametrize(
    ("ratio", "pixel_m"), [(30, 10), (15, 20), (10, 30), (25, 12), (18, 300 / 18), (7, 300 / 7)]
)
def test_tiles_on_coarse_pixels_give_the_whole(ratio, pixel_m):
    """With one coarse pixel around, detail in a tile is that of the whole image, whatever the ratio."""
    guide = torch.from_numpy(linear_scene(size=240)[:, : 9 * ratio, : 9 * ratio])[None].double()[
        ..., :240, :240
    ]
    size = guide.shape[-1] // ratio * ratio
    guide = guide[..., :size, :size]
    valid = torch.ones(1, 1, size, size, dtype=bool)
    maps = {
        "detail20": torch.rand(6, 4, dtype=torch.float64),
        "detail60": torch.rand(2, 10, dtype=torch.float64),
    }
    whole = add_detail(guide, valid, S2_NAMES, pixel_m, maps)
    cut = (..., slice(ratio, None), slice(ratio, None))
    tile = add_detail(guide[cut], valid[cut], S2_NAMES, pixel_m, maps)
    inner = (..., slice(2 * ratio, None), slice(2 * ratio, None))
    np.testing.assert_allclose(tile[..., ratio:, ratio:], whole[inner], atol=1e-9)


@pytest.mark.parametrize("own", [0.1, 0.4])
def test_the_error_of_the_detail_is_known(own):
    """Detail that the finer bands tell of in part: `own` is the share of the coarser bands that is their own."""
    truth = linear_scene()
    other = linear_scene(seed=5)
    coarser = ~np.array(FINE)
    truth[coarser] = (1 - own) * truth[coarser] + own * other[coarser]
    seen = torch.from_numpy(native_blur(truth, 10))[None].double()
    valid = torch.ones(1, 1, 240, 240, dtype=bool)
    maps, errors = fit_detail(seen, valid, S2_NAMES, 10)
    sharp = add_detail(seen, valid, S2_NAMES, 10, maps)
    power = detail_power(seen, sharp, S2_NAMES)[0].mean((1, 2)).numpy()
    expected = detail_error(np.eye(12), maps, errors, S2_NAMES).T @ power
    actual = np.square(sharp[0].numpy() - truth).mean((1, 2))
    assert (expected[FINE] == 0).all()
    ratio = actual[coarser] / expected[coarser]
    assert ratio.min() > 0.75 and ratio.max() < 1.1
