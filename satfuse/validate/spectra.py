"""Mean spectra of guide, coarse input and product, and the spectra of a few pixels."""

from dataclasses import dataclass

import numpy as np

from satfuse import metrics
from satfuse.sensors.bands import wavelengths_nm
from satfuse.validate.views import Views


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Mean and standard deviation of reflectance per band, with centre wavelengths in nm."""

    bands: tuple[str, ...]
    wavelength_nm: np.ndarray
    mean: np.ndarray
    std: np.ndarray


def mean_spectra(views: Views) -> dict[str, Spectrum]:
    """Spectra over the valid pixels of "guide" and "fused" (sampled) and of "coarse"."""
    return {
        "guide": spectrum(views.guide_bands, views.guide.sample),
        "coarse": spectrum(views.bands, views.coarse),
        "fused": spectrum(views.bands, views.images["fused"].sample),
    }


def spectra_agreement(spectra: dict[str, Spectrum]) -> dict:
    """Mean fused spectrum against the mean coarse one: Jensen-Shannon divergence (natural log), angle, bias."""
    fused, coarse = spectra["fused"], spectra["coarse"]
    a, b = fused.mean[:, None, None], coarse.mean[:, None, None]
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


def spectrum(names, image) -> Spectrum:
    """Spectrum of the pixels of (band, ...) that are finite in all bands; NaN without any."""
    pixels = image[:, np.isfinite(image).all(0)].astype(float)
    mean, std = (
        f(axis=1) if pixels.size else np.full(len(names), np.nan) for f in (pixels.mean, pixels.std)
    )
    return Spectrum(
        bands=tuple(names), wavelength_nm=np.array(wavelengths_nm(names)), mean=mean, std=std
    )
