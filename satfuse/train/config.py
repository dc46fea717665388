"""How a model is trained: settings that are read strictly, once."""

import math
from dataclasses import dataclass, field
from types import UnionType
from typing import get_args, get_origin, get_type_hints

from satfuse.batch import BatchConfig
from satfuse.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a model is trained.

    Parameters
    ----------
    model, options : what `satfuse.models.create` takes.
    epochs : at most this many; training stops early after `patience` epochs without a better RMSE on val.
    learning_rate, weight_decay, clip : of AdamW; `clip` is the largest norm of the gradient.
    schedule : "cosine" to zero over all steps, or "step": times `step_factor` every `step_epochs`.
    loss, sam_weight : see `satfuse.losses.fusion_loss`.
    device : "auto", "cpu", "cuda" ...
    mixed_precision : True = bfloat16 where the device is a CUDA GPU.
    threads : of torch on the CPU; None = as it is. The same bits again need the same number.
    state_every : steps between two saved states.
    tensorboard : True = log there too.
    scenes : simulated scenes that the uncertainty of a model from spectra is calibrated on.
    """

    model: str = "spectral"
    options: dict = field(default_factory=dict)
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
    scenes: int = 150
    batches: BatchConfig = field(default_factory=BatchConfig)

    def __post_init__(self):
        for name, allowed in (("schedule", ("cosine", "step")), ("loss", ("l1", "mse"))):
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"{name} {getattr(self, name)!r} is unknown; known: {', '.join(allowed)}"
                )
        for name in ("epochs", "learning_rate", "state_every", "scenes"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"training key {name} = {getattr(self, name)!r} must be positive")

    @classmethod
    def from_dict(cls, values: dict) -> "TrainConfig":
        """Strict: an unknown key or a value of another type is a ConfigError. `batches` is a dict of `BatchConfig`."""
        _check(cls, values, "training")
        batches = values.get("batches", {})
        if isinstance(batches, dict):
            _check(BatchConfig, batches, "training.batches")
            batches = BatchConfig(**batches)
        return cls(**{**values, "batches": batches})


def _check(cls, values, where):
    hints = get_type_hints(cls)
    if unknown := sorted(set(values) - set(hints)):
        raise ConfigError(
            f"unknown {where} key {', '.join(map(repr, unknown))}; known: {', '.join(hints)}"
        )
    for name, value in values.items():
        kinds = _kinds(hints[name])
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ConfigError(
                f"{where} key {name} = {value!r} must be {' or '.join(k.__name__ for k in kinds)}"
            )


def _kinds(hint) -> tuple[type, ...]:
    """What may be given for a hint: whole numbers for float, lists for tuples, a dict for a config."""
    if isinstance(hint, UnionType):
        return tuple(kind for part in get_args(hint) for kind in _kinds(part))
    kind = get_origin(hint) or hint
    return (*{float: (int,), tuple: (list,), BatchConfig: (dict,)}.get(kind, ()), kind)


def learning_rate(config: TrainConfig, epoch: int, progress: float) -> float:
    """The schedule as a function of position alone; `progress` is in epochs, with the part of the current one."""
    if config.schedule == "step":
        return config.learning_rate * config.step_factor ** (epoch // config.step_epochs)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress / config.epochs))
