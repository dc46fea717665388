"""Guide pixels beside masked ones: the thin cloud that a mask leaves there, and what blurred bands take from under it.

Such a pixel is z = y + e. The clear spectrum y has the scene's mean m and covariance C, and e the covariance t K: along
what cloud adds to m, and along m itself for shadow; in all bands of a pixel beside the mask, and in blurred bands as
far as their native pixel reaches under it. The expected y is m + C (C + t K)^-1 (z - m) (Wiener's filter). The strength
t is the one of greatest evidence, so a mask that leaves nothing costs nothing.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from satfuse.models.bayesian.native_blur import COARSER_M, block, lay, levels
from satfuse.sensors.bands import wavelengths_nm

# Reflectance of opaque cloud at nm: with droplets that absorb in the short-wave infrared, and with
# hardly any.
CLOUD_NM = (400, 900, 1250, 1610, 2200)
CLOUDS = ((0.82, 0.80, 0.75, 0.54, 0.41), (0.82, 0.82, 0.80, 0.75, 0.70))
THIN_M = 20  # how far from the mask cloud is looked for
THIN = (0.0, 0.02, 0.04)  # opacity there: none, up to that distance, beside the mask
SHADE = 1.5  # darkening over opacity
UNDER = (0.0, 0.12, 0.4, 0.8)  # share of a native pixel that is masked, by class
UNDER_FROM = (
    1e-4,
    0.2531,
    0.6047,
)  # where classes begin: no shares, which rounding would move from class to class
UNDER_CLOUD, UNDER_SHADE = 0.5, 0.3  # opacity and darkening under the mask
STRENGTHS = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
USUAL = 0.3  # strength where a scene does not tell
LEAST_CLEAR = 200  # pixels that clear spectra are taken from
RIDGE = 1e-6  # reflectance squared


@dataclass(frozen=True, kw_only=True)
class EdgeFilter:
    """By class of pixels: `matrix (k, g, g)`, `offset (k, g)`, and the covariance that is left, `error (k, g, g)`."""

    matrix: np.ndarray
    offset: np.ndarray
    error: np.ndarray


def edge_classes(valid, guide_bands, pixel_m: float) -> torch.Tensor:
    """Of valid (n, 1, y, x) bool, True = usable: (n, y, x) int64, 0 = away from masks, or masked.

    Else a number of three digits: how near the mask is, and how much of the native pixel of 20 m and of 60 m bands is
    under it, in classes of `THIN` and `UNDER`.
    """
    masked = (~valid).to(torch.float32)
    near = [
        F.max_pool2d(masked, 2 * n + 1, 1, n)[:, 0] for n in (1, max(round(THIN_M / pixel_m), 1))
    ]
    classes = sum(near).long()
    steps = {level.native_m: block(level, pixel_m) for level in levels(guide_bands)}
    for native_m in COARSER_M:
        classes *= len(UNDER)
        if (step := steps.get(native_m, 1)) > 1:
            share = lay(masked, None, step)[:, 0].contiguous()
            classes += torch.bucketize(share, torch.tensor(UNDER_FROM, device=valid.device))
    return classes * valid[:, 0]


def fit_edges(spectra, classes, guide_bands, maps) -> EdgeFilter:
    """The filter from a scene's pixels.

    Parameters
    ----------
    spectra : (g, n) guide values with their detail, classes : (n,) of `edge_classes`.
    maps : of `native_blur.fit_detail`, which tell the bands that are blurred.
    """
    clear = spectra[:, classes == 0]
    clear = spectra if clear.shape[1] < LEAST_CLEAR else clear
    mean, covariance = clear.mean(1), np.cov(clear) + RIDGE * np.eye(len(clear))
    blurred = {
        level.native_m: np.array(level.blurred)[maps[f"detail{level.native_m}"].any(1).numpy()]
        for level in levels(guide_bands)
        if f"detail{level.native_m}" in maps
    }
    added = [
        _added(k, mean, guide_bands, blurred)
        for k in range(len(THIN) * len(UNDER) ** len(COARSER_M))
    ]
    present = [
        (added[k], spectra[:, classes == k] - mean[:, None]) for k in np.unique(classes) if k
    ]
    evidence = [sum(_evidence(covariance + t * k, z) for k, z in present) for t in STRENGTHS]
    strength = STRENGTHS[int(np.argmax(evidence))] if present else USUAL
    matrix = np.stack([covariance @ np.linalg.inv(covariance + strength * k) for k in added])
    return EdgeFilter(
        matrix=matrix, offset=mean - matrix @ mean, error=covariance - matrix @ covariance
    )


def cloud_spectra(bands) -> np.ndarray:
    """(n, b) reflectance of the `CLOUDS` in named bands."""
    return np.stack([np.interp(wavelengths_nm(bands), CLOUD_NM, cloud) for cloud in CLOUDS])


def filter_edges(guide, classes, maps) -> torch.Tensor:
    """The guide (n, g, y, x) with the pixels of its `classes (n, y, x)` filtered.

    `maps` : `matrix` and `offset` of an `EdgeFilter` as `edge_matrix` and `edge_offset`.
    """
    near = classes > 0
    if not near.any():
        return guide
    out, pixels, of = guide.clone(), guide.movedim(1, -1)[near], classes[near]
    for k in of.unique():
        pixels[of == k] = pixels[of == k] @ maps["edge_matrix"][k].mT + maps["edge_offset"][k]
    out.movedim(1, -1)[near] = pixels
    return out


def _added(number, mean, guide_bands, blurred) -> np.ndarray:
    """Covariance K (g, g) of a class; `blurred` : indices of blurred bands by native size."""
    clouds = cloud_spectra(guide_bands) - mean
    total = np.zeros((len(mean), len(mean)))

    def add(bands, opacity, shade):
        part = np.zeros((len(clouds) + 1, len(mean)))
        part[:, bands] = np.vstack([opacity / len(clouds) ** 0.5 * clouds, shade * mean])[:, bands]
        total[:] += part.T @ part

    for native_m in reversed(COARSER_M):
        number, share = divmod(number, len(UNDER))
        add(blurred.get(native_m, []), UNDER_CLOUD * UNDER[share], UNDER_SHADE * UNDER[share])
    add(slice(None), THIN[number], SHADE * THIN[number])
    return total


def _evidence(covariance, spectra) -> float:
    """Logarithm of the density of spectra (g, n), mean 0; without its constant."""
    root = np.linalg.cholesky(covariance)
    return (
        -spectra.shape[1] * np.log(root.diagonal()).sum()
        - np.square(np.linalg.solve(root, spectra)).sum() / 2
    )
