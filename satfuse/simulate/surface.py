"""A procedural land surface: abundances of pure surfaces as a pure function of seed and UTM coordinates.

Layers are painted from the top down (water, roads, rivers, snow, town, forest, fields, open ground); each takes its
share of what the layers above left free. Edges are sharp: their width is one pixel of the evaluation.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

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

    def __post_init__(self):
        if self.biome not in BIOMES:
            raise ConfigError(f"unknown biome {self.biome!r}; known: {', '.join(BIOMES)}")

    def abundances(self, x, y, *, gsd_m: float) -> np.ndarray:
        """Effective abundances: fractions that sum to 1, times a brightness of roughly 0.8 to 1.2.

        Reflectance is linear in them: `sum_k a_k e_k` with the `spectra.endmembers` e.

        Parameters
        ----------
        x, y : arrays of one shape, metres in UTM.
        gsd_m : size of the pixels; detail that they cannot show is left out. Pixels above 75 m are means of
            point samples spread over the pixel.

        Returns
        -------
        (n_end, *shape) float32.
        """
        x, y = np.asarray(x, float), np.asarray(y, float)
        count = max(math.ceil(gsd_m / _SAMPLE_M), 1)
        offsets = ((np.arange(count) + 0.5) / count - 0.5) * gsd_m
        out = np.zeros((len(NAMES), x.size), np.float32)
        flat_x, flat_y = x.ravel(), y.ravel()
        for start in range(0, x.size, CHUNK):
            part = slice(start, start + CHUNK)
            for dx in offsets:
                for dy in offsets:
                    out[:, part] += _Patch(
                        self, flat_x[part] + dx, flat_y[part] + dy, gsd_m / count
                    ).paint()
        out /= np.float32(count**2)
        return out.reshape(len(NAMES), *x.shape)


class _Patch:
    """Points of a surface at one pixel size; every array is (n,)."""

    def __init__(self, surface, x, y, gsd_m):
        self.seed, self.style, self.x, self.y, self.gsd_m = (
            surface.seed,
            BIOMES[surface.biome],
            x,
            y,
            gsd_m,
        )
        self.relief = self.noise("relief", 7000, 6)
        self.moisture = self.noise("moisture", 4500, 5)
        self.texture = self.noise("texture", 150, 4, gain=0.75)
        # bends regions, rivers and coarse outlines; slow, so that distances in bent space stay
        # nearly metric
        self.bend_x, self.bend_y = self.noise("bend x", 3500, 3), self.noise("bend y", 3500, 3)
        self.brightness = 1 + 0.03 * self.relief

    def noise(self, layer, longest_m, octaves, gain=0.5):
        """One standardised noise layer."""
        return fractal(
            self.seed,
            layer,
            self.x,
            self.y,
            longest_m=longest_m,
            octaves=octaves,
            gsd_m=self.gsd_m,
            gain=gain,
        )

    def paint(self):
        """(n_end, n) effective abundances."""
        self.out = np.zeros((len(NAMES), len(self.x)), np.float32)
        self.free = np.ones(len(self.x), np.float32)
        style = self.style
        self._water()
        if style.roads:
            self._lay(self.parcel.road(7.0), ASPHALT, self.brightness)
        self._rivers()
        if style.snow < NEVER:
            depth = self.relief + 0.25 * self.moisture + 0.25 * self.texture
            self._lay(
                self._above(depth, style.snow, blur_m=200),
                SNOW,
                0.98 + 0.22 * self._shade(self._ridge()),
            )
        if style.town < NEVER:
            self._town()
        if style.forest < NEVER:
            self._forest()
        if style.field < NEVER:
            self._fields()
        self._ground()
        return self.out

    def _ridge(self, east_m=0.0, north_m=0.0):
        """Mountain heights, about -2 to 1, of points this far east and north: smooth valleys, sharp crests."""
        x, y = self.x + east_m, self.y + north_m
        return 1 - 1.4 * np.abs(
            fractal(self.seed, "ridge", x, y, longest_m=2200, octaves=6, gsd_m=self.gsd_m)
        )

    def _shade(self, height):
        """Brightness of slopes under a sun in the south-east, -1 to 1."""
        return np.clip(4 * (height - self._ridge(25.0, -25.0)), -1, 1)

    @cached_property
    def parcel(self):
        return _Parcels(self, self.style.parcel_m, 3800.0, salt=1)

    def _water(self):
        level = -self.relief + 0.15 * self.moisture
        muddy = np.clip(0.4 + 0.3 * self.moisture, 0, 1)
        self._lay(
            self._above(level, self.style.water),
            CLEAR,
            1 + 0.02 * self.texture,
            other=TURBID,
            blend=muddy,
        )
        if self.style.beach:
            self._lay(self._above(level, self.style.water - 0.06), ERG, 0.95 + 0.04 * self.texture)

    def _rivers(self):
        style = self.style
        course = (self.x * 0.6 + self.y * 0.8 + 700 * self.bend_x) / 9000
        distance = (np.abs(course - np.rint(course)) * 9000).astype(np.float32)
        width = style.river_m * (1 + 0.4 * self.bend_y)
        if style.dunes:  # dry: braided gravel and shrubs
            shrubs = np.clip(0.5 + 0.5 * self.texture, 0, 1)
            self._lay(
                _stripe(distance, 2.5 * width, self.gsd_m),
                PALE,
                self.brightness,
                other=WADI,
                blend=shrubs,
            )
        else:
            self._lay(_stripe(distance, width, self.gsd_m), TURBID, 1 + 0.02 * self.texture)

    def _town(self):
        density = 0.9 * self.noise("town", 5500, 4) + 0.45 * self.moisture
        town = self._above(density, self.style.town, blur_m=700)
        blocks = _Parcels(self, 105.0, 2300.0, salt=2)
        # suburbs thin out: whole blocks are built or not
        built = (uniform(blocks.key, 3) < town * 1.2).astype(np.float32)
        self._lay(built * blocks.border(7.0), ASPHALT, self.brightness)
        houses = hashed(
            self.seed, np.floor(blocks.along_m / 22), np.floor(blocks.across_m / 26), salt=5
        )
        same = uniform(blocks.key, 4) < 0.35  # parks, car parks and halls fill their block
        kind = np.where(same, blocks.key, houses ^ blocks.region)
        tone = self.brightness + 0.3 * (uniform(kind, 6) - 0.5) + 0.05 * self.texture
        self._lay_palette(built, BUILT, kind, tone)

    def _forest(self):
        place = 0.8 * self.moisture + 0.45 * self.relief + 0.35 * self.bend_x
        wood = self._above(place, self.style.forest)
        if self.style.crops is not None:  # woodlots among the fields
            wood = np.maximum(wood, (uniform(self.parcel.key, 11) < 0.07).astype(np.float32))
        wood = wood * (1 - self._above(self.noise("clearing", 700, 3), 1.75))
        stand = self.noise("stand", 900, 4)
        conifer = self._above(stand, 1.5 - 3 * self.style.conifers, blur_m=100)
        crown = (
            0.95 + 0.1 * self.texture + 0.05 * stand + 0.12 * (uniform(self.parcel.key, 15) - 0.5)
        )
        self._lay(wood, BROADLEAF, crown, other=CONIFER, blend=conifer)

    def _fields(self):
        parcel, style = self.parcel, self.style
        fertile = 0.8 * self.noise("fertile", 6000, 4) + 0.5 * self.moisture
        # whole parcels are farmed or not, so the edge of the farmland runs along parcels
        farmed = self._above(fertile + 0.6 * (uniform(parcel.key, 12) - 0.5), style.field)
        if style.dunes:
            farmed = farmed * self._pivots()
        else:
            self._lay(farmed * parcel.border(4.0), TRACK, self.brightness)
        tone = (
            1 + 0.22 * (uniform(parcel.key, 13) - 0.5) + 0.035 * self.texture + 0.03 * self.moisture
        )
        self._lay_palette(farmed, style.crops, parcel.key, tone)

    def _pivots(self):
        """Share of each pixel inside the irrigated circle of its parcel."""
        cell = 900.0
        dx, dy = (v - (np.floor(v / cell) + 0.5) * cell for v in (self.x, self.y))
        radius = 400.0
        return np.clip((radius - np.hypot(dx, dy)).astype(np.float32) / self.gsd_m + 0.5, 0, 1)

    def _ground(self):
        style = self.style
        tone = self.brightness + 0.06 * self.texture
        if style.rock < NEVER:
            height = self._ridge()
            rugged = self._above(height + 0.5 * self.relief, style.rock, blur_m=200)
            self._lay(rugged, ROCK, 1 + 0.2 * self._shade(height) + 0.04 * self.texture)
        if style.dunes:
            wet = self._above(self.moisture, -0.2, blur_m=800)
            tone = self.brightness + 0.02 * self.texture + (0.03 + 0.1 * wet) * self._dunes()
        else:
            wet = np.clip(0.5 + 0.45 * self.moisture + 0.2 * self.texture, 0, 1)
        self._lay(1.0, style.dry_ground, tone, other=style.wet_ground, blend=wet)

    def _dunes(self):
        """Sawtooth crests, -1 to 1: long windward sides, short shaded lee sides."""
        spacing = 380.0
        phase = (
            self.x * 0.94 + self.y * 0.34 + 180 * self.bend_y + 60 * self.noise("crest", 700, 3)
        ) / spacing
        rise = (phase - np.floor(phase)).astype(np.float32)
        fade = min(max(spacing / 2 / self.gsd_m - 1, 0), 1)
        return fade * np.where(rise < 0.75, rise / 0.375 - 1, 1 - (rise - 0.75) / 0.125)

    def _above(self, field, threshold, blur_m=0.0):
        """Share 0..1 of each pixel where a field lies above a threshold; the fields change by about 0.12 in 100 m."""
        width = 0.0012 * (self.gsd_m + blur_m)
        return np.clip((field - np.float32(threshold)) / np.float32(width) + np.float32(0.5), 0, 1)

    def _take(self, share, tone):
        """Remove `share` from what is free; returns it at brightness `tone`."""
        taken = self.free * np.float32(share) if np.isscalar(share) else self.free * share
        self.free = self.free - taken
        return taken * np.clip(tone, 0.75, 1.25).astype(np.float32)

    def _lay(self, share, cover, tone, *, other=None, blend=None):
        """Give `share` of what is free to a cover (n_end,), or to two: `blend` of it to the other."""
        taken = self._take(share, tone)
        for k in np.flatnonzero(cover if other is None else cover + other):
            part = cover[k] if other is None else cover[k] + (other[k] - cover[k]) * blend
            self.out[k] += part * taken

    def _lay_palette(self, share, palette, key, tone):
        """As `_lay`, each pixel with the cover that its key picks from a palette (8, n_end)."""
        taken = self._take(share, tone)
        pick = (uniform(key, 9) * len(palette)).astype(np.intp)
        for k in np.flatnonzero(palette.any(axis=0)):
            self.out[k] += palette[:, k].take(pick) * taken


class _Parcels:
    """Rectangular parcels in strips, split at random; every bent square region has its own direction and size.

    Attributes, all (n,): `key` and `region` uint32 hashes; `along_m`, `across_m` coordinates in m along the strips
    and across them.
    """

    def __init__(self, patch, size_m, region_m, *, salt):
        seed, self._gsd_m = patch.seed, patch.gsd_m
        u = (patch.x + 0.12 * region_m * patch.bend_x) / region_m
        v = (patch.y + 0.12 * region_m * patch.bend_y) / region_m
        iu, iv = np.floor(u), np.floor(v)
        self.region = hashed(seed, iu, iv, salt)
        self._region_place = ((u - iu, region_m), (v - iv, region_m))
        angle = np.linspace(0, np.pi, 64, endpoint=False)
        turn = (uniform(self.region, 1) * 64).astype(np.intp)
        cos, sin = np.cos(angle).take(turn), np.sin(angle).take(turn)
        size = size_m * np.array([0.6, 0.8, 1.0, 1.4]).take(
            (uniform(self.region, 2) * 4).astype(np.intp)
        )
        self.along_m = patch.x * cos + patch.y * sin
        self.across_m = patch.y * cos - patch.x * sin
        strip = self.across_m / size
        row = np.floor(strip)
        length = self.along_m / (size * 1.7) + uniform(hashed(seed, row, iu + iv, salt + 100))
        column = np.floor(length)
        cell = hashed(seed, row, column, salt + 200) ^ self.region
        pieces = np.array([1, 1, 2, 2, 3, 4], np.float32).take(
            (uniform(cell, 7) * 6).astype(np.intp)
        )
        inside = (length - column).astype(np.float32) * pieces
        piece = np.floor(inside)
        self.key = cell + piece.astype(np.uint32) * np.uint32(0x9E3779B1)
        self._place = ((strip - row, size), (inside - piece, size * 1.7 / pieces))

    def border(self, half_width_m):
        """Share 0..1 of each pixel on a line along the parcels' borders."""
        return _frame(self._place, half_width_m, self._gsd_m)

    def road(self, half_width_m):
        """Share 0..1 of each pixel on a line along the regions' borders."""
        return _frame(self._region_place, half_width_m, self._gsd_m)


def _frame(place, half_width_m, gsd_m):
    """Share of each pixel within `half_width_m` of the sides of its cell; `place` is (fraction, size in m) per axis."""
    free = np.float32(1)
    for fraction, size in place:
        for distance in (fraction * size, (1 - fraction) * size):
            free = free * (1 - _stripe(distance.astype(np.float32), half_width_m, gsd_m))
    return 1 - free


def _stripe(distance_m, half_width_m, gsd_m):
    """Share 0..1 of each pixel within `half_width_m` of a line that passes at `distance_m`."""
    low = np.maximum(distance_m - np.float32(gsd_m / 2), -half_width_m)
    high = np.minimum(distance_m + np.float32(gsd_m / 2), half_width_m)
    return np.clip((high - low) / np.float32(gsd_m), 0, 1)
