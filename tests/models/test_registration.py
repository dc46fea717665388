"""Shift and PSF widths of a frame against known truth."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the models need the models extra")
pytestmark = pytest.mark.torch

from satfuse.models.bayesian.frames import WIDE
from satfuse.models.bayesian.registration import (
    SEARCH_RADIUS,
    SHIFT_SIGMA,
    GuideCells,
    cauchy_weights,
    estimate_observation,
    relative_precision,
)
from satfuse.sensors import degradation
from satfuse.sensors.bands import S3_NAMES
from satfuse.simulate.scenes.factory import biome_scene
from satfuse.simulate.scenes.protocol import Protocol

DIRTY = {"gain": 0.02, "noise": 0.002}


def observed(prior, scene, crop=None, guide_valid=None, coarse_valid=None, registered=False):
    """The estimate from a scene or its upper left part, its errors in shift and in width.

    The widths' errors are the largest over OLCI and over SLSTR bands.
    """
    ratio = scene.ratio
    h, w = crop or scene.coarse.shape[-2:]
    rows = slice(0, h * ratio)
    columns = slice(0, w * ratio)
    usable = scene.guide_valid if guide_valid is None else guide_valid
    usable = usable[rows, columns].astype(float)
    image = scene.guide[:, rows, columns].astype(float) * usable
    cells = GuideCells(image=image, valid=usable, cells_per_pixel=ratio, ratio=ratio)
    valid = scene.coarse_valid[0] if coarse_valid is None else coarse_valid
    wide = np.array([b in WIDE for b in S3_NAMES])
    frame = scene.coarse[0, :, :h, :w].astype(float)
    observation = estimate_observation(
        cells, frame, valid[:h, :w], prior, wide=wide, registered=registered
    )
    shift_error = np.abs(observation.shift - scene.shift[0])
    width_error = np.abs(observation.psf_sigma - scene.psf_sigma)
    return observation, shift_error, (width_error[~wide].max(), width_error[wide].max())


@pytest.mark.parametrize(
    ("biome", "shift", "psf_sigma"),
    [("crop", (1.9, -1.3), 0.6), ("snow", (-0.4, 0.1), 0.4), ("city", (0, 0), 0.5)],
)
def test_shift_and_width_are_recovered(prior, biome, shift, psf_sigma):
    protocol = Protocol(shift=shift, psf_sigma=psf_sigma, **DIRTY)
    scene = biome_scene(biome, ratio=10, protocol=protocol, seed=1, fine_px=180)
    observation, error, widths = observed(prior, scene)
    assert error.max() < 0.01
    assert max(widths) < 0.03
    assert (error < 5 * observation.shift_sigma).all()
    assert observation.shift_sigma.max() < 0.02


@pytest.mark.parametrize("ratio", [10, 15])
@pytest.mark.parametrize("biome", ["desert", "crop", "city", "snow"])
def test_six_by_nine_coarse_pixels_are_enough(prior, biome, ratio):
    protocol = Protocol(shift=(0.3, -0.2), psf_sigma=0.45, **DIRTY)
    scene = biome_scene(biome, ratio=ratio, protocol=protocol, seed=1, fine_px=150)
    observation, error, widths = observed(prior, scene, crop=(6, 9))
    assert error.max() < 0.05
    assert max(widths) < 0.05
    assert (error < 5 * observation.shift_sigma).all()


def test_slstr_bands_have_a_width_of_their_own(prior):
    protocol = Protocol(shift=(-0.4, 0.1), psf_sigma=0.4, slstr_factor=500 / 300, **DIRTY)
    scene = biome_scene("forest", ratio=10, protocol=protocol, seed=1, fine_px=150)
    observation, _, widths = observed(prior, scene)
    assert max(widths) < 0.04
    assert len(np.unique(observation.psf_sigma)) == 2
    assert observation.psf_sigma[S3_NAMES.index("S5N")] > 0.6


@pytest.mark.parametrize(
    ("biome", "shift"), [("crop", (1.9, -1.3)), ("snow", (-0.4, 0.1)), ("city", (0.3, -0.2))]
)
def test_holes_do_not_matter(prior, biome, shift):
    rng = np.random.default_rng(0)
    protocol = Protocol(shift=shift, psf_sigma=0.45, **DIRTY)
    scene = biome_scene(biome, ratio=10, protocol=protocol, seed=1, fine_px=180)
    guide_valid = np.kron(rng.random((18, 18)) > 0.3, np.ones((10, 10))) > 0
    coarse_valid = scene.coarse_valid[0] & (rng.random((18, 18)) > 0.3)
    _, error, widths = observed(prior, scene, guide_valid=guide_valid, coarse_valid=coarse_valid)
    assert error.max() < 0.1
    assert widths[0] < 0.05


def test_a_registered_frame_is_searched_nearby(prior):
    protocol = Protocol(shift=(0.12, -0.08), **DIRTY)
    scene = biome_scene("crop", ratio=10, protocol=protocol, seed=1, fine_px=120)
    _, error, _ = observed(prior, scene, registered=True)
    assert error.max() < 0.02


def test_a_shift_that_the_data_do_not_constrain_is_uncertain(prior):
    scene = biome_scene("crop", ratio=10, protocol=Protocol(noise=0.002), seed=1, fine_px=120)
    flat = np.full_like(scene.guide, 0.2)
    coarse = np.random.default_rng(0).normal(0.2, 0.002, scene.coarse.shape)
    three = np.zeros((12, 12), bool)
    three[4, 4:7] = True
    cases = [
        (replace(scene, guide=flat, coarse=coarse), {}),
        (scene, {"coarse_valid": three}),
        (scene, {"guide_valid": np.zeros((120, 120), bool)}),
        (scene, {"coarse_valid": np.zeros((12, 12), bool)}),
    ]
    for changed, validity in cases:
        observation, _, _ = observed(prior, changed, **validity)
        assert np.isfinite(observation.shift).all()
        assert np.isfinite(observation.psf_sigma).all()
        assert np.abs(observation.shift).max() < 0.5
        assert observation.shift_sigma.min() > 0.5
        assert observation.shift_sigma.max() <= SEARCH_RADIUS[False]


def test_without_data_a_registered_frame_keeps_its_registration(prior):
    scene = biome_scene("crop", ratio=10, protocol=Protocol(noise=0.002), seed=1, fine_px=120)
    nothing = np.zeros((12, 12), bool)
    observation, _, _ = observed(prior, scene, coarse_valid=nothing, registered=True)
    np.testing.assert_array_equal(observation.shift, [0, 0])
    np.testing.assert_array_equal(observation.shift_sigma, [SHIFT_SIGMA[True]] * 2)


def test_precision_grows_with_coverage():
    coverage = np.array([0, 0.35, 0.5, 0.9, 0.99, 1, 1 + 1e-9])
    precision = relative_precision(coverage)
    assert (np.diff(precision) >= 0).all()
    assert precision[0] < 1e-5
    assert precision[-1] == precision[-2] == 1


def test_cloudy_pixels_are_down_weighted():
    rng = np.random.default_rng(0)
    predicted = rng.uniform(0.1, 0.3, (200, 5))
    # an offset of all pixels is no outlier
    y = predicted + rng.normal(0, 0.004, (200, 5)) + 0.02
    y[:10] += 0.1
    weight = cauchy_weights(y, predicted)
    assert weight[:10].max() < 0.05
    assert weight[10:].mean() > 0.9
    assert weight.max() <= 1


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.7, -2.4)])
def test_degrading_cells_is_the_observation_model(shift):
    rng = np.random.default_rng(0)
    valid = rng.random((80, 60)) > 0.2
    image = rng.random((3, 80, 60)) * valid
    cells = GuideCells(image=image, valid=valid.astype(float), cells_per_pixel=10, ratio=10)
    degraded, coverage = cells.degrade(0.5, shift)
    expected = degradation.degrade(image, 10, 0.5, shift=shift, valid=valid, minimum_weight=0.3)
    known = np.isfinite(expected[0])
    np.testing.assert_array_equal(known, coverage > 0.3 - 1e-5)
    np.testing.assert_allclose(degraded[:, known], expected[:, known], atol=1e-12)
