"""Training: `fit` makes a checkpoint from a cube; the models of `FROM_SPECTRA` are made from spectra."""

from satfuse.train.config import TrainConfig
from satfuse.train.loop import fit, score

__all__ = ["FROM_SPECTRA", "TrainConfig", "fit", "score"]

FROM_SPECTRA = ("bayesian", "library_regression")
