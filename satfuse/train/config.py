"""Settings of training, read strictly: `TrainConfig` on a cube, `SpectraConfig` on spectra."""

import math
from dataclasses import dataclass, field
from typing import Any

from satfuse.batch import BatchConfig
from satfuse.errors import ConfigError
from satfuse.strict import from_dict

_CHOICES = {"schedule": ("cosine", "step"), "loss": ("l1", "mse")}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a model is trained on a cube.

    Parameters
    ----------
    model, options : arguments of `satfuse.models.create`.
    epochs : largest number of epochs; training stops early after `patience` epochs in a row without
        a better RMSE on the val split.
    learning_rate, weight_decay : of AdamW.
    clip : largest norm of the gradient.
    schedule : "cosine" to zero over all steps, or "step": times `step_factor` every `step_epochs`.
    loss, sam_weight : see `satfuse.losses.fusion_loss`.
    seed : of the initial weights, the patches and their degradation.
    device : "auto", "cpu", "cuda" ...
    mixed_precision : True = bfloat16 where the device is a CUDA GPU.
    threads : number of threads of torch on the CPU; None = torch's own choice. Runs are
        bit-identical for the same number only.
    state_every : steps between two saved states.
    tensorboard : True = also log to TensorBoard.
    batches : how patches are drawn and degraded.
    """

    model: str = "spectral"
    options: dict[str, Any] = field(default_factory=dict)
    epochs: int = 12
    patience: int = 4
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    clip: float = 1.0
    schedule: str = "cosine"
    step_epochs: int = 5
    step_factor: float = 0.1
    loss: str = "l1"
    sam_weight: float = 0.1
    seed: int = 0
    device: str = "auto"
    mixed_precision: bool = True
    threads: int | None = None
    state_every: int = 200
    tensorboard: bool = True
    batches: BatchConfig = field(default_factory=BatchConfig)

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ConfigError(f"{name} {value!r} is unknown; known: {', '.join(choices)}")
        for name in ("epochs", "learning_rate", "state_every"):
            if not getattr(self, name) > 0:  # also NaN
                raise ConfigError(f"{name} = {getattr(self, name)!r} must be positive")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """Check plain data; `batches` is a dictionary of `BatchConfig`.

        Raises
        ------
        ConfigError
            An unknown key, or a value that is not allowed.
        """
        return from_dict(cls, values, "training")


@dataclass(frozen=True, kw_only=True)
class SpectraConfig:
    """How a model is trained on the library of spectra.

    Parameters
    ----------
    model, options : arguments of `satfuse.models.create`.
    seed : of the spectra that are drawn and of the scenes.
    scenes : simulated scenes on which the uncertainty is calibrated, for models that have one.
    """

    model: str = "bayesian"
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    scenes: int = 150

    def __post_init__(self) -> None:
        if self.scenes < 1:
            raise ConfigError(f"scenes = {self.scenes!r} must be positive")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SpectraConfig":
        """Check plain data.

        Raises
        ------
        ConfigError
            An unknown key, or a value that is not allowed.
        """
        return from_dict(cls, values, "training on spectra")


def learning_rate(config: TrainConfig, epoch: int, progress: float) -> float:
    """Learning rate as a function of position alone, so that a resumed run needs no other state.

    Parameters
    ----------
    config : see `TrainConfig`.
    epoch : number of the current epoch, from 0.
    progress : position in epochs, with the fraction of the current one.
    """
    if config.schedule == "step":
        return config.learning_rate * config.step_factor ** (epoch // config.step_epochs)
    # half a period of a cosine, from the full rate at the start to zero at the end
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress / config.epochs))
