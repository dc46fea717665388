"""Broken clouds and their shadows as pure functions of seed and UTM coordinates."""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from satfuse.arrays import FloatArray
from satfuse.errors import ConfigError
from satfuse.simulate.noise import CHUNK, fractal

_CLOUD_HEIGHT_M = 1500.0
_EDGE_WIDTH = np.float32(0.6)  # from the edge of a cloud to opaque, in units of the noise field


@dataclass(frozen=True)
class Clouds:
    """Broken clouds at one height, and the shadows that they cast under a given sun.

    Parameters
    ----------
    seed : another seed is another cloud field.
    cloud_cover : share of the area under cloud, 0 to 1; 0 is exactly clear.
    sun_azimuth_deg, sun_zenith_deg : direction of the sun, azimuth clockwise from north; shadows
        fall on the opposite side of the clouds.

    Raises
    ------
    ConfigError
        `cloud_cover` outside 0 to 1, or a sun at or below the horizon.
    """

    seed: int
    cloud_cover: float
    sun_azimuth_deg: float = 150.0
    sun_zenith_deg: float = 45.0

    def __post_init__(self) -> None:
        if not 0 <= self.cloud_cover <= 1:
            raise ConfigError(f"cloud_cover={self.cloud_cover} must be a share from 0 to 1")
        if not 0 <= self.sun_zenith_deg < 90:
            raise ConfigError(f"sun_zenith_deg={self.sun_zenith_deg} must be from 0 to below 90")

    def opacity(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Cloud opacity, 0 (clear) to 1 (opaque), float32, at UTM coordinates in m."""
        x = np.asarray(x, float)
        y = np.asarray(y, float)
        if self.cloud_cover == 0:
            return np.zeros(x.shape, np.float32)
        field = _cloud_field(self.seed, x.ravel(), y.ravel()).reshape(x.shape)
        return np.clip((field - _cloud_base(self.seed, self.cloud_cover)) / _EDGE_WIDTH, 0, 1)

    def shadow(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Depth of cloud shadow, 0 to 1, float32: the opacity of the cloud towards the sun."""
        east, north = self.shadow_offset_m()
        return self.opacity(np.asarray(x) - east, np.asarray(y) - north)

    def shadow_offset_m(self) -> tuple[float, float]:
        """Offset of a shadow from its cloud: metres east, north."""
        length = _CLOUD_HEIGHT_M * math.tan(math.radians(self.sun_zenith_deg))
        azimuth = math.radians(self.sun_azimuth_deg)
        return -length * math.sin(azimuth), -length * math.cos(azimuth)


def _cloud_field(seed: int, x: FloatArray, y: FloatArray) -> FloatArray:
    """Fractal noise (n,) float32 that is above a threshold where there is cloud."""
    out = np.empty(len(x), np.float32)
    for start in range(0, len(x), CHUNK):
        part = slice(start, start + CHUNK)
        out[part] = fractal(seed, "cloud", x[part], y[part], longest_m=5000, octaves=6, gain=0.55)
    return out


@cache
def _cloud_base(seed: int, cover: float) -> np.float32:
    """Threshold that the share `cover` of the field exceeds, from 40 000 points over 400 km."""
    points = np.random.default_rng([seed, 1]).uniform(0, 4e5, (2, 40000))
    return np.float32(np.quantile(_cloud_field(seed, *points), 1 - cover))
