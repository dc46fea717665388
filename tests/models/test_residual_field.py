"""Kriging of the coarse residual against dense algebra, and its interpolation in tiles."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the models need the models extra")
pytestmark = pytest.mark.torch

from satfuse.models.bayesian.residual_field import (
    REACH,
    add_residual_field,
    kriging_weights,
    translate,
    with_margin,
)
from satfuse.models.bayesian.sufficient_statistics import correlation_variance
from satfuse.models.observation import degrade


def residual_with_holes(seed=0):
    rng = np.random.default_rng(seed)
    residual = rng.standard_normal((2, 9, 11)) * 0.01
    return residual, rng.random((9, 11)) > 0.2


@pytest.mark.parametrize("correlated", [0.1, 1.0, 30.0])
def test_weights_solve_the_dense_system(correlated):
    residual, known = residual_with_holes()
    widths = np.array([0.5, 0.8])
    weights = kriging_weights(residual, known, correlated, widths)
    position = np.argwhere(known)
    distance_2 = ((position[:, None] - position) ** 2).sum(-1)
    for band, width in enumerate(widths):
        k = np.exp(-0.5 * distance_2 / correlation_variance(width))
        solution = np.linalg.solve(correlated * k + np.eye(len(k)), residual[band][known])
        np.testing.assert_allclose(weights[band][known], correlated * solution, atol=1e-4)
    assert (weights[:, ~known] == 0).all()


def test_without_correlated_noise_there_is_no_field():
    residual, known = residual_with_holes()
    widths = np.array([0.5, 0.5])
    assert not kriging_weights(residual, known, 0.0, widths).any()
    assert not kriging_weights(residual, np.zeros_like(known), 3.0, widths).any()


def test_weights_are_translated_by_whole_pixels():
    weights = np.arange(12.0).reshape(1, 3, 4)
    moved = translate(weights, np.array([1, -2]))  # right, up
    np.testing.assert_array_equal(moved[0, 0], [0, 8, 9, 10])
    assert not moved[0, 1:].any()


@pytest.mark.parametrize(
    ("ratio", "psf_sigma", "shift"),
    [(10, 0.5, (0.0, 0.0)), (15, 0.4, (0.3, -0.4)), (30, 0.8, (-1.2, 0.6))],
)
def test_the_field_degraded_is_the_smooth_residual(ratio, psf_sigma, shift):
    """Degraded with PSF and shift it is the expected residual K (K + 1 / s)^-1 r."""
    y, x = np.mgrid[:16, :16]
    residual = 0.01 * np.sin(x / 2.5)[None] * np.cos(y / 3)[None]
    everywhere = np.ones((16, 16), bool)
    weights = kriging_weights(residual, everywhere, 30.0, np.array([psf_sigma]))
    fine = torch.zeros(1, 1, 16 * ratio, 16 * ratio, dtype=torch.float64)
    add_residual_field(
        fine, torch.from_numpy(with_margin(weights)), ratio, torch.tensor([psf_sigma]), shift
    )
    degraded = degrade(fine, ratio, psf_sigma, shift=shift)[0].numpy()
    inner = (0, slice(4, -4), slice(4, -4))
    noise = weights / 30.0  # part of the residual that is explained as noise
    np.testing.assert_allclose((degraded + noise)[inner], residual[inner], atol=2e-4)
    assert np.abs(degraded - residual)[inner].max() < 0.1 * np.abs(residual).max()


def test_tiles_of_the_field_are_parts_of_the_whole():
    weights = torch.from_numpy(with_margin(np.random.default_rng(1).random((2, 12, 14))))
    observation = (10, torch.tensor([0.5, 0.8]), (0.3, -0.2))
    whole = torch.ones(2, 2, 120, 140, dtype=torch.float64)
    tile = torch.ones(1, 2, 40, 50, dtype=torch.float64)
    add_residual_field(whole, weights, *observation)
    add_residual_field(tile, weights[:, 5 : 9 + 2 * REACH, 3 : 8 + 2 * REACH], *observation)
    for image in whole:  # every image of a batch
        np.testing.assert_allclose(tile[0], image[:, 50:90, 30:80], atol=1e-12)
