"""Procedural noise: pure functions of seed and world coordinates.

Every window and every resolution therefore shows the same field.
"""

import math
import zlib
from functools import cache

import numpy as np
import numpy.typing as npt

from satfuse.arrays import FloatArray, IntArray

# points that callers pass at a time, so that temporaries stay in the processor's cache
CHUNK = 32768
_SIZE = 512  # lattice points per period of the random table
_STD = 0.429  # standard deviation of smoothly interpolated uniform noise in -1..1
_LACUNARITY = 2.13  # ratio of frequencies of octaves; not an integer, so lattices never line up


def fractal(
    seed: int,
    layer: str,
    x: FloatArray,
    y: FloatArray,
    *,
    longest_m: float,
    octaves: int,
    gsd_m: float = 0.0,
    gain: float = 0.5,
) -> FloatArray:
    """Fractal value noise (Perlin 1985 smoothing, octaves of falling wavelength).

    Parameters
    ----------
    seed, layer : each layer is an independent field.
    x, y : (n,) float64 world coordinates in m.
    longest_m : wavelength of the first octave.
    octaves : how many, each `gain` times weaker and about half as long as the one before.
    gsd_m : pixel size; octaves too short for it fade out (full from a wavelength of 2 pixels on,
        gone at 1).

    Returns
    -------
    (n,) float32 of mean 0 and standard deviation about 1 where no octave faded.
    """
    table = _table(seed)
    random = _stream(seed, layer)
    angle = random.uniform(0, 2 * math.pi)  # lattices of different layers are not parallel
    u = (x * math.cos(angle) + y * math.sin(angle)) / longest_m
    v = (y * math.cos(angle) - x * math.sin(angle)) / longest_m
    out = np.zeros(len(x), np.float32)
    total = _STD * math.sqrt(sum(gain ** (2 * k) for k in range(octaves)))
    for k in range(octaves):
        frequency = _LACUNARITY**k
        pixels = longest_m / (frequency * max(gsd_m, 1e-9))  # per wavelength
        amplitude = gain**k / total * min(max(pixels - 1, 0), 1)
        # drawn for faded octaves too, so that the longer ones do not depend on the pixel size
        offset = random.uniform(0, _SIZE, 2)
        if amplitude:
            octave = _value_noise(table, u * frequency + offset[0], v * frequency + offset[1])
            out += np.float32(amplitude) * octave
    return out


def hashed(seed: int, i: npt.NDArray, j: npt.NDArray, salt: int = 0) -> npt.NDArray[np.uint32]:
    """Well mixed uint32 hashes of integer cells i, j (arrays of one shape, of any type).

    The mixing at the end is an xor-shift-multiply finaliser.
    """
    start = np.uint32(salt * 0x9E3779B9 + seed * 0x85EBCA6B & 0xFFFFFFFF)
    i = i.astype(np.int64).astype(np.uint32)  # by way of int64: negative cells wrap around
    j = j.astype(np.int64).astype(np.uint32)
    h = (i * np.uint32(0x8DA6B343)) ^ (j + start)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        h ^= h >> np.uint32(shift)
        h *= np.uint32(factor)
    return h ^ (h >> np.uint32(16))


def uniform(h: npt.NDArray[np.uint32], salt: int = 0) -> FloatArray:
    """float32 in 0..1 from hashes; each salt gives an independent number."""
    h = (h ^ np.uint32(salt * 0x68E31DA4 & 0xFFFFFFFF)) * np.uint32(0xB5297A4D)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(0x1B56C4E9)
    # a float32 holds 24 bits, so the lowest 8 are dropped
    return (h >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


def _value_noise(table: FloatArray, u: FloatArray, v: FloatArray) -> FloatArray:
    """The table (rows of v, columns of u) at lattice coordinates, interpolated smoothly."""
    column, fu = _cell(u)
    row, fv = _cell(v)
    # the table has one wrapped row and column more, so the neighbour is always at +1
    corner = row * (_SIZE + 1) + column
    low = table.take(corner)
    low += fu * (table.take(corner + 1) - low)
    corner += _SIZE + 1
    high = table.take(corner)
    high += fu * (table.take(corner + 1) - high)
    high -= low
    low += fv * high
    return low


def _cell(u: FloatArray) -> tuple[IntArray, FloatArray]:
    """Index of the lattice cell, wrapped, and the smoothed position 0..1 within it."""
    whole = np.floor(u)
    fraction = (u - whole).astype(np.float32)
    fraction *= fraction * (3 - 2 * fraction)  # 3 t^2 - 2 t^3: no slope at lattice points
    return whole.astype(np.int64) & (_SIZE - 1), fraction


@cache
def _table(seed: int) -> FloatArray:
    """Uniform random values in -1..1, flattened from (_SIZE + 1, _SIZE + 1)."""
    table = np.random.default_rng([seed, 0]).random((_SIZE, _SIZE), dtype=np.float32) * 2 - 1
    return np.pad(table, ((0, 1), (0, 1)), mode="wrap").ravel()


def _stream(seed: int, layer: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(layer.encode())])
