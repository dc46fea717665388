"""Tiles: which pixels one task keeps (core) and which it reads (halo).

All edges of tiles coincide with edges of coarse pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from satfuse.errors import GridError

# Defaults of products, in fine pixels: multiples of the ratio 30, so no coarse pixel is split.
SHARD_PX = 1800  # one shard is one file and one task
CHUNK_PX = 300  # what a reader decompresses at least


@dataclass(frozen=True, slots=True)
class Window:
    """Half-open pixel rectangle: rows y0 to y1, columns x0 to x1.

    Examples
    --------
    >>> core = Window(600, 1200, 0, 600)
    >>> halo = core.grown(60, within=Window(0, 1200, 0, 1200))
    >>> halo
    Window(y0=540, y1=1200, x0=0, x1=660)
    >>> core.slices(origin=halo)  # the core in an array that was read for the halo
    (slice(60, 660, None), slice(0, 600, None))
    """

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.y1 - self.y0, self.x1 - self.x0

    def slices(self, *, origin: "Window | None" = None, step: int = 1) -> tuple[slice, slice]:
        """Index (y, x) of this window in an array.

        Parameters
        ----------
        origin : window that the array covers; by default the array starts at pixel (0, 0).
        step : pixels per array element along each axis, such as the ratio for a coarse array.
        """
        top = origin.y0 if origin else 0
        left = origin.x0 if origin else 0
        return (
            slice((self.y0 - top) // step, (self.y1 - top) // step),
            slice((self.x0 - left) // step, (self.x1 - left) // step),
        )

    def grown(self, pixels: int, within: "Window") -> "Window":
        """The window with `pixels` of context on each side, cut at the edges of `within`."""
        return Window(
            max(self.y0 - pixels, within.y0),
            min(self.y1 + pixels, within.y1),
            max(self.x0 - pixels, within.x0),
            min(self.x1 + pixels, within.x1),
        )


@dataclass(frozen=True, slots=True)
class Tile:
    """One task's pixels: the `core` is written, the `halo` (which contains the core) is read."""

    index: int
    core: Window
    halo: Window


def plan_tiles(
    shape: Sequence[int],
    *,
    tile_px: int,
    halo_px: int,
    ratio: int,
    chunk_px: int = 1,
    within: Window | None = None,
) -> list[Tile]:
    """Cut a raster into tiles whose cores partition it; a core is one shard of `tile_px` pixels.

    Parameters
    ----------
    shape : (rows, columns) of the raster in fine pixels, a multiple of `ratio`.
    tile_px : edge of a core; the cores at the lower and right edge may be smaller. A multiple of
        `ratio` and of `chunk_px`.
    halo_px : context on each side, cut at the raster's edges; a multiple of `ratio`.
    ratio : fine pixels per coarse pixel.
    chunk_px : edge of a chunk of the output.
    within : cut only this part of the raster; halos may reach outside it.

    Returns
    -------
    Tiles in row-major order.

    Raises
    ------
    GridError
        A size that would split a coarse pixel, a chunk or a shard between two tiles.
    """
    height, width = shape
    if height < 1 or width < 1 or height % ratio or width % ratio:
        raise GridError(
            f"{ratio=} does not divide image size {height} x {width} into whole coarse pixels"
        )
    if tile_px < 1 or tile_px % ratio or tile_px % chunk_px:
        raise GridError(
            f"{tile_px=} must be a multiple of {ratio=} and of {chunk_px=}, "
            "so that a tile is whole shards"
        )
    if halo_px < 0 or halo_px % ratio:
        raise GridError(f"{halo_px=} must be a multiple of {ratio=} and not negative")
    raster = Window(0, height, 0, width)
    area = within or raster
    cores = [
        Window(y, min(y + tile_px, area.y1), x, min(x + tile_px, area.x1))
        for y in range(area.y0, area.y1, tile_px)
        for x in range(area.x0, area.x1, tile_px)
    ]
    return [Tile(i, core, core.grown(halo_px, raster)) for i, core in enumerate(cores)]


def mosaic_spans(length: int, size: int, stride: int) -> list[tuple[int, int, int, int]]:
    """Overlapping windows along one axis of a raster, starting at its first pixel.

    Parameters
    ----------
    length : pixels of the raster along the axis.
    size : pixels of a window.
    stride : pixels between the starts of two windows; the last window ends at the raster's edge.

    Returns
    -------
    (start, stop, core_start, core_stop) of each window. Cores meet in the middle of each overlap
    and partition the axis.

    Raises
    ------
    GridError
        A stride larger than the windows, which would skip pixels, or not positive.
    """
    if not 0 < stride <= size:
        raise GridError(
            f"windows of {size} px with {stride=} leave gaps; use a stride of 1 to {size}"
        )
    starts = list(range(0, max(length - size, 0) + 1, stride))
    if starts[-1] + size < length:
        starts.append(length - size)
    stops = [min(s + size, length) for s in starts]
    middles = [(stop + start) // 2 for stop, start in zip(stops, starts[1:], strict=False)]
    return list(zip(starts, stops, [0, *middles], [*middles, length], strict=True))
