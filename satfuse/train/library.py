"""The library regression's weights: a closed form of spectra alone, no images."""

import numpy as np
import torch

from satfuse import checkpoint
from satfuse.models.library_regression import LibraryRegression
from satfuse.sensors.bands import RATIO, S2_NAMES, S3_NAMES
from satfuse.sensors.srf import covering_matrix

GUIDE_NOISE = 0.002  # reflectance, standard deviation: least squares must not trade bands against each other below it


def fit_library(
    wavelength_nm,
    spectra,
    out,
    *,
    platforms=("S2A", "S3A"),
    coarse_bands=S3_NAMES,
    ratio: int = RATIO,
    back_projections: int = 3,
    data=None,
) -> checkpoint.Card:
    """Least squares from the guide's to the coarse bands of many spectra; writes a checkpoint of `library_regression`.

    Parameters
    ----------
    wavelength_nm : (n,) of the samples.
    spectra : (m, n) reflectance, such as random mixtures of library spectra.
    out : checkpoint folder to write.
    platforms : whose spectral responses to integrate, guide and coarse.
    coarse_bands, ratio, back_projections : of the model.
    data : for the card, plain JSON values: where the spectra come from and their licences.

    Raises
    ------
    BandError
        Wavelengths that do not cover a band.
    """
    spectra = np.asarray(spectra, float)
    guide = spectra @ covering_matrix(platforms[0], S2_NAMES, wavelength_nm).T
    coarse = spectra @ covering_matrix(platforms[1], coarse_bands, wavelength_nm).T
    g_mean, c_mean = guide.mean(0), coarse.mean(0)
    z = guide - g_mean
    gram = z.T @ z / len(z) + GUIDE_NOISE**2 * np.eye(len(S2_NAMES))
    weight = np.linalg.solve(gram, z.T @ (coarse - c_mean) / len(z)).T
    error = coarse - c_mean - z @ weight.T
    options = {"back_projections": back_projections}
    model = LibraryRegression(
        guide_bands=S2_NAMES, coarse_bands=coarse_bands, ratio=ratio, **options
    )
    model.options = options
    model.load_state_dict(
        {"weight": torch.tensor(weight), "bias": torch.tensor(c_mean - weight @ g_mean)}
    )
    metrics = {"spectra": len(spectra), "rmse": float(np.sqrt((error**2).mean()))}
    return checkpoint.save(
        model, out, {"data": {"platforms": list(platforms), **(data or {})}, "metrics": metrics}
    )
