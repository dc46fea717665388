"""Procedural noise: pure functions of seed and world coordinates, so every window and resolution agrees."""

import math
import zlib
from functools import cache

import numpy as np

# points that callers pass at a time, so that temporaries stay in the processor's cache
CHUNK = 32768
_SIZE = 512  # lattice points per period of the random table
_STD = 0.429  # of smoothly interpolated uniform noise in -1..1
_LACUNARITY = 2.13  # not an integer, so octaves never line up


def fractal(seed, layer, x, y, *, longest_m, octaves, gsd_m=0.0, gain=0.5):
    """Fractal value noise (Perlin 1985 smoothing, octaves of falling wavelength).

    Parameters
    ----------
    seed, layer : int and str; each layer is an independent field.
    x, y : (n,) float64 world coordinates in m.
    longest_m : wavelength of the first octave.
    octaves : how many, each `gain` times weaker and about half as long as the one before.
    gsd_m : octaves that a pixel of this size cannot show fade out (full from 2 pixels on, gone at 1).

    Returns
    -------
    (n,) float32 of mean 0 and standard deviation about 1 where no octave faded.
    """
    table, random = _table(seed), _stream(seed, layer)
    angle = random.uniform(0, 2 * math.pi)
    u = (x * math.cos(angle) + y * math.sin(angle)) / longest_m
    v = (y * math.cos(angle) - x * math.sin(angle)) / longest_m
    out = np.zeros(len(x), np.float32)
    total = _STD * math.sqrt(sum(gain ** (2 * k) for k in range(octaves)))
    for k in range(octaves):
        frequency = _LACUNARITY**k
        amplitude = gain**k / total * min(max(longest_m / (frequency * max(gsd_m, 1e-9)) - 1, 0), 1)
        offset = random.uniform(0, _SIZE, 2)
        if amplitude:
            out += np.float32(amplitude) * _value_noise(
                table, u * frequency + offset[0], v * frequency + offset[1]
            )
    return out


def hashed(seed, i, j, salt=0):
    """Well mixed uint32 of integer cells i, j (arrays of one shape): xor-shift-multiply finaliser."""
    h = np.uint32(salt * 0x9E3779B9 + seed * 0x85EBCA6B & 0xFFFFFFFF)
    h = (i.astype(np.int64).astype(np.uint32) * np.uint32(0x8DA6B343)) ^ (
        j.astype(np.int64).astype(np.uint32) + h
    )
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        h ^= h >> np.uint32(shift)
        h *= np.uint32(factor)
    return h ^ (h >> np.uint32(16))


def uniform(h, salt=0):
    """float32 in 0..1 from hashes; each salt gives an independent number."""
    h = (h ^ np.uint32(salt * 0x68E31DA4 & 0xFFFFFFFF)) * np.uint32(0xB5297A4D)
    return ((h ^ (h >> np.uint32(13))) * np.uint32(0x1B56C4E9) >> np.uint32(8)).astype(
        np.float32
    ) * np.float32(2**-24)


def _value_noise(table, u, v):
    iu, iv = np.floor(u), np.floor(v)
    fu, fv = (u - iu).astype(np.float32), (v - iv).astype(np.float32)
    fu *= fu * (3 - 2 * fu)
    fv *= fv * (3 - 2 * fv)
    iu, iv = iu.astype(np.int64) & (_SIZE - 1), iv.astype(np.int64) & (_SIZE - 1)
    # the table has one wrapped row and column more, so the neighbour is always at +1
    corner = iv * (_SIZE + 1) + iu
    low = table.take(corner)
    low += fu * (table.take(corner + 1) - low)
    corner += _SIZE + 1
    high = table.take(corner)
    high += fu * (table.take(corner + 1) - high)
    high -= low
    low += fv * high
    return low


@cache
def _table(seed):
    table = np.random.default_rng([seed, 0]).random((_SIZE, _SIZE), dtype=np.float32) * 2 - 1
    return np.pad(table, ((0, 1), (0, 1)), mode="wrap").ravel()


def _stream(seed, layer):
    return np.random.default_rng([seed, zlib.crc32(layer.encode())])
