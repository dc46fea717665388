"""Wiener filter of the guide's mask-edge pixels: residual thin cloud, shadow and adjacency.

At a mask edge the guide's spectrum is z = y + e. The clear spectrum y has the scene's mean m and
covariance C. The disturbance e has zero mean and covariance t K, where K is spanned by the spectra
that cloud adds to m and that shadow takes from it,

    K = sum_k o^2 / n (cloud_k - m) (cloud_k - m)' + s^2 m m'

with opacity o and darkening s: in all bands close to the mask, and in bands of 20 and 60 m by the
share of their native pixel that is masked. The expected clear spectrum is (Wiener filter)

    E[y | z] = m + C (C + t K)^-1 (z - m),    Cov[y | z] = C - C (C + t K)^-1 C

The strength t is the one of greatest evidence, so scenes whose masks miss nothing stay unchanged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from satfuse.arrays import FloatArray, IntArray
from satfuse.models.bayesian.native_blur import (
    COARSER_M,
    blur_to_native,
    native_step,
    resolution_levels,
)
from satfuse.sensors.bands import wavelengths_nm

# Reflectance of opaque cloud at wavelengths in nm: with droplets that absorb in the short-wave
# infrared, and with hardly any absorption.
CLOUD_NM = (400, 900, 1250, 1610, 2200)
CLOUDS = ((0.82, 0.80, 0.75, 0.54, 0.41), (0.82, 0.82, 0.80, 0.75, 0.70))
EDGE_M = 20  # distance from the mask up to which residual cloud is expected
# Opacity of residual cloud by distance class: none, within EDGE_M, adjacent to the mask.
EDGE_OPACITY = (0.0, 0.02, 0.04)
SHADE_PER_OPACITY = 1.5  # darkening of residual shadow, over the opacity of residual cloud
MASKED_SHARE = (0.0, 0.12, 0.4, 0.8)  # of a native pixel, by class
# Lower limits of classes 1, 2, 3: values that no share of whole pixels takes exactly, so rounding
# cannot change a pixel's class from tile to tile.
MASKED_SHARE_LIMITS = (1e-4, 0.2531, 0.6047)
MASKED_OPACITY = 0.5  # of what is masked
MASKED_SHADE = 0.3  # darkening of what is masked
STRENGTHS = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)  # t: candidates; 0 = no filter
DEFAULT_STRENGTH = 0.3  # of scenes without mask-edge pixels
MINIMUM_CLEAR = 200  # pixels for clear statistics; with fewer, all pixels are used
RIDGE = 1e-6  # reflectance squared

N_CLASSES = len(EDGE_OPACITY) * len(MASKED_SHARE) ** len(COARSER_M)


@dataclass(frozen=True, kw_only=True)
class EdgeFilter:
    """Affine filter `matrix @ z + offset` by class of pixel.

    Parameters
    ----------
    matrix : (k, g, g) C (C + t K)^-1.
    offset : (k, g) m - matrix @ m.
    covariance : (k, g, g) Cov[y | z].
    """

    matrix: FloatArray
    offset: FloatArray
    covariance: FloatArray


def edge_classes(valid: torch.Tensor, guide_bands: Sequence[str], pixel_m: float) -> torch.Tensor:
    """Class of every pixel by distance to the mask and by masked shares of native pixels.

    Parameters
    ----------
    valid : (n, 1, y, x) bool, True = usable.
    pixel_m : guide pixel size.

    Returns
    -------
    (n, y, x) int64, 0 = masked, or away from masks; else the number with the digits distance class
    (`EDGE_OPACITY`), class of the 20 m and class of the 60 m pixel (`MASKED_SHARE`).
    """
    masked = (~valid).to(torch.float32)
    radius = max(round(EDGE_M / pixel_m), 1)
    adjacent = F.max_pool2d(masked, 3, 1, 1)[:, 0]
    close = F.max_pool2d(masked, 2 * radius + 1, 1, radius)[:, 0]
    classes = (adjacent + close).long()
    limits = torch.tensor(MASKED_SHARE_LIMITS, device=valid.device)
    steps = {
        level.native_m: native_step(level, pixel_m) for level in resolution_levels(guide_bands)
    }
    for native_m in COARSER_M:
        classes *= len(MASKED_SHARE)  # the next digit
        step = steps.get(native_m, 1)
        if step > 1:
            share = blur_to_native(masked, None, step)[:, 0].contiguous()
            classes += torch.bucketize(share, limits)
    return classes * valid[:, 0]


def fit_edge_filter(
    spectra: FloatArray,
    classes: IntArray,
    guide_bands: Sequence[str],
    maps: Mapping[str, torch.Tensor],
) -> EdgeFilter:
    """Filter from a scene's pixels.

    Parameters
    ----------
    spectra : (g, n) guide values, sharpened.
    classes : (n,) of `edge_classes`.
    maps : of `native_blur.fit_detail`, which show the bands that are natively coarser.
    """
    clear = spectra[:, classes == 0]
    if clear.shape[1] < MINIMUM_CLEAR:
        clear = spectra
    mean = clear.mean(1)
    covariance = np.cov(clear) + RIDGE * np.eye(len(clear))
    coarser = {
        level.native_m: np.array(level.coarser)[maps[f"detail{level.native_m}"].any(1).numpy()]
        for level in resolution_levels(guide_bands)
        if f"detail{level.native_m}" in maps
    }
    disturbances = [_disturbance(k, mean, guide_bands, coarser) for k in range(N_CLASSES)]
    samples = [(k, spectra[:, classes == k] - mean[:, None]) for k in np.unique(classes) if k]
    strength = DEFAULT_STRENGTH
    if samples:
        evidence = [
            sum(_log_evidence(covariance + t * disturbances[k], z) for k, z in samples)
            for t in STRENGTHS
        ]
        strength = STRENGTHS[int(np.argmax(evidence))]
    matrix = np.stack([covariance @ np.linalg.inv(covariance + strength * k) for k in disturbances])
    return EdgeFilter(
        matrix=matrix, offset=mean - matrix @ mean, covariance=covariance - matrix @ covariance
    )


def cloud_spectra(bands: Sequence[str]) -> FloatArray:
    """(n, b) reflectance of the n `CLOUDS` in named bands."""
    return np.stack([np.interp(wavelengths_nm(bands), CLOUD_NM, cloud) for cloud in CLOUDS])


def filter_edges(
    guide: torch.Tensor, classes: torch.Tensor, maps: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """Apply the filter to the mask-edge pixels of a guide.

    Parameters
    ----------
    guide : (n, g, y, x).
    classes : (n, y, x) of `edge_classes`.
    maps : with `edge_matrix` and `edge_offset`, those of an `EdgeFilter`.
    """
    edge = classes > 0
    if not edge.any():
        return guide
    out = guide.clone()
    pixels = guide.movedim(1, -1)[edge]
    pixel_class = classes[edge]
    for k in pixel_class.unique():
        chosen = pixel_class == k
        pixels[chosen] = pixels[chosen] @ maps["edge_matrix"][k].mT + maps["edge_offset"][k]
    out.movedim(1, -1)[edge] = pixels
    return out


def _disturbance(
    number: int,
    mean: FloatArray,
    guide_bands: Sequence[str],
    coarser: Mapping[int, IntArray],
) -> FloatArray:
    """Covariance K (g, g) of a class; `coarser`: indices of coarser bands by native size."""
    clouds = cloud_spectra(guide_bands) - mean
    total = np.zeros((len(mean), len(mean)))

    def add(bands: IntArray, opacity: float, shade: float) -> None:
        """Add K of some of the bands; in the others the disturbance is zero."""
        spectra = np.vstack([opacity / len(clouds) ** 0.5 * clouds, shade * mean])
        part = np.zeros_like(spectra)
        part[:, bands] = spectra[:, bands]
        total[:] += part.T @ part

    for native_m in reversed(COARSER_M):  # digits of the class, last first
        number, digit = divmod(number, len(MASKED_SHARE))
        share = MASKED_SHARE[digit]
        bands = coarser.get(native_m, np.zeros(0, int))
        add(bands, MASKED_OPACITY * share, MASKED_SHADE * share)
    opacity = EDGE_OPACITY[number]
    add(np.arange(len(mean)), opacity, SHADE_PER_OPACITY * opacity)
    return total


def _log_evidence(covariance: FloatArray, spectra: FloatArray) -> float:
    """Log density of spectra (g, n) under N(0, covariance), without its constant."""
    root = np.linalg.cholesky(covariance)
    half_log_det = np.log(root.diagonal()).sum()
    mahalanobis = np.square(np.linalg.solve(root, spectra)).sum()
    return -spectra.shape[1] * half_log_det - mahalanobis / 2
