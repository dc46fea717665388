"""Weights of the Bayesian model: library spectra of many places, as principal components."""

import numpy as np
import torch

from satfuse.arrays import FloatArray, IntArray
from satfuse.models.bayesian.model import Bayesian
from satfuse.models.bayesian.spectral_prior import BRIGHTNESS_OFFSET
from satfuse.sensors.bands import RATIO, S2_NAMES, S3_NAMES


def fit_prior(
    wavelength_nm: FloatArray | IntArray,
    places: FloatArray,
    *,
    basis: int = 28,
    ratio: int = RATIO,
) -> Bayesian:
    """A Bayesian model that holds the spectra of places; its uncertainty is not calibrated yet.

    Parameters
    ----------
    wavelength_nm : (n,) wavelengths of the samples of a spectrum.
    places : (s, p, n) reflectance of p pixels of each of s places.
    basis : number of principal components. They minimise the error relative to brightness, so that
        dark spectra count as much as bright ones.
    ratio : fine pixels per coarse pixel of the model.

    Returns
    -------
    The model in eval mode.
    """
    spectra = np.asarray(places, float).reshape(-1, len(wavelength_nm))
    centre = spectra.mean(0)
    relative = (spectra - centre) / (spectra.mean(1, keepdims=True) + BRIGHTNESS_OFFSET)
    _, vectors = np.linalg.eigh(relative.T @ relative)
    components = vectors.T[::-1][:basis].copy()  # eigh sorts by ascending eigenvalue
    scores = (spectra - centre) @ components.T
    scale = np.abs(scores).max(0)  # scores are stored as float16, hence within -1 to 1
    place_count, pixel_count, _ = places.shape
    sizes = {"places": place_count, "pixels": pixel_count, "basis": basis}
    model = Bayesian(guide_bands=S2_NAMES, coarse_bands=S3_NAMES, ratio=ratio, **sizes)
    model.options = dict(sizes)
    buffers = {
        "places": (scores / scale).reshape(place_count, pixel_count, basis),
        "scale": scale,
        "basis": components,
        "centre": centre,
        "wavelength_nm": np.asarray(wavelength_nm),
        "uncertainty_scale": np.ones_like(model.get_buffer("uncertainty_scale").numpy()),
    }
    model.load_state_dict({name: torch.tensor(value) for name, value in buffers.items()})
    return model.eval()
