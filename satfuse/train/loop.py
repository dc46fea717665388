"""Train a fusion model on a cube: one plain loop.

An interrupted run resumes and is bit-identical on a CPU. Next to the checkpoint folder `out` is the
folder `<out>-run` with `metrics.csv`, `tensorboard/` and, until the run is finished, `state/`:
weights, optimiser, random states and position.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from satfuse import checkpoint
from satfuse.batch import Batch, BlockLoader
from satfuse.cube import Cube, open_cube
from satfuse.errors import CheckpointError, ConfigError, TrainError
from satfuse.losses import Score, fusion_loss
from satfuse.models import FusionModel, create
from satfuse.train.config import TrainConfig, learning_rate
from satfuse.train.state import (
    Identity,
    Position,
    copy_weights,
    restore_state,
    save_state,
    write_logs,
)

log = logging.getLogger(__name__)

Progress = Callable[[int, int, float], None]
Device = torch.device | str

_SPLITS = ("train", "val", "test")


def fit(
    cube_path: checkpoint.PathLike,
    config: TrainConfig,
    out: checkpoint.PathLike,
    *,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Train, score on the held-out test split, write the checkpoint.

    Run again with the same cube, config and `out`, it resumes from the last saved state, or returns
    at once where the training is finished.

    Parameters
    ----------
    cube_path : see `satfuse.cube.open_cube`.
    config : see `TrainConfig`.
    out : checkpoint folder to write.
    progress : called after each step with epoch, batch and loss.

    Returns
    -------
    `val_` and, where the cube has a test split, `test_` scores `sam_deg` and `rmse` (reflectance),
    each also with `_untrained` (the initial weights) and `_bicubic`; `epochs`. The scores are of
    patches without shift, gain error and noise (`BatchConfig`).

    Raises
    ------
    ConfigError
        A model without weights, or `<out>-run` holds the state of another training.
    TrainError
        The loss is not finite.
    CubeError
        No train or val scenes.
    """
    cube = open_cube(cube_path)
    out = Path(out)
    # through JSON, because it is compared with what state and card give back
    identity = {"config": json.loads(json.dumps(asdict(config))), "cube": _fingerprint(cube)}
    earlier_metrics = _metrics_if_finished(out, identity)
    if earlier_metrics is not None:
        log.info("%s is already trained with these settings on this cube", out)
        return earlier_metrics
    if config.threads:
        torch.set_num_threads(config.threads)
    device = torch.device(_fastest_device() if config.device == "auto" else config.device)
    run = out.with_name(out.name + "-run")
    model, epochs = _train(cube, config, device, run, identity, progress)
    metrics = {"epochs": epochs, **_final_scores(cube, config, device, model)}
    data = {
        "training": identity,
        "kind": cube.kind,
        "platforms": list(cube.platforms),
        "scenes": {split: [s.id for s in cube.of_split(split)] for split in _SPLITS},
    }
    checkpoint.save(model, out, {"data": data, "metrics": metrics})
    shutil.rmtree(run / "state", ignore_errors=True)
    log.info("trained %s: %s", out, _text(metrics))
    return metrics


def _train(
    cube: Cube,
    config: TrainConfig,
    device: torch.device,
    run: Path,
    identity: Identity,
    progress: Progress | None,
) -> tuple[FusionModel, int]:
    """The model with its best weights, and the number of epochs run."""
    model = _untrained(cube, config).to(device)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    position, best = restore_state(run / "state", identity, model, optimiser)
    train = BlockLoader(cube, "train", config.batches, seed=config.seed)
    val = BlockLoader(cube, "val", config.batches.noise_free(), seed=config.seed)
    bicubic = score(_bicubic(cube, config), val, device)
    log.info("training %s on %s, %d batches an epoch", config.model, device, len(train))
    log.info("bicubic on val: %s", _text(bicubic))

    def save() -> None:
        save_state(run / "state", identity, model, optimiser, best, position)

    while position.epoch < config.epochs and position.epochs_since_best <= config.patience:
        for batch in train.epoch(position.epoch, position.batch, device):
            done = position.epoch + position.batch / len(train)
            rate = learning_rate(config, position.epoch, done)
            loss = _step(model, optimiser, batch, rate, config)
            position.batch += 1
            position.loss_sum += loss
            if progress:
                progress(position.epoch, position.batch, loss)
            if (position.epoch * len(train) + position.batch) % config.state_every == 0:
                save()
        scores = score(model, val, device)
        if _is_best(scores, position):
            best = copy_weights(model)
        _end_epoch(position, config, len(train), scores, bicubic)
        save()
        write_logs(run, position.history, config.tensorboard)
        log.info("%s", _text(position.history[-1]))
    model.load_state_dict(best)
    return model, position.epoch


def _is_best(scores: dict[str, float], position: Position) -> bool:
    """Whether these scores are better than all before; counts the epochs that are not."""
    if scores["rmse"] < position.best_rmse:
        position.best_rmse = scores["rmse"]
        position.epochs_since_best = 0
        return True
    position.epochs_since_best += 1
    return False


def _end_epoch(
    position: Position,
    config: TrainConfig,
    batches: int,
    scores: dict[str, float],
    bicubic: dict[str, float],
) -> None:
    """Add the epoch's row to the history and go to the start of the next epoch."""
    # computed anew, because a run that resumes after the last batch has not computed it yet
    before_last_batch = position.epoch + (batches - 1) / batches
    row = {
        "epoch": position.epoch,
        "learning_rate": learning_rate(config, position.epoch, before_last_batch),
        "train_loss": position.loss_sum / batches,
        **{f"val_{name}": value for name, value in scores.items()},
        **{f"val_{name}_bicubic": value for name, value in bicubic.items()},
    }
    position.history.append(row)
    position.epoch += 1
    position.batch = 0
    position.loss_sum = 0.0


def _step(
    model: FusionModel,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    rate: float,
    config: TrainConfig,
) -> float:
    """One step of the optimiser; returns the loss."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    model.train()
    loss = _loss(model, batch, config)
    if not torch.isfinite(loss):
        raise TrainError(
            f"the loss became {loss.item()} at learning rate {rate:.2g}; lower learning_rate or "
            "clip, or look for outliers in the cube"
        )
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    optimiser.step()
    return loss.item()


def _loss(model: FusionModel, batch: Batch, config: TrainConfig) -> torch.Tensor:
    device = batch["guide"].device.type
    # bfloat16 has the range of float32, so the gradients need no scaling
    mixed = config.mixed_precision and device == "cuda"
    with torch.autocast(device, torch.bfloat16, enabled=mixed):
        image = _fuse(model, batch)
        extra = model.extra_loss(*(batch[name] for name in ("guide", "coarse", "target", "valid")))
    return extra + fusion_loss(
        image.float(),
        batch["target"],
        batch["valid"],
        kind=config.loss,
        sam_weight=config.sam_weight,
    )


def _fuse(model: FusionModel, batch: Batch) -> torch.Tensor:
    valid = {"guide_valid": batch["valid"], "coarse_valid": batch["coarse_valid"]}
    return model(batch["guide"], batch["coarse"], **valid).image


@torch.inference_mode()
def score(model: FusionModel, loader: BlockLoader, device: Device = "cpu") -> dict[str, float]:
    """`sam_deg` and `rmse` (reflectance) of a model over one pass of a loader."""
    model.eval()
    total = Score()
    for batch in loader.epoch(0, device=device):
        total.add(_fuse(model, batch), batch["target"], batch["valid"])
    return total.result()


def _final_scores(
    cube: Cube, config: TrainConfig, device: torch.device, model: FusionModel
) -> dict[str, float]:
    """Scores on val and test of the model, of its initial weights and of bicubic interpolation."""
    models = {
        "": model,
        "_untrained": _untrained(cube, config).to(device),
        "_bicubic": _bicubic(cube, config),
    }
    metrics: dict[str, float] = {}
    for split in ("val", "test"):
        if not cube.of_split(split):
            log.warning("cube %s has no %s scene: no held-out scores", cube.path, split)
            continue
        loader = BlockLoader(cube, split, config.batches.noise_free(), seed=config.seed)
        for kind, scored in models.items():
            scores = score(scored, loader, device)
            metrics |= {f"{split}_{name}{kind}": value for name, value in scores.items()}
    return metrics


def _untrained(cube: Cube, config: TrainConfig) -> FusionModel:
    """The model with its initial weights, normalised by the statistics of the train split."""
    torch.manual_seed(config.seed)  # at every call, so that all get the same initial weights
    model = create(
        config.model,
        guide_bands=cube.guide_bands,
        coarse_bands=cube.coarse_bands,
        ratio=config.batches.ratio,
        **config.options,
    )
    if not any(True for _ in model.parameters()):
        raise ConfigError(f"model {config.model} has no weights to train; use it by its name")
    # a cube of pairs has no target: its coarse image takes that place
    target = cube.statistics["target" if cube.kind == "enmap" else "coarse"]
    images = (cube.statistics["guide"], target)
    model.set_statistics(*(torch.tensor(image[k]) for image in images for k in ("mean", "std")))
    return model


def _bicubic(cube: Cube, config: TrainConfig) -> FusionModel:
    return create(
        "bicubic",
        guide_bands=cube.guide_bands,
        coarse_bands=cube.coarse_bands,
        ratio=config.batches.ratio,
    )


def _fingerprint(cube: Cube) -> str:
    """Hash of the cube's description; the same wherever the cube is stored."""
    content = {k: v for k, v in asdict(cube).items() if k != "path"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _metrics_if_finished(out: Path, identity: Identity) -> dict[str, float] | None:
    """Metrics of an existing checkpoint of the same training, else None."""
    try:
        card = checkpoint.read_card(out)
    except CheckpointError:
        return None
    return card.metrics if card.data.get("training") == identity else None


def _fastest_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _text(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
