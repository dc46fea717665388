"""Training of the networks: the same scenes, patches and seconds for each.

Each training step takes patches of one ratio from scenes of the factory, which have every disturbance but the shift:
at work `satfuse.fuse` registers the coarse image first, so a tenth of a coarse pixel is left. Holes are filled as
`satfuse.fuse` fills them.
"""

import logging
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from satfuse import checkpoint, models
from satfuse.cube.cave import indoor_scenes
from satfuse.cube.simulate import enmap_scene
from satfuse.losses import fusion_loss
from satfuse.models.blocks import fill_holes
from satfuse.sensors.bands import S2_NAMES, S3_NAMES
from satfuse.simulate.scenes.factory import FactoryConfig, make_training_scene
from satfuse.simulate.scenes.library import draw_spectra, load_library, sample_folder
from satfuse.simulate.scenes.measured import WAVELENGTH_NM
from satfuse.simulate.scenes.protocol import SLSTR_WIDER, Protocol, simulate_observation
from satfuse.train.library import fit_library

log = logging.getLogger(__name__)

RESIDUAL_SHIFT = 0.1  # coarse pixels that a registration leaves
SPECTRA = 20_000  # of the library regression
INDOOR_PX = 510  # side of a scene that is no Earth observation; a multiple of 30
RATES = {"fusformer": 5e-4}  # learning rates that differ from RATE
PATCHES = {"fusformer": 1}  # patches of a step that differ from PATCH_COUNT: it takes 0.5 s for one
PATCH_COUNT = 4
RATE, CLIP, SAM_WEIGHT, SEED = 2e-3, 1.0, 0.1, 0
Scenes = dict[int, list[dict[str, torch.Tensor]]]  # by ratio


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What every network gets: seconds on one core (of the clock on a GPU), scenes of each ratio, patches of them.

    `side_px` and `patch_px` are sides in fine pixels.
    """

    seconds: float = 120.0
    scenes: int = 16
    side_px: int = 180
    patch_px: int = 60
    device: str = "cpu"


def train_library(out: Path, bands) -> None:
    """The library regression; takes a second."""
    spectra = draw_spectra(load_library(split="train"), np.random.default_rng(SEED), SPECTRA)
    fit_library(
        WAVELENGTH_NM, spectra, out, coarse_bands=bands, ratio=10, data={"spectra": SPECTRA}
    )


def train_network(name: str, scenes: Scenes, out: Path, bands, budget: Budget) -> None:
    """Train a model of `satfuse.models` and write its checkpoint."""
    torch.manual_seed(SEED)
    model = models.create(name, guide_bands=S2_NAMES, coarse_bands=bands, ratio=min(scenes)).to(
        budget.device
    )
    _normalise(model, scenes)
    rate = RATES.get(name, RATE)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-4)
    rng = np.random.default_rng(SEED)
    clock = time.perf_counter if budget.device != "cpu" else time.process_time
    start, steps, recent = clock(), 0, []
    while (spent := (clock() - start) / budget.seconds) < 1:
        optimiser.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * spent))
        loss = _loss(model, _patches(scenes, budget, PATCHES.get(name, PATCH_COUNT), rng))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        steps += 1
        recent = [*recent[-49:], loss.item()]
    log.info("%s: %d steps, last losses %.5f", out.name, steps, np.mean(recent))
    data = {"budget": asdict(budget), "steps": steps, "ratios": sorted(scenes)}
    checkpoint.save(
        model.cpu().eval(), out, {"data": data, "metrics": {"loss": float(np.mean(recent))}}
    )


def factory_scenes(ratios, bands, budget: Budget) -> Scenes:
    """`budget.scenes` of each ratio from the factory: train-split spectra, all disturbances."""
    library, folder = load_library(split="train"), sample_folder()
    folder = folder if folder.is_dir() else None
    scenes = {}
    for ratio in ratios:
        config = FactoryConfig(
            ratios=(ratio,), coarse_px=budget.side_px // ratio, shift=RESIDUAL_SHIFT
        )
        made = (
            make_training_scene(library, config, seed, folder=folder)
            for seed in range(budget.scenes)
        )
        scenes[ratio] = [_tensors(s, s.target, bands) for s in made]
    return scenes


def other_scenes(ratios, bands, budget: Budget) -> Scenes:
    """As many from indoor-like scenes, which are no Earth observation, under the same disturbances."""
    rng, config = np.random.default_rng(SEED), FactoryConfig()
    per_scene = (INDOOR_PX // budget.side_px) ** 2
    scenes = {ratio: [] for ratio in ratios}
    wanted = [ratio for ratio in ratios for _ in range(budget.scenes)]
    for name, source in indoor_scenes(
        -(-len(wanted) // per_scene), seed=SEED, size=INDOOR_PX
    ).items():
        stored = enmap_scene(name, source, None, "raise", ("S2A", "S3A"), S3_NAMES)[
            ["guide", "target"]
        ].compute()
        for y, x in np.ndindex(INDOOR_PX // budget.side_px, INDOOR_PX // budget.side_px):
            if not wanted:
                return scenes
            ratio = wanted.pop()
            part = {
                d: slice(i * budget.side_px, (i + 1) * budget.side_px)
                for d, i in (("y", y), ("x", x))
            }
            guide, target = (
                np.float32(stored[v].isel(part).values * 1e-4) for v in ("guide", "target")
            )
            protocol = Protocol(
                psf_sigma=rng.uniform(*config.psf_sigma),
                slstr_factor=SLSTR_WIDER if rng.random() < config.slstr_wide_share else 1.0,
                shift=rng.uniform(-RESIDUAL_SHIFT, RESIDUAL_SHIFT, 2),
                gain=config.gain, offset=config.offset, noise=rng.uniform(*config.noise),
                equal_blur=rng.random() < config.equal_blur_share,
            )  # fmt: skip
            observed = simulate_observation(
                guide, target[None], protocol, (None, None), ratio=ratio, rng=rng
            )
            scenes[ratio].append(_tensors(observed, target, bands))
    return scenes


def of_bands(scenes: Scenes, count: int, ratios) -> Scenes:
    """The same scenes with the last `count` coarse bands, at some of the ratios."""
    keep = slice(-count, None)
    rest = ("coarse", "target")
    return {r: [s | {k: s[k][keep] for k in rest} for s in scenes[r]] for r in ratios}


def _tensors(observed, target, bands):
    """Inputs as `satfuse.fuse` would give them, truth, and where to compare."""
    valid, keep = observed.guide_valid, slice(-len(bands), None)
    guide = np.where(valid, observed.guide, np.nan)
    for band in guide:
        band[~valid] = np.nanmedian(band) if valid.any() else 0
    coarse = fill_holes(observed.coarse[0, keep], observed.coarse_valid[0])
    arrays = {"guide": guide, "coarse": coarse, "target": target[keep], "valid": valid[None]}
    return {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()}


def _normalise(model, scenes):
    whole = [s for group in scenes.values() for s in group]
    images = [
        torch.cat([s[k][:, ::3, ::3].flatten(1) for s in whole], 1) for k in ("guide", "target")
    ]
    device = next(model.parameters()).device
    model.set_statistics(*(f(1).to(device) for image in images for f in (image.mean, image.std)))


def _patches(scenes, budget, count, rng):
    """A batch of one ratio: random patches, each turned and mirrored at random."""
    ratio = list(scenes)[rng.integers(len(scenes))]
    cuts = []
    for _ in range(count):
        scene = scenes[ratio][rng.integers(len(scenes[ratio]))]
        y, x = rng.integers((budget.side_px - budget.patch_px) // ratio + 1, size=2)
        turns, mirrored = rng.integers(4), rng.random() < 0.5
        cut = {}
        for key, image in scene.items():
            step = 1 if key == "coarse" else ratio
            side = budget.patch_px // (ratio if key == "coarse" else 1)
            part = torch.rot90(
                image[:, y * step :, x * step :][:, :side, :side], int(turns), (1, 2)
            )
            cut[key] = part.flip(2) if mirrored else part
        cuts.append(cut)
    return {k: torch.stack([cut[k] for cut in cuts]).to(budget.device) for k in cuts[0]}


def _loss(model, batch):
    inputs, truth = (batch["guide"], batch["coarse"]), (batch["target"], batch["valid"])
    return fusion_loss(model(*inputs).image, *truth, sam_weight=SAM_WEIGHT) + model.extra_loss(
        *inputs, *truth
    )
