"""The variance of the fused image: nine terms of a scene, spread over its pixels by three features of the guide.

At a pixel of guide z it is, per band,

    s1 |w|^2 n_g + s2 k n_c  +  h (s3 tr(V S) + s4 n_c + s5 sqrt(n_c r))
        +  e_20 (s6 d_20 + s8 D_20)  +  e_60 (s7 d_60 + s9 D_60)

with n_g and n_c the variance of the noise of guide and coarse image, k the part of the errors that neighbours share, w
the map and V its covariance, S the second moment of the map's features over the scene, r the library's mean square of
what no linear map explains at the scene's brightness. h is the leverage (z - m)' C^-1 (z - m) / g for the mean m and
covariance C of the scene's g guide bands, 1 on average: the map errs most where the spectrum is rare. d is the power of
the detail that `native_blur` predicted for the bands of 20 and of 60 m, D its mean over the scene, e what the errors of
that detail do to the band, relative to its power. The factors s are found on simulated scenes.
"""

import numpy as np
import torch
from torch.nn import functional as F

from satfuse.models.native_blur import detail_power
from satfuse.models.spectral_prior import DARK, features

TERMS = (
    "guide noise", "shared error", "map", "coarse noise", "remainder", "detail of 20 m bands", "detail of 60 m bands",
    "mean detail of 20 m bands", "mean detail of 60 m bands",
)  # fmt: skip
FEATURE = (0, 0, 1, 1, 1, 2, 3, 0, 0)  # of each term: constant, leverage, power of the detail of 20 m and 60 m bands
RIDGE = 1e-6  # reflectance squared
LEAST = 1e-10  # variance


def scene_terms(found, prior, spectra, guide_noise, noise, lost, detail) -> np.ndarray:
    """(9, c) terms of a scene.

    Parameters
    ----------
    found, prior : see `scene_regression.Adapted`, `spectral_prior.MapPrior`.
    spectra : (g, n) guide values of the scene.
    guide_noise, noise (t, c) : variances of the noise; NaN for bands that a frame lacks. A band that all lack is as
        uncertain as the library's remainder.
    lost (2, c), detail (2,) : see `native_blur.detail_error`; mean over the scene of `native_blur.detail_power`.
    """
    z = features(spectra.T)
    remainder = prior.remainder * np.square(spectra.mean(0).clip(0) + DARK).mean()
    coarse = np.where(np.isfinite(noise), noise, np.inf).min(0)
    coarse = np.where(np.isfinite(coarse), coarse, remainder)
    of_map = np.einsum("cfg,fg->c", found.covariance, z.T @ z / len(z))
    power = np.square(found.weight[:, :-1]).sum(1)
    mixed = np.sqrt(coarse * remainder)
    return np.stack([power * guide_noise, found.shared * coarse, of_map, coarse, mixed, *lost, *lost * detail[:, None]])


def whitener(spectra) -> tuple[np.ndarray, np.ndarray]:
    """(g, g) and (g,): the leverage of z is the mean square of `matrix @ z - offset`; spectra (g, n)."""
    values, vectors = np.linalg.eigh(np.cov(spectra) + RIDGE * np.eye(len(spectra)))
    matrix = vectors.T / np.sqrt(values)[:, None]
    return matrix, matrix @ spectra.mean(1)


def pixel_features(seen, sharp, matrix, offset, guide_bands) -> torch.Tensor:
    """(b, 3, y, x) leverage and powers of the detail of the guide (b, g, y, x), as `seen` and with its detail."""
    leverage = F.conv2d(sharp, matrix[..., None, None], -offset).square_().mean(1, keepdim=True)
    return torch.cat([leverage, detail_power(seen, sharp, guide_bands)], 1)


def standard_deviation(scale, terms, pixels) -> torch.Tensor:
    """(b, c, y, x) from the factors (9,), the scene's terms (9, c) and `pixel_features`."""
    parts = torch.zeros(1 + max(FEATURE), terms.shape[1], dtype=terms.dtype, device=terms.device)
    parts.index_add_(0, torch.tensor(FEATURE, device=terms.device), scale[:, None].to(terms) * terms)
    constant, slopes = parts[0] + LEAST, parts[1:].T.contiguous()
    return F.conv2d(pixels, slopes[..., None, None], constant).sqrt_()
