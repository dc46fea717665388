"""The variance of the fused image: ten terms of a scene, spread over its pixels by features of the guide, and a table.

At a pixel of guide z it is, per band,

    s1 |w|^2 n_g + s2 k n_c  +  h (s3 tr(V S) + s4 n_c + s5 n_c^3/4 r^1/4)
        +  e_20 (s6 d_20 + s8 D_20)  +  e_60 (s7 d_60 + s9 D_60)  +  s10 y^2 a^2  +  s11 v

with n_g and n_c the variance of the noise of guide and coarse image, k the part of the errors that neighbours share, w
the map and V its covariance, S the second moment of the map's features over the scene, r the library's mean square of
what no linear map explains, relative to brightness. h is the leverage (1 + (z - m)' C^-1 (z - m)) / (1 + g) for the
mean m and covariance C of the scene's g guide bands, 1 on average: the map errs most where the spectrum is rare. d is
the power of the detail that `native_blur` predicted for the bands of 20 and of 60 m, D its mean over the scene, e what
the errors of that detail do to the band, relative to its power. a is the share of masked pixels around, y^2 the scene's
mean square: shadow that a mask leaves. v is what `mask_edge` leaves unknown. The factors s are found on simulated
scenes.
"""

import numpy as np
import torch
from torch.nn import functional as F

from satfuse.models.bayesian.native_blur import detail_power
from satfuse.models.bayesian.spectral_prior import DARK, features

TERMS = (
    "guide noise", "shared error", "map", "coarse noise", "remainder", "detail of 20 m bands", "detail of 60 m bands",
    "mean detail of 20 m bands", "mean detail of 60 m bands", "shadow", "beside masks",
)  # fmt: skip
# of each term but the last, which is a table: constant, leverage, power of the detail of 20 m and
# 60 m bands, a^2
FEATURE = (0, 0, 1, 1, 1, 2, 3, 0, 0, 4)
AROUND_M = 100  # to each side
RIDGE = 1e-6  # reflectance squared
LEAST = 1e-10  # variance


def scene_terms(found, prior, guide, lost) -> np.ndarray:
    """(10, c) terms of a scene.

    Parameters
    ----------
    found, prior, guide : see `scene_frames.Findings`, `spectral_prior.MapPrior`, `scene_guide.SceneGuide`. A band that
        all frames lack is as uncertain as the library's remainder.
    lost : (2, c), see `native_blur.detail_error`.
    """
    z = features(guide.spectra.T)
    moment, weight = z.T @ z / len(z), found.map.weight
    remainder = prior.remainder * np.square(guide.spectra.mean(0).clip(0) + DARK).mean()
    coarse = np.where(np.isfinite(found.noise), found.noise, np.inf).min(0)
    coarse = np.where(np.isfinite(coarse), coarse, remainder)
    return np.stack([
        np.square(weight[:, :-1]).sum(1) * guide.noise,
        found.map.shared * coarse,
        np.einsum("cfg,fg->c", found.map.covariance, moment),
        coarse,
        coarse**0.75 * prior.remainder**0.25,
        *lost,
        *lost * guide.power[:, None],
        np.einsum("cf,fg,cg->c", weight, moment, weight),
    ])  # fmt: skip


def whitener(spectra) -> tuple[np.ndarray, np.ndarray]:
    """(g, g) and (g,): the squares of `matrix @ z - offset` add up to g in the mean over the spectra (g, n)."""
    values, vectors = np.linalg.eigh(np.cov(spectra) + RIDGE * np.eye(len(spectra)))
    matrix = vectors.T / np.sqrt(values)[:, None]
    return matrix, matrix @ spectra.mean(1)


def pixel_features(seen, restored, matrix, offset, valid, guide_bands, pixel_m) -> torch.Tensor:
    """(b, 3 or 4, y, x) features of the pixels: leverage, powers of the detail, and a^2 where there are masked pixels.

    Parameters
    ----------
    seen, valid, guide_bands, pixel_m, restored : what `scene_guide.restore` takes, and what it gives.
    """
    leverage = (
        F.conv2d(restored.image, matrix[..., None, None], -offset).square_().sum(1, keepdim=True)
    )
    leverage.add_(1).div_(1 + len(matrix))
    found = [leverage, detail_power(seen, restored.detailed, guide_bands)]
    if restored.classes is not None:
        found.append(_around((~valid).to(leverage), max(round(AROUND_M / pixel_m), 1)).square_())
    return torch.cat(found, 1)


def standard_deviation(scale, terms, pixels, classes, beside) -> torch.Tensor:
    """(b, c, y, x) from the factors (11,), the scene's terms (10, c) and `pixel_features`.

    Parameters
    ----------
    classes : (b, y, x) of `mask_edge.edge_classes`, or None; beside : (k, c) variance of each.
    """
    parts = torch.zeros(1 + max(FEATURE), terms.shape[1], dtype=terms.dtype, device=terms.device)
    parts.index_add_(
        0, torch.tensor(FEATURE, device=terms.device), scale[:-1, None].to(terms) * terms
    )
    constant, slopes = parts[0] + LEAST, parts[1 : 1 + pixels.shape[1]].T.contiguous()
    variance = F.conv2d(pixels, slopes[..., None, None], constant)
    if classes is not None:
        near = classes > 0
        variance.movedim(1, -1)[near] += (scale[-1].to(beside) * beside)[classes[near]]
    return variance.sqrt_()


def _around(image, radius):
    """Means over squares of 2 * `radius` + 1 pixels, of those inside the image."""
    for size, padding in (((2 * radius + 1, 1), (radius, 0)), ((1, 2 * radius + 1), (0, radius))):
        image = F.avg_pool2d(image, size, 1, padding, count_include_pad=False)
    return image
