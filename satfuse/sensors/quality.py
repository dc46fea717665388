"""Quality flags: one uint16 bit field for every dataset, saying why a pixel is not perfect."""

from enum import IntFlag
from typing import Any

import numpy as np

from satfuse.arrays import BoolArray, FloatArray

# Reflectance above which a fused value is flagged OUT_OF_RANGE: no natural surface is brighter.
HIGHEST_REFLECTANCE = 1.6


class Quality(IntFlag):
    """Bits of every `quality` variable. 0 is a perfect pixel."""

    GUIDE_MISSING = 1  # no Sentinel-2 data
    GUIDE_CLOUD = 2  # SCL 8, 9, 10
    GUIDE_SHADOW = 4  # SCL 3
    GUIDE_SATURATED = 8  # SCL 1 or a saturated digital number
    COARSE_MISSING = 16  # no Sentinel-3 data, the result is predicted from the guide alone
    COARSE_CLOUD = 32  # cloud, ambiguous or margin in Sentinel-3
    COARSE_SUSPECT = 64  # Sentinel-3 retrieval flagged: out of range, high error, partly water
    SNOW = 128  # snow or ice in either sensor
    ASSET_MISSING = 256  # an asset could not be read and the caller allowed gaps
    SHIFT_UNTRUSTED = 512  # the sub-pixel shift is not known well
    OUT_OF_RANGE = 1024  # fused reflectance below 0 or above HIGHEST_REFLECTANCE
    TIME_APPROXIMATE = 2048  # the acquisition gap is computed from item times only


# Pixels with any of these bits are not usable as a guide / as coarse data.
GUIDE_INVALID = (
    Quality.GUIDE_MISSING | Quality.GUIDE_CLOUD | Quality.GUIDE_SHADOW | Quality.GUIDE_SATURATED
)
COARSE_INVALID = Quality.COARSE_MISSING | Quality.COARSE_CLOUD | Quality.COARSE_SUSPECT


def out_of_range(reflectance: FloatArray) -> BoolArray:
    """Pixels where a band is below 0 or above `HIGHEST_REFLECTANCE`.

    Parameters
    ----------
    reflectance : (band, y, x); NaN counts as in range.

    Returns
    -------
    (y, x) bool, True = out of range.
    """
    outside = (reflectance < 0) | (reflectance > HIGHEST_REFLECTANCE)
    return np.asarray(outside.any(axis=0))


def flag_attrs() -> dict[str, Any]:
    """CF attributes of a `quality` variable: `flag_masks` (uint16) and `flag_meanings`."""
    names = [flag.name or "" for flag in Quality]  # `name` is None only for combinations of bits
    return {
        "long_name": "why a pixel is not perfect; 0 is perfect",
        "flag_masks": np.array([int(q) for q in Quality], dtype="uint16"),
        "flag_meanings": " ".join(names).lower(),
    }
