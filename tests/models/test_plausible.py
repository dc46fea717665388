"""Implausible input is rejected with its bands named; unusual but valid scenes pass."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the models need the models extra")
pytestmark = pytest.mark.torch

from satfuse import checkpoint
from satfuse.errors import RadiometryError
from satfuse.models.bayesian.plausible import check_clouds, correlation, doubt, misfit
from satfuse.models.bayesian.spectral_prior import features
from satfuse.models.bayesian.sufficient_statistics import Channel
from satfuse.sensors.bands import S2_NAMES, S3_NAMES
from satfuse.sensors.degradation import degrade
from satfuse.simulate.scenes.factory import BIOME_NAMES, biome_scene
from satfuse.simulate.scenes.protocol import Protocol

REALISTIC = Protocol(psf_sigma=0.5, gain=0.02, noise=0.002)


def channels_of(biome="crop", guide_order=None, coarse_order=None, seed=3, other=None):
    """Channels of a realistic scene.

    `guide_order`, `coarse_order` : indices of the bands, in another order than their names.
    `other` : seed of another place, from which the coarse image is taken.
    """
    scene = biome_scene(biome, ratio=10, protocol=REALISTIC, seed=seed, fine_px=120)
    coarse = scene.coarse[0]
    if other is not None:
        coarse = biome_scene(biome, ratio=10, protocol=REALISTIC, seed=other, fine_px=120).coarse[0]
    guide = degrade(scene.guide, 10, 0.5).reshape(12, -1)
    z = features((guide if guide_order is None else guide[guide_order]).T)
    values = (coarse if coarse_order is None else coarse[coarse_order]).reshape(21, -1)
    position = np.argwhere(np.ones((12, 12), bool))
    return [
        Channel(band=b, z=z, y=v, coverage=np.ones(144), position=position, psf_sigma=0.5)
        for b, v in enumerate(values)
    ]


def swapped(names, a, b):
    """Indices of the bands with two of them exchanged."""
    order = np.arange(len(names))
    pair = [names.index(a), names.index(b)]
    order[pair] = pair[::-1]
    return order


@pytest.mark.parametrize("biome", BIOME_NAMES)
def test_valid_scenes_pass(prior, biome):
    for seed in (3, 4):
        error = misfit(channels_of(biome, seed=seed), prior, S2_NAMES, S3_NAMES)
        assert error.shape == (21,)
        assert error.max() < 0.1


# The next two need measured spectra: parametric short-wave infrared bands hardly differ.
@pytest.mark.samples
@pytest.mark.parametrize(
    ("a", "b"),
    [("Oa03", "S1N"), ("Oa05", "S1N"), ("Oa11", "Oa12"), ("S5N", "S6N"), ("Oa21", "S5N")],
)
def test_two_swapped_coarse_bands_are_named(samples, prior, a, b):
    with pytest.raises(RadiometryError, match=f"{a} and {b} look swapped"):
        misfit(channels_of(coarse_order=swapped(S3_NAMES, a, b)), prior, S2_NAMES, S3_NAMES)


@pytest.mark.samples
@pytest.mark.parametrize(
    ("a", "b"), [("B02", "B03"), ("B04", "B05"), ("B05", "B06"), ("B11", "B12")]
)
def test_two_swapped_guide_bands_are_named(samples, prior, a, b):
    with pytest.raises(RadiometryError, match=f"{a} and {b} of the guide look swapped"):
        misfit(channels_of(guide_order=swapped(S2_NAMES, a, b)), prior, S2_NAMES, S3_NAMES)


@pytest.mark.parametrize("bands", [("B02", "B03", "B04", "B08"), ("B02", "B03", "B04"), ("B12",)])
@pytest.mark.parametrize("biome", ["desert", "coast", "snow"])
def test_few_guide_bands_do_not_reject_valid_scenes(biome, bands):
    model = checkpoint.resolve("bayesian", guide_bands=bands, coarse_bands=S3_NAMES, ratio=10)[0]
    for seed in (20, 21):
        channels = channels_of(biome, guide_order=[S2_NAMES.index(b) for b in bands], seed=seed)
        assert np.isfinite(misfit(channels, model.prior, bands, S3_NAMES)).all()


@pytest.mark.parametrize("biome", BIOME_NAMES)
def test_calibration_errors_are_not_taken_for_swaps(prior, biome):
    rng = np.random.default_rng(0)
    channels = channels_of(biome)
    for _ in range(10):
        moved = [replace(c, y=c.y + rng.normal(0, 0.003)) for c in channels]
        assert misfit(moved, prior, S2_NAMES, S3_NAMES).max() < 0.2


def test_another_place_is_poorly_correlated(prior):
    assert correlation(channels_of(), prior) > 0.99
    assert correlation(channels_of(other=9), prior) < 0.5
    few = [replace(c, z=c.z[:9], y=c.y[:9]) for c in channels_of(other=9)]
    assert np.isnan(correlation(few, prior))
    assert np.isnan(correlation([], prior))


def test_without_data_there_is_no_misfit(prior):
    assert np.isnan(misfit([], prior, S2_NAMES, S3_NAMES)).all()


@pytest.mark.parametrize(("bands", "sensor"), [(S2_NAMES, "S2A"), (S3_NAMES, "S3A")])
def test_a_fully_cloudy_image_is_rejected(bands, sensor):
    """Opacity of 0.8 to 1."""
    from satfuse.sensors.srf import srf_matrix
    from satfuse.simulate.scenes.measured import WAVELENGTH_NM
    from satfuse.simulate.scenes.protocol import cloud_band_values

    cloud = cloud_band_values(srf_matrix(sensor, bands, WAVELENGTH_NM)[0])[:, None]
    scene = biome_scene("crop", ratio=10, protocol=Protocol(), seed=3, fine_px=120)
    ground = (scene.guide if sensor == "S2A" else scene.target).reshape(len(bands), -1)
    opacity = np.linspace(0.8, 1, ground.shape[1])
    with pytest.raises(RadiometryError, match=r"guide shows nothing but cloud \(\d+%"):
        check_clouds(ground * (1 - opacity) + cloud * opacity, bands, "guide")
    check_clouds(ground, bands, "guide")


@pytest.mark.parametrize("biome", ["snow", "desert"])
def test_bright_ground_is_not_taken_for_cloud(biome):
    scene = biome_scene(biome, ratio=10, protocol=Protocol(), seed=3, fine_px=120)
    for top in (1.0, 1.6):
        check_clouds(top * scene.guide.reshape(12, -1), S2_NAMES, "guide")
    # no infrared band, so no test
    check_clouds(scene.guide[[1, 3]].reshape(2, -1), ("B02", "B04"), "guide")


def test_salt_is_not_taken_for_cloud():
    """As white and as bright, but not darker in the infrared."""
    check_clouds(np.full((12, 50), 0.8) + np.linspace(-0.1, 0.1, 50), S2_NAMES, "guide")


def test_only_evidence_withdraws_the_trust_in_a_registered_image():
    assert doubt(0.9, 0.3, registered=False).startswith("the shift is known to 0.30")
    assert doubt(0.9, 0.3, registered=True) == ""
    assert "poorly correlated" in doubt(0.3, 0.01, registered=True)
    assert doubt(np.nan, 0.01, registered=False) == ""
