"""Bicubic upsampling as a matrix per axis: the yardstick that holds no detail at all."""

import numpy as np
from scipy.ndimage import distance_transform_edt

SHARPNESS = -0.75  # of the cubic kernel (Keys 1981), as torch and OpenCV have it


def bicubic_matrix(size: int, ratio: int) -> np.ndarray:
    """(size * ratio, size) weights from coarse to fine pixels of one axis; pixels are areas, the border repeats.

    The same numbers as `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`.
    """
    position = (np.arange(size * ratio) + 0.5) / ratio - 0.5
    nearest = np.floor(position).astype(int)
    matrix = np.zeros((size * ratio, size))
    for offset in (-1, 0, 1, 2):
        column = np.clip(nearest + offset, 0, size - 1)
        np.add.at(matrix, (np.arange(len(position)), column), _cubic(position - nearest - offset))
    return matrix


def fill_nearest(image: np.ndarray) -> np.ndarray:
    """(band, y, x) with pixels that lack any band replaced by the nearest pixel that has all; all NaN stays so."""
    bad = ~np.isfinite(image).all(axis=0)
    if not bad.any() or bad.all():
        return image
    rows, columns = distance_transform_edt(bad, return_distances=False, return_indices=True)
    return image[:, rows, columns]


def upsample(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Separable upsampling of (band, y, x) with one (fine, coarse) matrix per axis, to float32."""
    return np.stack(
        [(rows @ band @ columns.T).astype(np.float32) for band in np.asarray(image, float)]
    )


def _cubic(distance):
    d, a = np.abs(distance), SHARPNESS
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
