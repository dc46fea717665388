"""Weights of the library regression: a closed form of spectra alone, without images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from satfuse import checkpoint
from satfuse.arrays import FloatArray
from satfuse.models.library_regression import LibraryRegression
from satfuse.sensors.bands import RATIO, S2_NAMES, S3_NAMES
from satfuse.sensors.srf import covering_matrix

# Reflectance, standard deviation. It regularises the least squares, which would otherwise fit
# differences between bands that are smaller than the noise of real images.
GUIDE_NOISE = 0.002


def fit_library(
    wavelength_nm: ArrayLike,
    spectra: ArrayLike,
    out: checkpoint.PathLike,
    *,
    platforms: Sequence[str] = ("S2A", "S3A"),
    coarse_bands: Sequence[str] = S3_NAMES,
    ratio: int = RATIO,
    back_projections: int = 3,
    data: dict[str, Any] | None = None,
) -> checkpoint.Card:
    """Regress the coarse bands of many spectra on the guide's; write a checkpoint.

    Parameters
    ----------
    wavelength_nm : (n,) wavelengths of the samples of a spectrum.
    spectra : (m, n) reflectance, such as random mixtures of library spectra.
    out : checkpoint folder to write.
    platforms : guide and coarse platform whose spectral responses are integrated.
    coarse_bands, ratio, back_projections : of the model.
    data : for the card, plain JSON values: origin of the spectra and their licences.

    Returns
    -------
    The checkpoint's card; its metric `rmse` is that of the regression on these spectra.

    Raises
    ------
    BandError
        Wavelengths that do not cover a band.
    """
    samples = np.asarray(spectra, float)
    guide = samples @ covering_matrix(platforms[0], S2_NAMES, wavelength_nm).T
    coarse = samples @ covering_matrix(platforms[1], coarse_bands, wavelength_nm).T
    guide_mean = guide.mean(0)
    coarse_mean = coarse.mean(0)
    anomaly = guide - guide_mean
    # normal equations of ridge regression
    gram = anomaly.T @ anomaly / len(anomaly) + GUIDE_NOISE**2 * np.eye(len(S2_NAMES))
    weight = np.linalg.solve(gram, anomaly.T @ (coarse - coarse_mean) / len(anomaly)).T
    residual = coarse - coarse_mean - anomaly @ weight.T
    model = _model(
        weight,
        coarse_mean - weight @ guide_mean,
        coarse_bands=coarse_bands,
        ratio=ratio,
        back_projections=back_projections,
    )
    metrics = {"spectra": len(samples), "rmse": float(np.sqrt((residual**2).mean()))}
    origin = {"platforms": list(platforms), **(data or {})}
    return checkpoint.save(model, out, {"data": origin, "metrics": metrics})


def _model(
    weight: FloatArray,
    bias: FloatArray,
    *,
    coarse_bands: Sequence[str],
    ratio: int,
    back_projections: int,
) -> LibraryRegression:
    """The model with weights (c_coarse, c_guide) and bias (c_coarse,)."""
    model = LibraryRegression(
        guide_bands=S2_NAMES,
        coarse_bands=coarse_bands,
        ratio=ratio,
        back_projections=back_projections,
    )
    model.options = {"back_projections": back_projections}
    model.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
    return model
