"""Train a fusion model on a cube. One plain loop; a killed run goes on where it was, to the same bits on a CPU.

Beside the checkpoint folder `out` lies `<out>-run` with `metrics.csv`, `tensorboard/` and, until the run is done,
`state/`: weights, optimiser, random states and position.
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
from satfuse.batch import BlockLoader
from satfuse.cube import Cube, open_cube
from satfuse.errors import CheckpointError, ConfigError, TrainError
from satfuse.losses import Score, fusion_loss
from satfuse.models import FusionModel, create
from satfuse.train.config import TrainConfig, learning_rate
from satfuse.train.state import copy_weights, restore_state, save_state, write_logs

log = logging.getLogger(__name__)
Progress = Callable[[int, int, float], None]


def fit(cube_path, config: TrainConfig, out, *, progress: Progress | None = None) -> dict:
    """Train, score on the held-out test split, write the checkpoint.

    Run again with the same cube, config and `out`, it goes on from the last saved state, or returns at once when
    it is done.

    Parameters
    ----------
    cube_path : see `satfuse.cube.open_cube`.
    config : see `TrainConfig`.
    out : checkpoint folder to write.
    progress : called after each step with epoch, batch and loss.

    Returns
    -------
    `val_` and, where the cube has a test split, `test_` scores `sam_deg` and `rmse` (reflectance), each also with
    `_untrained` (the initial weights) and `_bicubic`; `epochs`. Measured on noise-free patches (`BatchConfig`).

    Raises
    ------
    ConfigError
        A model without weights, or `<out>-run` holds the state of another training.
    TrainError
        The loss is not finite.
    CubeError
        No train or val scenes.
    """
    cube, out = open_cube(cube_path), Path(out)
    identity = {"config": json.loads(json.dumps(asdict(config))), "cube": _fingerprint(cube)}
    done = _finished(out, identity)
    if done is not None:
        log.info("%s is already trained with these settings on this cube", out)
        return done
    if config.threads:
        torch.set_num_threads(config.threads)
    device = torch.device(_fastest_device() if config.device == "auto" else config.device)
    run = out.with_name(out.name + "-run")
    model, epochs = _train(cube, config, device, run, identity, progress)
    metrics = {"epochs": epochs, **_final_scores(cube, config, device, model)}
    scenes = {split: [s.id for s in cube.of_split(split)] for split in ("train", "val", "test")}
    data = {
        "training": identity,
        "kind": cube.kind,
        "platforms": list(cube.platforms),
        "scenes": scenes,
    }
    checkpoint.save(model, out, {"data": data, "metrics": metrics})
    shutil.rmtree(run / "state", ignore_errors=True)
    log.info("trained %s: %s", out, _text(metrics))
    return metrics


def _train(cube, config, device, run, identity, progress) -> tuple[FusionModel, int]:
    """The loop; returns the model with its best weights, and the number of epochs run."""
    model = _initial(cube, config).to(device)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    position, best = restore_state(run / "state", identity, model, optimiser)
    train = BlockLoader(cube, "train", config.batches, seed=config.seed)
    val = BlockLoader(cube, "val", config.batches.noise_free(), seed=config.seed)
    floor = score(_bicubic(cube, config), val, device)
    log.info(
        "training %s on %s, %d batches an epoch; bicubic on val: %s",
        config.model,
        device,
        len(train),
        _text(floor),
    )
    while position.epoch < config.epochs and position.epochs_since_best <= config.patience:
        for batch in train.epoch(position.epoch, position.batch, device):
            rate = learning_rate(
                config, position.epoch, position.epoch + position.batch / len(train)
            )
            loss = _step(model, optimiser, batch, rate, config)
            position.batch += 1
            position.loss_sum += loss
            if progress:
                progress(position.epoch, position.batch, loss)
            if (position.epoch * len(train) + position.batch) % config.state_every == 0:
                save_state(run / "state", identity, model, optimiser, best, position)
        scores = score(model, val, device)
        if scores["rmse"] < position.best_rmse:
            position.best_rmse, position.epochs_since_best, best = (
                scores["rmse"],
                0,
                copy_weights(model),
            )
        else:
            position.epochs_since_best += 1
        row = {
            "epoch": position.epoch,
            "learning_rate": rate,
            "train_loss": position.loss_sum / position.batch,
        }
        row |= {f"val_{k}": v for k, v in scores.items()} | {
            f"val_{k}_bicubic": v for k, v in floor.items()
        }
        position.history.append(row)
        position.epoch, position.batch, position.loss_sum = position.epoch + 1, 0, 0.0
        save_state(run / "state", identity, model, optimiser, best, position)
        write_logs(run, position.history, config.tensorboard)
        log.info("%s", _text(row))
    model.load_state_dict(best)
    return model, position.epoch


def _step(model, optimiser, batch, rate, config) -> float:
    for group in optimiser.param_groups:
        group["lr"] = rate
    model.train()
    device = batch["guide"].device.type
    with torch.autocast(
        device, torch.bfloat16, enabled=config.mixed_precision and device == "cuda"
    ):
        image = _fused(model, batch)
        extra = model.extra_loss(*(batch[name] for name in ("guide", "coarse", "target", "valid")))
    rest = {"kind": config.loss, "sam_weight": config.sam_weight}
    loss = extra + fusion_loss(image.float(), batch["target"], batch["valid"], **rest)
    if not torch.isfinite(loss):
        raise TrainError(
            f"the loss became {loss.item()} at learning rate {rate:.2g}; lower learning_rate or clip, or look for "
            "wild values in the cube"
        )
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    optimiser.step()
    return loss.item()


def _fused(model, batch):
    valid = {"guide_valid": batch["valid"], "coarse_valid": batch["coarse_valid"]}
    return model(batch["guide"], batch["coarse"], **valid).image


@torch.inference_mode()
def score(model: FusionModel, loader: BlockLoader, device="cpu") -> dict[str, float]:
    """`sam_deg` and `rmse` of a model over one pass of a loader."""
    model.eval()
    total = Score()
    for batch in loader.epoch(0, device=device):
        total.add(_fused(model, batch), batch["target"], batch["valid"])
    return total.result()


def _final_scores(cube, config, device, model) -> dict[str, float]:
    rivals = {
        "": model,
        "_untrained": _initial(cube, config).to(device),
        "_bicubic": _bicubic(cube, config),
    }
    out = {}
    for split in ("val", "test"):
        if not cube.of_split(split):
            log.warning("cube %s has no %s scene: no held-out scores", cube.path, split)
            continue
        loader = BlockLoader(cube, split, config.batches.noise_free(), seed=config.seed)
        for kind, rival in rivals.items():
            out |= {
                f"{split}_{name}{kind}": value
                for name, value in score(rival, loader, device).items()
            }
    return out


def _initial(cube: Cube, config: TrainConfig) -> FusionModel:
    torch.manual_seed(config.seed)
    bands = {"guide_bands": cube.guide_bands, "coarse_bands": cube.coarse_bands}
    model = create(config.model, **bands, ratio=config.batches.ratio, **config.options)
    if not any(True for _ in model.parameters()):
        raise ConfigError(f"model {config.model} has no weights to train; use it by its name")
    images = (
        cube.statistics["guide"],
        cube.statistics["target" if cube.kind == "enmap" else "coarse"],
    )
    model.set_statistics(*(torch.tensor(image[k]) for image in images for k in ("mean", "std")))
    return model


def _bicubic(cube, config):
    bands = {"guide_bands": cube.guide_bands, "coarse_bands": cube.coarse_bands}
    return create("bicubic", **bands, ratio=config.batches.ratio)


def _fingerprint(cube: Cube) -> str:
    """Of what the cube holds, wherever it lies."""
    content = {k: v for k, v in asdict(cube).items() if k != "path"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _finished(out: Path, identity: dict) -> dict | None:
    try:
        card = checkpoint.read_card(out)
    except CheckpointError:
        return None
    return card.metrics if card.data.get("training") == identity else None


def _fastest_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _text(values: dict) -> str:
    return ", ".join(f"{k} {v:.4g}" for k, v in values.items())
