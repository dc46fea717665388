"""The state of an unfinished training: safetensors and JSON, nothing pickled; and its logs."""

import csv
import io
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch

from satfuse import checkpoint
from satfuse.errors import CheckpointError, ConfigError, MissingExtraError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

POSITION = "state.json"

Weights = dict[str, torch.Tensor]
Identity = dict[str, Any]  # settings and cube of a training, in plain JSON values


@dataclass
class Position:
    """Position of a run in its training: everything besides tensors that a resumed run needs."""

    epoch: int = 0
    batch: int = 0
    best_rmse: float = math.inf
    epochs_since_best: int = 0
    loss_sum: float = 0.0  # over the batches of this epoch
    history: list[dict[str, float]] = field(default_factory=list)  # one row per finished epoch


def copy_weights(model: torch.nn.Module) -> Weights:
    """A copy of the model's weights and buffers."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def save_state(
    folder: Path,
    identity: Identity,
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    best: Weights,
    position: Position,
) -> None:
    """Write the state.

    The tensors are written first, under a new name; the renaming of the JSON file that names them
    replaces the former state at once.

    Parameters
    ----------
    folder : of the state; files of former states in it are deleted.
    identity : of the training; a state is restored only where it is the same.
    model, optimiser, best, position : contents of the state; `best` are the best weights so far.
    """
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in best.items()}
    for index, slots in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value for name, value in slots.items()}
    # with the random states, a resumed run draws what an uninterrupted one would
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    content = safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
    name = f"{position.epoch}-{position.batch}.safetensors"
    record = {"identity": identity, "position": asdict(position), "tensors": name}
    checkpoint.write_file(folder / name, content)
    checkpoint.write_file(folder / POSITION, json.dumps(record).encode())
    for path in folder.iterdir():
        if path.name not in (name, POSITION):
            path.unlink()


def restore_state(
    folder: Path, identity: Identity, model: torch.nn.Module, optimiser: torch.optim.Optimizer
) -> tuple[Position, Weights]:
    """Restore a saved state, or start from the beginning where there is none.

    Returns
    -------
    Position, and the best weights so far; model, optimiser and torch's random state are set.

    Raises
    ------
    ConfigError
        The state belongs to another training.
    CheckpointError
        The state is damaged.
    """
    if not (folder / POSITION).exists():
        return Position(), copy_weights(model)
    record, tensors = _read_state(folder)
    if record["identity"] != identity:
        difference = _difference(record["identity"], identity)
        raise ConfigError(
            f"{folder} holds an unfinished training with another {difference}; "
            "train with the same settings, choose another folder, or delete it"
        )
    model.load_state_dict(_part(tensors, "model."))
    slots: dict[int, Weights] = {}
    for key, value in _part(tensors, "optimiser.").items():
        index, name = key.split(".", 1)
        slots.setdefault(int(index), {})[name] = value
    # the learning rate in the groups is set anew at every step
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": slots, "param_groups": groups})
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    return Position(**record["position"]), _part(tensors, "best.")


def _read_state(folder: Path) -> tuple[dict[str, Any], Weights]:
    """The JSON record and the tensors that it names."""
    try:
        record = json.loads((folder / POSITION).read_bytes())
        return record, safetensors.torch.load((folder / record["tensors"]).read_bytes())
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"training state {folder} is damaged ({error}); delete it to start from the beginning"
        ) from error


def _part(tensors: Weights, prefix: str) -> Weights:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _difference(saved: Identity, requested: Identity) -> str:
    """The first setting in which two trainings differ, or "cube" where the settings are equal."""
    for key, value in requested["config"].items():
        if saved["config"].get(key) != value:
            return f"{key}: {saved['config'].get(key)!r}, now {value!r}"
    return "cube"


def write_logs(folder: Path, history: list[dict[str, float]], tensorboard: bool) -> None:
    """Write `metrics.csv` with one row per epoch, and the last epoch to TensorBoard.

    Raises
    ------
    MissingExtraError
        TensorBoard is requested and not installed.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, history[-1])
    writer.writeheader()
    writer.writerows(history)
    (folder / "metrics.csv").write_text(text.getvalue())
    if tensorboard:
        epoch = history[-1]["epoch"]
        # a resumed run repeats an epoch: its former values are purged
        with _summary_writer()(folder / "tensorboard", purge_step=epoch) as board:
            for name, value in history[-1].items():
                board.add_scalar(name, value, epoch)


def _summary_writer() -> type["SummaryWriter"]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("tensorboard", "train") from error
    return SummaryWriter
