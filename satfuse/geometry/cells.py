"""The guide's means over square cells: what a whole field needs to be degraded under any PSF and shift."""

import numpy as np

from satfuse.errors import GridError

EXACT_PIXELS = 1_200_000  # up to here a cell is a pixel
FEWEST = 5  # cells along a coarse pixel that still sample a PSF of 0.35 coarse pixels
MOST = 10
SAMPLE_PIXELS = 250_000
LEAST_SAMPLE = 4  # coarse pixels along a window's side


def cells_per_pixel(ratio: int, shape) -> int:
    """Cells along each side of a coarse pixel; a divisor of `ratio`.

    Parameters
    ----------
    ratio : fine pixels per coarse pixel.
    shape : (rows, columns) of the field in fine pixels. Small fields keep every pixel; of larger ones the cells are
        as many as fit `EXACT_PIXELS`, between 5 and 10 where the ratio has such a divisor.
    """
    if shape[0] * shape[1] <= EXACT_PIXELS:
        return ratio
    divisors = [k for k in range(FEWEST, ratio + 1) if ratio % k == 0]
    fitting = [
        k for k in divisors if k <= MOST and shape[0] * shape[1] * (k / ratio) ** 2 <= EXACT_PIXELS
    ]
    return fitting[-1] if fitting else (divisors or [ratio])[0]


def sample_windows(ratio: int, shape) -> list[tuple[slice, slice]]:
    """Windows (rows, columns) of one size, on coarse pixels, that stand for a field at full resolution.

    The whole of a small field; of a larger one nine windows that together hold about `SAMPLE_PIXELS`, spread evenly.
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


def cell_psf_sigma(psf_sigma: float, ratio: int, cells: int) -> float:
    """PSF width on cells that equals `psf_sigma` on pixels: the variance of a cell's box is already in its mean."""
    return float(np.sqrt(max(psf_sigma**2 - (1 / cells**2 - 1 / ratio**2) / 12, 1e-4)))


def average(image, valid, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of the valid pixels of square blocks.

    Parameters
    ----------
    image : (band, y, x); anything where not valid.
    valid : (y, x) bool, True = usable.
    block : pixels along a side; divides y and x.

    Returns
    -------
    means : (band, y / block, x / block) float32, 0 where less than half of the block is valid.
    valid : the same size, True = at least half of the block is valid.

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
    count = _sums(np.asarray(valid, np.float32), block)
    enough = count >= block**2 / 2
    means = [
        _sums(np.where(valid, band, np.float32(0)), block) / np.maximum(count, 1) * enough
        for band in image
    ]
    return np.stack(means).astype(np.float32), enough


def _sums(band, block):
    rows, columns = (np.arange(0, size, block) for size in band.shape)
    return np.add.reduceat(np.add.reduceat(band, rows, 0), columns, 1)
