"""Map, gains and noise of a scene against known truth and dense algebra."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the models need the models extra")
pytestmark = pytest.mark.torch

from scipy.linalg import block_diag

from satfuse.models.bayesian.empirical_bayes import fit_map, map_posterior
from satfuse.models.bayesian.spectral_prior import MapPrior, features
from satfuse.models.bayesian.sufficient_statistics import (
    BLOCK,
    MINIMUM_VARIANCE,
    Channel,
    SufficientStatistics,
    correlation_variance,
    diagonalise,
)

MEAN = np.random.default_rng(5).uniform(0.1, 0.6, (3, 4))


def prior_of(mean, spread=0.05, seed=0):
    """A prior with correlated bands."""
    c, f = mean.shape
    root = np.random.default_rng(seed).standard_normal((c * f, c * f)) * spread / np.sqrt(c * f)
    covariance = root @ root.T + (0.02 * spread) ** 2 * np.eye(c * f)
    within_bands = covariance * np.kron(np.eye(c), np.ones((f, f)))
    return MapPrior(
        mean=mean, covariance=covariance, within_bands=within_bands, nonlinear=np.zeros(c)
    )


def channels_of(weight, bands, *, shape=(15, 14), gain=None, noise=0.002, seed=0, partial=False):
    """Channels of a known map on a grid; `bands` may repeat, as with several frames."""
    rng = np.random.default_rng(seed)
    position = np.argwhere(rng.random(shape) < 0.9)
    n = len(position)
    z = features(rng.uniform(0.05, 0.5, (n, weight.shape[1] - 1)))
    coverage = rng.uniform(0.5, 1, n) if partial else np.ones(n)
    gain = np.ones(len(bands)) if gain is None else gain
    channels = []
    for band, g in zip(bands, gain, strict=True):
        y = g * (z @ weight[band]) + noise * rng.standard_normal(n) / coverage
        channels.append(
            Channel(band=band, z=z, y=y, coverage=coverage, position=position, psf_sigma=0.5)
        )
    return channels


def noise_covariance(channel, correlated):
    """s K + D of a channel; pixels of different blocks are not correlated."""
    distance_2 = ((channel.position[:, None] - channel.position) ** 2).sum(-1)
    block = channel.position // BLOCK
    same_block = (block[:, None] == block).all(-1)
    field = np.exp(-0.5 * distance_2 / correlation_variance(channel.psf_sigma)) * same_block
    return correlated * field + np.diag(1 / channel.coverage**2)


@pytest.mark.parametrize("correlated", [0.0, 0.3, 30.0])
def test_sums_are_those_of_generalised_least_squares(correlated):
    channels = channels_of(MEAN, [2, 0, 1], shape=(30, 5), partial=True)  # two blocks
    # other coverage: this channel is diagonalised apart from the two others
    coverage = channels[1].coverage[::-1].copy()
    channels[1] = replace(channels[1], coverage=coverage, minimum_variance=1e-4)
    sums = SufficientStatistics.of(diagonalise(channels, MEAN), correlated)
    assert sums.band.tolist() == [2, 0, 1]
    assert sums.minimum_variance.tolist() == [MINIMUM_VARIANCE, 1e-4, MINIMUM_VARIANCE]
    for j, c in enumerate(channels):
        p = np.linalg.inv(noise_covariance(c, correlated))
        x = c.z @ MEAN[c.band]
        r = c.y - x
        expected = {
            "zz": c.z.T @ p @ c.z,
            "zr": c.z.T @ p @ r,
            "zx": c.z.T @ p @ x,
            "rr": r @ p @ r,
            "xr": x @ p @ r,
            "xx": x @ p @ x,
            "half_log_det": np.linalg.slogdet(p)[1] / 2,
            "count": len(r),
        }
        for name, value in expected.items():
            np.testing.assert_allclose(getattr(sums, name)[j], value, rtol=1e-8, err_msg=name)


def test_posterior_equals_dense_algebra():
    """Map, gains, their covariance and the evidence of one joint Gaussian over all channels."""
    prior = prior_of(MEAN)
    correlated = 1.0
    gain_sigma = 0.02
    gain = [1.02, 1, 0.98, 1.01]
    channels = channels_of(MEAN + 0.05, [0, 1, 2, 1], shape=(6, 6), gain=gain, partial=True)
    sums = SufficientStatistics.of(diagonalise(channels, prior.mean), correlated)
    root = np.linalg.cholesky(prior.covariance)
    posterior = map_posterior(sums, prior, root, gain_sigma, None, correlated)
    f = 4
    rows = []
    noise = []
    for j, (c, variance) in enumerate(zip(channels, posterior.noise, strict=True)):
        row = np.zeros((len(c.y), 3 * f + len(channels)))
        row[:, c.band * f : (c.band + 1) * f] = c.z
        row[:, 3 * f + j] = c.z @ prior.mean[c.band]
        rows.append(row)
        noise.append(variance * noise_covariance(c, correlated))
    design = np.concatenate(rows)
    r = np.concatenate([c.y - c.z @ prior.mean[c.band] for c in channels])
    before = block_diag(prior.covariance, gain_sigma**2 * np.eye(len(channels)))
    total = design @ before @ design.T + block_diag(*noise)
    link = before @ design.T @ np.linalg.inv(total)
    mean = link @ r
    covariance = before - link @ design @ before
    deviation = posterior.weight - prior.mean
    np.testing.assert_allclose(deviation, mean[: 3 * f].reshape(3, f), atol=1e-7)
    np.testing.assert_allclose(posterior.gain, mean[3 * f :], atol=1e-7)
    for b in range(3):
        of_band = slice(b * f, (b + 1) * f)
        np.testing.assert_allclose(posterior.covariance[b], covariance[of_band, of_band], atol=1e-9)
    log_det = np.linalg.slogdet(total)[1]
    assert posterior.evidence == pytest.approx(-0.5 * (log_det + r @ np.linalg.solve(total, r)))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_map_and_noise_of_a_scene_are_recovered(seed):
    prior = prior_of(MEAN)
    deviation = np.linalg.cholesky(prior.covariance) @ np.random.default_rng(seed).standard_normal(
        12
    )
    truth = MEAN + deviation.reshape(3, 4)
    posterior = fit_map(channels_of(truth, [0, 1, 2], seed=seed), prior)
    sigma = np.sqrt(np.diagonal(posterior.covariance, axis1=1, axis2=2))
    z = channels_of(truth, [0], seed=9)[0].z
    # one frame cannot separate a gain from a brighter map
    effective = (1 + posterior.gain[:, None]) * posterior.weight
    before, after = (np.sqrt(np.square(z @ (w - truth).T).mean()) for w in (MEAN, effective))
    assert after < 0.001
    assert after < 0.1 * before
    assert np.abs((posterior.weight - truth) / sigma).max() < 4
    np.testing.assert_allclose(np.sqrt(posterior.noise), 0.002, rtol=0.15)
    assert posterior.correlated <= 0.1


def test_gains_are_recovered_where_the_map_is_known():
    gain = np.array([1.03, 0.98, 1.0, 0.96, 1.01, 1.02])
    channels = channels_of(MEAN, [0, 1, 2, 0, 1, 2], gain=gain)
    posterior = fit_map(channels, prior_of(MEAN, spread=1e-4))
    np.testing.assert_allclose(posterior.gain, gain - 1, atol=2e-3)
    np.testing.assert_allclose(np.sqrt(posterior.noise), 0.002, rtol=0.15)


def test_an_exact_sensor_gets_no_gain_errors():
    posterior = fit_map(channels_of(MEAN, [0, 1, 2], noise=0.0005), prior_of(MEAN, spread=1e-4))
    assert np.abs(posterior.gain).max() < 1e-3


def test_each_channel_has_its_own_noise():
    quiet = channels_of(MEAN, [0, 1], noise=0.001)
    noisy = channels_of(MEAN, [0, 1], noise=0.02, seed=1)
    posterior = fit_map([*quiet, *noisy], prior_of(MEAN))
    np.testing.assert_allclose(np.sqrt(posterior.noise), [0.001, 0.001, 0.02, 0.02], rtol=0.2)


def test_correlated_noise_is_separated_from_white_noise():
    rng = np.random.default_rng(0)
    white = channels_of(MEAN, [0, 1, 2])
    root = np.linalg.cholesky(noise_covariance(white[0], 10.0))
    smooth = [
        replace(c, y=c.z @ MEAN[c.band] + 0.001 * root @ rng.standard_normal(len(c.y)))
        for c in white
    ]
    assert fit_map(white, prior_of(MEAN)).correlated <= 0.1
    assert 3 <= fit_map(smooth, prior_of(MEAN)).correlated <= 30


def test_without_channels_the_posterior_is_the_prior():
    prior = prior_of(MEAN)
    posterior = fit_map([], prior)
    np.testing.assert_array_equal(posterior.weight, MEAN)
    np.testing.assert_array_equal(posterior.covariance[1], prior.covariance[4:8, 4:8])


def test_a_band_without_channel_learns_from_the_others():
    """Correlation of bands in the prior carries over to a band that was not observed."""
    root = np.repeat(np.random.default_rng(0).standard_normal((1, 4)) * 0.1, 3, 0).reshape(12, 1)
    prior = MapPrior(
        mean=MEAN,
        covariance=root @ root.T + 1e-8 * np.eye(12),
        within_bands=1e-8 * np.eye(12),
        nonlinear=np.zeros(3),
    )
    truth = MEAN + root.reshape(3, 4)
    posterior = fit_map(channels_of(truth, [0, 1]), prior)
    error = np.abs(posterior.weight[2] - truth[2]).max()
    assert error < 0.15 * np.abs(MEAN[2] - truth[2]).max()


def test_one_pixel_changes_the_map_little():
    posterior = fit_map(channels_of(MEAN, [0], shape=(1, 2)), prior_of(MEAN))
    assert np.isfinite(posterior.weight).all()
    assert np.isfinite(posterior.covariance).all()
    assert np.abs(posterior.weight - MEAN).max() < 0.1
