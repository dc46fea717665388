"""Posterior of a scene's map and gains, with hyperparameters of greatest evidence.

For channel j (band b of a frame), with r = y - x the residual from the prior mean M,

    r = Z (w_b - m_b) + g_j x + e_j,    e_j ~ N(0, v_j P_j^-1)

to first order in the small deviations. With vec(W - M) = L t, L L' = common * A + individual * A_b
(A the prior's covariance, A_b its part within bands) and g = s_g u, t and u are standard normal a
priori, and with B the design matrix of (t, u) their posterior is (Bishop 2006, equations 3.50 and
3.51)

    covariance  S = (1 + B' V^-1 B)^-1
    mean        S B' V^-1 r

The noise variances v_j maximise the evidence by expectation maximisation (Dempster et al. 1977).
The four hyperparameters (common, individual, s_g, and s, the share of correlated noise) do so by
coordinate ascent on a grid: type-II maximum likelihood, or empirical Bayes (Bishop 2006, section
3.5). A log-prior penalty keeps them near a starting point: errors are not quite Gaussian, and by
the evidence alone the map adapts too strongly to noisy scenes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from satfuse.arrays import FloatArray
from satfuse.models.bayesian.spectral_prior import MapPrior
from satfuse.models.bayesian.sufficient_statistics import (
    Channel,
    SufficientStatistics,
    diagonalise,
)

# Grids of the hyperparameters.
COMMON = tuple(10.0 ** np.arange(-2, 1.6, 0.5))  # scale of A, deviations with ties between bands
INDIVIDUAL = (1e-4, *(10.0 ** np.arange(-3, 1.1, 0.5)))  # scale of A_b, each band on its own
GAIN_SIGMA = (0.0003, 0.02)  # s_g: an exact sensor, or the error that validation reports
CORRELATED = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # s: correlated over white noise variance
AXES: tuple[tuple[float, ...], ...] = (COMMON, INDIVIDUAL, GAIN_SIGMA, CORRELATED)

GridIndex = tuple[int, ...]  # one index per axis

STARTS: tuple[GridIndex, ...] = ((2, 3, 0, 1), (2, 3, 1, 1))  # without and with gain errors
ORDER = (3, 2, 1, 0)  # of the axes in coordinate ascent
LOG_PRIOR_PENALTY = 20.0  # nats per squared decade from the start, and for gain errors
INDICES_PER_DECADE = 2  # of COMMON and INDIVIDUAL
MAXIMUM_SWEEPS = 4  # of coordinate ascent, over all axes
EM_STEPS = 4  # of expectation maximisation, for every set of hyperparameters
JITTER = 1e-9  # over the mean variance, for a regular Cholesky factor


@dataclass(frozen=True, kw_only=True)
class MapPosterior:
    """Posterior of a scene's map and of its channels' gains.

    Parameters
    ----------
    weight : (c, f) posterior mean of W.
    covariance : (c, f, f) posterior covariance of each band's row of W.
    gain : (j,) posterior mean of each channel's gain error g.
    noise : (j,) white noise variance v of each channel.
    correlated : s, variance of the correlated noise over that of the white.
    evidence : logarithm, without its constant.
    """

    weight: FloatArray
    covariance: FloatArray
    gain: FloatArray
    noise: FloatArray
    correlated: float
    evidence: float

    @classmethod
    def of_prior(cls, prior: MapPrior) -> "MapPosterior":
        """The prior itself: the posterior without any channel."""
        return cls(
            weight=prior.mean,
            covariance=prior.by_band,
            gain=np.zeros(0),
            noise=np.zeros(0),
            correlated=0.0,
            evidence=0.0,
        )


def fit_map(channels: list[Channel], prior: MapPrior) -> MapPosterior:
    """Posterior under the hyperparameters of greatest penalised evidence."""
    if not channels:
        return MapPosterior.of_prior(prior)
    groups = diagonalise(channels, prior.mean)
    statistics: dict[float, SufficientStatistics] = {}
    posteriors: dict[GridIndex, MapPosterior] = {}
    noise: FloatArray | None = None  # of the latest posterior: where the next one's EM starts

    def penalised_evidence(index: GridIndex) -> float:
        nonlocal noise
        if index not in posteriors:
            common, individual, gain_sigma, correlated = (
                axis[i] for axis, i in zip(AXES, index, strict=True)
            )
            if correlated not in statistics:
                statistics[correlated] = SufficientStatistics.of(groups, correlated)
            root = _prior_root(prior, common, individual)
            posteriors[index] = map_posterior(
                statistics[correlated], prior, root, gain_sigma, noise, correlated
            )
            noise = posteriors[index].noise
        return posteriors[index].evidence - _penalty(index)

    optima = [_ascend(penalised_evidence, start) for start in STARTS]
    return posteriors[max(optima, key=penalised_evidence)]


def _penalty(index: GridIndex) -> float:
    """Negative log prior of the hyperparameters, in nats."""
    common_decades = (index[0] - STARTS[0][0]) / INDICES_PER_DECADE
    individual_decades = (index[1] - STARTS[0][1]) / INDICES_PER_DECADE
    return LOG_PRIOR_PENALTY * (common_decades**2 + individual_decades**2 + index[2])


def _ascend(value: Callable[[GridIndex], float], start: GridIndex) -> GridIndex:
    """Local maximum of `value` on the grid, by coordinate ascent."""
    index = start
    for _ in range(MAXIMUM_SWEEPS):
        before = index
        for axis in ORDER:
            for step in (1, -1):
                index = _walk(value, index, axis, step)
        if index == before:
            break
    return index


def _walk(value: Callable[[GridIndex], float], index: GridIndex, axis: int, step: int) -> GridIndex:
    """Go along one axis while `value` grows."""
    while 0 <= (position := index[axis] + step) < len(AXES[axis]):
        neighbour = (*index[:axis], position, *index[axis + 1 :])
        if value(neighbour) <= value(index):
            break
        index = neighbour
    return index


def _prior_root(prior: MapPrior, common: float, individual: float) -> FloatArray:
    """Cholesky factor L (c * f, c * f) of the scaled prior covariance."""
    covariance = common * prior.covariance + individual * prior.within_bands
    diagonal = np.diag_indices_from(covariance)
    covariance[diagonal] += JITTER * np.trace(covariance) / len(covariance)
    return np.linalg.cholesky(covariance)


def map_posterior(
    statistics: SufficientStatistics,
    prior: MapPrior,
    root: FloatArray,
    gain_sigma: float,
    noise: FloatArray | None,
    correlated: float,
) -> MapPosterior:
    """Posterior of map and gains for given hyperparameters; noise by expectation maximisation.

    Parameters
    ----------
    statistics : for `correlated`.
    root : (c * f, c * f) L.
    gain_sigma : s_g.
    noise : (j,) variances to start from; None = the residuals of the prior mean.
    """
    design = _Design.of(statistics, root.reshape(*prior.mean.shape, -1), gain_sigma)
    if noise is None:
        noise = np.full(len(statistics.band), statistics.rr.sum() / statistics.count.sum())
    for _ in range(EM_STEPS - 1):
        noise = design.update_noise(*design.solve(noise)[:2])
    mean, covariance, precision, right = design.solve(noise)
    deviation, gain = design.map_and_gain(mean)
    # log evidence (Bishop 2006, equation 3.86): -1/2 (log |V| + log |S^-1| + r' V^-1 (r - B mean))
    _, log_det = np.linalg.slogdet(precision)
    fit = (statistics.rr / noise).sum() - right @ mean
    log_noise = (statistics.count * np.log(noise)).sum()
    evidence = -0.5 * (log_noise + log_det + fit) + statistics.half_log_det.sum()
    return MapPosterior(
        weight=prior.mean + deviation,
        covariance=design.map_covariance(covariance),
        gain=gain,
        noise=noise,
        correlated=correlated,
        evidence=evidence,
    )


@dataclass(frozen=True, kw_only=True)
class _Design:
    """Normal equations of (t, u): m = c * f coordinates of the map, then one per channel's gain.

    Parameters
    ----------
    statistics : sums over pixels.
    root : (c, f, m) L, by band.
    gain_sigma : s_g.
    of_channel : (j, f, m) the rows of L that belong to each channel's band.
    zz_root : (j, f, m) z' P z L.
    cross : (m, j) L' z' P x s_g, between map and gains.
    """

    statistics: SufficientStatistics
    root: FloatArray
    gain_sigma: float
    of_channel: FloatArray
    zz_root: FloatArray
    cross: FloatArray

    @classmethod
    def of(cls, statistics: SufficientStatistics, root: FloatArray, gain_sigma: float) -> "_Design":
        of_channel = root[statistics.band]
        return cls(
            statistics=statistics,
            root=root,
            gain_sigma=gain_sigma,
            of_channel=of_channel,
            zz_root=statistics.zz @ of_channel,
            cross=np.einsum("jfm,jf->mj", of_channel, statistics.zx * gain_sigma),
        )

    def solve(self, noise: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Posterior mean, covariance S, precision S^-1, and right side B' V^-1 r of (t, u)."""
        sums = self.statistics
        _, f, m = self.root.shape
        j = len(noise)
        precision = np.eye(m + j)  # of the standard normal prior
        weighted = (self.zz_root / noise[:, None, None]).reshape(j * f, m)
        precision[:m, :m] += self.of_channel.reshape(j * f, m).T @ weighted
        precision[:m, m:] = self.cross / noise
        precision[m:, :m] = precision[:m, m:].T
        of_gains = range(m, m + j)
        precision[of_gains, of_gains] += self.gain_sigma**2 * sums.xx / noise
        right = np.r_[
            np.einsum("jfm,jf->m", self.of_channel, sums.zr / noise[:, None]),
            self.gain_sigma * sums.xr / noise,
        ]
        covariance = np.linalg.inv(precision)
        return covariance @ right, covariance, precision, right

    def map_and_gain(self, mean: FloatArray) -> tuple[FloatArray, FloatArray]:
        """W - M (c, f) and g (j,) of a mean of (t, u)."""
        c, f, m = self.root.shape
        deviation = (self.root.reshape(m, m) @ mean[:m]).reshape(c, f)
        return deviation, self.gain_sigma * mean[m:]

    def map_covariance(self, covariance: FloatArray) -> FloatArray:
        """(c, f, f) covariance of each band's row of W, from that of (t, u)."""
        m = self.root.shape[2]
        return (self.root @ covariance[:m, :m]) @ self.root.transpose(0, 2, 1)

    def update_noise(self, mean: FloatArray, covariance: FloatArray) -> FloatArray:
        """M step: noise variances (j,) that the posterior of (t, u) expects.

        E |r - Z d - g x|^2, summed over pixels with the weights P, is the square at the posterior
        means of d = w - m and g, plus the traces of their posterior covariances with Z' P Z,
        Z' P x and x' P x.
        """
        sums = self.statistics
        m = self.root.shape[2]
        deviation, g = self.map_and_gain(mean)
        d = deviation[sums.band]
        # squares at the posterior means
        total = sums.rr - 2 * (d * sums.zr).sum(1) - 2 * g * sums.xr + g**2 * sums.xx
        total += np.einsum("jf,jfg,jg->j", d, sums.zz, d) + 2 * g * (d * sums.zx).sum(1)
        # traces: map, map with gain, gain
        dd = self.map_covariance(covariance)[sums.band]
        dg = self.gain_sigma * np.einsum("jfm,mj->jf", self.of_channel, covariance[:m, m:])
        gg = self.gain_sigma**2 * np.diagonal(covariance)[m:]
        total += (dd * sums.zz).sum((1, 2)) + 2 * (dg * sums.zx).sum(1) + gg * sums.xx
        return np.maximum(total / sums.count, sums.minimum_variance)
