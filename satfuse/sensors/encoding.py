"""Reflectance as int16 digital numbers: the code of cubes, products and the truth of simulated archives."""

import numpy as np

from satfuse.arrays import FloatArray, IntArray

SCALE = 1e-4  # reflectance of one digital number
FILL = -32768  # stands for missing data
_HIGHEST = 32767


def encode(reflectance: FloatArray) -> IntArray:
    """Digital numbers (int16) of reflectance, rounded and clipped; `FILL` where it is not finite."""
    finite = np.isfinite(reflectance)
    number = np.rint(np.where(finite, reflectance, 0) / SCALE).clip(FILL + 1, _HIGHEST)
    return np.where(finite, number, FILL).astype("int16")
