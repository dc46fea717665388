"""The scene's own map, gains and noise: a Bayesian regression whose strengths are chosen by their evidence.

y_j = (1 + e_j) (z . w_b) + noise_j for every channel j (band b of a frame); w ~ the library's prior scaled by `own` and
`common`, e_j ~ N(0, gain^2). Noise variances are estimated by expectation maximisation; the four strengths by
coordinate ascent on the evidence (type-II maximum likelihood; Bishop 2006, section 3.5).
"""

from dataclasses import dataclass

import numpy as np

from satfuse.models.bayesian.scene_sums import Channel, Sums, rotate
from satfuse.models.bayesian.spectral_prior import MapPrior

COMMON = 10.0 ** np.arange(-2, 1.6, 0.5)
OWN = np.r_[1e-4, 10.0 ** np.arange(-3, 1.1, 0.5)]
GAIN = (0.0003, 0.02)  # a sensor is exact, or off by what its validation reports
SHARED = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
STARTS = ((2, 3, 0, 1), (2, 3, 1, 1))  # with and without errors of gain
# Evidence that a step of one decade away from the start must bring, or errors of gain: errors are
# not quite Gaussian.
RELUCTANCE = 20.0
ROUNDS, STEPS = 4, 4


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """What the scene says.

    Parameters
    ----------
    weight : (c, f) map of this scene.
    covariance : (c, f, f) of the map.
    gain : (j,) relative error of each channel's calibration.
    noise : (j,) variance of each channel.
    shared : how much of the error neighbours share, in units of the noise's variance.
    evidence : its logarithm.
    """

    weight: np.ndarray
    covariance: np.ndarray
    gain: np.ndarray
    noise: np.ndarray
    shared: float
    evidence: float


def adapt(channels: list[Channel], prior: MapPrior) -> Adapted:
    """The most probable strengths, and what follows from them; the library's prior itself without any channel."""
    if not channels:
        nothing = {"gain": np.zeros(0), "noise": np.zeros(0), "shared": 0.0, "evidence": 0.0}
        return Adapted(weight=prior.mean, covariance=prior.of_each_band, **nothing)
    parts, sums, best, noise = rotate(channels, prior.mean), {}, {}, None
    sizes = (len(COMMON), len(OWN), len(GAIN), len(SHARED))

    def at(place):
        nonlocal noise
        if place not in best:
            common, own, gain, shared = (
                t[i] for t, i in zip((COMMON, OWN, GAIN, SHARED), place, strict=True)
            )
            if shared not in sums:
                sums[shared] = Sums.of(parts, shared)
            best[place] = _posterior(
                sums[shared], prior, _root(prior, common, own), gain, noise, shared
            )
            noise = best[place].noise
        away = (place[0] - STARTS[0][0]) / 2, (place[1] - STARTS[0][1]) / 2  # decades
        return best[place].evidence - RELUCTANCE * (away[0] ** 2 + away[1] ** 2 + place[2])

    return best[max((_climb(at, start, sizes) for start in STARTS), key=at)]


def _climb(value, place, sizes):
    """Coordinate ascent on a grid from `place`."""
    for _ in range(ROUNDS):
        start = place
        for axis, step in ((3, 1), (3, -1), (2, 1), (2, -1), (1, 1), (1, -1), (0, 1), (0, -1)):
            while 0 <= (moved := place[axis] + step) < sizes[axis]:
                neighbour = (*place[:axis], moved, *place[axis + 1 :])
                if value(neighbour) <= value(place):
                    break
                place = neighbour
        if place == start:
            break
    return place


def _root(prior, common, own):
    covariance = common * prior.together + own * prior.apart
    covariance[np.diag_indices_from(covariance)] += 1e-9 * np.trace(covariance) / len(covariance)
    return np.linalg.cholesky(covariance)


def _posterior(sums: Sums, prior: MapPrior, root, gain, noise, shared) -> Adapted:
    """Weights are `root @ t`, gains `gain * u`, with t and u standard normal a priori."""
    c, f = prior.mean.shape
    m, j = c * f, len(sums.band)
    if noise is None:
        noise = np.full(j, sums.rr.sum() / sums.count.sum())
    bands = root.reshape(c, f, m)
    of_band = bands[sums.band]  # (j, f, m)
    pushed = sums.zz @ of_band
    mixed = np.einsum("jfm,jf->mj", of_band, sums.zx * gain)
    for step in range(STEPS):
        precision = np.eye(m + j)
        precision[:m, :m] += of_band.reshape(j * f, m).T @ (pushed / noise[:, None, None]).reshape(
            j * f, m
        )
        precision[:m, m:] = mixed / noise
        precision[m:, :m] = precision[:m, m:].T
        precision[range(m, m + j), range(m, m + j)] += gain**2 * sums.xx / noise
        right = np.r_[
            np.einsum("jfm,jf->m", of_band, sums.zr / noise[:, None]), gain * sums.xr / noise
        ]
        covariance = np.linalg.inv(precision)
        found = covariance @ right
        weight, gains = (root @ found[:m]).reshape(c, f), gain * found[m:]
        spread = (bands @ covariance[:m, :m]) @ bands.transpose(0, 2, 1)
        if step == STEPS - 1:
            break
        cross = gain * np.einsum("jfm,mj->jf", of_band, covariance[:m, m:])
        own = gain**2 * np.diagonal(covariance)[m:]
        moved = weight[sums.band]
        left = sums.rr - 2 * (moved * sums.zr).sum(1) - 2 * gains * sums.xr + gains**2 * sums.xx
        left += np.einsum("jf,jfg,jg->j", moved, sums.zz, moved) + 2 * gains * (
            moved * sums.zx
        ).sum(1)
        left += (
            (spread[sums.band] * sums.zz).sum((1, 2)) + 2 * (cross * sums.zx).sum(1) + own * sums.xx
        )
        noise = np.maximum(left / sums.count, sums.least)
    _, log_volume = np.linalg.slogdet(precision)
    fit = (sums.rr / noise).sum() - right @ found
    evidence = (
        -0.5 * ((sums.count * np.log(noise)).sum() + log_volume + fit) + sums.log_weight.sum()
    )
    return Adapted(
        weight=prior.mean + weight,
        covariance=spread,
        gain=gains,
        noise=noise,
        shared=shared,
        evidence=evidence,
    )
