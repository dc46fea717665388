"""Training: `fit` makes a checkpoint from a cube, `fit_spectra` from the library of spectra."""

from satfuse.train.config import SpectraConfig, TrainConfig
from satfuse.train.loop import fit, score
from satfuse.train.spectra import FROM_SPECTRA, fit_spectra

__all__ = ["FROM_SPECTRA", "SpectraConfig", "TrainConfig", "fit", "fit_spectra", "score"]
