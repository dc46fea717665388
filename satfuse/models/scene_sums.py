"""A scene at the coarse scale as the sums that regression needs, whitened for errors that neighbours share."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from satfuse.models.spectral_prior import features

LEAST_VARIANCE = 1e-9  # of the noise
BLOCK = 16  # coarse pixels: errors are shared inside blocks of this side
LENGTH = 0.3  # coarse pixels, standard deviation: how far a fine pixel's error reaches beyond itself


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
class Sums:
    """Per channel (j): weighted sums over pixels of features z, residuals r = y - x and predictions x = z . mean."""

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
    def of(cls, channels: list[Channel], mean: np.ndarray, shared: float) -> "Sums":
        """Sums under errors whose covariance is the noise's variance times `shared * K + 1 / share^2`."""
        parts = [_channel_sums(c, mean[c.band], shared) for c in channels]
        values = {name: np.stack([p[name] for p in parts]) for name in parts[0]}
        return cls(
            band=np.array([c.band for c in channels]),
            count=np.array([len(c.y) for c in channels]),
            least=np.array([c.least for c in channels]),
            **values,
        )


def _channel_sums(channel, mean, shared):
    z, r, x, log_weight = [], [], [], 0.0
    prediction = channel.z @ mean
    columns = np.column_stack([channel.z, channel.y - prediction, prediction]) * channel.share[:, None]
    if shared == 0:
        whitened, log_weight = columns, np.log(channel.share).sum()
    else:
        parts = []
        for rows in _blocks(channel.at.tobytes(), len(channel.at)):
            at = channel.at[rows] - channel.at[rows].min(0)
            values, vectors = _eigen(at.tobytes(), channel.share[rows].tobytes(), len(rows), channel.psf_sigma)
            scale = 1 / np.sqrt(shared * values + 1)
            parts.append((vectors.T @ columns[rows]) * scale[:, None])
            log_weight += np.log(scale).sum() + np.log(channel.share[rows]).sum()
        whitened = np.concatenate(parts)
    z, r, x = whitened[:, :-2], whitened[:, -2], whitened[:, -1]
    return {"zz": z.T @ z, "zr": z.T @ r, "zx": z.T @ x, "rr": r @ r, "xr": x @ r, "xx": x @ x,
            "log_weight": np.float64(log_weight)}  # fmt: skip


@lru_cache(maxsize=64)
def _blocks(at, count):
    """Indices of the pixels of each block."""
    places = np.frombuffer(at, np.int64).reshape(count, 2) // BLOCK
    _, block = np.unique(places, axis=0, return_inverse=True)
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
