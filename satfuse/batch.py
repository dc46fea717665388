"""From a training cube to torch batches.

A block is a shard-aligned part of a scene that is read at once; a patch is a small square of a
block. xbatcher iterates over the blocks of every scene. Many random patches are drawn from each
block while it is in memory, patches of several blocks are mixed, and the next blocks are read in
the meantime. The coarse image is made from the target when the batch is made, by the one
observation model, so that one cube serves every protocol.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

from satfuse.arrays import BoolArray, FloatArray, IntArray
from satfuse.cube import Cube
from satfuse.errors import ConfigError, CubeError, MissingExtraError
from satfuse.geometry.resample import fill_nearest
from satfuse.models.observation import degrade
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA
from satfuse.sensors.degradation import degrade as degrade_array
from satfuse.sensors.encoding import FILL, SCALE, encode

try:
    from xbatcher import BatchGenerator
except ImportError as error:
    raise MissingExtraError("xbatcher", "train") from error

Batch = dict[str, torch.Tensor]
Arrays = dict[str, npt.NDArray[np.generic]]  # stored values of a block or patch, by variable


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How patches are drawn and degraded. Lengths are in fine pixels unless stated otherwise.

    Parameters
    ----------
    ratio : fine pixels per coarse pixel of the Wald protocol.
    patch : side of a patch, a multiple of `ratio`.
    size : patches in a batch.
    coverage : how often an epoch draws each pixel on average. A block is read once for all its
        patches, so a higher coverage draws patches faster.
    blocks_mixed : blocks whose patches are shuffled together; memory grows with it.
    psf_sigma : range of the PSF width (standard deviation) in coarse pixels, drawn per patch.
    shift : largest misregistration in coarse pixels, drawn per patch and axis.
    gain : standard deviation of the relative calibration error per patch and band. It applies to
        the guide, because the fused image keeps the coarse sensor's radiometry.
    noise : standard deviation of the noise of guide and coarse image, reflectance.
    minimum_valid : smallest valid share of a patch.

    Raises
    ------
    ConfigError
        A patch that is no multiple of `ratio`, a size that is not positive, or a PSF range that is
        not (low, high).
    """

    ratio: int = 10
    patch: int = 60
    size: int = 8
    coverage: float = 4.0
    blocks_mixed: int = 4
    psf_sigma: tuple[float, float] = (0.4, 0.65)
    shift: float = 0.1
    gain: float = 0.02
    noise: float = 0.002
    minimum_valid: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "psf_sigma", tuple(self.psf_sigma))
        if self.ratio < 2 or self.patch < self.ratio or self.patch % self.ratio:
            raise ConfigError(
                f"patch {self.patch} must be a multiple of ratio {self.ratio}, and ratio at least 2"
            )
        if self.size < 1 or self.blocks_mixed < 1 or self.coverage <= 0:
            raise ConfigError(
                f"{self.size=}, {self.blocks_mixed=} and {self.coverage=} must be positive"
            )
        if len(self.psf_sigma) != 2 or not 0 < self.psf_sigma[0] <= self.psf_sigma[1]:
            raise ConfigError(
                f"psf_sigma {self.psf_sigma} must be a range (low, high) of coarse pixels"
            )

    def noise_free(self) -> "BatchConfig":
        """The configuration for scores: each pixel once, default PSF, no shift, gain or noise."""
        psf_sigma = (DEFAULT_PSF_SIGMA, DEFAULT_PSF_SIGMA)
        return replace(self, coverage=1.0, psf_sigma=psf_sigma, shift=0.0, gain=0.0, noise=0.0)


@dataclass(frozen=True)
class _Block:
    """A part of a scene that is read at once.

    Parameters
    ----------
    load : reads `guide`, `target` (int16) and `valid` (bool), each (band, y, x).
    corners : (n, 2) int32 y, x of every patch that is valid enough.
    count : patches that an epoch draws.
    """

    load: Callable[[], Arrays]
    corners: IntArray
    count: int


class BlockLoader:
    """Batches of a split, determined by seed, epoch and position, whatever was read before.

    Parameters
    ----------
    cube : see `satfuse.cube.open_cube`. In a cube of pairs, the coarse image is the target and the
        guide is degraded to its grid: the Wald protocol on real data.
    split : "train", "val" or "test".
    config : see `BatchConfig`.
    seed : of the order, the patches and the degradation.
    prefetch : number of blocks that are read ahead.

    Raises
    ------
    CubeError
        No scene of that split, or no patch that is valid enough.
    """

    def __init__(
        self, cube: Cube, split: str, config: BatchConfig, *, seed: int = 0, prefetch: int = 2
    ) -> None:
        self.config = config
        self.seed = seed
        self.prefetch = prefetch
        scenes = cube.of_split(split)
        if not scenes:
            counts = {s: len(cube.of_split(s)) for s in ("train", "val", "test")}
            raise CubeError(
                f"cube {cube.path} has no scene in split {split!r} ({counts}); "
                "build it with split=..."
            )
        self.blocks = [b for s in scenes for b in _scene_blocks(cube, s.id, config) if b.count]
        self.patches_per_epoch = sum(b.count for b in self.blocks)
        if not self.blocks:
            raise CubeError(
                f"split {split!r} of {cube.path} has no {config.patch} px patch with "
                f"{config.minimum_valid:.0%} valid; take smaller patches or allow more holes"
            )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-self.patches_per_epoch // self.config.size)

    def epoch(
        self, number: int, start: int = 0, device: str | torch.device = "cpu"
    ) -> Iterator[Batch]:
        """Batches `start`, `start + 1`, ... of an epoch, degraded on `device`.

        Yields
        ------
        guide, target (b, c, P, P), coarse (b, c, p, p) : finite float32 reflectance.
        valid (b, 1, P, P), coarse_valid (b, 1, p, p) : bool, True = usable.
        """
        for position, patches in enumerate(self.patches(number, start), start):
            patches = {k: v.to(device) for k, v in patches.items()}
            rng = np.random.default_rng([self.seed, number, position])
            yield degrade_batch(patches, self.config, rng)

    def patches(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The same batches before the degradation: guide, target and valid, NaN where invalid."""
        size = self.config.size
        rows = self.plan(number)[start * size :]
        used = rows[:, 0]
        # blocks in the order of their first use, and where they are used first and last
        ids, first = np.unique(used, return_index=True)
        ids = ids[np.argsort(first)]
        first = np.sort(first)
        reversed_ids, from_end = np.unique(used[::-1], return_index=True)
        last = dict(zip(reversed_ids, len(used) - 1 - from_end, strict=True))
        pending: dict[int, Future[Arrays]] = {}
        submitted = 0
        # one thread reads ahead, so that blocks arrive in the order of their first use
        pool = ThreadPoolExecutor(1, thread_name_prefix="satfuse-blocks")
        try:
            for begin in range(0, len(used), size):
                end = begin + size
                requested = int(np.searchsorted(first, end)) + self.prefetch
                for b in ids[submitted:requested]:
                    pending[b] = pool.submit(self.blocks[b].load)
                submitted = max(submitted, requested)
                batch = rows[begin:end]
                yield self._cut(batch, {b: pending[b].result() for b in set(batch[:, 0])})
                pending = {b: future for b, future in pending.items() if last[b] >= end}
        finally:
            pool.shutdown(cancel_futures=True)

    def plan(self, number: int) -> IntArray:
        """Patches of an epoch in order, (patches, 3): block, y, x.

        A patch moves by at most `blocks_mixed` blocks from its place in the order of blocks.
        """
        rng = np.random.default_rng([self.seed, number])
        rows = []
        keys = []
        for position, b in enumerate(rng.permutation(len(self.blocks))):
            block = self.blocks[b]
            corners = block.corners[rng.integers(len(block.corners), size=block.count)]
            rows.append(np.column_stack([np.full(block.count, b), corners]))
            # sorting by jittered positions mixes neighbouring blocks only
            keys.append(position + self.config.blocks_mixed * rng.random(block.count))
        return np.concatenate(rows)[np.argsort(np.concatenate(keys), kind="stable")]

    def _cut(self, rows: IntArray, blocks: dict[int, Arrays]) -> Batch:
        """A batch of the patches of `rows` (b, 3) of the plan."""
        side = self.config.patch
        cuts = [
            {k: v[:, y : y + side, x : x + side] for k, v in blocks[b].items()} for b, y, x in rows
        ]
        return _stack(cuts)


def _stack(patches: list[Arrays]) -> Batch:
    """Batch of stored patches: float reflectance, NaN where invalid, and `valid` as stored."""
    batch = {k: torch.from_numpy(np.stack([patch[k] for patch in patches])) for k in patches[0]}
    valid = batch["valid"]
    images = {k: batch[k].float().mul_(SCALE) for k in ("guide", "target")}
    if not valid.all():
        images = {k: torch.where(valid, image, torch.nan) for k, image in images.items()}
    return {**images, "valid": valid}


def degrade_batch(patches: Batch, config: BatchConfig, rng: np.random.Generator) -> Batch:
    """Degrade a batch by the Wald protocol: the coarse image of the target, errors on both images.

    Holes of the guide and target take the patch's band mean, those of the coarse image the nearest
    valid value.

    Parameters
    ----------
    patches : `guide`, `target` and `valid`, see `BlockLoader.patches`.

    Returns
    -------
    The batch of `BlockLoader.epoch`.
    """
    target = patches["target"]
    valid = patches["valid"]
    count = len(target)
    noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
    sigma = rng.uniform(*config.psf_sigma, count)
    shift = rng.uniform(-1, 1, (count, 2)) * config.shift
    gain = 1 + config.gain * rng.standard_normal((count, patches["guide"].shape[1], 1, 1))
    draws = zip(target, valid, sigma, shift, strict=True)
    coarse = torch.stack([_degrade_patch(*patch, config.ratio) for patch in draws])
    coarse_valid = coarse.isfinite().all(1, keepdim=True)
    coarse = _fill_with_nearest(coarse, coarse_valid)
    guide = _fill_with_mean(patches["guide"], valid) * torch.from_numpy(gain).to(target)
    if config.noise:  # drawn on the CPU, so that every device gets the same
        coarse += config.noise * torch.randn(coarse.shape, generator=noise).to(coarse)
        guide += config.noise * torch.randn(guide.shape, generator=noise).to(guide)
    return {
        "guide": guide,
        "coarse": coarse,
        "target": _fill_with_mean(target, valid),
        "valid": valid,
        "coarse_valid": coarse_valid,
    }


def _degrade_patch(
    target: torch.Tensor, valid: torch.Tensor, sigma: float, shift: FloatArray, ratio: int
) -> torch.Tensor:
    """Coarse image (c, h, w) of a target (c, H, W) that is usable where `valid` (1, H, W)."""
    mask = None if valid.all() else valid[None]  # without a mask is faster
    return degrade(target[None], ratio, sigma, shift=tuple(shift), valid=mask)[0]


def _fill_with_mean(image: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    if valid.all():
        return image
    return torch.where(valid, image, image.nanmean((-2, -1), keepdim=True))


def _fill_with_nearest(coarse: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Fill the holes of every image (b, c, h, w) in place; with 0 where no pixel of it is valid."""
    if valid.all():
        return coarse
    for image, usable in zip(coarse, valid[:, 0], strict=True):
        if not usable.all():
            filled = fill_nearest(image.cpu().numpy(), ~usable.cpu().numpy())
            image.copy_(torch.from_numpy(filled).nan_to_num(0.0))
    return coarse


def _scene_blocks(cube: Cube, scene_id: str, config: BatchConfig) -> list[_Block]:
    scene = cube.open_scene(scene_id)
    if cube.kind == "enmap":
        return _target_blocks(scene, config)
    return _pair_blocks(scene, cube.ratio, config)


def _target_blocks(scene: xr.Dataset, config: BatchConfig) -> list[_Block]:
    """Shard-aligned blocks of one scene: the whole shards, then the partial ones at the edges."""
    valid = scene.valid.values
    bands = {d: scene.sizes[d] for d in ("guide_band", "band")}
    shards = dict(zip(scene.valid.dims, scene.valid.encoding["shards"], strict=True))
    y_spans = _spans(scene.sizes["y"], shards["y"])
    x_spans = _spans(scene.sizes["x"], shards["x"])
    blocks = []
    for (rows, height), (columns, width) in product(y_spans, x_spans):
        part = scene[["guide", "target", "valid"]].isel(y=rows, x=columns)
        walker = BatchGenerator(part, {**bands, "y": height, "x": width}, preload_batch=False)
        tops = range(0, part.sizes["y"], height)
        lefts = range(0, part.sizes["x"], width)
        for i, (top, left) in enumerate(product(tops, lefts)):
            inside = valid[rows, columns][top : top + height, left : left + width]
            blocks.append(_make_block(partial(_read_item, walker, i), inside, config))
    return blocks


def _spans(size: int, shard: int) -> list[tuple[slice, int]]:
    """Slices of an axis with their block length: the whole shards, then the remainder."""
    whole = size // shard * shard
    spans = [(slice(0, whole), shard), (slice(whole, size), size - whole)]
    return [(span, step) for span, step in spans if span.stop > span.start]


def _read_item(walker: BatchGenerator, i: int) -> Arrays:
    return _read(walker[i])


def _read(block: xr.Dataset) -> Arrays:
    """Stored values of a block, each (band, y, x)."""
    variables = {
        "guide": block.guide,
        "target": block.target,
        "valid": block.valid.expand_dims("one"),
    }
    return {k: v.transpose(..., "y", "x").values for k, v in variables.items()}


def _pair_blocks(scene: xr.Dataset, ratio: int, config: BatchConfig) -> list[_Block]:
    """One block per pair: the first coarse frame is the target, the guide is degraded to it."""
    frame = scene[["coarse", "coarse_valid"]]
    frame = frame.isel(frame=0) if "frame" in frame.dims else frame
    guide_share = scene.valid.coarsen(y=ratio, x=ratio).mean().values
    valid = frame.coarse_valid.values & (guide_share >= 0.5)

    def load() -> Arrays:
        reflectance = scene.guide.values * np.float32(SCALE)
        guide = encode(degrade_array(reflectance, ratio, valid=scene.valid.values))
        usable = valid & (guide != FILL).all(0)
        return {"guide": guide, "target": frame.coarse.values, "valid": usable[None]}

    return [_make_block(load, valid, config)]


def _make_block(load: Callable[[], Arrays], valid: BoolArray, config: BatchConfig) -> _Block:
    """A block and its patches, which start on multiples of the ratio; `valid` (y, x)."""
    side = config.patch
    step = config.ratio
    # sums of `valid` over every patch, by a summed-area table
    total = np.pad(valid.cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))
    above = total[:-side, side:] - total[:-side, :-side]
    inside = total[side:, side:] - total[side:, :-side] - above
    enough = inside[::step, ::step] >= max(config.minimum_valid * side**2, 1)
    corners = np.argwhere(enough).astype(np.int32) * step
    count = max(round(config.coverage * valid.size / side**2), 1) if len(corners) else 0
    return _Block(load, corners, count)


class XbatcherPatches:
    """Shuffled single patches straight from xbatcher over Dask: the baseline for `BlockLoader`."""

    def __init__(self, cube: Cube, split: str, config: BatchConfig, *, seed: int = 0) -> None:
        self.config = config
        self.seed = seed
        self.walkers = []
        for scene in cube.of_split(split):
            data = cube.open_scene(scene.id, chunks={})[["guide", "target", "valid"]]
            bands = {d: data.sizes[d] for d in ("guide_band", "band")}
            sides = {"y": config.patch, "x": config.patch}
            self.walkers.append(BatchGenerator(data, {**sides, **bands}, preload_batch=False))

    def patches(self, number: int) -> Iterator[Batch]:
        """Batches as `BlockLoader.patches` yields them, every patch read individually."""
        index = [(walker, i) for walker in self.walkers for i in range(len(walker))]
        order = np.random.default_rng([self.seed, number]).permutation(len(index))
        for begin in range(0, len(order), self.config.size):
            chosen = (index[j] for j in order[begin : begin + self.config.size])
            yield _stack([_read(walker[i].load()) for walker, i in chosen])
