"""Coarse pixels beside masks: sky and hidden ground are told from what the map lacks."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the models need the models extra")
pytestmark = pytest.mark.torch

from satfuse.models.bayesian import coarse_edge
from satfuse.models.bayesian.coarse_edge import Expected, beside_masks, without_sky
from satfuse.models.bayesian.scene_sums import LEAST_VARIANCE, Channel
from satfuse.models.bayesian.spectral_prior import features
from satfuse.sensors.bands import S3_NAMES

NOISE = 0.001


def scene(prior, *, haze=0.03, shade=0.08, hidden=0.0, count=60, seed=0):
    """Channels with sky over the second half of the pixels, what an exact sensor shows, and what tells them apart."""
    rng = np.random.default_rng(seed)
    ground = rng.dirichlet(np.ones(4), count) @ rng.uniform(0.02, 0.5, (4, 12))
    z = features(ground)
    exact = z @ prior.mean.T
    near = np.arange(count) >= count // 2
    h, q = (near * rng.normal(0, size, count) for size in (haze, shade))
    expected = expected_of(prior, np.cov(z.T))
    cloud = expected.clouds[0]
    share = np.where(near, rng.uniform(0.6, 1, count) if hidden else 1.0, 1.0)
    other = rng.permutation(exact)
    seen = (
        exact
        + h[:, None] * (cloud - exact)
        + q[:, None] * exact
        + ((1 - share) * hidden)[:, None] * (other - exact)
    )
    seen += rng.normal(0, NOISE, exact.shape)
    at = np.argwhere(np.ones((count, 1), bool))
    channels = [
        Channel(band=b, z=z, y=seen[:, b], share=share, at=at, psf_sigma=0.5)
        for b in range(len(S3_NAMES))
    ]
    return channels, exact, near, expected


def expected_of(prior, of_guide):
    together = 0.05 * prior.together.reshape(prior.mean.shape * 2)
    return Expected.of(prior.mean, together, NOISE**2, of_guide, S3_NAMES)


def cleared(channels, expected, near, gain=1.0):
    unsure = (1 - channels[0].share) ** 2
    out = without_sky(
        channels, expected, gain=np.full(len(channels), gain), near=near, unsure=unsure
    )
    return np.stack([c.y for c in out], 1), out


def rms(error):
    return np.sqrt(np.square(error).mean())


@pytest.mark.parametrize(
    "case", [{}, {"haze": 0.0}, {"shade": 0.0}, {"hidden": 1.0, "haze": 0.0, "shade": 0.0}]
)
def test_sky_and_hidden_ground_are_taken_out(prior, case):
    channels, exact, near, expected = scene(prior, **case)
    seen = np.stack([c.y for c in channels], 1)
    values, out = cleared(channels, expected, near)
    assert rms((values - exact)[near]) < 0.35 * rms((seen - exact)[near])
    np.testing.assert_array_equal(values[~near], seen[~near])
    assert all(
        c.least > LEAST_VARIANCE for c in out
    )  # what is left is not noise that can be averaged away


def test_where_there_is_no_sky_little_is_taken(prior):
    channels, exact, near, expected = scene(prior, haze=0.0, shade=0.0)
    values, _ = cleared(channels, expected, near)
    assert rms((values - exact)[near]) < 1.2 * NOISE


def test_a_gain_is_not_sky(prior):
    channels, _, near, expected = scene(prior)
    plain, _ = cleared(channels, expected, near)
    louder, _ = cleared([replace(c, y=1.1 * c.y) for c in channels], expected, near, gain=1.1)
    np.testing.assert_allclose(louder, 1.1 * plain, rtol=1e-9)


def test_far_from_masks_nothing_is_done(prior):
    channels, _, near, expected = scene(prior)
    assert (
        without_sky(channels, expected, gain=np.ones(21), near=0 * near > 0, unsure=0.0 * near)
        is channels
    )


def test_parts_give_what_the_whole_gives(prior, monkeypatch):
    channels, _, near, expected = scene(prior, hidden=0.5)
    whole, _ = cleared(channels, expected, near)
    monkeypatch.setattr(coarse_edge, "CHUNK", 7)
    np.testing.assert_allclose(cleared(channels, expected, near)[0], whole, rtol=1e-10)


def test_the_correction_is_the_expectation(prior, monkeypatch):
    """N (S + N)^-1 (y - x) by dense algebra, at the sky's first strength."""
    monkeypatch.setattr(coarse_edge, "ROUNDS", 0)
    channels, _, near, expected = scene(prior, hidden=0.5)
    values, _ = cleared(channels, expected, near)
    j = int(np.flatnonzero(near)[3])
    z, y = channels[0].z[j], np.array([c.y[j] for c in channels])
    x = expected.weight @ z
    n = (1 - channels[0].share[j]) ** 2 * expected.ground + coarse_edge.SKY**2 * np.outer(x, x)
    for cloud in expected.clouds:
        n += coarse_edge.SKY**2 / len(expected.clouds) * np.outer(cloud - x, cloud - x)
    s = np.einsum("f,cfdg,g->cd", z, expected.covariance, z) + expected.noise * np.eye(21)
    np.testing.assert_allclose(values[j], y - n @ np.linalg.solve(s + n, y - x), rtol=1e-9)


def test_beside_masks_are_the_neighbours_of_holes_in_either_image():
    valid, guide = np.ones((7, 8), bool), np.ones((35, 40), bool)
    assert not beside_masks(valid, guide).any()
    valid[1, 1] = False
    guide[27, 33] = False  # in the coarse pixel of row 5, column 6
    expected = np.zeros((7, 8), bool)
    expected[:3, :3] = expected[4:7, 5:8] = True
    np.testing.assert_array_equal(beside_masks(valid, guide), expected)
