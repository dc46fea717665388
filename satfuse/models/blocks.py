"""Running a model over a raster block by block: bounded memory, the same values as in one piece."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product

import numpy as np
import numpy.typing as npt
import torch

from satfuse.errors import GridError
from satfuse.geometry.tiling import Window, mosaic_spans, plan_tiles
from satfuse.models.interface import FusionModel, State

NESTED = (
    150,
    120,
)  # size and stride in pixels: 15 strides are one shard, at ratio 30 all edges lie on coarse pixels
PAPER = (
    150,
    130,
)  # the wide-field layout of Cristille et al. (2024): 150 px tiles that share a margin of 20 px
BATCH = 4  # mosaic windows per forward pass
MOST_PX = 450  # of a block's core: larger images leave what malloc keeps, and every new page of memory costs time


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How a raster is cut into blocks; plain values.

    Parameters
    ----------
    shape : (rows, columns) of the whole raster in fine pixels.
    ratio : fine pixels per coarse pixel.
    halo_px : context that a block reads on each side.
    block_px : edge of a block's core.
    mosaic : (size, stride) of overlapping windows for models whose reach is the whole image; None for the others.
    """

    shape: tuple[int, int]
    ratio: int
    halo_px: int
    block_px: int
    mosaic: tuple[int, int] | None = None

    @classmethod
    def of(cls, model: FusionModel, shape, ratio: int, *, block_px: int, mosaic=NESTED) -> "Cut":
        """The cut that fits a model's reach; `mosaic` is used only where the reach is the whole image.

        Raises
        ------
        GridError
            Mosaic windows that are not whole coarse pixels.
        """
        reach = model.reach(ratio)
        if reach is not None:
            block_px = max(min(block_px, MOST_PX) // ratio, 1) * ratio
            return cls(shape=tuple(shape), ratio=ratio, halo_px=reach * ratio, block_px=block_px)
        block_px = max(block_px // ratio, 1) * ratio
        size, stride = mosaic
        if size % ratio:
            raise GridError(
                f"mosaic windows of {size} px are not whole coarse pixels at {ratio=}; use a multiple"
            )
        return cls(
            shape=tuple(shape), ratio=ratio, halo_px=size, block_px=block_px, mosaic=(size, stride)
        )

    def edges(self, length: int, tile_px: int) -> tuple[int, ...]:
        """First pixels after the seams along an axis of `length` pixels: between windows, or blocks of tiles."""
        if self.mosaic:
            return tuple(core for _, _, core, _ in mosaic_spans(length, *self.mosaic)[1:])
        starts = {
            b
            for tile in range(0, length, tile_px)
            for b in range(tile, tile + tile_px, self.block_px)
        }
        return tuple(sorted(b for b in starts if 0 < b < length))


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a model reads: the guide inside `window`, the coarse image of the whole raster.

    Parameters
    ----------
    window : the part of the raster that `guide` covers; edges on coarse pixels.
    guide : (c_guide, y, x) float32, finite.
    guide_valid : (y, x) bool, True = usable.
    coarse : (c_coarse, h, w) float32, finite.
    coarse_valid : (h, w) bool, True = usable.
    """

    window: Window
    guide: np.ndarray
    guide_valid: np.ndarray
    coarse: np.ndarray
    coarse_valid: np.ndarray


def fuse_blocks(
    model: FusionModel, state: State, inputs: Inputs, core: Window, cut: Cut, device: str = "cpu"
) -> Iterator[tuple[Window, np.ndarray, np.ndarray | None]]:
    """Fuse the part `core` of a raster.

    Parameters
    ----------
    state : what the model's `fit` returned for the raster.
    inputs : their window contains `core` grown by `cut.halo_px` and cut at the raster's edges.

    Yields
    ------
    window, image, sigma : a part of `core`, its fused (c_coarse, y, x) float32 values and, where the model gives it,
        their standard deviation; the parts partition `core`.
    """
    run = _mosaic if cut.mosaic else _block
    sizes = {"tile_px": cut.block_px, "halo_px": 0 if cut.mosaic else cut.halo_px}
    for block in plan_tiles(cut.shape, **sizes, ratio=cut.ratio, within=core):
        with torch.inference_mode():
            image, sigma = run(model, state, inputs, block, cut, device)
        yield block.core, image, sigma


def fuse_whole(
    model: FusionModel, state: State, inputs: Inputs, cut: Cut, device: str = "cpu"
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """Fuse a raster that is in memory as a whole.

    Parameters
    ----------
    state, inputs, cut, device : see `fuse_blocks`; the inputs' window is the whole raster.

    Returns
    -------
    image : (c_coarse, y, x) float32.
    sigma : its standard deviation, or None where the model gives none.
    """
    size = (len(inputs.coarse), *inputs.guide_valid.shape)
    image = np.empty(size, np.float32)
    sigma = np.empty(size, np.float32) if model.gives_uncertainty else None
    for window, values, spread in fuse_blocks(model, state, inputs, inputs.window, cut, device):
        image[:, *window.slices()] = values
        if sigma is not None:
            sigma[:, *window.slices()] = spread
    return image, sigma


def _block(model, state, inputs, block, cut, device):
    rows, columns = block.halo.slices(origin=inputs.window)
    coarse = block.halo.slices(step=cut.ratio)
    fused = model(
        _tensor(inputs.guide[:, rows, columns], device),
        _tensor(inputs.coarse[:, *coarse], device),
        state=cut_grids(state, inputs.coarse.shape[1:], *coarse),
        guide_valid=_tensor(inputs.guide_valid[None, rows, columns], device),
        coarse_valid=_tensor(inputs.coarse_valid[None, *coarse], device),
    )
    core = (0, slice(None), *block.core.slices(origin=block.halo))
    return tuple(
        None if part is None else part[core].cpu().numpy() for part in (fused.image, fused.sigma)
    )


def cut_grids(state: State, shape, rows: slice, columns: slice) -> State:
    """A state whose `grid.` images of a coarse image of `shape` are cut to a window of it, each with its margin."""
    out = dict(state)
    for name in (n for n in state if n.startswith("grid.")):
        wider = state[name].shape[-1] - shape[-1]
        out[name] = state[name][
            ..., rows.start : rows.stop + wider, columns.start : columns.stop + wider
        ]
    return out


def _mosaic(model, state, inputs, block, cut, device):
    """Windows from a global origin; each gives its core, so the result does not depend on tiles and blocks."""
    core = block.core
    out = np.empty((len(inputs.coarse), *core.shape), "float32")
    spans = [
        [s for s in mosaic_spans(length, *cut.mosaic) if s[2] < stop and s[3] > start]
        for length, start, stop in zip(
            cut.shape, (core.y0, core.x0), (core.y1, core.x1), strict=True
        )
    ]
    windows = iter(product(*spans))
    while batch := list(islice(windows, BATCH)):
        whole = [Window(y[0], y[1], x[0], x[1]) for y, x in batch]
        guide = [inputs.guide[:, *w.slices(origin=inputs.window)] for w in whole]
        coarse = [_coarse_at(inputs.coarse, w, cut.ratio) for w in whole]
        images = model(
            torch.from_numpy(np.stack(guide)).to(device),
            torch.from_numpy(np.stack(coarse)).to(device),
            state=state,
        ).image.cpu()
        for (y, x), window, image in zip(batch, whole, images, strict=True):
            part = Window(
                max(y[2], core.y0), min(y[3], core.y1), max(x[2], core.x0), min(x[3], core.x1)
            )
            out[:, *part.slices(origin=core)] = image[:, *part.slices(origin=window)]
    return out, None


def _coarse_at(coarse, window, ratio):
    """Coarse pixels of a window; interpolated linearly where it does not start on a coarse pixel."""
    height, width = window.shape
    image = _sample(coarse, window.y0 / ratio, height // ratio, axis=1)
    return _sample(image, window.x0 / ratio, width // ratio, axis=2)


def _sample(image, start, count, axis):
    first = int(start)
    part = np.float32(start - first)
    index = np.arange(first, first + count)
    here = np.take(image, index, axis)
    if part == 0:
        return here
    return (
        here * (1 - part) + np.take(image, (index + 1).clip(max=image.shape[axis] - 1), axis) * part
    )


def _tensor(array, device):
    return torch.from_numpy(np.ascontiguousarray(array)[None]).to(device)
