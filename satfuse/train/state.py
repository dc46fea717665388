"""The state of an unfinished training: safetensors and JSON, nothing pickled; and its logs."""

import csv
import io
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import safetensors.torch
import torch

from satfuse import checkpoint
from satfuse.errors import CheckpointError, ConfigError, MissingExtraError

POSITION = "state.json"
Weights = dict[str, torch.Tensor]


@dataclass
class Position:
    """Where a run is: everything beside tensors that a resumed run needs."""

    epoch: int = 0
    batch: int = 0
    best_rmse: float = math.inf
    epochs_since_best: int = 0
    loss_sum: float = 0.0
    history: list[dict] = field(default_factory=list)


def copy_weights(model) -> Weights:
    """The model's weights and buffers as they are now."""
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def save_state(
    folder: Path, identity: dict, model, optimiser, best: Weights, position: Position
) -> None:
    """Write the state; the rename of its JSON, which names the tensors, puts it in place of the one before.

    `identity` says whose it is.
    """
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in best.items()}
    for index, slots in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value for name, value in slots.items()}
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    content = safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
    name = f"{position.epoch}-{position.batch}.safetensors"
    record = {"identity": identity, "position": asdict(position), "tensors": name}
    checkpoint.write_file(folder / name, content)
    checkpoint.write_file(folder / POSITION, json.dumps(record).encode())
    for old in folder.iterdir():
        if old.name not in (name, POSITION):
            old.unlink()


def restore_state(folder: Path, identity: dict, model, optimiser) -> tuple[Position, Weights]:
    """Put a saved state back, or start afresh where there is none.

    Raises
    ------
    ConfigError
        The state belongs to another training.
    CheckpointError
        The state is damaged.
    """
    if not (folder / POSITION).exists():
        return Position(), copy_weights(model)
    try:
        record = json.loads((folder / POSITION).read_bytes())
        tensors = safetensors.torch.load((folder / record["tensors"]).read_bytes())
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"training state {folder} is damaged ({error}); delete it to start afresh"
        ) from error
    if record["identity"] != identity:
        raise ConfigError(
            f"{folder} holds an unfinished training with another {_difference(record['identity'], identity)}; "
            "train with the same settings, choose another folder, or delete it"
        )
    model.load_state_dict(_part(tensors, "model."))
    slots: dict[int, Weights] = {}
    for key, value in _part(tensors, "optimiser.").items():
        index, name = key.split(".", 1)
        slots.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict(
        {"state": slots, "param_groups": optimiser.state_dict()["param_groups"]}
    )
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    return Position(**record["position"]), _part(tensors, "best.")


def _part(tensors, prefix):
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _difference(old, new):
    for key in new["config"]:
        if old["config"].get(key) != new["config"][key]:
            return f"{key}: {old['config'].get(key)!r}, now {new['config'][key]!r}"
    return "cube"


def write_logs(folder: Path, history: list[dict], tensorboard: bool) -> None:
    """`metrics.csv` with one row per epoch, and the last epoch to TensorBoard.

    Raises
    ------
    MissingExtraError
        TensorBoard is asked for and not installed.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, history[-1])
    writer.writeheader()
    writer.writerows(history)
    (folder / "metrics.csv").write_text(text.getvalue())
    if tensorboard:
        with _summary_writer()(folder / "tensorboard", purge_step=history[-1]["epoch"]) as board:
            for name, value in history[-1].items():
                board.add_scalar(name, value, history[-1]["epoch"])


def _summary_writer():
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("tensorboard", "train") from error
    return SummaryWriter
