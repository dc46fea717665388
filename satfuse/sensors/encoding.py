"""Reflectance as int16 digital numbers, as in cubes, products and the truth of archives."""

import numpy as np

from satfuse.arrays import FloatArray, IntArray

SCALE = 1e-4  # reflectance of one digital number
FILL = -32768  # missing data
_HIGHEST = 32767  # of int16


def encode(reflectance: FloatArray) -> IntArray:
    """Encode reflectance of any shape as int16 digital numbers.

    Values are rounded to steps of `SCALE` and clipped to the range of int16; `FILL` where not
    finite.
    """
    finite = np.isfinite(reflectance)
    number = np.rint(np.where(finite, reflectance, 0) / SCALE).clip(FILL + 1, _HIGHEST)
    return np.where(finite, number, FILL).astype("int16")
