"""Running a model over a raster block by block: bounded memory, the same values as in one piece."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from satfuse.arrays import BoolArray, FloatArray
from satfuse.errors import GridError
from satfuse.geometry.tiling import Tile, Window, mosaic_spans, plan_tiles
from satfuse.models.interface import FusionModel, State

# Mosaic windows as (size, stride) in pixels.
# 15 strides are one shard of 1800 px, and at ratio 30 every window lies on whole coarse pixels.
NESTED = (150, 120)
# The wide-field layout of Cristille et al. (2024): 150 px tiles that share a margin of 20 px.
PAPER = (150, 130)

BATCH = 4  # mosaic windows per forward pass

# Largest edge of a block's core in pixels. The arrays of larger blocks exceed what malloc keeps for
# reuse, and every new page of memory costs time.
MOST_PX = 450

ImageAndSigma = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How a raster is cut into blocks; plain values.

    Parameters
    ----------
    shape : (rows, columns) of the whole raster in fine pixels.
    ratio : fine pixels per coarse pixel.
    halo_px : context that a block reads on each side.
    block_px : edge of a block's core.
    mosaic : (size, stride) in pixels of overlapping windows, for models whose reach is the whole
        image; None for the others.
    """

    shape: tuple[int, int]
    ratio: int
    halo_px: int
    block_px: int
    mosaic: tuple[int, int] | None = None

    @classmethod
    def of(
        cls,
        model: FusionModel,
        shape: tuple[int, int],
        ratio: int,
        *,
        block_px: int,
        mosaic: tuple[int, int] = NESTED,
    ) -> "Cut":
        """Choose the cut that fits a model's reach.

        Parameters
        ----------
        block_px : edge of a block's core, rounded down to whole coarse pixels, at most `MOST_PX`.
        mosaic : used only where the reach is the whole image.

        Raises
        ------
        GridError
            Mosaic windows that are not whole coarse pixels.
        """
        rows, columns = shape
        reach = model.reach(ratio)
        if reach is not None:
            core_px = max(min(block_px, MOST_PX) // ratio, 1) * ratio
            return cls(shape=(rows, columns), ratio=ratio, halo_px=reach * ratio, block_px=core_px)
        size, stride = mosaic
        if size % ratio:
            raise GridError(
                f"mosaic windows of {size} px are not whole coarse pixels at {ratio=}; "
                "use a multiple"
            )
        return cls(
            shape=(rows, columns),
            ratio=ratio,
            halo_px=size,
            block_px=max(block_px // ratio, 1) * ratio,
            mosaic=(size, stride),
        )

    def edges(self, length: int, tile_px: int) -> tuple[int, ...]:
        """Pixels that follow a seam along an axis of `length` pixels.

        Seams lie between mosaic windows, or between the blocks of tiles of `tile_px` pixels.
        """
        if self.mosaic:
            return tuple(core for _, _, core, _ in mosaic_spans(length, *self.mosaic)[1:])
        starts = {
            block
            for tile in range(0, length, tile_px)
            for block in range(tile, tile + tile_px, self.block_px)
        }
        return tuple(sorted(start for start in starts if 0 < start < length))


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Inputs of a model: the guide inside `window`, the coarse image of the whole raster.

    Parameters
    ----------
    window : part of the raster that `guide` covers; its edges lie on coarse pixels.
    guide : (c_guide, y, x) float32, finite.
    guide_valid : (y, x) bool, True = usable.
    coarse : (c_coarse, h, w) float32, finite.
    coarse_valid : (h, w) bool, True = usable.
    """

    window: Window
    guide: FloatArray
    guide_valid: BoolArray
    coarse: FloatArray
    coarse_valid: BoolArray


def fuse_blocks(
    model: FusionModel, state: State, inputs: Inputs, core: Window, cut: Cut, device: str = "cpu"
) -> Iterator[tuple[Window, npt.NDArray[np.float32], npt.NDArray[np.float32] | None]]:
    """Fuse the part `core` of a raster.

    Parameters
    ----------
    state : of the model's `fit` for the raster.
    inputs : their window contains `core` grown by `cut.halo_px` and cut at the raster's edges.
    device : of torch, such as "cuda".

    Yields
    ------
    window : part of `core`; the parts partition it.
    image : (c_coarse, y, x) float32 reflectance of the window.
    sigma : its standard deviation, or None where the model gives none.
    """
    run = _mosaic if cut.mosaic else _block
    blocks = plan_tiles(
        cut.shape,
        tile_px=cut.block_px,
        # mosaic windows read their own context
        halo_px=0 if cut.mosaic else cut.halo_px,
        ratio=cut.ratio,
        within=core,
    )
    for block in blocks:
        with torch.inference_mode():
            image, sigma = run(model, state, inputs, block, cut, device)
        yield block.core, image, sigma


def fuse_whole(
    model: FusionModel, state: State, inputs: Inputs, cut: Cut, device: str = "cpu"
) -> ImageAndSigma:
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
    blocks = fuse_blocks(model, state, inputs, inputs.window, cut, device)
    for window, block_image, block_sigma in blocks:
        image[:, *window.slices()] = block_image
        if sigma is not None:
            sigma[:, *window.slices()] = block_sigma
    return image, sigma


def _block(
    model: FusionModel, state: State, inputs: Inputs, block: Tile, cut: Cut, device: str
) -> ImageAndSigma:
    """One forward pass over the block with its halo, of which the core is kept."""
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
    # copies: callers write into the result, and a model may return its input or an expanded tensor
    sigma = None if fused.sigma is None else np.array(fused.sigma[core].cpu())
    return np.array(fused.image[core].cpu()), sigma


def cut_grids(state: State, shape: tuple[int, ...], rows: slice, columns: slice) -> State:
    """Cut the `grid.` images of a state to a window of the coarse image, each with its margin.

    Parameters
    ----------
    shape : (h, w) of the coarse image.
    rows, columns : the window.
    """
    out = dict(state)
    for name, grid in state.items():
        if name.startswith("grid."):
            margins = grid.shape[-1] - shape[-1]  # on both sides together
            wide_rows = slice(rows.start, rows.stop + margins)
            wide_columns = slice(columns.start, columns.stop + margins)
            out[name] = grid[..., wide_rows, wide_columns]
    return out


def _mosaic(
    model: FusionModel, state: State, inputs: Inputs, block: Tile, cut: Cut, device: str
) -> ImageAndSigma:
    """Forward passes over windows from a global origin, of each of which the core is kept.

    So the result does not depend on tiles and blocks.
    """
    core = block.core
    out = np.empty((len(inputs.coarse), *core.shape), np.float32)
    windows = iter(_mosaic_windows(core, cut))
    while batch := list(islice(windows, BATCH)):
        guide = [inputs.guide[:, *window.slices(origin=inputs.window)] for window, _ in batch]
        coarse = [_coarse_at(inputs.coarse, window, cut.ratio) for window, _ in batch]
        images = model(
            torch.from_numpy(np.stack(guide)).to(device),
            torch.from_numpy(np.stack(coarse)).to(device),
            state=state,
        ).image.cpu()
        for (window, part), image in zip(batch, images, strict=True):
            out[:, *part.slices(origin=core)] = image[:, *part.slices(origin=window)]
    return out, None


def _mosaic_windows(core: Window, cut: Cut) -> list[tuple[Window, Window]]:
    """Mosaic windows that meet `core`, row by row, each with the part of `core` that it fills."""
    assert cut.mosaic is not None
    height, width = cut.shape
    rows = _spans_between(mosaic_spans(height, *cut.mosaic), core.y0, core.y1)
    columns = _spans_between(mosaic_spans(width, *cut.mosaic), core.x0, core.x1)
    return [
        (Window(y0, y1, x0, x1), Window(core_y0, core_y1, core_x0, core_x1))
        for (y0, y1, core_y0, core_y1), (x0, x1, core_x0, core_x1) in product(rows, columns)
    ]


def _spans_between(
    spans: list[tuple[int, int, int, int]], begin: int, end: int
) -> list[tuple[int, int, int, int]]:
    """Spans of `mosaic_spans` whose cores meet `begin` to `end`, with their cores cut to it."""
    return [
        (start, stop, max(core_start, begin), min(core_stop, end))
        for start, stop, core_start, core_stop in spans
        if core_start < end and core_stop > begin
    ]


def _coarse_at(coarse: FloatArray, window: Window, ratio: int) -> FloatArray:
    """Coarse pixels of a window; interpolated linearly where it starts between coarse pixels."""
    height, width = window.shape
    rows = _sample(coarse, window.y0 / ratio, height // ratio, axis=1)
    return _sample(rows, window.x0 / ratio, width // ratio, axis=2)


def _sample(image: FloatArray, start: float, count: int, axis: int) -> FloatArray:
    """Take `count` pixels along an axis from the fractional index `start` on."""
    first = int(start)
    weight = np.float32(start - first)  # of the next pixel
    index = np.arange(first, first + count)
    here = np.take(image, index, axis)
    if weight == 0:
        return here
    following = np.take(image, (index + 1).clip(max=image.shape[axis] - 1), axis)
    return here * (1 - weight) + following * weight


def _tensor(array: npt.NDArray[Any], device: str) -> torch.Tensor:
    """Batch of one."""
    return torch.from_numpy(np.ascontiguousarray(array)[None]).to(device)
