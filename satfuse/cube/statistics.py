"""Count, mean and standard deviation per band, merged over strips and scenes without a second pass."""

import numpy as np

STRIP = 256  # rows at once


def scene_statistics(values, valid, scale: float) -> dict:
    """Statistics of one stored image.

    Parameters
    ----------
    values : (..., band, y, x) array-like of stored integers, sliced lazily along y.
    valid : (..., y, x) array-like bool, True = counts.
    scale : reflectance per stored unit.

    Returns
    -------
    `count` (int), `mean` and `std` (lists, one number per band, reflectance).
    """
    parts = []
    for top in range(0, valid.shape[-2], STRIP):
        rows = slice(top, top + STRIP)
        keep = np.asarray(valid[..., rows, :], bool)
        pixels = (
            np.moveaxis(np.asarray(values[..., rows, :]), -3, -1)[keep].astype(np.float64) * scale
        )
        if len(pixels):
            parts.append({"count": len(pixels), "mean": pixels.mean(0), "std": pixels.std(0)})
    nothing = {"count": 0, "mean": np.zeros(values.shape[-3]), "std": np.zeros(values.shape[-3])}
    return merge_statistics(parts or [nothing])


def merge_statistics(parts: list[dict]) -> dict:
    """Statistics of the union of disjoint parts (Chan, Golub and LeVeque 1979)."""
    count = np.array([p["count"] for p in parts])
    mean, std = (np.array([p[k] for p in parts], dtype=float) for k in ("mean", "std"))
    share = (count / max(count.sum(), 1))[:, None]
    total = (share * mean).sum(0)
    variance = (share * (std**2 + (mean - total) ** 2)).sum(0)
    return {"count": int(count.sum()), "mean": total.tolist(), "std": np.sqrt(variance).tolist()}
