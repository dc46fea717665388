"""Residual cloud, shadow and hidden ground at mask edges are removed from coarse pixels."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the models need the models extra")
pytestmark = pytest.mark.torch

from satfuse.models.bayesian import residual_cloud
from satfuse.models.bayesian.residual_cloud import (
    INITIAL_SIGMA,
    Prediction,
    at_mask_edge,
    remove_residual_cloud,
)
from satfuse.models.bayesian.spectral_prior import features
from satfuse.models.bayesian.sufficient_statistics import MINIMUM_VARIANCE, Channel
from satfuse.sensors.bands import S3_NAMES

NOISE = 0.001


def scene(prior, *, haze=0.03, shade=0.08, hidden=0.0, count=60, seed=0):
    """Channels whose second half is disturbed; with the exact values, the edge, the prediction.

    `haze`, `shade` : standard deviations of opacity and darkening. `hidden` : 1 = ground outside
    the coverage differs from that inside.
    """
    rng = np.random.default_rng(seed)
    ground = rng.dirichlet(np.ones(4), count) @ rng.uniform(0.02, 0.5, (4, 12))
    z = features(ground)
    exact = z @ prior.mean.T
    edge = np.arange(count) >= count // 2
    h, q = (edge * rng.normal(0, size, count) for size in (haze, shade))
    prediction = prediction_of(prior, np.cov(z.T))
    cloud = prediction.clouds[0]
    coverage = np.where(edge, rng.uniform(0.6, 1, count) if hidden else 1.0, 1.0)
    other = rng.permutation(exact)
    unseen = ((1 - coverage) * hidden)[:, None] * (other - exact)
    y = exact + h[:, None] * (cloud - exact) + q[:, None] * exact + unseen
    y += rng.normal(0, NOISE, exact.shape)
    position = np.argwhere(np.ones((count, 1), bool))
    channels = [
        Channel(band=b, z=z, y=y[:, b], coverage=coverage, position=position, psf_sigma=0.5)
        for b in range(len(S3_NAMES))
    ]
    return channels, exact, edge, prediction


def prediction_of(prior, feature_covariance):
    covariance = 0.05 * prior.covariance.reshape(prior.mean.shape * 2)
    return Prediction.of(prior.mean, covariance, NOISE**2, feature_covariance, S3_NAMES)


def cleaned(channels, prediction, edge, gain=1.0):
    """Values (n, c) after the correction, and the channels."""
    gain = np.full(len(channels), gain)
    unseen = (1 - channels[0].coverage) ** 2
    out = remove_residual_cloud(channels, prediction, gain=gain, edge=edge, unseen=unseen)
    return np.stack([c.y for c in out], 1), out


def rms(error):
    return np.sqrt(np.square(error).mean())


@pytest.mark.parametrize(
    "case", [{}, {"haze": 0.0}, {"shade": 0.0}, {"hidden": 1.0, "haze": 0.0, "shade": 0.0}]
)
def test_cloud_shadow_and_hidden_ground_are_removed(prior, case):
    channels, exact, edge, prediction = scene(prior, **case)
    before = np.stack([c.y for c in channels], 1)
    after, out = cleaned(channels, prediction, edge)
    assert rms((after - exact)[edge]) < 0.35 * rms((before - exact)[edge])
    np.testing.assert_array_equal(after[~edge], before[~edge])
    # the correction's error is no noise that more pixels average out
    assert all(c.minimum_variance > MINIMUM_VARIANCE for c in out)


def test_clear_pixels_are_hardly_changed(prior):
    channels, exact, edge, prediction = scene(prior, haze=0.0, shade=0.0)
    values, _ = cleaned(channels, prediction, edge)
    assert rms((values - exact)[edge]) < 1.2 * NOISE


def test_a_gain_is_not_taken_for_cloud(prior):
    channels, _, edge, prediction = scene(prior)
    plain, _ = cleaned(channels, prediction, edge)
    brighter = [replace(c, y=1.1 * c.y) for c in channels]
    scaled, _ = cleaned(brighter, prediction, edge, gain=1.1)
    np.testing.assert_allclose(scaled, 1.1 * plain, rtol=1e-9)


def test_away_from_masks_nothing_is_changed(prior):
    channels, _, edge, prediction = scene(prior)
    nowhere = np.zeros_like(edge)
    out = remove_residual_cloud(
        channels, prediction, gain=np.ones(21), edge=nowhere, unseen=np.zeros(len(edge))
    )
    assert out is channels


def test_chunks_give_the_values_of_the_whole(prior, monkeypatch):
    channels, _, edge, prediction = scene(prior, hidden=0.5)
    whole, _ = cleaned(channels, prediction, edge)
    monkeypatch.setattr(residual_cloud, "CHUNK", 7)
    np.testing.assert_allclose(cleaned(channels, prediction, edge)[0], whole, rtol=1e-10)


def test_the_correction_is_the_conditional_expectation(prior, monkeypatch):
    """N (S + N)^-1 (y - x) by dense algebra, at the initial standard deviations."""
    monkeypatch.setattr(residual_cloud, "EM_STEPS", 0)
    channels, _, edge, prediction = scene(prior, hidden=0.5)
    values, _ = cleaned(channels, prediction, edge)
    i = int(np.flatnonzero(edge)[3])
    z = channels[0].z[i]
    y = np.array([c.y[i] for c in channels])
    x = prediction.weight @ z
    n = (1 - channels[0].coverage[i]) ** 2 * prediction.ground
    n += INITIAL_SIGMA**2 * np.outer(x, x)
    for cloud in prediction.clouds:
        n += INITIAL_SIGMA**2 / len(prediction.clouds) * np.outer(cloud - x, cloud - x)
    s = np.einsum("f,cfdg,g->cd", z, prediction.covariance, z) + prediction.noise * np.eye(21)
    np.testing.assert_allclose(values[i], y - n @ np.linalg.solve(s + n, y - x), rtol=1e-9)


def test_mask_edges_are_the_neighbours_of_holes_in_either_image():
    valid = np.ones((7, 8), bool)
    guide_valid = np.ones((35, 40), bool)
    assert not at_mask_edge(valid, guide_valid).any()
    valid[1, 1] = False
    guide_valid[27, 33] = False  # in the coarse pixel of row 5, column 6
    expected = np.zeros((7, 8), bool)
    expected[:3, :3] = True
    expected[4:7, 5:8] = True
    np.testing.assert_array_equal(at_mask_edge(valid, guide_valid), expected)
