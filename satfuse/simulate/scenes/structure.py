"""Random structures of training scenes: dead leaves, fractals, fields, cities, shores, snow.

Edges are drawn at twice the resolution and averaged, so that pixels on them are mixed. Lengths are
in metres: a town has the same streets at every pixel size, and at 30 m they blur into mixtures.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import fft
from scipy.ndimage import distance_transform_edt

from satfuse.arrays import BoolArray, FloatArray, IntArray
from satfuse.errors import ConfigError

Shape = tuple[int, int]  # (y, x)
CoverMap = tuple[tuple[str, ...], IntArray]  # kinds of the covers, index (y, x) into them

_FINER = 2  # subpixels per pixel and axis
_LAND = ("canopy", "canopy", "ground", "mixed", "mixed", "built")  # repeated = more likely
_MOST_LEAVES = 2500
# primes that make one number of the row and column of a parcel, a block or a building
_ROW = 7919
_HOUSE_U = 31
_HOUSE_V = 1009


@dataclass(frozen=True, eq=False)
class Structure:
    """Shares of covers in every pixel.

    Parameters
    ----------
    kinds : (k,) kind of each cover, a key of `library.KINDS`.
    share : (k, y, x) float32, 0 to 1, sums to 1 over k.
    """

    kinds: tuple[str, ...]
    share: FloatArray


def make_structure(name: str, rng: np.random.Generator, shape: Shape, pixel_m: float) -> Structure:
    """Draw a random structure of a named type.

    Parameters
    ----------
    name : one of `STRUCTURES`.
    shape : (y, x) pixels.
    pixel_m : size of a pixel.

    Raises
    ------
    ConfigError
        An unknown name.
    """
    if name not in STRUCTURES:
        raise ConfigError(f"unknown structure {name!r}; known: {', '.join(STRUCTURES)}")
    finer = (shape[0] * _FINER, shape[1] * _FINER)
    kinds, index = STRUCTURES[name](rng, finer, pixel_m / _FINER)
    return Structure(kinds, _shares(index, len(kinds)))


def fractal_field(
    rng: np.random.Generator,
    shape: Shape | list[int],
    slope: float,
    *,
    longest: float | None = None,
) -> FloatArray:
    """Gaussian field (y, x) float32 of mean 0 and standard deviation 1 with a power-law spectrum.

    Parameters
    ----------
    slope : the amplitude falls as frequency to the power -slope.
    longest : wavelength in pixels above which the field has no power; None = no limit.
    """
    # periodic on a grid that is a third larger, so that opposite edges of the field differ
    height, width = (fft.next_fast_len(n + n // 3, real=True) for n in shape)
    squared = (fft.fftfreq(height) ** 2)[:, None] + (fft.rfftfreq(width) ** 2)[None]
    squared[0, 0] = np.inf
    gain = (squared ** (-slope / 2)).astype(np.float32)
    if longest is not None:
        gain[squared < longest**-2] = 0
    white = rng.standard_normal((height, width), dtype=np.float32)
    field = fft.irfft2(fft.rfft2(white) * gain, s=(height, width))[: shape[0], : shape[1]]
    return (field - field.mean()) / max(field.std(), 1e-12)


def _dead_leaves(rng: np.random.Generator, shape: Shape, pixel_m: float) -> CoverMap:
    """Opaque discs and rectangles over each other, of radii r with density r^-3.

    Lee, Mumford & Huang (2001).
    """
    kinds = _draw_kinds(rng, int(rng.integers(6, 13)))
    low = max(rng.uniform(25, 120) / pixel_m, 1.5)
    high = max(min(2500 / pixel_m, max(shape) / 2), 2 * low)
    _, index = _fractal(rng, shape, pixel_m)
    index = index % len(kinds)
    count = int(min(0.6 * shape[0] * shape[1] / low**2, _MOST_LEAVES))
    # inverse of the cumulative distribution of r^-3 between low and high
    radius = (low**-2 - rng.random(count) * (low**-2 - high**-2)) ** -0.5
    centre = rng.uniform((0, 0), shape, (count, 2))
    angle = rng.uniform(0, np.pi, count)
    aspect = rng.uniform(0.3, 1, count)
    cover = rng.integers(len(kinds), size=count)
    disc = rng.random(count) < rng.random()
    for i in range(count):
        reach = 1.5 * radius[i]  # contains a square of half width `radius` at any angle
        top, left = (max(int(c - reach), 0) for c in centre[i])
        bottom, right = (int(c + reach) + 1 for c in centre[i])
        window = index[top:bottom, left:right]
        y, x = np.ogrid[: window.shape[0], : window.shape[1]]
        y = y + top - centre[i, 0]
        x = x + left - centre[i, 1]
        window[_inside_leaf(x, y, radius[i], angle[i], aspect[i], disc[i])] = cover[i]
    return kinds, index


def _inside_leaf(
    x: FloatArray, y: FloatArray, radius: float, angle: float, aspect: float, disc: bool
) -> BoolArray:
    """True inside an ellipse or a rectangle at the origin; `aspect` = minor / major axis."""
    u, v = _rotate(x, y, angle)
    v = v / aspect
    return u**2 + v**2 < radius**2 if disc else np.maximum(abs(u), abs(v)) < radius


def _fractal(rng: np.random.Generator, shape: Shape, pixel_m: float) -> CoverMap:
    """Each pixel takes the cover whose fractal field is the highest."""
    kinds = _draw_kinds(rng, int(rng.integers(4, 9)))
    slope = rng.uniform(1.1, 2.0)
    index = np.zeros(shape, np.int8)
    highest = np.full(shape, -np.inf, np.float32)
    for i in range(len(kinds)):
        field = fractal_field(rng, shape, slope, longest=3000 / pixel_m)
        index[field > highest] = i
        highest = np.maximum(field, highest)
    return kinds, index


def _fields(rng: np.random.Generator, shape: Shape, pixel_m: float) -> CoverMap:
    """Parcels in strips, some with crop rows, tracks between them, woods and roads."""
    crops = ["canopy", "ground", *rng.choice(["canopy", "ground", "mixed"], rng.integers(4, 9))]
    kinds = (*crops, "canopy", "built", "ground")
    wood, road, track = range(len(crops), len(kinds))
    u, v = _rotated_grid(rng, shape, pixel_m)
    strip, along, to_edge_u = _divide(rng, u, rng.uniform(80, 350))
    offset = rng.uniform(0, 2000, strip.max() + 2)[
        strip
    ]  # parcels of neighbour strips do not align
    parcel, _, to_edge_v = _divide(rng, v + offset, rng.uniform(120, 800))
    code = rng.integers(2**31) + strip * _ROW + parcel
    index = (_hash(code) % len(crops)).astype(np.int8)
    # a fifth of the parcels have rows of a second crop
    rows = (_hash(code + 1) % 5 == 0) & ((along // rng.uniform(15, 40)).astype(int) % 2 == 0)
    index[rows] = (_hash(code[rows] + 2) % len(crops)).astype(np.int8)
    index[np.minimum(to_edge_u, to_edge_v) < rng.uniform(2, 5)] = track
    index[fractal_field(rng, shape, 1.7, longest=4000 / pixel_m) > rng.uniform(0.8, 2)] = wood
    for _ in range(rng.integers(0, 4)):
        index[_distance_to_line(rng, shape, pixel_m) < rng.uniform(5, 14)] = road
    return kinds, index


def _city(rng: np.random.Generator, shape: Shape, pixel_m: float) -> CoverMap:
    """City blocks between streets: buildings of many roofs, yards, parks, in some a river."""
    roofs = int(rng.integers(5, 10))
    kinds = (*["built"] * (roofs + 1), "canopy", "canopy", "mixed", "water")
    street, yard, park, bare, river = range(roofs, len(kinds))
    u, v = _rotated_grid(rng, shape, pixel_m)
    block_u, within_u, to_edge_u = _divide(rng, u, rng.uniform(60, 160))
    block_v, within_v, to_edge_v = _divide(rng, v, rng.uniform(60, 160))
    block = rng.integers(2**31) + block_u * _ROW + block_v
    size_m = 12 + _hash(block) % 30  # of the buildings of a block
    row = (within_u // size_m).astype(int)
    column = (within_v // size_m).astype(int)
    house = block + _HOUSE_U * row + _HOUSE_V * column
    index = (_hash(house) % roofs).astype(np.int8)
    index[_hash(house + 1) % 100 < 25 + _hash(block + 1) % 50] = yard  # 25 to 75 % of a block
    index[_hash(block + 2) % 8 == 0] = park
    index[_hash(block + 3) % 12 == 0] = bare
    index[np.minimum(to_edge_u, to_edge_v) < rng.uniform(5, 12)] = street
    index[fractal_field(rng, shape, 1.8) > rng.uniform(0.9, 2)] = park
    if rng.random() < 0.4:
        index[_distance_to_line(rng, shape, pixel_m, bend=1.5) < rng.uniform(20, 120)] = river
    return kinds, index


def _water_edge(rng: np.random.Generator, shape: Shape, pixel_m: float) -> CoverMap:
    """Lakes, a coast or a river in another structure, with shallow water and bare beaches."""
    kinds, index = [_dead_leaves, _fractal, _fields][rng.integers(3)](rng, shape, pixel_m)
    field = fractal_field(rng, shape, rng.uniform(1.3, 2.2))
    if rng.random() < 0.5:  # a coast: tilt the field towards one side
        u, _ = _rotated_grid(rng, shape, pixel_m)
        field = field + 3 * (u - u.mean()) / max(u.std(), 1e-9)
    if rng.random() < 0.2:  # a river
        distance = _distance_to_line(rng, shape, pixel_m, bend=1.5)
        field = -distance / rng.uniform(60, 250) + 1
    level = np.quantile(field, rng.uniform(0.3, 0.9))
    wet = field > level
    from_shore_m = distance_transform_edt(wet) * pixel_m
    deep, shallow, beach = range(len(kinds), len(kinds) + 3)
    index = np.where(wet, deep, index)
    index[wet & (from_shore_m < rng.uniform(0, 400))] = shallow
    index[~wet & (field > level - rng.uniform(0, 0.1))] = beach
    return (*kinds, "water", "water", "ground"), index.astype(np.int8)


def _snow(rng: np.random.Generator, shape: Shape, pixel_m: float) -> CoverMap:
    """Snow above a fractal line in another structure, thin at its edge."""
    kinds, index = [_dead_leaves, _fractal][rng.integers(2)](rng, shape, pixel_m)
    field = fractal_field(rng, shape, rng.uniform(1.2, 2.0))
    level = np.quantile(field, rng.uniform(0.1, 0.7))
    low, _, thin = range(len(kinds), len(kinds) + 3)  # another snow higher up
    index = np.where(field > level, low + (field > level + 1.2), index)
    index[(field > level - 0.25) & (field <= level)] = thin
    return (*kinds, "snow", "snow", "thin snow"), index.astype(np.int8)


STRUCTURES: dict[str, Callable[[np.random.Generator, Shape, float], CoverMap]] = {
    "dead leaves": _dead_leaves,
    "fractal": _fractal,
    "fields": _fields,
    "city": _city,
    "water edge": _water_edge,
    "snow": _snow,
}


def _draw_kinds(rng: np.random.Generator, count: int) -> tuple[str, ...]:
    """Land covers, the last of which is water or snow in four of ten structures."""
    kinds = [str(k) for k in rng.choice(_LAND, count)]
    if rng.random() < 0.4:
        kinds[-1] = str(rng.choice(["water", "snow"], p=[0.85, 0.15]))
    return tuple(kinds)


def _shares(index: IntArray, count: int) -> FloatArray:
    """Shares (count, y, x) of covers per pixel from their index at subpixels."""
    height, width = (n // _FINER for n in index.shape)
    pixels = index.reshape(height, _FINER, width, _FINER)
    return np.stack([(pixels == i).mean((1, 3), dtype=np.float32) for i in range(count)])


def _rotate(x: FloatArray, y: FloatArray, angle: float) -> tuple[FloatArray, FloatArray]:
    """Coordinates in axes rotated by an angle in radians."""
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _rotated_grid(
    rng: np.random.Generator, shape: Shape, pixel_m: float
) -> tuple[FloatArray, FloatArray]:
    """Coordinates (u, v) of the pixels in metres, in axes rotated at random; the lowest is 0."""
    y, x = np.mgrid[: shape[0], : shape[1]] * np.float32(pixel_m)
    u, v = _rotate(x, y, rng.uniform(0, np.pi))
    return u - u.min(), v - v.min()


def _divide(
    rng: np.random.Generator, along: FloatArray, mean_m: float
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Divide an axis into pieces of uneven length.

    Parameters
    ----------
    along : position on the axis, metres from 0 up.
    mean_m : mean length of a piece.

    Returns
    -------
    number of the piece, metres from its start, metres to its nearer end; each like `along`.
    """
    lengths = mean_m * rng.uniform(0.5, 1.5, int(along.max() / (0.5 * mean_m)) + 2)
    edges = np.concatenate([[0], np.cumsum(lengths)])
    piece = np.searchsorted(edges, along, side="right") - 1
    start = along - edges[piece]
    return piece, start, np.minimum(start, edges[piece + 1] - along)


def _distance_to_line(
    rng: np.random.Generator, shape: Shape, pixel_m: float, bend: float = 0.4
) -> FloatArray:
    """Distance (y, x) in metres of every pixel to a random bent line through the image.

    Measured across the line's general direction. `bend` scales the deviation from a straight line.
    """
    u, v = _rotated_grid(rng, shape, pixel_m)
    # a twice integrated random walk is smooth; the drift is taken out
    wave = np.cumsum(np.cumsum(rng.standard_normal(64)))
    wave -= np.linspace(wave[0], wave[-1], 64)
    wave *= bend * 0.15 * v.max() / max(np.ptp(wave), 1e-9)
    centre = v.max() * rng.uniform(0.2, 0.8)
    return abs(v - centre - np.interp(u, np.linspace(0, u.max(), 64), wave))


def _hash(code: IntArray) -> IntArray:
    """Well mixed non-negative int64 of integers: a random number that depends on `code` only."""
    h = (np.asarray(code, np.int64) & 0xFFFFFFFF).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ (h >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return (h >> np.uint64(40)).astype(np.int64)
