"""Means of the guide over square cells, from which it is degraded under any PSF and shift.

The cells of a whole field fit in memory where its 10 m pixels do not.
"""

from collections.abc import Sequence

import numpy as np

from satfuse.arrays import BoolArray, FloatArray
from satfuse.errors import GridError

EXACT_PIXELS = 1_200_000  # in fields of up to this many pixels, a cell is a pixel
FEWEST = 5  # cells along a coarse pixel that still sample a PSF with sigma 0.35 coarse pixels
MOST = 10  # cells along a coarse pixel, of fields above EXACT_PIXELS
SAMPLE_PIXELS = 250_000  # pixels of the guide at full resolution that represent a field
LEAST_SAMPLE = 4  # coarse pixels along the side of a sample window, at least


def choose_cells_per_pixel(ratio: int, shape: Sequence[int]) -> int:
    """Cells along each side of a coarse pixel; a divisor of `ratio`.

    Parameters
    ----------
    ratio : fine pixels per coarse pixel.
    shape : (rows, columns) of the field in fine pixels. Small fields keep every pixel as a cell;
        larger ones get as many cells as fit `EXACT_PIXELS`, between 5 and 10 per coarse pixel
        where the ratio has such a divisor.
    """
    pixels = shape[0] * shape[1]
    if pixels <= EXACT_PIXELS:
        return ratio
    divisors = [k for k in range(FEWEST, ratio + 1) if ratio % k == 0]
    fitting = [k for k in divisors if k <= MOST and pixels * (k / ratio) ** 2 <= EXACT_PIXELS]
    return fitting[-1] if fitting else (divisors or [ratio])[0]


def sample_windows(ratio: int, shape: Sequence[int]) -> list[tuple[slice, slice]]:
    """Windows (rows, columns) of equal size that represent a field at full resolution.

    A small field is one window. A larger one has nine, spread evenly, with about `SAMPLE_PIXELS`
    pixels together. Their edges lie on edges of coarse pixels.

    Parameters
    ----------
    ratio : fine pixels per coarse pixel.
    shape : (rows, columns) of the field in fine pixels.
    """
    if shape[0] * shape[1] <= SAMPLE_PIXELS:
        return [(slice(0, shape[0]), slice(0, shape[1]))]
    side = max(int((SAMPLE_PIXELS / 9) ** 0.5) // ratio, LEAST_SAMPLE) * ratio
    sides = [min(side, size) for size in shape]
    starts = [
        [round((size - side) * share / ratio) * ratio for share in (0.1, 0.5, 0.9)]
        for size, side in zip(shape, sides, strict=True)
    ]
    return [(slice(y, y + sides[0]), slice(x, x + sides[1])) for y in starts[0] for x in starts[1]]


def cell_psf_sigma(psf_sigma: float, ratio: int, cells_per_pixel: int) -> float:
    """PSF width to use on cells, so that the result equals `psf_sigma` on pixels.

    Averaging over a cell is itself a blur. A box of width w has the variance w^2 / 12, so the
    difference between the boxes of a cell and of a pixel is subtracted from the PSF's variance.

    Parameters
    ----------
    psf_sigma : standard deviation of the PSF on pixels, in coarse pixels.
    ratio : fine pixels per coarse pixel.
    cells_per_pixel : cells per coarse pixel, along each axis.

    Returns
    -------
    Standard deviation in coarse pixels, at least 0.01.
    """
    box = (1 / cells_per_pixel**2 - 1 / ratio**2) / 12
    return float(np.sqrt(max(psf_sigma**2 - box, 1e-4)))


def average(image: FloatArray, valid: BoolArray, block: int) -> tuple[FloatArray, BoolArray]:
    """Means of the valid pixels of square blocks.

    Parameters
    ----------
    image : (band, y, x); values where not valid are ignored.
    valid : (y, x) bool, True = usable.
    block : pixels along a side; divides y and x.

    Returns
    -------
    means : (band, y / block, x / block) float32, 0 where less than half of the block is valid.
    valid : (y / block, x / block) bool, True = at least half of the block is valid.

    Raises
    ------
    GridError
        `block` does not divide the size.
    """
    height, width = valid.shape
    if height % block or width % block:
        raise GridError(f"blocks of {block} px do not divide {height} x {width}")
    if block == 1:
        return np.where(valid, image, 0).astype(np.float32), np.asarray(valid, bool)
    count = _block_sums(np.asarray(valid, np.float32), block)
    enough = count >= block**2 / 2
    means = [
        _block_sums(np.where(valid, band, np.float32(0)), block) / np.maximum(count, 1) * enough
        for band in image
    ]
    return np.stack(means).astype(np.float32), enough


def _block_sums(band: FloatArray, block: int) -> FloatArray:
    rows, columns = (np.arange(0, size, block) for size in band.shape)
    return np.add.reduceat(np.add.reduceat(band, rows, 0), columns, 1)
