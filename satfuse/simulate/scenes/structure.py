"""Where covers lie in a training scene: dead leaves, fractals, fields, water's edges, city blocks, snow patches.

Edges are drawn at twice the resolution and averaged, so pixels on them are mixed. Lengths are in metres: a town has
the same streets at every pixel size, and at 30 m they blur into mixtures.
"""

from dataclasses import dataclass

import numpy as np
from scipy import fft
from scipy.ndimage import distance_transform_edt

from satfuse.errors import ConfigError

_FINER = 2  # subpixels per pixel and axis
_LAND = ("canopy", "canopy", "ground", "mixed", "mixed", "built")


@dataclass(frozen=True, eq=False)
class Structure:
    """Shares of covers.

    Parameters
    ----------
    kinds : (k,) what each cover is, a key of `library.KINDS`.
    share : (k, y, x) float32, 0 to 1, sums to 1 over k.
    """

    kinds: tuple[str, ...]
    share: np.ndarray


def make_structure(
    name: str, rng: np.random.Generator, shape: tuple[int, int], pixel_m: float
) -> Structure:
    """A random structure of a named sort.

    Parameters
    ----------
    name : one of `STRUCTURES`.
    shape : (y, x) pixels.
    pixel_m : their size.

    Raises
    ------
    ConfigError
        An unknown name.
    """
    if name not in STRUCTURES:
        raise ConfigError(f"unknown structure {name!r}; known: {', '.join(STRUCTURES)}")
    finer = shape[0] * _FINER, shape[1] * _FINER
    kinds, index = STRUCTURES[name](rng, finer, pixel_m / _FINER)
    return Structure(kinds, _shares(index, len(kinds)))


def fractal_field(rng, shape, slope, *, longest=None) -> np.ndarray:
    """(y, x) float32 Gaussian field of mean 0 and deviation 1 whose spectrum falls as frequency to the power -slope.

    `longest`, in pixels, takes out what is longer. The field wraps round a third beyond its size, so its edges differ.
    """
    height, width = (fft.next_fast_len(n + n // 3, real=True) for n in shape)
    squared = (fft.fftfreq(height) ** 2)[:, None] + (fft.rfftfreq(width) ** 2)[None]
    squared[0, 0] = np.inf
    gain = (squared ** (-slope / 2)).astype(np.float32)
    if longest is not None:
        gain[squared < longest**-2] = 0
    white = rng.standard_normal((height, width), dtype=np.float32)
    field = fft.irfft2(fft.rfft2(white) * gain, s=(height, width))[: shape[0], : shape[1]]
    return (field - field.mean()) / max(field.std(), 1e-12)


def _dead_leaves(rng, shape, pixel_m):
    """Opaque discs and rectangles over each other, of radii r with density r^-3 (Lee, Mumford & Huang 2001)."""
    kinds = _draw_kinds(rng, rng.integers(6, 13))
    low = max(rng.uniform(25, 120) / pixel_m, 1.5)
    high = max(min(2500 / pixel_m, max(shape) / 2), 2 * low)
    index = _fractal(rng, shape, pixel_m)[1] % len(kinds)
    count = int(min(0.6 * shape[0] * shape[1] / low**2, 2500))
    radius = (low**-2 - rng.random(count) * (low**-2 - high**-2)) ** -0.5
    centre = rng.uniform((0, 0), shape, (count, 2))
    angle, aspect, cover = (
        rng.uniform(0, np.pi, count),
        rng.uniform(0.3, 1, count),
        rng.integers(len(kinds), size=count),
    )
    disc = rng.random(count) < rng.random()
    for r, (cy, cx), a, f, c, d in zip(radius, centre, angle, aspect, cover, disc, strict=True):
        top, left = max(int(cy - 1.5 * r), 0), max(int(cx - 1.5 * r), 0)
        window = index[top : int(cy + 1.5 * r) + 1, left : int(cx + 1.5 * r) + 1]
        y, x = np.ogrid[: window.shape[0], : window.shape[1]]
        y, x = y + top - cy, x + left - cx
        u, v = x * np.cos(a) + y * np.sin(a), (y * np.cos(a) - x * np.sin(a)) / f
        inside = u**2 + v**2 < r**2 if d else np.maximum(abs(u), abs(v)) < r
        window[inside] = c
    return kinds, index


def _fractal(rng, shape, pixel_m):
    """Each pixel takes the cover whose fractal field is the highest."""
    kinds = _draw_kinds(rng, rng.integers(4, 9))
    slope, index, highest = (
        rng.uniform(1.1, 2.0),
        np.zeros(shape, np.int8),
        np.full(shape, -np.inf, np.float32),
    )
    for i in range(len(kinds)):
        field = fractal_field(rng, shape, slope, longest=3000 / pixel_m)
        index[field > highest] = i
        highest = np.maximum(field, highest)
    return kinds, index


def _fields(rng, shape, pixel_m):
    """Parcels in strips, some with rows, roads between blocks of them, woods along a fractal."""
    crops = ["canopy", "ground", *rng.choice(["canopy", "ground", "mixed"], rng.integers(4, 9))]
    kinds = (*crops, "canopy", "built", "ground")
    wood, road, track = len(crops), len(crops) + 1, len(crops) + 2
    u, v = _turned(rng, shape, pixel_m)
    strip, along, gap_u = _cut(rng, u, rng.uniform(80, 350))
    offset = rng.uniform(0, 2000, strip.max() + 2)[strip]
    parcel, _, gap_v = _cut(rng, v + offset, rng.uniform(120, 800))
    code = rng.integers(2**31) + strip * 7919 + parcel
    index = (_hash(code) % len(crops)).astype(np.int8)
    rows = (_hash(code + 1) % 5 == 0) & ((along // rng.uniform(15, 40)).astype(int) % 2 == 0)
    index[rows] = (_hash(code[rows] + 2) % len(crops)).astype(np.int8)
    index[np.minimum(gap_u, gap_v) < rng.uniform(2, 5)] = track
    index[fractal_field(rng, shape, 1.7, longest=4000 / pixel_m) > rng.uniform(0.8, 2)] = wood
    for _ in range(rng.integers(0, 4)):
        index[_line(rng, shape, pixel_m) < rng.uniform(5, 14)] = road
    return kinds, index


def _city(rng, shape, pixel_m):
    """Blocks between streets, with buildings of many roofs, yards, parks and a river now and then."""
    roofs = int(rng.integers(5, 10))
    kinds = (*["built"] * (roofs + 1), "canopy", "canopy", "mixed", "water")
    street, yard, park, bare, river = roofs, roofs + 1, roofs + 2, roofs + 3, roofs + 4
    u, v = _turned(rng, shape, pixel_m)
    block_u, at_u, gap_u = _cut(rng, u, rng.uniform(60, 160))
    block_v, at_v, gap_v = _cut(rng, v, rng.uniform(60, 160))
    block = rng.integers(2**31) + block_u * 7919 + block_v
    size = 12 + _hash(block) % 30  # m, of the buildings in a block
    house = block + 31 * (at_u // size).astype(int) + 1009 * (at_v // size).astype(int)
    index = (_hash(house) % roofs).astype(np.int8)
    index[_hash(house + 1) % 100 < 25 + _hash(block + 1) % 50] = yard
    index[_hash(block + 2) % 8 == 0] = park
    index[_hash(block + 3) % 12 == 0] = bare
    index[np.minimum(gap_u, gap_v) < rng.uniform(5, 12)] = street
    index[fractal_field(rng, shape, 1.8) > rng.uniform(0.9, 2)] = park
    if rng.random() < 0.4:
        index[_line(rng, shape, pixel_m, bend=1.5) < rng.uniform(20, 120)] = river
    return kinds, index


def _water_edge(rng, shape, pixel_m):
    """Lakes, a coast or a river beside land; water near the shore is another water, and beaches are bare."""
    kinds, index = [_dead_leaves, _fractal, _fields][rng.integers(3)](rng, shape, pixel_m)
    field = fractal_field(rng, shape, rng.uniform(1.3, 2.2))
    if rng.random() < 0.5:  # a coast: tilt the ground towards one side
        u, _ = _turned(rng, shape, pixel_m)
        field = field + 3 * (u - u.mean()) / max(u.std(), 1e-9)
    if rng.random() < 0.2:
        field = -_line(rng, shape, pixel_m, bend=1.5) / rng.uniform(60, 250) + 1
    level = np.quantile(field, rng.uniform(0.3, 0.9))
    wet = field > level
    from_shore = distance_transform_edt(wet) * pixel_m
    n = len(kinds)
    index = np.where(wet, n, index)
    index[wet & (from_shore < rng.uniform(0, 400))] = n + 1
    index[~wet & (field > level - rng.uniform(0, 0.1))] = n + 2
    return (*kinds, "water", "water", "ground"), index.astype(np.int8)


def _snow(rng, shape, pixel_m):
    """Snow above a fractal line over another land, thin at its edge."""
    kinds, index = [_dead_leaves, _fractal][rng.integers(2)](rng, shape, pixel_m)
    field = fractal_field(rng, shape, rng.uniform(1.2, 2.0))
    level = np.quantile(field, rng.uniform(0.1, 0.7))
    n = len(kinds)
    index = np.where(field > level, n + (field > level + 1.2), index)
    index[(field > level - 0.25) & (field <= level)] = n + 2
    return (*kinds, "snow", "snow", "thin snow"), index.astype(np.int8)


STRUCTURES = {
    "dead leaves": _dead_leaves, "fractal": _fractal, "fields": _fields, "city": _city, "water edge": _water_edge,
    "snow": _snow,
}  # fmt: skip


def _draw_kinds(rng, count):
    kinds = [str(k) for k in rng.choice(_LAND, count)]
    if rng.random() < 0.4:
        kinds[-1] = str(rng.choice(["water", "snow"], p=[0.85, 0.15]))
    return tuple(kinds)


def _shares(index, count):
    """Index map at subpixels -> (count, y, x) shares per pixel."""
    height, width = (n // _FINER for n in index.shape)
    pixels = index.reshape(height, _FINER, width, _FINER)
    return np.stack([(pixels == i).mean((1, 3), dtype=np.float32) for i in range(count)])


def _turned(rng, shape, pixel_m):
    """Coordinates (u, v) in metres of a grid turned at random, from 0 up."""
    y, x = np.mgrid[: shape[0], : shape[1]] * np.float32(pixel_m)
    angle = rng.uniform(0, np.pi)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return u - u.min(), v - v.min()


def _cut(rng, along, mean_m):
    """Cut an axis into pieces of uneven length: number of the piece, metres from its start, metres to its edge."""
    lengths = mean_m * rng.uniform(0.5, 1.5, int(along.max() / (0.5 * mean_m)) + 2)
    edges = np.concatenate([[0], np.cumsum(lengths)])
    piece = np.searchsorted(edges, along, side="right") - 1
    start = along - edges[piece]
    return piece, start, np.minimum(start, edges[piece + 1] - along)


def _line(rng, shape, pixel_m, bend=0.4):
    """Distance in metres of every pixel to a bent line through the picture."""
    u, v = _turned(rng, shape, pixel_m)
    wave = np.cumsum(np.cumsum(rng.standard_normal(64)))
    wave -= np.linspace(wave[0], wave[-1], 64)
    wave *= bend * 0.15 * v.max() / max(np.ptp(wave), 1e-9)
    return abs(
        v - v.max() * rng.uniform(0.2, 0.8) - np.interp(u, np.linspace(0, u.max(), 64), wave)
    )


def _hash(code):
    """Well mixed non-negative int64 of integers."""
    h = (np.asarray(code, np.int64) & 0xFFFFFFFF).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return ((h ^ (h >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9) >> np.uint64(40)).astype(
        np.int64
    )
