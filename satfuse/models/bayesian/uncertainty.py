"""Variance of the fused image: eleven terms whose factors are calibrated on simulated scenes.

Per coarse band, at a pixel of guide spectrum z (features included where W or V is applied):

    variance =  s1 |w|^2 n_g  +  s2 s n_c                             guide, correlated noise
              + h (s3 tr(V Q) + s4 n_c + s5 n_c^(3/4) r^(1/4))        map
              + e_20 (s6 d_20 + s8 D_20)  +  e_60 (s7 d_60 + s9 D_60)   added detail
              + s10 y^2 a^2  +  s11 u                                 next to masks

    n_g, n_c   noise variance of the guide and of the coarse band
    s          variance of the correlated noise over n_c (`empirical_bayes`)
    w, V       posterior mean and covariance of the band's row of the map
    Q          second moment of the features over the scene
    r          mean square of what no linear map explains, relative to brightness (`spectral_prior`)
    h          leverage (1 + (z - m)' C^-1 (z - m)) / (1 + g), with mean m and covariance C of the
               scene's g guide bands: 1 on average, largest for outlying spectra
    d, D       power of the detail added to the bands of 20 or 60 m, at the pixel and on average
    e          variance that errors of this detail cause in the coarse band, over its power
    a          share of masked pixels around; y^2 mean square of the scene: unmasked shadow
    u          w' Cov w for the error covariance of filtered mask-edge pixels
    s1 ... s11 factors, one set for all scenes (`satfuse.train.uncertainty`)
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from satfuse.arrays import FloatArray
from satfuse.models.bayesian.frames import ScenePosterior
from satfuse.models.bayesian.guide import RestoredGuide, SceneGuide
from satfuse.models.bayesian.native_blur import detail_power
from satfuse.models.bayesian.spectral_prior import BRIGHTNESS_OFFSET, MapPrior, features

# Names of the terms, and the feature of the pixel that each is multiplied with: constant, leverage,
# detail power of the 20 m and of the 60 m bands, a^2. The last term is a table by class instead.
TERMS = (
    "guide noise",
    "correlated noise",
    "map",
    "coarse noise",
    "nonlinearity",
    "detail of 20 m bands",
    "detail of 60 m bands",
    "mean detail of 20 m bands",
    "mean detail of 60 m bands",
    "unmasked shadow",
    "mask edge",
)
FEATURE = (0, 0, 1, 1, 1, 2, 3, 0, 0, 4)
SURROUNDINGS_M = 100  # to each side, for the share of masked pixels
RIDGE = 1e-6  # reflectance squared
MINIMUM_VARIANCE = 1e-10  # reflectance squared; products have no uncertainty of zero


def scene_terms(
    posterior: ScenePosterior, prior: MapPrior, scene_guide: SceneGuide, detail_errors: FloatArray
) -> FloatArray:
    """Terms (10, c) of a scene, without the factors and the features of pixels.

    Parameters
    ----------
    detail_errors : (2, c) e_20 and e_60, see `native_blur.detail_error`.
    """
    z = features(scene_guide.spectra.T)
    moment = z.T @ z / len(z)
    weight = posterior.map.weight
    # A band that all frames lack is as uncertain as what the prior's map does not explain.
    brightness = scene_guide.spectra.mean(0).clip(0) + BRIGHTNESS_OFFSET
    nonlinear = prior.nonlinear * np.square(brightness).mean()
    noise = np.where(np.isfinite(posterior.noise), posterior.noise, np.inf).min(0)
    noise = np.where(np.isfinite(noise), noise, nonlinear)
    return np.stack(
        [
            np.square(weight[:, :-1]).sum(1) * scene_guide.noise,
            posterior.map.correlated * noise,
            np.einsum("cfg,fg->c", posterior.map.covariance, moment),
            noise,
            noise**0.75 * prior.nonlinear**0.25,
            *detail_errors,
            *detail_errors * scene_guide.detail_power[:, None],
            np.einsum("cf,fg,cg->c", weight, moment, weight),
        ]
    )


def whitening(spectra: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Matrix (g, g) and offset (g,) that whiten spectra (g, n).

    |matrix @ z - offset|^2 = (z - m)' C^-1 (z - m), which is g on average over the spectra.
    """
    eigenvalues, vectors = np.linalg.eigh(np.cov(spectra) + RIDGE * np.eye(len(spectra)))
    matrix = vectors.T / np.sqrt(eigenvalues)[:, None]
    return matrix, matrix @ spectra.mean(1)


def pixel_features(
    guide: torch.Tensor,
    restored: RestoredGuide,
    matrix: torch.Tensor,
    offset: torch.Tensor,
    valid: torch.Tensor | None,
    guide_bands: Sequence[str],
    pixel_m: float,
) -> torch.Tensor:
    """Features that the scene's terms are multiplied with, pixel by pixel.

    Parameters
    ----------
    guide : (b, g, y, x) before it was restored.
    matrix, offset : of `whitening`.
    valid : (b, 1, y, x) bool, True = usable; None = all.

    Returns
    -------
    (b, 3 or 4, y, x): leverage, detail power of 20 m and of 60 m bands, and a^2 where pixels are
    masked.
    """
    whitened = F.conv2d(restored.image, matrix[..., None, None], -offset)
    leverage = whitened.square_().sum(1, keepdim=True)
    leverage.add_(1).div_(1 + len(matrix))
    parts = [leverage, detail_power(guide, restored.sharpened, guide_bands)]
    if valid is not None and restored.classes is not None:
        radius = max(round(SURROUNDINGS_M / pixel_m), 1)
        parts.append(_moving_mean((~valid).to(leverage), radius).square_())
    return torch.cat(parts, 1)


def standard_deviation(
    factors: torch.Tensor,
    terms: torch.Tensor,
    pixels: torch.Tensor,
    classes: torch.Tensor | None,
    edge_variance: torch.Tensor,
) -> torch.Tensor:
    """Standard deviation (b, c, y, x) of the fused image.

    Parameters
    ----------
    factors : (11,) s1 ... s11.
    terms : (10, c) of `scene_terms`.
    pixels : (b, 3 or 4, y, x) of `pixel_features`.
    classes : (b, y, x) of `mask_edge_filter.edge_classes`; None = nothing is masked.
    edge_variance : (k, c) u of each class.
    """
    # terms of one feature add up: the variance is linear in the features
    coefficients = torch.zeros(
        1 + max(FEATURE), terms.shape[1], dtype=terms.dtype, device=terms.device
    )
    feature = torch.tensor(FEATURE, device=terms.device)
    coefficients.index_add_(0, feature, factors[:-1, None].to(terms) * terms)
    constant = coefficients[0] + MINIMUM_VARIANCE
    slopes = coefficients[1 : 1 + pixels.shape[1]].T.contiguous()
    variance = F.conv2d(pixels, slopes[..., None, None], constant)
    if classes is not None:
        edge = classes > 0
        by_class = factors[-1].to(edge_variance) * edge_variance
        variance.movedim(1, -1)[edge] += by_class[classes[edge]]
    return variance.sqrt_()


def _moving_mean(image: torch.Tensor, radius: int) -> torch.Tensor:
    """Means over squares of 2 * `radius` + 1 pixels, of the part inside the image."""
    size = 2 * radius + 1
    image = F.avg_pool2d(image, (size, 1), 1, (radius, 0), count_include_pad=False)
    return F.avg_pool2d(image, (1, size), 1, (0, radius), count_include_pad=False)
