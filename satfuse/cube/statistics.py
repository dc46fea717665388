"""Count, mean and standard deviation per band, merged over strips and scenes in one pass."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from satfuse.arrays import BoolArray, IntArray

STRIP = 256  # rows read at once
# `count` of valid pixels (int); `mean` and `std` (lists, one number per band, in reflectance)
Statistics = dict[str, Any]


def scene_statistics(
    values: IntArray | xr.Variable, valid: BoolArray | xr.Variable, scale: float
) -> Statistics:
    """Statistics of one stored image.

    Parameters
    ----------
    values : (..., band, y, x) stored integers; a Variable is read strip by strip along y.
    valid : (..., y, x) bool, True = usable.
    scale : reflectance per stored unit.
    """
    parts: list[Statistics] = []
    for top in range(0, valid.shape[-2], STRIP):
        rows = slice(top, top + STRIP)
        keep = np.asarray(valid[..., rows, :], bool)
        strip = np.moveaxis(np.asarray(values[..., rows, :]), -3, -1)
        pixels = strip[keep].astype(np.float64) * scale
        if len(pixels):
            mean = pixels.mean(0).tolist()
            parts.append({"count": len(pixels), "mean": mean, "std": pixels.std(0).tolist()})
    zeros = [0.0] * values.shape[-3]
    return merge_statistics(parts or [{"count": 0, "mean": zeros, "std": zeros}])


def merge_statistics(parts: Sequence[Statistics]) -> Statistics:
    """Statistics of the union of disjoint parts (Chan, Golub and LeVeque 1979)."""
    count = np.array([p["count"] for p in parts])
    mean = np.array([p["mean"] for p in parts], dtype=float)
    std = np.array([p["std"] for p in parts], dtype=float)
    share = (count / max(count.sum(), 1))[:, None]
    total = (share * mean).sum(0)
    # variance within the parts, plus that of their means
    variance = (share * (std**2 + (mean - total) ** 2)).sum(0)
    return {"count": int(count.sum()), "mean": total.tolist(), "std": np.sqrt(variance).tolist()}
