"""From a cube to torch batches.

xbatcher walks shard-aligned blocks of every scene; many random patches are drawn from each block while it is in
memory, patches of several blocks are mixed, and the next blocks are read meanwhile. The coarse image is made from
the target when the batch is made, by the one observation model, so one cube serves every protocol.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
import xarray as xr

from satfuse.cube import Cube
from satfuse.cube.store import FILL, SCALE
from satfuse.errors import ConfigError, CubeError, MissingExtraError
from satfuse.models.observation import degrade
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA
from satfuse.sensors.degradation import degrade as degrade_array

try:
    from xbatcher import BatchGenerator
except ImportError as error:
    raise MissingExtraError("xbatcher", "train") from error

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How patches are drawn and degraded. Lengths are in fine pixels unless said otherwise.

    Parameters
    ----------
    ratio : fine pixels per coarse pixel of the Wald protocol.
    patch : side of a patch, a multiple of `ratio`.
    size : patches in a batch.
    coverage : how often an epoch draws each pixel on average. A block is read once for all its patches, so more is
        faster.
    blocks_mixed : blocks whose patches are shuffled together; memory grows with it.
    psf_sigma : range of the PSF width in coarse pixels, drawn per patch.
    shift : largest misregistration in coarse pixels, drawn per patch and axis.
    gain : standard deviation of the guide's calibration error per patch and band. The guide takes it, because the
        fused image keeps the coarse sensor's radiometry.
    noise : standard deviation of the noise on guide and coarse, reflectance.
    minimum_valid : smallest valid share of a patch.
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

    def __post_init__(self):
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

    def undisturbed(self) -> "BatchConfig":
        """Each pixel once, under the default PSF, without shift, gain or noise: what scores are measured on."""
        quiet = {"psf_sigma": (DEFAULT_PSF_SIGMA,) * 2, "shift": 0.0, "gain": 0.0, "noise": 0.0}
        return replace(self, coverage=1.0, **quiet)


@dataclass(frozen=True)
class _Block:
    load: Callable[[], dict[str, np.ndarray]]
    corners: np.ndarray  # (n, 2) int32: y, x of every patch that is valid enough
    count: int  # patches that an epoch draws


class BlockLoader:
    """Batches of a split: the same for the same seed, epoch and position, whatever was read before.

    Parameters
    ----------
    cube : see `satfuse.cube.open_cube`. Of a cube of pairs, the coarse image is the target and the guide is degraded
        to its grid: the Wald protocol on real data.
    split : "train", "val" or "test".
    config : see `BatchConfig`.
    seed : of order, patches and degradation.
    prefetch : blocks that are read ahead.

    Raises
    ------
    CubeError
        No scene of that split, or no patch that is valid enough.
    """

    def __init__(
        self, cube: Cube, split: str, config: BatchConfig, *, seed: int = 0, prefetch: int = 2
    ):
        self.config, self.seed, self.prefetch = config, seed, prefetch
        scenes = cube.of_split(split)
        if not scenes:
            known = {s: len(cube.of_split(s)) for s in ("train", "val", "test")}
            raise CubeError(
                f"cube {cube.path} has no scene in split {split!r} ({known}); build it with split=..."
            )
        blocks = _target_blocks if cube.kind == "enmap" else _pair_blocks
        self.blocks = [
            b for s in scenes for b in blocks(cube.open_scene(s.id), cube.ratio, config) if b.count
        ]
        self.patches_per_epoch = sum(b.count for b in self.blocks)
        if not self.blocks:
            raise CubeError(
                f"split {split!r} of {cube.path} has no {config.patch} px patch with {config.minimum_valid:.0%} valid; "
                "take smaller patches or allow more holes"
            )

    def __len__(self):
        """Batches in an epoch."""
        return -(-self.patches_per_epoch // self.config.size)

    def epoch(self, number: int, start: int = 0, device="cpu") -> Iterator[Batch]:
        """Batches `start`, `start + 1`, ... of an epoch; `device` degrades and holds them.

        Yields
        ------
        guide (b, c, P, P), target (b, c, P, P), coarse (b, c, p, p) : finite float32 reflectance.
        valid (b, 1, P, P), coarse_valid (b, 1, p, p) : bool, True = usable.
        """
        for position, patches in enumerate(self.patches(number, start), start):
            patches = {k: v.to(device) for k, v in patches.items()}
            yield observe(
                patches, self.config, np.random.default_rng([self.seed, number, position])
            )

    def patches(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The same batches before the degradation: guide, target and valid, NaN where invalid."""
        plan, size = self.plan(number), self.config.size
        used = plan[start * size :, 0]
        ids, first = np.unique(used, return_index=True)
        ids, first = ids[np.argsort(first)], np.sort(first)
        last = {
            b: len(used) - 1 - i
            for b, i in zip(*np.unique(used[::-1], return_index=True), strict=True)
        }
        held, submitted = {}, 0
        pool = ThreadPoolExecutor(1, thread_name_prefix="satfuse-blocks")
        try:
            for begin in range(0, len(used), size):
                rows = plan[start * size + begin :][:size]
                wanted = np.searchsorted(first, begin + size) + self.prefetch
                for b in ids[submitted:wanted]:
                    held[b] = pool.submit(self.blocks[b].load)
                submitted = max(submitted, wanted)
                yield self._cut(rows, {b: held[b].result() for b in set(rows[:, 0])})
                held = {b: block for b, block in held.items() if last[b] >= begin + size}
        finally:
            pool.shutdown(cancel_futures=True)

    def plan(self, number: int) -> np.ndarray:
        """(patches, 3) of an epoch in order: block, y, x. Patches move at most `blocks_mixed` blocks from their own."""
        rng = np.random.default_rng([self.seed, number])
        rows, keys = [], []
        for position, b in enumerate(rng.permutation(len(self.blocks))):
            block = self.blocks[b]
            corners = block.corners[rng.integers(len(block.corners), size=block.count)]
            rows.append(np.column_stack([np.full(block.count, b), corners]))
            keys.append(position + self.config.blocks_mixed * rng.random(block.count))
        return np.concatenate(rows)[np.argsort(np.concatenate(keys), kind="stable")]

    def _cut(self, rows, blocks) -> Batch:
        side = self.config.patch
        cuts = [
            {k: v[:, y : y + side, x : x + side] for k, v in blocks[b].items()} for b, y, x in rows
        ]
        return _tensors({k: np.stack([cut[k] for cut in cuts]) for k in cuts[0]})


def _tensors(stored: dict[str, np.ndarray]) -> Batch:
    """Float reflectance from stored integers, NaN where invalid; `valid` as it is."""
    out = {k: torch.from_numpy(v) for k, v in stored.items()}
    images = {k: out[k].float().mul_(SCALE) for k in ("guide", "target")}
    if not out["valid"].all():
        images = {k: torch.where(out["valid"], v, torch.nan) for k, v in images.items()}
    return {**images, "valid": out["valid"]}


def observe(patches: Batch, config: BatchConfig, rng: np.random.Generator) -> Batch:
    """The Wald protocol: the coarse image that the coarse sensor would have seen of the target.

    Holes of the guide and target take the patch's band mean, those of the coarse image the nearest valid value.
    """
    target, valid, count = patches["target"], patches["valid"], len(patches["target"])
    noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
    sigma = rng.uniform(*config.psf_sigma, count)
    shift = rng.uniform(-1, 1, (count, 2)) * config.shift
    gain = 1 + config.gain * rng.standard_normal((count, patches["guide"].shape[1], 1, 1))
    coarse = torch.cat([
        degrade(t[None], config.ratio, s, shift=tuple(d), valid=None if v.all() else v[None])
        for t, v, s, d in zip(target, valid, sigma, shift, strict=True)
    ])  # fmt: skip
    coarse_valid = coarse.isfinite().all(1, keepdim=True)
    coarse = _nearest(coarse, coarse_valid)
    guide = _mean_filled(patches["guide"], valid) * torch.from_numpy(gain).to(target)
    if config.noise:  # drawn on the CPU, so that every device sees the same
        coarse += config.noise * torch.randn(coarse.shape, generator=noise).to(coarse)
        guide += config.noise * torch.randn(guide.shape, generator=noise).to(guide)
    target = _mean_filled(target, valid)
    return {
        "guide": guide,
        "coarse": coarse,
        "target": target,
        "valid": valid,
        "coarse_valid": coarse_valid,
    }


def _mean_filled(image, valid):
    if valid.all():
        return image
    return torch.where(valid, image, image.nanmean((-2, -1), keepdim=True))


def _nearest(coarse, valid):
    if valid.all():
        return coarse
    h, w = coarse.shape[-2:]
    place = torch.cartesian_prod(torch.arange(h), torch.arange(w)).to(coarse)
    distance = torch.cdist(place, place)
    out = []
    for image, ok in zip(coarse.flatten(2), valid.flatten(1), strict=True):
        nearest = distance.masked_fill(~ok, torch.inf).argmin(1)
        out.append(image[:, nearest].nan_to_num(0.0))
    return torch.stack(out).unflatten(2, (h, w))


def _target_blocks(scene: xr.Dataset, ratio: int, config: BatchConfig) -> list[_Block]:
    """Shard-aligned blocks of one scene: xbatcher walks the whole shards, then the partial ones at the edges."""
    valid = scene.valid.values
    bands = {d: scene.sizes[d] for d in ("guide_band", "band")}
    shards = dict(zip(scene.valid.dims, scene.valid.encoding["shards"], strict=True))
    blocks = []
    for rows, columns in product(
        _spans(scene.sizes["y"], shards["y"]), _spans(scene.sizes["x"], shards["x"])
    ):
        part = scene[["guide", "target", "valid"]].isel(y=rows[0], x=columns[0])
        walker = BatchGenerator(part, {**bands, "y": rows[1], "x": columns[1]}, preload_batch=False)
        tops, lefts = (
            range(0, n, step)
            for n, step in ((part.sizes["y"], rows[1]), (part.sizes["x"], columns[1]))
        )
        for i, (top, left) in enumerate(product(tops, lefts)):
            inside = valid[rows[0], columns[0]][top : top + rows[1], left : left + columns[1]]
            blocks.append(_block(lambda walker=walker, i=i: _read(walker[i]), inside, config))
    return blocks


def _spans(size, shard):
    """Slices with their block length: whole shards first, then what is left."""
    whole = size // shard * shard
    spans = [(slice(0, whole), shard), (slice(whole, size), size - whole)]
    return [(span, step) for span, step in spans if span.stop > span.start]


def _read(block: xr.Dataset) -> dict[str, np.ndarray]:
    bands_first = {
        "guide": block.guide,
        "target": block.target,
        "valid": block.valid.expand_dims("one"),
    }
    return {k: v.transpose(..., "y", "x").values for k, v in bands_first.items()}


def _pair_blocks(scene: xr.Dataset, ratio: int, config: BatchConfig) -> list[_Block]:
    """One block per pair: the first coarse frame is the target, the guide is degraded to its grid."""
    frame = scene[["coarse", "coarse_valid"]]
    frame = frame.isel(frame=0) if "frame" in frame.dims else frame
    guide_share = scene.valid.coarsen(y=ratio, x=ratio).mean().values
    valid = frame.coarse_valid.values & (guide_share >= 0.5)

    def load():
        guide = degrade_array(
            scene.guide.values * np.float32(SCALE), ratio, valid=scene.valid.values
        )
        guide = np.where(np.isfinite(guide), np.rint(guide / SCALE), FILL).astype(np.int16)
        ok = valid & (guide != FILL).all(0)
        return {"guide": guide, "target": frame.coarse.values, "valid": ok[None]}

    return [_block(load, valid, config)]


def _block(load, valid, config) -> _Block:
    """Patches start on multiples of the ratio inside their block."""
    side, step = config.patch, config.ratio
    total = np.pad(valid.cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))
    inside = (
        total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    )
    corners = (
        np.argwhere(inside[::step, ::step] >= max(config.minimum_valid * side**2, 1)).astype(
            np.int32
        )
        * step
    )
    count = max(round(config.coverage * valid.size / side**2), 1) if len(corners) else 0
    return _Block(load, corners, count)


class XbatcherPatches:
    """Shuffled single patches straight from xbatcher over Dask: what `BlockLoader` is measured against."""

    def __init__(self, cube: Cube, split: str, config: BatchConfig, *, seed: int = 0):
        self.config, self.seed = config, seed
        sides = {"y": config.patch, "x": config.patch}
        scenes = [
            cube.open_scene(s.id, chunks={})[["guide", "target", "valid"]]
            for s in cube.of_split(split)
        ]
        self.walkers = [
            BatchGenerator(
                s, {**sides, **{d: s.sizes[d] for d in ("guide_band", "band")}}, preload_batch=False
            )
            for s in scenes
        ]

    def patches(self, number: int) -> Iterator[Batch]:
        """Batches as `BlockLoader.patches` gives them, every patch read on its own."""
        index = [(w, i) for w in self.walkers for i in range(len(w))]
        order = np.random.default_rng([self.seed, number]).permutation(len(index))
        for begin in range(0, len(order), self.config.size):
            cuts = [
                _read(index[j][0][index[j][1]].load())
                for j in order[begin : begin + self.config.size]
            ]
            yield _tensors({k: np.stack([cut[k] for cut in cuts]) for k in cuts[0]})
