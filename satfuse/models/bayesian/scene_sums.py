"""A scene at the coarse scale as the sums that regression needs, whitened for errors that neighbours share."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from satfuse.models.bayesian.spectral_prior import features

LEAST_VARIANCE = 1e-9  # of the noise
BLOCK = 16  # coarse pixels: errors are shared inside blocks of this side
# coarse pixels, standard deviation: how far a fine pixel's error reaches beyond itself
LENGTH = 0.3


@dataclass(frozen=True, kw_only=True)
class Channel:
    """One coarse band of one frame over the usable coarse pixels.

    Parameters
    ----------
    band : index of the coarse band.
    z : (n, f) features of the degraded guide.
    y : (n,) coarse values.
    share : (n,) share of the PSF on usable guide, 0 to 1.
    at : (n, 2) row and column.
    psf_sigma : coarse pixels.
    least : variance of the noise at least.
    """

    band: int
    z: np.ndarray
    y: np.ndarray
    share: np.ndarray
    at: np.ndarray
    psf_sigma: float
    least: float = LEAST_VARIANCE


@dataclass(frozen=True, kw_only=True)
class Rotated:
    """Channels (k) of the same pixels, PSF and shares, in the basis in which their shared errors are independent.

    Parameters
    ----------
    index, band, least : (k,) place among all channels, coarse band, variance of the noise at least.
    values : (n,) variance of the shared errors along the basis, over `shared` times the noise's.
    z : (n, f), r, x : (n, k) features, residuals y - x and predictions of the map, times the share, in that basis.
    log_share : sum of the logarithms of the shares.
    """

    index: np.ndarray
    band: np.ndarray
    least: np.ndarray
    values: np.ndarray
    z: np.ndarray
    r: np.ndarray
    x: np.ndarray
    log_share: float


def rotate(channels: list[Channel], mean: np.ndarray) -> list[Rotated]:
    """The channels, those of one array of features and of equal shares together; `mean (c, f)` is the map."""
    groups = {}
    for j, c in enumerate(channels):
        groups.setdefault((id(c.z), id(c.at), c.psf_sigma, c.share.tobytes()), []).append(j)
    return [
        _rotated(np.array(index), [channels[j] for j in index], mean) for index in groups.values()
    ]


def _rotated(index, channels, mean) -> Rotated:
    first, band = channels[0], np.array([c.band for c in channels])
    x, y = first.z @ mean[band].T, np.stack([c.y for c in channels], 1)
    columns = np.concatenate([first.z, y - x, x], 1) * first.share[:, None]
    values = np.empty(len(columns))
    for rows in _blocks(first.at):
        at = first.at[rows] - first.at[rows].min(0)
        values[rows], vectors = _eigen(
            at.tobytes(), first.share[rows].tobytes(), len(rows), first.psf_sigma
        )
        columns[rows] = vectors.T @ columns[rows]
    z, r, x = np.split(columns, [len(mean[0]), len(mean[0]) + len(band)], 1)
    least, log_share = np.array([c.least for c in channels]), np.log(first.share).sum()
    return Rotated(
        index=index, band=band, least=least, values=values, z=z, r=r, x=x, log_share=log_share
    )


@dataclass(frozen=True, kw_only=True)
class Sums:
    """Per channel (j): weighted sums over pixels of features z, residuals r = y - x and predictions x = z . mean.

    `log_weight` is half the logarithm of the weights' determinant.
    """

    band: np.ndarray
    count: np.ndarray
    least: np.ndarray
    zz: np.ndarray
    zr: np.ndarray
    zx: np.ndarray
    rr: np.ndarray
    xr: np.ndarray
    xx: np.ndarray
    log_weight: np.ndarray

    @classmethod
    def of(cls, parts: list[Rotated], shared: float) -> "Sums":
        """Sums under errors whose covariance is the noise's variance times `shared * K + 1 / share^2`."""
        order = np.argsort(np.concatenate([p.index for p in parts]))
        sums = [_sums(p, shared) for p in parts]
        return cls(**{name: np.concatenate([s[name] for s in sums])[order] for name in sums[0]})


def _sums(part: Rotated, shared) -> dict:
    weight = 1 / (shared * part.values + 1)
    z, r, x = (weight[:, None] * v for v in (part.z, part.r, part.x))
    every = np.ones(len(part.band), int)
    return {
        "band": part.band, "count": len(weight) * every, "least": part.least,
        "zz": every[:, None, None] * (z.T @ part.z), "zr": r.T @ part.z, "zx": x.T @ part.z,
        "rr": (r * part.r).sum(0), "xr": (x * part.r).sum(0), "xx": (x * part.x).sum(0),
        "log_weight": every * (0.5 * np.log(weight).sum() + part.log_share),
    }  # fmt: skip


def _blocks(at):
    """Indices of the pixels (n, 2) of each block."""
    _, block = np.unique(at // BLOCK, axis=0, return_inverse=True)
    return [np.flatnonzero(block == b) for b in range(block.max() + 1)]


@lru_cache(maxsize=64)
def _eigen(at, share, count, psf_sigma):
    """Eigenvalues and vectors of the shared errors' correlation between pixels, each scaled by its share."""
    places, share = np.frombuffer(at, np.int64).reshape(count, 2), np.frombuffer(share)
    distance = ((places[:, None] - places) ** 2).sum(-1)
    correlation = np.exp(-0.5 * distance / shared_variance(psf_sigma)) * share[:, None] * share
    values, vectors = np.linalg.eigh(correlation)
    return np.maximum(values, 0), vectors


def shared_variance(psf_sigma):
    """Squared width of the correlation between coarse pixels of a fine error field of `LENGTH`."""
    return LENGTH**2 + 2 * psf_sigma**2


def usable_features(guide_coarse, usable):
    """(n, f) features at the usable coarse pixels of (g, h, w)."""
    return features(guide_coarse[:, usable].T)
