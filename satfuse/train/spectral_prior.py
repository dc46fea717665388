"""The bayesian model's weights: simulated places of library spectra in a basis of their principal components."""

import numpy as np
import torch

from satfuse.models.bayesian.model import Bayesian
from satfuse.models.bayesian.spectral_prior import DARK
from satfuse.sensors.bands import RATIO, S2_NAMES, S3_NAMES


def fit_prior(wavelength_nm, places, *, basis: int = 28, ratio: int = RATIO) -> Bayesian:
    """A model from spectra.

    Parameters
    ----------
    wavelength_nm : (n,).
    places : (s, p, n) reflectance of p pixels of each of s places.
    basis : number of principal components; errors count relative to brightness.
    """
    spectra = np.asarray(places, float).reshape(-1, len(wavelength_nm))
    centre = spectra.mean(0)
    relative = (spectra - centre) / (spectra.mean(1, keepdims=True) + DARK)
    _, vectors = np.linalg.eigh(relative.T @ relative)
    vectors = vectors.T[::-1][:basis].copy()
    values = (spectra - centre) @ vectors.T
    scale = np.abs(values).max(0)
    s, p, _ = places.shape
    sizes = {"places": s, "pixels": p, "basis": basis}
    model = Bayesian(guide_bands=S2_NAMES, coarse_bands=S3_NAMES, ratio=ratio, **sizes)
    model.options = sizes
    content = {
        "places": (values / scale).reshape(s, p, basis), "scale": scale, "basis": vectors, "centre": centre,
        "wavelength_nm": np.asarray(wavelength_nm), "uncertainty_scale": np.ones(len(model.uncertainty_scale)),
    }  # fmt: skip
    model.load_state_dict({k: torch.tensor(v) for k, v in content.items()})
    return model.eval()
