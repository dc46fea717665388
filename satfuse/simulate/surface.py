"""A procedural land surface: endmember abundances as a pure function of seed and UTM coordinates.

Layers are painted from the top down (water, roads, rivers, snow, town, forest, fields, open
ground); each covers its share of the area that the layers above left free. Edges are sharp: their
width is one pixel of the evaluation.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from satfuse.arrays import FloatArray
from satfuse.errors import ConfigError
from satfuse.simulate.biomes import (
    ASPHALT,
    BIOMES,
    BROADLEAF,
    BUILT,
    CLEAR,
    CONIFER,
    ERG,
    NAMES,
    NEVER,
    PALE,
    ROCK,
    SNOW,
    TRACK,
    TURBID,
    WADI,
)
from satfuse.simulate.noise import CHUNK, fractal, hashed, uniform

_SAMPLE_M = 75.0  # larger pixels are the mean of samples about this far apart


@dataclass(frozen=True)
class Surface:
    """A land surface.

    Parameters
    ----------
    seed : another seed is another landscape.
    biome : {"mixed", "desert", "crop", "forest", "city", "coast", "snow"}

    Raises
    ------
    ConfigError
        An unknown biome.
    """

    seed: int
    biome: str = "mixed"

    def __post_init__(self) -> None:
        if self.biome not in BIOMES:
            raise ConfigError(f"unknown biome {self.biome!r}; known: {', '.join(BIOMES)}")

    def abundances(self, x: FloatArray, y: FloatArray, *, gsd_m: float) -> FloatArray:
        """Effective abundances: fractions that sum to 1, times a brightness of roughly 0.8 to 1.2.

        Reflectance is linear in them: `sum_k a_k e_k` with the `spectra.endmembers` e.

        Parameters
        ----------
        x, y : arrays of one shape, metres in UTM.
        gsd_m : size of the pixels; detail that they cannot show is omitted. Pixels above 75 m are
            means of point samples spread over the pixel.

        Returns
        -------
        (n_end, *shape) float32.
        """
        x = np.asarray(x, float)
        y = np.asarray(y, float)
        count = max(math.ceil(gsd_m / _SAMPLE_M), 1)
        offsets = ((np.arange(count) + 0.5) / count - 0.5) * gsd_m
        out = np.zeros((len(NAMES), x.size), np.float32)
        for start in range(0, x.size, CHUNK):
            part = slice(start, start + CHUNK)
            part_x = x.ravel()[part]
            part_y = y.ravel()[part]
            for dx in offsets:
                for dy in offsets:
                    out[:, part] += _Patch(self, part_x + dx, part_y + dy, gsd_m / count).paint()
        out /= np.float32(count**2)
        return out.reshape(len(NAMES), *x.shape)


class _Patch:
    """Points of a surface at one pixel size; every array is (n,).

    Wavelengths (m) and weights of the noise layers are chosen so that landscapes look plausible.
    """

    def __init__(self, surface: Surface, x: FloatArray, y: FloatArray, gsd_m: float) -> None:
        self.seed = surface.seed
        self.biome = BIOMES[surface.biome]
        self.x = x
        self.y = y
        self.gsd_m = gsd_m
        self.out = np.zeros((len(NAMES), len(x)), np.float32)
        self.free = np.ones(len(x), np.float32)  # share of each pixel that no layer covers yet
        self.relief = self.noise("relief", 7000, 6)
        self.moisture = self.noise("moisture", 4500, 5)
        self.texture = self.noise("texture", 150, 4, gain=0.75)
        # bends regions, rivers and coarse outlines; slow, so that distances in bent space stay
        # nearly metric
        self.bend_x = self.noise("bend x", 3500, 3)
        self.bend_y = self.noise("bend y", 3500, 3)
        self.brightness = 1 + 0.03 * self.relief

    def noise(self, layer: str, longest_m: float, octaves: int, gain: float = 0.5) -> FloatArray:
        """One noise layer of mean 0 and standard deviation 1."""
        scales = {"longest_m": longest_m, "gsd_m": self.gsd_m, "gain": gain}
        return fractal(self.seed, layer, self.x, self.y, octaves=octaves, **scales)

    def paint(self) -> FloatArray:
        """(n_end, n) effective abundances."""
        biome = self.biome
        self._water()
        if biome.roads:
            self._cover(self.parcel.road(7.0), ASPHALT, self.brightness)
        self._rivers()
        if biome.snow < NEVER:
            self._snow()
        if biome.town < NEVER:
            self._town()
        if biome.forest < NEVER:
            self._forest()
        if biome.field < NEVER:
            self._fields()
        self._ground()
        return self.out

    def _ridge(self, east_m: float = 0.0, north_m: float = 0.0) -> FloatArray:
        """Mountain heights, about -2 to 1, of points at an offset: broad valleys, sharp crests.

        Heights have no unit; the absolute value of the noise makes the crests.
        """
        x = self.x + east_m
        y = self.y + north_m
        field = fractal(self.seed, "ridge", x, y, longest_m=2200, octaves=6, gsd_m=self.gsd_m)
        return 1 - 1.4 * np.abs(field)

    def _shade(self, height: FloatArray) -> FloatArray:
        """Brightness of slopes under a sun in the south-east, -1 to 1."""
        return np.clip(4 * (height - self._ridge(25.0, -25.0)), -1, 1)

    @cached_property
    def parcel(self) -> "_Parcels":
        """The fields, woodlots and roads between regions share these parcels."""
        return _Parcels(self, self.biome.parcel_m, 3800.0, salt=1)

    def _water(self) -> None:
        level = -self.relief + 0.15 * self.moisture
        water = self._above(level, self.biome.water)
        muddy = np.clip(0.4 + 0.3 * self.moisture, 0, 1)
        self._blend(water, CLEAR, TURBID, muddy, 1 + 0.02 * self.texture)
        if self.biome.beach:
            shore = self._above(level, self.biome.water - 0.06)
            self._cover(shore, ERG, 0.95 + 0.04 * self.texture)

    def _rivers(self) -> None:
        biome = self.biome
        spacing = 9000.0
        # parallel lines, bent; the distance to the nearest one is in m
        course = (self.x * 0.6 + self.y * 0.8 + 700 * self.bend_x) / spacing
        distance = (np.abs(course - np.rint(course)) * spacing).astype(np.float32)
        width = biome.river_m * (1 + 0.4 * self.bend_y)
        if biome.dunes:  # dry: braided gravel and shrubs
            bed = _stripe(distance, 2.5 * width, self.gsd_m)
            shrubs = np.clip(0.5 + 0.5 * self.texture, 0, 1)
            self._blend(bed, PALE, WADI, shrubs, self.brightness)
        else:
            river = _stripe(distance, width, self.gsd_m)
            self._cover(river, TURBID, 1 + 0.02 * self.texture)

    def _snow(self) -> None:
        depth = self.relief + 0.25 * self.moisture + 0.25 * self.texture
        snow = self._above(depth, self.biome.snow, blur_m=200)
        self._cover(snow, SNOW, 0.98 + 0.22 * self._shade(self._ridge()))

    def _town(self) -> None:
        density = 0.9 * self.noise("town", 5500, 4) + 0.45 * self.moisture
        town = self._above(density, self.biome.town, blur_m=700)
        blocks = _Parcels(self, 105.0, 2300.0, salt=2)
        # suburbs thin out: whole blocks are built or not
        built = (uniform(blocks.key, 3) < town * 1.2).astype(np.float32)
        self._cover(built * blocks.border(7.0), ASPHALT, self.brightness)
        house_row = np.floor(blocks.along_m / 22)
        house_column = np.floor(blocks.across_m / 26)
        houses = hashed(self.seed, house_row, house_column, salt=5)
        whole = uniform(blocks.key, 4) < 0.35  # parks, car parks and halls fill their block
        kind = np.where(whole, blocks.key, houses ^ blocks.region)
        tone = self.brightness + 0.3 * (uniform(kind, 6) - 0.5) + 0.05 * self.texture
        self._cover_from_palette(built, BUILT, kind, tone)

    def _forest(self) -> None:
        place = 0.8 * self.moisture + 0.45 * self.relief + 0.35 * self.bend_x
        wood = self._above(place, self.biome.forest)
        if self.biome.crops is not None:  # woodlots among the fields
            wood = np.maximum(wood, (uniform(self.parcel.key, 11) < 0.07).astype(np.float32))
        wood = wood * (1 - self._above(self.noise("clearing", 700, 3), 1.75))
        stand = self.noise("stand", 900, 4)
        conifer = self._above(stand, 1.5 - 3 * self.biome.conifers, blur_m=100)
        crown = 0.95 + 0.1 * self.texture + 0.05 * stand
        crown = crown + 0.12 * (uniform(self.parcel.key, 15) - 0.5)
        self._blend(wood, BROADLEAF, CONIFER, conifer, crown)

    def _fields(self) -> None:
        parcel = self.parcel
        biome = self.biome
        assert biome.crops is not None  # every biome with fields has crops
        fertile = 0.8 * self.noise("fertile", 6000, 4) + 0.5 * self.moisture
        # whole parcels are farmed or not, so the edge of the farmland runs along parcels
        farmed = self._above(fertile + 0.6 * (uniform(parcel.key, 12) - 0.5), biome.field)
        if biome.dunes:
            farmed = farmed * self._pivots()
        else:
            self._cover(farmed * parcel.border(4.0), TRACK, self.brightness)
        tone = 1 + 0.22 * (uniform(parcel.key, 13) - 0.5) + 0.035 * self.texture
        tone = tone + 0.03 * self.moisture
        self._cover_from_palette(farmed, biome.crops, parcel.key, tone)

    def _pivots(self) -> FloatArray:
        """Share of each pixel inside the irrigated circle of its cell."""
        cell = 900.0
        radius = 400.0
        dx, dy = (v - (np.floor(v / cell) + 0.5) * cell for v in (self.x, self.y))
        return np.clip((radius - np.hypot(dx, dy)).astype(np.float32) / self.gsd_m + 0.5, 0, 1)

    def _ground(self) -> None:
        biome = self.biome
        tone = self.brightness + 0.06 * self.texture
        if biome.rock < NEVER:
            height = self._ridge()
            rugged = self._above(height + 0.5 * self.relief, biome.rock, blur_m=200)
            self._cover(rugged, ROCK, 1 + 0.2 * self._shade(height) + 0.04 * self.texture)
        if biome.dunes:
            wet = self._above(self.moisture, -0.2, blur_m=800)
            tone = self.brightness + 0.02 * self.texture + (0.03 + 0.1 * wet) * self._dunes()
        else:
            wet = np.clip(0.5 + 0.45 * self.moisture + 0.2 * self.texture, 0, 1)
        self._blend(1.0, biome.dry_ground, biome.wet_ground, wet, tone)

    def _dunes(self) -> FloatArray:
        """Sawtooth crests, -1 to 1: long windward sides, short shaded lee sides."""
        spacing = 380.0
        bend = 180 * self.bend_y
        crests = self.x * 0.94 + self.y * 0.34 + bend + 60 * self.noise("crest", 700, 3)
        phase = crests / spacing
        rise = (phase - np.floor(phase)).astype(np.float32)
        fade = min(max(spacing / 2 / self.gsd_m - 1, 0), 1)  # pixels that cannot resolve a dune
        return fade * np.where(rise < 0.75, rise / 0.375 - 1, 1 - (rise - 0.75) / 0.125)

    def _above(self, field: FloatArray, threshold: float, blur_m: float = 0.0) -> FloatArray:
        """Share 0..1 of each pixel where a field exceeds a threshold.

        The fields change by about 0.12 in 100 m, which converts the width of an edge from metres
        to units of the field.
        """
        width = 0.0012 * (self.gsd_m + blur_m)
        return np.clip((field - np.float32(threshold)) / np.float32(width) + np.float32(0.5), 0, 1)

    def _occupy(self, share: FloatArray | float, tone: FloatArray) -> FloatArray:
        """Take `share` of the free area; return the area taken, times its brightness `tone`."""
        area = self.free * (np.float32(share) if isinstance(share, float) else share)
        self.free = self.free - area
        return area * np.clip(tone, 0.75, 1.25).astype(np.float32)

    def _cover(self, share: FloatArray, cover: FloatArray, tone: FloatArray) -> None:
        """Give `share` of the free area to a cover (n_end,)."""
        area = self._occupy(share, tone)
        for k in np.flatnonzero(cover):
            self.out[k] += cover[k] * area

    def _blend(
        self,
        share: FloatArray | float,
        cover: FloatArray,
        other: FloatArray,
        blend: FloatArray,
        tone: FloatArray,
    ) -> None:
        """Give `share` of the free area to two covers (n_end,), `blend` of it to the other."""
        area = self._occupy(share, tone)
        for k in np.flatnonzero(cover + other):
            self.out[k] += (cover[k] + (other[k] - cover[k]) * blend) * area

    def _cover_from_palette(
        self,
        share: FloatArray,
        palette: FloatArray,
        key: npt.NDArray[np.uint32],
        tone: FloatArray,
    ) -> None:
        """Give `share` to the covers that each pixel's key picks from a palette (8, n_end)."""
        area = self._occupy(share, tone)
        pick = (uniform(key, 9) * len(palette)).astype(np.intp)
        for k in np.flatnonzero(palette.any(axis=0)):
            self.out[k] += palette[:, k].take(pick) * area


class _Parcels:
    """Rectangular parcels in strips, split at random.

    The plane is divided into bent squares, the regions, each with its own direction and size of
    parcels.

    Attributes, all (n,): `key` and `region` uint32 hashes of parcel and region; `along_m`,
    `across_m` coordinates in m along and across the strips.
    """

    def __init__(self, patch: _Patch, size_m: float, region_m: float, *, salt: int) -> None:
        seed = patch.seed
        self._gsd_m = patch.gsd_m
        u = (patch.x + 0.12 * region_m * patch.bend_x) / region_m
        v = (patch.y + 0.12 * region_m * patch.bend_y) / region_m
        iu = np.floor(u)
        iv = np.floor(v)
        self.region = hashed(seed, iu, iv, salt)
        self._region_place = ((u - iu, region_m), (v - iv, region_m))
        self.along_m, self.across_m = self._rotate(patch.x, patch.y)
        # every region draws one of four sizes; parcels are 1.7 times as long as wide
        size = size_m * self._draw([0.6, 0.8, 1.0, 1.4], self.region, 2)
        strip = self.across_m / size
        row = np.floor(strip)
        length = self.along_m / (size * 1.7) + uniform(hashed(seed, row, iu + iv, salt + 100))
        column = np.floor(length)
        cell = hashed(seed, row, column, salt + 200) ^ self.region
        pieces = self._draw(np.array([1, 1, 2, 2, 3, 4], np.float32), cell, 7)
        inside = (length - column).astype(np.float32) * pieces
        piece = np.floor(inside)
        self.key = cell + piece.astype(np.uint32) * np.uint32(0x9E3779B1)
        self._place = ((strip - row, size), (inside - piece, size * 1.7 / pieces))

    def _rotate(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Coordinates along and across the strips, in one of 64 directions per region."""
        angle = np.linspace(0, np.pi, 64, endpoint=False)
        cos = self._draw(np.cos(angle), self.region, 1)
        sin = self._draw(np.sin(angle), self.region, 1)
        return x * cos + y * sin, y * cos - x * sin

    @staticmethod
    def _draw(
        choices: FloatArray | list[float], key: npt.NDArray[np.uint32], salt: int
    ) -> FloatArray:
        """One of the choices for each key."""
        return np.take(choices, (uniform(key, salt) * len(choices)).astype(np.intp))

    def border(self, half_width_m: float) -> FloatArray:
        """Share 0..1 of each pixel on a line along the parcels' borders."""
        return _frame(self._place, half_width_m, self._gsd_m)

    def road(self, half_width_m: float) -> FloatArray:
        """Share 0..1 of each pixel on a line along the regions' borders."""
        return _frame(self._region_place, half_width_m, self._gsd_m)


def _frame(
    place: Iterable[tuple[FloatArray, FloatArray | float]], half_width_m: float, gsd_m: float
) -> FloatArray:
    """Share of each pixel within `half_width_m` of the sides of its cell.

    `place` is, for both axes, the position in the cell (0..1) and the cell's size in m.
    """
    free: FloatArray = np.ones((), np.float32)
    for fraction, size in place:
        for distance in (fraction * size, (1 - fraction) * size):
            free = free * (1 - _stripe(distance.astype(np.float32), half_width_m, gsd_m))
    return 1 - free


def _stripe(distance_m: FloatArray, half_width_m: FloatArray | float, gsd_m: float) -> FloatArray:
    """Share 0..1 of each pixel within `half_width_m` of a line that passes at `distance_m`."""
    low = np.maximum(distance_m - np.float32(gsd_m / 2), -half_width_m)
    high = np.minimum(distance_m + np.float32(gsd_m / 2), half_width_m)
    return np.clip((high - low) / np.float32(gsd_m), 0, 1)
