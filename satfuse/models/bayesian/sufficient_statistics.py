"""Sums over coarse pixels that regression needs, with noise that neighbours share diagonalised.

The noise of a channel has the covariance v (s K + D) with v its white variance and

    K_ik = exp(-d_ik^2 / (2 (l^2 + 2 p^2)))    a Gaussian fine-scale error field under the PSF
    D_ii = 1 / a_i^2                           white noise, larger where part of the PSF is hidden

d is the distance of two coarse pixels, l the correlation length of the field, p the PSF width and a
the PSF's coverage. Multiplied by a, the covariance becomes v (s a K a + 1). With the eigenvectors Q
and eigenvalues k of a K a, the rows Q' a y are independent with the variances v (s k + 1), for
every s; so one decomposition serves all values of s that are tried.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch

from satfuse.arrays import BoolArray, FloatArray, IntArray
from satfuse.models.bayesian.spectral_prior import features

Width = TypeVar("Width", float, torch.Tensor)

MINIMUM_VARIANCE = 1e-9  # of the noise, reflectance squared
# Side of the blocks, in coarse pixels, that noise is correlated within; K is zero between blocks,
# which bounds the eigenvalue problem to 256 pixels.
BLOCK = 16
CORRELATION_LENGTH = 0.3  # l: standard deviation of the fine field's correlation, coarse pixels


@dataclass(frozen=True, kw_only=True)
class Channel:
    """One coarse band of one frame, at its n usable coarse pixels.

    Parameters
    ----------
    band : index of the coarse band.
    z : (n, f) features of the guide under this channel's PSF and shift.
    y : (n,) coarse values.
    coverage : (n,) share of the PSF on usable guide, 0 to 1.
    position : (n, 2) row and column.
    psf_sigma : in coarse pixels.
    minimum_variance : lower limit of the noise variance v.
    """

    band: int
    z: FloatArray
    y: FloatArray
    coverage: FloatArray
    position: IntArray
    psf_sigma: float
    minimum_variance: float = MINIMUM_VARIANCE


@dataclass(frozen=True, kw_only=True)
class DiagonalisedChannels:
    """k channels of the same pixels, PSF and coverage, in the eigenvectors of a K a.

    Parameters
    ----------
    index : (k,) position among all channels.
    band : (k,) coarse band of each.
    minimum_variance : (k,) lower limit of each noise variance.
    eigenvalues : (n,) of a K a.
    z : (n, f) features Q' a z.
    r : (n, k) residuals Q' a (y - x) from the prediction x of the prior mean.
    x : (n, k) predictions Q' a x.
    log_coverage : sum of log a over the pixels.
    """

    index: IntArray
    band: IntArray
    minimum_variance: FloatArray
    eigenvalues: FloatArray
    z: FloatArray
    r: FloatArray
    x: FloatArray
    log_coverage: float


def diagonalise(channels: list[Channel], mean: FloatArray) -> list[DiagonalisedChannels]:
    """Group the channels that share features and coverage, and diagonalise each group's noise.

    Parameters
    ----------
    mean : (c, f) prior mean of the map, which predicts x.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for j, c in enumerate(channels):
        # the channels of a frame share their arrays, so equal arrays have one identity
        key = (id(c.z), id(c.position), c.psf_sigma, c.coverage.tobytes())
        groups.setdefault(key, []).append(j)
    return [
        _diagonalised(np.array(index), [channels[j] for j in index], mean)
        for index in groups.values()
    ]


def _diagonalised(
    index: IntArray, channels: list[Channel], mean: FloatArray
) -> DiagonalisedChannels:
    first = channels[0]
    band = np.array([c.band for c in channels])
    x = first.z @ mean[band].T
    y = np.stack([c.y for c in channels], 1)
    columns = np.concatenate([first.z, y - x, x], 1) * first.coverage[:, None]
    eigenvalues = np.empty(len(columns))
    for pixels in _blocks(first.position):
        # relative to the block, so that equal blocks find their decomposition in the cache
        position = first.position[pixels] - first.position[pixels].min(0)
        coverage = first.coverage[pixels]
        eigenvalues[pixels], vectors = _eigen(
            position.tobytes(), coverage.tobytes(), len(pixels), first.psf_sigma
        )
        columns[pixels] = vectors.T @ columns[pixels]
    f = len(mean[0])
    z, r, x = np.split(columns, [f, f + len(band)], 1)
    return DiagonalisedChannels(
        index=index,
        band=band,
        minimum_variance=np.array([c.minimum_variance for c in channels]),
        eigenvalues=eigenvalues,
        z=z,
        r=r,
        x=x,
        log_coverage=np.log(first.coverage).sum(),
    )


@dataclass(frozen=True, kw_only=True)
class SufficientStatistics:
    """Per channel j, sums over pixels weighted by P = (s K + D)^-1.

    Parameters
    ----------
    band : (j,) coarse band.
    count : (j,) number of pixels.
    minimum_variance : (j,) lower limit of the noise variance.
    zz : (j, f, f) z' P z, zr : (j, f) z' P r, zx : (j, f) z' P x.
    rr, xr, xx : (j,) r' P r, x' P r, x' P x, for the prediction x and the residual r = y - x.
    half_log_det : (j,) half of log |P|.
    """

    band: IntArray
    count: IntArray
    minimum_variance: FloatArray
    zz: FloatArray
    zr: FloatArray
    zx: FloatArray
    rr: FloatArray
    xr: FloatArray
    xx: FloatArray
    half_log_det: FloatArray

    @classmethod
    def of(
        cls, groups: Sequence[DiagonalisedChannels], correlated: float
    ) -> "SufficientStatistics":
        """Statistics in the order of the channels, for s = `correlated`."""
        order = np.argsort(np.concatenate([group.index for group in groups]))
        parts = [_group_statistics(group, correlated) for group in groups]
        return cls(**{name: np.concatenate([p[name] for p in parts])[order] for name in parts[0]})


def _group_statistics(group: DiagonalisedChannels, correlated: float) -> dict[str, Any]:
    weight = 1 / (correlated * group.eigenvalues + 1)
    z, r, x = (weight[:, None] * columns for columns in (group.z, group.r, group.x))
    ones = np.ones(len(group.band), int)
    # |P| = prod(weight) prod(a)^2
    half_log_det = 0.5 * np.log(weight).sum() + group.log_coverage
    return {
        "band": group.band,
        "count": len(weight) * ones,
        "minimum_variance": group.minimum_variance,
        "zz": ones[:, None, None] * (z.T @ group.z),
        "zr": r.T @ group.z,
        "zx": x.T @ group.z,
        "rr": (r * group.r).sum(0),
        "xr": (x * group.r).sum(0),
        "xx": (x * group.x).sum(0),
        "half_log_det": ones * half_log_det,
    }


def _blocks(position: IntArray) -> list[IntArray]:
    """Indices of the pixels, at `position` (n, 2), of each block."""
    _, block = np.unique(position // BLOCK, axis=0, return_inverse=True)
    return [np.flatnonzero(block == b) for b in range(block.max() + 1)]


@lru_cache(maxsize=64)
def _eigen(
    position_bytes: bytes, coverage_bytes: bytes, count: int, psf_sigma: float
) -> tuple[FloatArray, FloatArray]:
    """Eigenvalues and eigenvectors of a K a; bytes, because arrays cannot be keys of a cache."""
    position = np.frombuffer(position_bytes, np.int64).reshape(count, 2)
    coverage = np.frombuffer(coverage_bytes)
    distance_2 = ((position[:, None] - position) ** 2).sum(-1)
    correlation = np.exp(-0.5 * distance_2 / correlation_variance(psf_sigma))
    eigenvalues, vectors = np.linalg.eigh(correlation * coverage[:, None] * coverage)
    return np.maximum(eigenvalues, 0), vectors  # rounding can make the smallest negative


def correlation_variance(psf_sigma: Width) -> Width:
    """Squared width l^2 + 2 p^2 of the correlation K between coarse pixels.

    A field whose correlation is a Gaussian of width l, seen through a Gaussian PSF of width p at
    both pixels: variances of convolved Gaussians add up.
    """
    return CORRELATION_LENGTH**2 + 2 * psf_sigma**2


def usable_features(guide_coarse: FloatArray, usable: BoolArray) -> FloatArray:
    """Features (n, f) of the degraded guide (g, h, w) at the n usable pixels of (h, w)."""
    return features(guide_coarse[:, usable].T)
