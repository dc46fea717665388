"""Removal of residual cloud, shadow and hidden ground from coarse pixels at mask edges.

Masks miss thin cloud and shadow at their edges. There the coarse spectrum y (gain divided out)
differs from the map's prediction x by

    y - x = d + e,    d = sum_k h_k (cloud_k - x) + q x + u

with h_k the opacity of residual thin cloud, q the darkening of residual shadow, u ground inside the
PSF that the guide does not show, and e the errors of map and sensor. All are Gaussian with zero
mean, so with the covariances N of d and S of e the expected d and its covariance are

    E[d]   = N (S + N)^-1 (y - x)
    Cov[d] = N - N (S + N)^-1 N

(Wiener filter; Rasmussen and Williams 2006, section 2.2). E[d] is subtracted before the scene's map
is fitted. The standard deviations of h and q are fitted to the scene by expectation maximisation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import binary_dilation

from satfuse.arrays import BoolArray, FloatArray, IntArray
from satfuse.models.bayesian.mask_edge_filter import cloud_spectra
from satfuse.models.bayesian.sufficient_statistics import Channel

INITIAL_SIGMA = 0.05  # standard deviation of h and q that expectation maximisation starts from
EM_STEPS = 3
MINIMUM_PIXELS = 4  # fewer are too few to estimate these standard deviations
MAXIMUM_PIXELS = 2000  # more do not improve them
CHUNK = 2000  # pixels that are corrected at once: bounds memory, does not change values


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Distribution of a scene's coarse spectra before they are corrected.

    Parameters
    ----------
    weight : (c, f) map from features to coarse bands.
    covariance : (c, f, c, f) of the map's error.
    noise : variance of the coarse noise.
    ground : (c, c) covariance of the scene's spectra.
    clouds : (k, c) spectra of cloud.
    """

    weight: FloatArray
    covariance: FloatArray
    noise: float
    ground: FloatArray
    clouds: FloatArray

    @classmethod
    def of(
        cls,
        weight: FloatArray,
        covariance: FloatArray,
        noise: float,
        feature_covariance: FloatArray,
        bands: Sequence[str],
    ) -> "Prediction":
        """From the covariance (f, f) of the guide's features and the names of the coarse bands."""
        return cls(
            weight=weight,
            covariance=covariance,
            noise=noise,
            ground=weight @ feature_covariance @ weight.T,
            clouds=cloud_spectra(bands),
        )

    def select(self, bands: list[int]) -> "Prediction":
        """Marginal distribution of some of the bands, by index."""
        return replace(
            self,
            weight=self.weight[bands],
            covariance=self.covariance[bands][:, :, bands],
            ground=self.ground[bands][:, bands],
            clouds=self.clouds[:, bands],
        )


def at_mask_edge(valid: BoolArray, guide_valid: BoolArray) -> BoolArray:
    """(h, w) bool, True = the coarse pixel or one of its eight neighbours is masked in part.

    Parameters
    ----------
    valid : (h, w) bool of the coarse image, True = usable.
    guide_valid : (h * k, w * k) bool of the guide.
    """
    h, w = valid.shape
    k = len(guide_valid) // h
    clear = valid & guide_valid.reshape(h, k, w, k).all((1, 3))
    return binary_dilation(~clear, np.ones((3, 3)))


def remove_residual_cloud(
    channels: list[Channel],
    prediction: Prediction,
    *,
    gain: FloatArray,
    edge: BoolArray,
    unseen: FloatArray,
) -> list[Channel]:
    """Subtract E[d] from the mask-edge pixels of a frame.

    The channel's minimum noise variance rises to the median variance of the correction; pixels
    whose correction is more uncertain are down-weighted by a lower coverage.

    Parameters
    ----------
    channels : of one frame, all of the same n pixels.
    prediction : of all coarse bands.
    gain : (j,) coarse over exact reflectance, by channel.
    edge : (n,) bool, True = at a mask edge.
    unseen : (n,) variance of u, over that of the scene's spectra.
    """
    pixels = np.flatnonzero(edge)
    if len(pixels) == 0:
        return channels
    prediction = prediction.select([c.band for c in channels])

    def estimate(part: IntArray, sigma: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        z = np.stack([c.z[part] for c in channels], 1)
        y = np.stack([c.y[part] for c in channels], 1)
        return _estimate(prediction, sigma, z, y / gain, unseen[part])

    sigma = np.full(2, INITIAL_SIGMA)  # of h and q
    if len(pixels) >= MINIMUM_PIXELS:
        sample = pixels[:: -(-len(pixels) // MAXIMUM_PIXELS)]
        for _ in range(EM_STEPS):
            second_moment, _, _ = estimate(sample, sigma)
            sigma = sigma * np.sqrt(second_moment / len(sample))
    correction = np.zeros((len(edge), len(channels)))
    variance = np.zeros_like(correction)
    for part in np.array_split(pixels, -(-len(pixels) // CHUNK)):
        _, correction[part], variance[part] = estimate(part, sigma)
    # median over all pixels of the frame: zero where most are away from mask edges
    typical = np.median(variance, 0)
    precision = (prediction.noise + typical) / (prediction.noise + variance)
    certainty = np.sqrt(np.minimum(precision, 1)).mean(1)
    return [
        replace(
            c,
            y=c.y - gain[j] * correction[:, j],
            coverage=c.coverage * certainty,
            minimum_variance=max(typical[j], c.minimum_variance),
        )
        for j, c in enumerate(channels)
    ]


def _estimate(
    prediction: Prediction, sigma: FloatArray, z: FloatArray, y: FloatArray, unseen: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """E step and correction for n pixels.

    N = sum_k a_k a_k' + unseen G with the spectra a_k that cloud and shadow of one standard
    deviation add, and G the covariance of the scene's spectra. The amplitude of a_k is standard
    normal a priori, with the posterior mean a_k' (S + N)^-1 (y - x) and variance
    1 - a_k' (S + N)^-1 a_k.

    Parameters
    ----------
    sigma : (2,) standard deviation of h and q.
    z : (n, c, f), y : (n, c), unseen : (n,).

    Returns
    -------
    second_moment : (2,) posterior second moment of the amplitudes of cloud (mean over its spectra)
        and shadow, summed over pixels.
    correction : (n, c) E[d].
    variance : (n, c) diagonal of Cov[d].
    """
    clouds = len(prediction.clouds)
    x = np.einsum("ncf,cf->nc", z, prediction.weight)
    of_cloud = (prediction.clouds - x[:, None]) / clouds**0.5
    a = np.concatenate([sigma[0] * of_cloud, sigma[1] * x[:, None]], 1)  # (n, k + 1, c)
    n = a.transpose(0, 2, 1) @ a + unseen[:, None, None] * prediction.ground  # N
    of_map = np.einsum("ncf,cfdg,ndg->ncd", z, prediction.covariance, z, optimize=True)
    s = of_map + prediction.noise * np.eye(x.shape[1])  # S
    inverse = np.linalg.inv(s + n)
    whitened = np.einsum("ncd,nd->nc", inverse, y - x)
    squared_mean = np.einsum("nkc,nc->nk", a, whitened) ** 2
    reduction = np.einsum("nkc,ncd,nkd->nk", a, inverse, a, optimize=True)
    second_moment = (squared_mean + 1 - reduction).sum(0)
    correction = np.einsum("ncd,nd->nc", n, whitened)
    variance = np.einsum("ncc->nc", n) - np.einsum("nce,nef,nfc->nc", n, inverse, n, optimize=True)
    by_kind = np.array([second_moment[:-1].mean(), second_moment[-1]])
    return by_kind, correction, variance
