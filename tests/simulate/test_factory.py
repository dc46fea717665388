"""Scenes of the factory: the images follow from the stated truth, and a seed determines a scene."""

import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest

from satfuse.errors import ConfigError
from satfuse.sensors.bands import S2_BANDS, S2_NAMES, S3_NAMES
from satfuse.sensors.degradation import degrade
from satfuse.sensors.srf import srf_matrix
from satfuse.simulate.scenes.factory import (
    BIOME_NAMES,
    FactoryConfig,
    biome_scene,
    make_training_scene,
)
from satfuse.simulate.scenes.library import load_library
from satfuse.simulate.scenes.protocol import (
    SLSTR,
    SLSTR_WIDER,
    Protocol,
    cloud_field,
    native_blur,
    noise_sigma,
    simulate_observation,
)

CLOUDS = np.full(12, 0.7, np.float32), np.full(21, 0.7, np.float32)


@pytest.fixture(scope="module")
def library():
    patch = pytest.MonkeyPatch()
    patch.setenv("SATFUSE_SAMPLE_DATA", "/nowhere")
    both = load_library(), load_library(split="test")
    patch.undo()
    return both


def exact(scene, frame=0):
    """Coarse image of the target by a sensor without calibration error and noise."""
    return degrade(scene.target, scene.ratio, scene.psf_sigma, shift=scene.shift[frame])


@pytest.mark.parametrize("ratio", [10, 15, 30])
def test_training_scenes_have_the_stated_shapes_and_repeat(library, ratio):
    config = FactoryConfig(ratios=(ratio,), coarse_px=6, frames=2, cloud_share=1.0)
    one, again, other = (make_training_scene(library[0], config, s) for s in (5, 5, 6))
    side = 6 * ratio
    assert one.guide.shape == (12, side, side)
    assert one.target.shape == (21, side, side)
    assert one.coarse.shape == (2, 21, 6, 6)
    assert one.coarse_valid.shape == (2, 6, 6)
    assert one.guide_valid.shape == (side, side)
    assert one.shift.shape == (2, 2)
    assert one.days[0] == 0
    for field in fields(one):
        assert np.array_equal(getattr(one, field.name), getattr(again, field.name)), field.name
    assert not np.array_equal(one.target, other.target)
    for image in (one.guide, one.coarse, one.target):
        assert image.dtype == np.float32
        assert np.isfinite(image).all()
    assert one.target.min() >= 0
    assert one.target.max() <= 1.6
    assert abs(one.shift).max() <= 1
    assert 0.35 <= one.psf_sigma[0] <= 0.7


def test_the_coarse_image_is_the_target_under_the_stated_truth(library):
    config = FactoryConfig(ratios=(10, 15), coarse_px=12, cloud_share=0.0, noise=(0.0, 0.0))
    for seed in range(6):
        scene = make_training_scene(library[0], config, seed)
        expected = exact(scene) * scene.gain[0][:, None, None] + scene.offset[0][:, None, None]
        good = scene.coarse_valid[0]
        assert good.mean() > 0.6
        np.testing.assert_allclose(scene.coarse[0][:, good], expected[:, good], atol=2e-6)
        assert scene.gain.std() > 0.005
        assert scene.offset.std() > 5e-4


def test_every_disturbance_is_drawn_over_its_range(library):
    config = FactoryConfig(ratios=(10,), coarse_px=4)
    scenes = [make_training_scene(library[0], config, s) for s in range(40)]
    sigma = np.array([s.psf_sigma[0] for s in scenes])
    assert sigma.min() < 0.42
    assert sigma.max() > 0.63
    wide = [s.psf_sigma[SLSTR][0] / s.psf_sigma[0] for s in scenes]
    assert {round(w, 3) for w in wide} == {1.0, round(SLSTR_WIDER, 3)}
    assert {s.guide_platform for s in scenes} == {"S2A", "S2B", "S2C"}
    assert {s.coarse_platform for s in scenes} == {"S3A", "S3B"}
    shifts = np.concatenate([s.shift for s in scenes])
    assert abs(shifts).max() > 0.8
    assert abs(shifts.mean()) < 0.3
    assert {s.guide_valid.all() for s in scenes} == {True, False}
    assert len({s.biome for s in scenes}) >= 5
    assert np.var([s.target.mean() for s in scenes]) > 1e-3


def test_content_moves_right_and_down_by_the_shift():
    """The centroid of a bright spot, which needs no knowledge of the kernel."""
    ratio, size = 10, 120
    fine = np.zeros((21, size, size), np.float32)
    fine[:, 54:56, 64:66] = 1
    protocol = Protocol(psf_sigma=0.7, shift=(0.6, -0.4))
    rng = np.random.default_rng(0)
    observation = simulate_observation(
        fine[:12], fine[None], protocol, CLOUDS, ratio=ratio, rng=rng
    )
    weight = observation.coarse[0, 0] / observation.coarse[0, 0].sum()
    x = (weight.sum(0) * np.arange(12)).sum()
    y = (weight.sum(1) * np.arange(12)).sum()
    middle = np.array([64.5, 54.5]) / ratio - 0.45  # in coarse pixel indices
    np.testing.assert_allclose([x, y], middle + np.array([0.6, -0.4]), atol=0.005)


def test_coarse_pixels_outside_the_scene_are_invalid_and_repeat_the_nearest():
    fine = np.random.default_rng(0).random((21, 100, 100), np.float32)
    protocol = Protocol(shift=(1.0, 0.0))
    rng = np.random.default_rng(0)
    observation = simulate_observation(fine[:12], fine[None], protocol, CLOUDS, ratio=10, rng=rng)
    assert not observation.coarse_valid[0, :, 0].any()
    assert observation.coarse_valid[0, :, 2:].all()
    np.testing.assert_array_equal(observation.coarse[0, :, :, 0], observation.coarse[0, :, :, 1])


def test_noise_has_the_stated_size_and_grows_with_light():
    flat = np.concatenate([np.full((21, 200, 100), v, np.float32) for v in (0.0, 0.2, 0.8)], axis=2)
    rng = np.random.default_rng(0)
    protocol = Protocol(noise=0.004, equal_blur=True)
    observation = simulate_observation(flat[:12], flat[None], protocol, CLOUDS, ratio=10, rng=rng)
    for i, value in enumerate((0.0, 0.2, 0.8)):
        part = (observation.guide - flat[:12])[:, :, 100 * i : 100 * (i + 1)]
        assert part.std() == pytest.approx(noise_sigma(value, 0.004), rel=0.02)
    assert noise_sigma(0.2, 0.004) == pytest.approx(0.004)
    assert noise_sigma(0.8, 1) > noise_sigma(0.0, 1)


@pytest.mark.parametrize(("pixel_m", "blurred"), [(10, {20, 60}), (20, {60}), (30, {60})])
def test_guide_bands_are_blurred_to_their_native_pixels_and_not_moved(pixel_m, blurred):
    noise = np.random.default_rng(0).random((12, 60, 60), np.float32)
    x = np.arange(60, dtype=np.float32)
    ramp = np.broadcast_to(x + 2 * np.arange(60)[:, None], (12, 60, 60))
    blurred_noise = native_blur(noise, pixel_m)
    blurred_ramp = native_blur(ramp, pixel_m)
    bands = zip(S2_BANDS, noise, blurred_noise, blurred_ramp, strict=True)
    for band, before, after, slope in bands:
        if band.gsd_m in blurred:
            assert after.std() < 0.6 * before.std(), band.name
            inner = np.s_[6:-6, 6:-6]
            np.testing.assert_allclose(slope[inner], ramp[0][inner], atol=1e-3)
        else:
            np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("seed", range(4))
def test_clouds_cast_shadows_and_the_image_edge_does_not(seed):
    opacity, shadow = cloud_field(np.random.default_rng(seed), (120, 150), 0.4, 30)
    assert 0.3 < (opacity > 0).mean() < 0.5
    assert shadow.max() > 0.2
    for axis in (0, 1):  # an edge smeared into the image would make rows or columns alike
        alike = (np.diff(shadow, axis=axis) == 0) & (abs(np.delete(shadow, 0, axis) - 0.2) < 0.19)
        assert alike.mean() < 0.02


def test_clouds_cover_the_requested_share_and_both_masks_flag_them(library):
    clear, cloudy = (
        biome_scene("crop", ratio=10, protocol=p, seed=2, fine_px=240, library=library[1])
        for p in (Protocol(noise=0.001), Protocol(noise=0.001, cloud=0.3))
    )
    np.testing.assert_array_equal(clear.target, cloudy.target)
    assert clear.guide_valid.all()
    assert clear.coarse_valid.all()
    assert 0.2 < 1 - cloudy.guide_valid.mean() < 0.75
    assert 0.2 < 1 - cloudy.coarse_valid.mean() < 0.85
    error = abs(cloudy.guide - clear.guide).mean(0)
    assert error[~cloudy.guide_valid].mean() > 0.1 > 0.03 > error[cloudy.guide_valid].mean()
    error = abs(cloudy.coarse - clear.coarse)[0].mean(0)
    assert error[~cloudy.coarse_valid[0]].mean() > 3 * error[cloudy.coarse_valid[0]].mean()


@pytest.mark.parametrize("name", BIOME_NAMES)
def test_biomes_have_the_expected_cover(library, name):
    scene = biome_scene(
        name, ratio=10, protocol=Protocol(), seed=0, fine_px=240, library=library[1]
    )
    bands = dict(zip(S3_NAMES, scene.target, strict=True))
    red = bands["Oa08"]
    near_infrared = bands["Oa17"]
    ndvi = (near_infrared - red) / (near_infrared + red + 1e-6)
    snow = (bands["Oa06"] > 0.4) & (bands["S5N"] < 0.2)
    water = (near_infrared < 0.05) & (bands["S5N"] < 0.05)
    plants = ndvi > 0.5
    share = {
        "desert": ((red > 0.15) & (ndvi < 0.3)).mean(),
        "crop": plants.mean(),
        "forest": plants.mean(),
        "city": ((ndvi < 0.5) & ~water).mean(),
        "coast": min(water.mean(), 1 - water.mean()),
        "snow": snow.mean(),
    }
    assert share[name] > 0.1, share
    np.testing.assert_allclose(scene.coarse[0], exact(scene), atol=2e-6)


def test_guide_and_target_show_the_same_ground(library):
    """Similar bands of both sensors are correlated; another platform changes them a little."""
    protocols = (
        Protocol(equal_blur=True, guide_platform=guide, coarse_platform=coarse)
        for guide, coarse in (("S2A", "S3A"), ("S2B", "S3B"))
    )
    a, b = (
        biome_scene("crop", ratio=10, protocol=p, seed=3, fine_px=240, library=library[1])
        for p in protocols
    )
    for guide, coarse in (("B04", "Oa08"), ("B8A", "Oa17"), ("B11", "S5N"), ("B03", "Oa06")):
        x = a.guide[S2_NAMES.index(guide)]
        y = a.target[S3_NAMES.index(coarse)]
        assert np.corrcoef(x.ravel(), y.ravel())[0, 1] > 0.98
    assert 1e-5 < abs(a.guide - b.guide).mean() < 0.01
    assert 1e-6 < abs(a.target - b.target).mean() < 0.005


def test_bands_are_linear_in_spectra_so_scenes_are_mixtures(library):
    """Every pixel is in the span of the library's band values: no spectrum is invented."""
    scene = biome_scene(
        "desert", ratio=10, protocol=Protocol(), seed=1, fine_px=240, library=library[1]
    )
    weights, _ = srf_matrix("S3A", S3_NAMES, library[1].wavelength_nm)
    basis = np.linalg.svd(library[1].reflectance @ weights.T, full_matrices=False)[2][:12]
    pixels = scene.target.reshape(21, -1).T[::97]
    assert np.sqrt(np.mean((pixels - pixels @ basis.T @ basis) ** 2)) < 0.002


def test_later_frames_show_a_changed_surface(library):
    config = FactoryConfig(
        ratios=(10,), coarse_px=12, frames=3, cloud_share=0, noise=(0, 0), gain=0, offset=0, shift=0
    )
    scene = make_training_scene(library[0], config, 1)
    change = [np.sqrt(np.mean((scene.coarse[t] - exact(scene, t)) ** 2)) for t in range(3)]
    assert change[0] < 1e-5 < 0.002 < min(change[1:])


def test_invalid_arguments_are_rejected(library):
    for bad in ({"coarse_px": 5}, {"psf_sigma": (0.7, 0.35)}, {"frames": 0}):
        with pytest.raises(ConfigError):
            FactoryConfig(**bad)
    with pytest.raises(ConfigError, match="desert"):
        biome_scene("tundra", ratio=10, protocol=Protocol(), seed=0, library=library[1])
    with pytest.raises(ConfigError, match="divide"):
        biome_scene("crop", ratio=7, protocol=Protocol(), seed=0, library=library[1])
    with pytest.raises(ConfigError, match="cloud"):
        Protocol(cloud=40)


def test_the_factory_needs_no_torch():
    code = "import sys, satfuse.simulate.scenes.factory; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.samples
def test_scenes_on_real_structure_and_spectra(samples):
    library = load_library(samples)
    config = FactoryConfig(ratios=(10,), coarse_px=10, cloud_share=0, noise=(0, 0))
    scenes = [make_training_scene(library, config, s, folder=samples) for s in range(25)]
    real = [s for s in scenes if s.biome == "worldstrat"]
    assert real
    for scene in real:
        good = scene.coarse_valid[0]
        expected = exact(scene) * scene.gain[0][:, None, None] + scene.offset[0][:, None, None]
        np.testing.assert_allclose(scene.coarse[0][:, good], expected[:, good], atol=2e-6)
