"""Broken clouds and their shadows as pure functions of seed and UTM coordinates."""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from satfuse.errors import ConfigError
from satfuse.simulate.noise import CHUNK, fractal

_CLOUD_HEIGHT_M = 1500.0


@dataclass(frozen=True)
class Sky:
    """Broken cloud at one height, and its shadow.

    Parameters
    ----------
    seed : another seed is another cloud field.
    cloud_cover : share of the area under cloud, 0 to 1; 0 is exactly clear.
    sun_azimuth_deg, sun_zenith_deg : where the sun stands; shadows lie on the other side.

    Raises
    ------
    ConfigError
        `cloud_cover` outside 0 to 1, or a sun at or below the horizon.
    """

    seed: int
    cloud_cover: float
    sun_azimuth_deg: float = 150.0
    sun_zenith_deg: float = 45.0

    def __post_init__(self):
        if not 0 <= self.cloud_cover <= 1:
            raise ConfigError(f"cloud_cover={self.cloud_cover} must be a share from 0 to 1")
        if not 0 <= self.sun_zenith_deg < 90:
            raise ConfigError(f"sun_zenith_deg={self.sun_zenith_deg} must be from 0 to below 90")

    def cloud(self, x, y) -> np.ndarray:
        """Opacity 0 (clear) to 1 (opaque), float32, at UTM coordinates in m."""
        x, y = np.asarray(x, float), np.asarray(y, float)
        if self.cloud_cover == 0:
            return np.zeros(x.shape, np.float32)
        field = _cloud_field(self.seed, x.ravel(), y.ravel()).reshape(x.shape)
        return np.clip((field - _cloud_base(self.seed, self.cloud_cover)) / np.float32(0.6), 0, 1)

    def shadow(self, x, y) -> np.ndarray:
        """Depth of the shadow, 0 to 1, float32: the cloud field moved away from the sun."""
        east, north = self.shadow_m()
        return self.cloud(np.asarray(x) - east, np.asarray(y) - north)

    def shadow_m(self) -> tuple[float, float]:
        """Where a cloud's shadow lies from the cloud: metres east, north."""
        length = _CLOUD_HEIGHT_M * math.tan(math.radians(self.sun_zenith_deg))
        azimuth = math.radians(self.sun_azimuth_deg)
        return -length * math.sin(azimuth), -length * math.cos(azimuth)


def _cloud_field(seed, x, y):
    out = np.empty(len(x), np.float32)
    for start in range(0, len(x), CHUNK):
        part = slice(start, start + CHUNK)
        out[part] = fractal(seed, "cloud", x[part], y[part], longest_m=5000, octaves=6, gain=0.55)
    return out


@cache
def _cloud_base(seed, cover):
    """Threshold above which the share `cover` of the field lies, from 40 000 points spread over 400 km."""
    points = np.random.default_rng([seed, 1]).uniform(0, 4e5, (2, 40000))
    return np.float32(np.quantile(_cloud_field(seed, *points), 1 - cover))
