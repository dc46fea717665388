"""Training: `fit` makes a checkpoint from a cube."""

from satfuse.train.config import TrainConfig
from satfuse.train.loop import fit, score

__all__ = ["TrainConfig", "fit", "score"]
