"""Mean spectra of guide, coarse input and product."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from satfuse import metrics
from satfuse.arrays import FloatArray
from satfuse.sensors.bands import wavelengths_nm
from satfuse.validate.views import Views


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Mean and standard deviation of reflectance per band, with centre wavelengths in nm."""

    bands: tuple[str, ...]
    wavelength_nm: FloatArray
    mean: FloatArray
    std: FloatArray


def mean_spectra(views: Views) -> dict[str, Spectrum]:
    """Spectra over the valid pixels of "guide" and "fused" (sampled) and of "coarse"."""
    return {
        "guide": spectrum(views.guide_bands, views.guide.sample),
        "coarse": spectrum(views.bands, views.coarse),
        "fused": spectrum(views.bands, views.images["fused"].sample),
    }


def spectra_agreement(spectra: dict[str, Spectrum]) -> dict[str, Any]:
    """Compare the mean fused spectrum with the mean coarse one.

    Returns
    -------
    "jensen_shannon" (divergence, natural log), "sam_deg", "sam_rad", "bias" (fused minus coarse),
    "bands": {band: mean and standard deviation of both}.
    """
    fused = spectra["fused"]
    coarse = spectra["coarse"]
    # metrics take (band, y, x): one pixel
    a = fused.mean[:, None, None]
    b = coarse.mean[:, None, None]
    return {
        "jensen_shannon": metrics.jensen_shannon(fused.mean, coarse.mean),
        "sam_deg": metrics.sam_deg(a, b),
        "sam_rad": metrics.sam_rad(a, b),
        "bias": float(np.mean(fused.mean - coarse.mean)),
        "bands": {
            name: {
                "fused_mean": float(fused.mean[i]),
                "fused_std": float(fused.std[i]),
                "coarse_mean": float(coarse.mean[i]),
                "coarse_std": float(coarse.std[i]),
            }
            for i, name in enumerate(fused.bands)
        },
    }


def spectrum(names: Sequence[str], image: FloatArray) -> Spectrum:
    """Spectrum of the pixels of (band, ...) that are finite in all bands; NaN without any."""
    pixels = image[:, np.isfinite(image).all(0)].astype(float)
    undefined = np.full(len(names), np.nan)
    return Spectrum(
        bands=tuple(names),
        wavelength_nm=np.array(wavelengths_nm(names)),
        mean=pixels.mean(axis=1) if pixels.size else undefined,
        std=pixels.std(axis=1) if pixels.size else undefined,
    )
