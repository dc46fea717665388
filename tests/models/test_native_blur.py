"""Sharpening of the natively coarser guide bands, where the truth is known."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the models need the models extra")
pytestmark = pytest.mark.torch

from satfuse.models.bayesian.native_blur import (
    add_detail,
    blur_to_native,
    detail_error,
    detail_power,
    fit_detail,
    resolution_levels,
)
from satfuse.sensors.bands import S2_BANDS, S2_NAMES
from satfuse.simulate.scenes.factory import biome_scene
from satfuse.simulate.scenes.protocol import Protocol, native_blur

FINE = [b.gsd_m == 10 for b in S2_BANDS]


def rms(error):
    return np.sqrt(np.square(error).mean())


def linear_scene(size=240, seed=0):
    """(12, size, size): sharp 10 m bands, and others that are linear functions of them."""
    rng = np.random.default_rng(seed)
    blobs = rng.random((4, size // 4, size // 4)).repeat(4, 1).repeat(4, 2)
    fine = 0.1 + 0.2 * blobs + 0.1 * rng.random((4, size, size))
    mix = rng.dirichlet(np.ones(4), 12)
    out = np.einsum("bf,fyx->byx", mix, fine)
    out[FINE] = fine
    return out.astype(np.float32)


def sharpen(guide, pixel_m, valid=None):
    """The sharpened guide, and the fitted maps."""
    valid = np.ones(guide.shape[-2:], bool) if valid is None else valid
    guide = torch.from_numpy(guide)[None].double()
    valid = torch.from_numpy(valid)[None, None]
    maps, _ = fit_detail(guide, valid, S2_NAMES, pixel_m)
    return add_detail(guide, valid, S2_NAMES, pixel_m, maps)[0].numpy(), maps


def test_levels_are_the_native_sizes():
    levels = resolution_levels(("B8A", "B04", "B01", "B12"))
    assert [(level.native_m, level.coarser, level.finer) for level in levels] == [
        (20, [0, 3], [1]),
        (60, [2], [0, 1, 3]),
    ]
    for one_size in (("B04", "B08"), ("B11", "B12"), ("band1", "band2")):
        assert resolution_levels(one_size) == []


@pytest.mark.parametrize(("pixel_m", "native"), [(10, (20, 60)), (20, (60,)), (30, (60,))])
def test_lost_detail_is_restored(pixel_m, native):
    truth = linear_scene()
    blurred = native_blur(truth, pixel_m)
    sharp, maps = sharpen(blurred, pixel_m)
    assert set(maps) == {f"detail{n}" for n in native}
    coarser = [b.gsd_m in native for b in S2_BANDS]
    before, after = (rms((image - truth)[coarser]) for image in (blurred, sharp))
    assert after < 1e-3
    assert before > 0.02
    np.testing.assert_array_equal(sharp[FINE], blurred[FINE].astype(float))


@pytest.mark.parametrize("pixel_m", [10, 20, 30, 60, 100])
def test_sharp_bands_are_not_changed(pixel_m):
    truth = linear_scene()
    sharp, maps = sharpen(truth, pixel_m)
    np.testing.assert_array_equal(sharp, truth.astype(float))
    assert not any(m.any() for m in maps.values())


@pytest.mark.parametrize("sharp", [True, False])
@pytest.mark.parametrize("seed", [0, 2])
def test_noise_and_clouds_do_not_hide_which_bands_are_sharp(seed, sharp):
    """Snow is dark in 20 m bands, and few of its pixels are clear."""
    protocol = Protocol(noise=0.003, cloud=0.4, equal_blur=sharp)
    scene = biome_scene("snow", ratio=30, protocol=protocol, seed=seed, fine_px=120)
    image = torch.from_numpy(scene.guide)[None].double()
    valid = torch.from_numpy(scene.guide_valid)[None, None]
    maps, _ = fit_detail(image * valid, valid, S2_NAMES, 10)
    for name, linear in maps.items():
        assert (linear.any(1) != sharp).all(), name


def test_some_bands_sharp_and_some_blurred():
    truth = linear_scene()
    image = native_blur(truth, 10)
    band = S2_NAMES.index("B11")
    image[band] = truth[band]
    sharp, _ = sharpen(image, 10)
    np.testing.assert_array_equal(sharp[band], truth[band].astype(float))
    assert rms(sharp - truth) < 1e-3


def test_unrelated_bands_get_no_false_detail():
    """Detail that the finer bands do not predict is not invented: the error does not grow."""
    rng = np.random.default_rng(1)
    truth = rng.random((12, 240, 240)).astype(np.float32)
    blurred = native_blur(truth, 10)
    sharp, _ = sharpen(blurred, 10)
    before, after = (rms((image - truth)[~np.array(FINE)]) for image in (blurred, sharp))
    assert after < 1.02 * before


def test_invalid_pixels_do_not_spread():
    truth = linear_scene()
    valid = np.ones((240, 240), bool)
    valid[60:120, 90:150] = False
    spoiled = np.where(valid, native_blur(truth, 10), np.float32(50))
    sharp, _ = sharpen(spoiled, 10, valid)
    far = np.ones((240, 240), bool)
    far[48:132, 78:162] = False  # two native pixels around
    assert rms((sharp - truth)[:, far]) < 1e-3
    assert np.abs(sharp - truth)[:, valid].max() < 0.3


def test_detail_is_learned_between_scattered_masks():
    """No large block is free of masked pixels."""
    truth = linear_scene()
    blurred = native_blur(truth, 10)
    valid = np.random.default_rng(0).random(truth.shape[1:]) > 0.02
    sharp, _ = sharpen(np.where(valid, blurred, 0).astype(np.float32), 10, valid)
    before, after = (rms((image - truth)[:, valid]) for image in (blurred, sharp))
    assert after < 0.2 * before


def test_no_valid_pixel_and_no_contrast():
    guide = linear_scene(size=60)
    sharp, maps = sharpen(guide, 10, np.zeros((60, 60), bool))
    np.testing.assert_array_equal(sharp, guide.astype(float))
    assert set(maps) == {"detail20", "detail60"}
    assert not any(m.any() for m in maps.values())
    constant = np.full((12, 60, 60), 0.2, np.float32)
    np.testing.assert_allclose(sharpen(constant, 10)[0], constant, atol=1e-6)


@pytest.mark.parametrize("step", [2, 3, 4, 7])
def test_resampling_keeps_ramps_and_any_image_size(step):
    y, x = np.mgrid[:45, :50]
    ramp = torch.from_numpy(0.3 * y - 0.2 * x)[None, None].double()
    valid = torch.ones(1, 1, 45, 50, dtype=bool)
    out = blur_to_native(ramp, valid, step)
    assert out.shape == ramp.shape
    inner = (..., slice(step, -2 * step), slice(step, -2 * step))
    np.testing.assert_allclose(out[inner], ramp[inner], atol=1e-9)
    constant = torch.full_like(ramp, 0.3)
    np.testing.assert_allclose(blur_to_native(constant, valid, step), 0.3, atol=1e-12)


@pytest.mark.parametrize(
    ("ratio", "pixel_m"), [(30, 10), (15, 20), (10, 30), (25, 12), (18, 300 / 18), (7, 300 / 7)]
)
def test_the_detail_of_a_tile_is_that_of_the_whole(ratio, pixel_m):
    """A margin of one coarse pixel is enough, whatever the ratio."""
    size = min(9 * ratio, 240) // ratio * ratio
    guide = torch.from_numpy(linear_scene(size=240)[:, :size, :size])[None].double()
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


@pytest.mark.parametrize("unrelated", [0.1, 0.4])
def test_the_error_of_the_detail_is_known(unrelated):
    """`unrelated`: share of the coarser bands that the finer ones cannot predict."""
    truth = linear_scene()
    other = linear_scene(seed=5)
    coarser = ~np.array(FINE)
    truth[coarser] = (1 - unrelated) * truth[coarser] + unrelated * other[coarser]
    blurred = torch.from_numpy(native_blur(truth, 10))[None].double()
    valid = torch.ones(1, 1, 240, 240, dtype=bool)
    maps, errors = fit_detail(blurred, valid, S2_NAMES, 10)
    sharp = add_detail(blurred, valid, S2_NAMES, 10, maps)
    power = detail_power(blurred, sharp, S2_NAMES)[0].mean((1, 2)).numpy()
    expected = detail_error(np.eye(12), maps, errors, S2_NAMES).T @ power
    actual = np.square(sharp[0].numpy() - truth).mean((1, 2))
    assert (expected[FINE] == 0).all()
    ratio = actual[coarser] / expected[coarser]
    assert ratio.min() > 0.75
    assert ratio.max() < 1.1
