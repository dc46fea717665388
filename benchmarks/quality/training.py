"""Training of the networks: the same scenes, patches and seconds for each.

Each training step takes patches of one ratio. The scenes have every disturbance except a large
shift: `satfuse.fuse` registers the coarse image first, so about a tenth of a coarse pixel remains.
Holes are filled as in `satfuse.fuse`.
"""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from satfuse import checkpoint, models
from satfuse.arrays import FloatArray
from satfuse.cube.cave import indoor_scenes
from satfuse.cube.simulate import enmap_scene
from satfuse.losses import fusion_loss
from satfuse.models.interface import FusionModel
from satfuse.models.prepare import prepare_scene
from satfuse.sensors.bands import S2_NAMES, S3_NAMES
from satfuse.sensors.encoding import SCALE
from satfuse.simulate.scenes.factory import FactoryConfig, make_training_scene
from satfuse.simulate.scenes.library import draw_spectra, load_library, sample_folder
from satfuse.simulate.scenes.measured import WAVELENGTH_NM
from satfuse.simulate.scenes.protocol import (
    SLSTR_WIDER,
    Protocol,
    SimulatedObservation,
    simulate_observation,
)
from satfuse.train.library import fit_library

log = logging.getLogger(__name__)

RESIDUAL_SHIFT = 0.1  # coarse pixels that remain after the registration
SPECTRA = 20_000  # random mixtures for the library regression
INDOOR_PX = 510  # side of a scene that is no Earth observation; a multiple of all ratios
SEED = 0

RATE = 2e-3  # learning rate
RATES = {"fusformer": 5e-4}  # learning rates that differ from RATE
PATCH_COUNT = 4  # patches of a step
PATCHES = {"fusformer": 1}  # counts that differ from PATCH_COUNT: one takes Fusformer 0.5 s
WEIGHT_DECAY = 1e-4
CLIP = 1.0  # largest norm of the gradient
SAM_WEIGHT = 0.1  # see `fusion_loss`
RECENT = 50  # steps whose mean loss is reported

Images = dict[str, torch.Tensor]  # guide, coarse, target, valid; of a scene (c, H, W), or a batch
Scenes = dict[int, list[Images]]  # by ratio


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The resources that every network gets.

    Parameters
    ----------
    seconds : of training on one core; elapsed seconds on a GPU.
    scenes : scenes of each ratio.
    side_px, patch_px : sides of a scene and of a patch, in fine pixels.
    device : "cpu" or "cuda".
    """

    seconds: float = 120.0
    scenes: int = 16
    side_px: int = 180
    patch_px: int = 60
    device: str = "cpu"


def train_library(out: Path, bands: Sequence[str]) -> None:
    """Fit the library regression for coarse bands, which takes a second; write its checkpoint."""
    spectra = draw_spectra(load_library(split="train"), np.random.default_rng(SEED), SPECTRA)
    data = {"spectra": SPECTRA}
    fit_library(WAVELENGTH_NM, spectra, out, coarse_bands=bands, ratio=10, data=data)


def train_network(
    name: str, scenes: Scenes, out: Path, bands: Sequence[str], budget: Budget
) -> None:
    """Train a model of `satfuse.models` for coarse bands and write its checkpoint."""
    torch.manual_seed(SEED)
    model = models.create(name, guide_bands=S2_NAMES, coarse_bands=bands, ratio=min(scenes))
    model.to(budget.device)
    _set_statistics(model, scenes)
    losses = _optimise(model, scenes, budget)
    loss = float(np.mean(losses[-RECENT:]))
    log.info("%s: %d steps, last losses %.5f", out.name, len(losses), loss)
    data = {"budget": asdict(budget), "steps": len(losses), "ratios": sorted(scenes)}
    checkpoint.save(model.cpu().eval(), out, {"data": data, "metrics": {"loss": loss}})


def _optimise(model: FusionModel, scenes: Scenes, budget: Budget) -> list[float]:
    """Take steps until the seconds are spent; return the loss of each."""
    rate = RATES.get(model.name, RATE)
    count = PATCHES.get(model.name, PATCH_COUNT)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=WEIGHT_DECAY)
    rng = np.random.default_rng(SEED)
    # on the CPU the time of other processes does not count
    clock = time.process_time if budget.device == "cpu" else time.perf_counter
    start = clock()
    losses: list[float] = []
    while (spent := (clock() - start) / budget.seconds) < 1:
        # the rate falls along a cosine, from full to 0 at the end of the seconds
        optimiser.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * spent))
        loss = _loss(model, _draw_patches(scenes, budget, count, rng))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        losses.append(loss.item())
    return losses


def factory_scenes(ratios: Sequence[int], bands: Sequence[str], budget: Budget) -> Scenes:
    """`budget.scenes` of each ratio from the factory: train-split spectra, all disturbances."""
    library = load_library(split="train")
    samples = sample_folder()
    folder = samples if samples.is_dir() else None
    scenes: Scenes = {}
    for ratio in ratios:
        config = FactoryConfig(
            ratios=(ratio,), coarse_px=budget.side_px // ratio, shift=RESIDUAL_SHIFT
        )
        scenes[ratio] = []
        for seed in range(budget.scenes):
            scene = make_training_scene(library, config, seed, folder=folder)
            scenes[ratio].append(_to_tensors(scene, scene.target, ratio, bands))
    return scenes


def other_scenes(ratios: Sequence[int], bands: Sequence[str], budget: Budget) -> Scenes:
    """As many indoor-like scenes, which are no Earth observation, with the same disturbances."""
    rng = np.random.default_rng(SEED)
    scenes: Scenes = {ratio: [] for ratio in ratios}
    remaining = [ratio for ratio in ratios for _ in range(budget.scenes)]
    parts_per_side = INDOOR_PX // budget.side_px
    count = math.ceil(len(remaining) / parts_per_side**2)
    for name, source in indoor_scenes(count, seed=SEED, size=INDOOR_PX).items():
        scene = enmap_scene(name, source, None, "raise", ("S2A", "S3A"), S3_NAMES)
        stored = scene[["guide", "target"]].compute()
        for y, x in np.ndindex(parts_per_side, parts_per_side):
            if not remaining:
                return scenes
            ratio = remaining.pop()
            rows, columns = (slice(i * budget.side_px, (i + 1) * budget.side_px) for i in (y, x))
            part = stored.isel(y=rows, x=columns)
            guide = np.asarray(part["guide"].values * SCALE, np.float32)
            target = np.asarray(part["target"].values * SCALE, np.float32)
            observed = _observe(guide, target, ratio, rng)
            scenes[ratio].append(_to_tensors(observed, target, ratio, bands))
    return scenes


def _observe(
    guide: FloatArray, target: FloatArray, ratio: int, rng: np.random.Generator
) -> SimulatedObservation:
    """Images of the two sensors, with the disturbances of the factory but no clouds."""
    config = FactoryConfig()
    protocol = Protocol(
        psf_sigma=rng.uniform(*config.psf_sigma),
        slstr_factor=SLSTR_WIDER if rng.random() < config.slstr_wide_share else 1.0,
        shift=rng.uniform(-RESIDUAL_SHIFT, RESIDUAL_SHIFT, 2),
        gain=config.gain,
        offset=config.offset,
        noise=rng.uniform(*config.noise),
        equal_blur=rng.random() < config.equal_blur_share,
    )
    no_cloud = (None, None)
    return simulate_observation(guide, target[None], protocol, no_cloud, ratio=ratio, rng=rng)


def of_bands(scenes: Scenes, count: int, ratios: Sequence[int]) -> Scenes:
    """The same scenes with the last `count` coarse bands, of some of the ratios."""
    keep = slice(-count, None)
    return {
        ratio: [s | {key: s[key][keep] for key in ("coarse", "target")} for s in scenes[ratio]]
        for ratio in ratios
    }


def _to_tensors(
    observed: SimulatedObservation, target: FloatArray, ratio: int, bands: Sequence[str]
) -> Images:
    """Inputs as `satfuse.fuse` would prepare them, the truth, and the pixels to compare."""
    keep = slice(-len(bands), None)
    inputs = prepare_scene(
        observed.guide,
        observed.coarse[0, keep],
        ratio=ratio,
        registered=True,
        guide_valid=observed.guide_valid,
        coarse_valid=observed.coarse_valid[0],
    ).inputs
    arrays = {
        "guide": inputs.guide,
        "coarse": inputs.coarse,
        "target": target[keep],
        "valid": inputs.guide_valid[None],
    }
    return {key: torch.from_numpy(np.ascontiguousarray(a)) for key, a in arrays.items()}


def _set_statistics(model: FusionModel, scenes: Scenes) -> None:
    """Give the model mean and standard deviation of the scenes, from every third row and column."""
    group = [scene for group in scenes.values() for scene in group]
    device = next(model.parameters()).device
    statistics = []
    for key in ("guide", "target"):
        pixels = torch.cat([scene[key][:, ::3, ::3].flatten(1) for scene in group], 1)
        statistics += [pixels.mean(1).to(device), pixels.std(1).to(device)]
    model.set_statistics(*statistics)


def _draw_patches(scenes: Scenes, budget: Budget, count: int, rng: np.random.Generator) -> Images:
    """A batch of one ratio: random patches, each rotated and mirrored at random."""
    ratio = list(scenes)[rng.integers(len(scenes))]
    corners = (budget.side_px - budget.patch_px) // ratio + 1  # along each axis
    cuts = []
    for _ in range(count):
        scene = scenes[ratio][rng.integers(len(scenes[ratio]))]
        y, x = rng.integers(corners, size=2)  # in coarse pixels
        turns = int(rng.integers(4))
        mirrored = rng.random() < 0.5
        cut = {}
        for key, image in scene.items():
            step = 1 if key == "coarse" else ratio  # pixels of the image per coarse pixel
            side = budget.patch_px * step // ratio
            part = image[:, y * step :, x * step :][:, :side, :side]
            turned = torch.rot90(part, turns, (1, 2))
            cut[key] = turned.flip(2) if mirrored else turned
        cuts.append(cut)
    return {key: torch.stack([cut[key] for cut in cuts]).to(budget.device) for key in cuts[0]}


def _loss(model: FusionModel, batch: Images) -> torch.Tensor:
    inputs = (batch["guide"], batch["coarse"])
    truth = (batch["target"], batch["valid"])
    loss = fusion_loss(model(*inputs).image, *truth, sam_weight=SAM_WEIGHT)
    return loss + model.extra_loss(*inputs, *truth)
