"""Resampling of arrays in memory: nearest fill, block means, kernel of cubic convolution."""

from typing import cast

import numpy as np
from scipy import ndimage

from satfuse.arrays import BoolArray, FloatArray

# Sharpness of cubic convolution (Keys 1981, parameter a); torch and OpenCV use the same value.
CUBIC = -0.75


def fill_nearest(image: FloatArray, holes: BoolArray) -> FloatArray:
    """Give every hole the value of the nearest pixel that is not a hole.

    Parameters
    ----------
    image : (..., y, x).
    holes : (y, x) bool, True = to be replaced in every band.

    Returns
    -------
    A new array of the same shape and type; `image` itself where no pixel is a hole, or all are.
    """
    if not holes.any() or holes.all():
        return image
    rows, columns = ndimage.distance_transform_edt(
        holes, return_distances=False, return_indices=True
    )
    return image[..., rows, columns]


def block_mean(image: FloatArray, block: int) -> FloatArray:
    """Means of blocks of `block` x `block` pixels; NaN where any pixel of the block is NaN.

    Parameters
    ----------
    image : (..., y, x) numpy or dask array; `block` divides y and x.

    Returns
    -------
    (..., y / block, x / block) of the type of `image`.
    """
    # One strided view per position in the block: each addition is a pass over contiguous output.
    parts = (image[..., i::block, j::block] for i in range(block) for j in range(block))
    total = cast(FloatArray, sum(parts))  # `sum` alone may also be the int 0, of no parts
    return total / image.dtype.type(block**2)


def cubic_kernel(distance: FloatArray) -> FloatArray:
    """Weights of cubic convolution (Keys 1981, eq. 4) with the parameter `CUBIC`.

    Parameters
    ----------
    distance : any shape, in pixels of the coarser grid.

    Returns
    -------
    Weights of the same shape; 0 from a distance of 2 pixels on.
    """
    d = np.abs(distance)
    cube = d * d * d  # the same bits as torch's d**3
    inner = (CUBIC + 2) * cube - (CUBIC + 3) * d**2 + 1
    outer = CUBIC * (cube - 5 * d**2 + 8 * d - 4)
    return np.where(d <= 1, inner, np.where(d < 2, outer, 0.0))
