"""Bicubic upsampling as one matrix per axis: the baseline without any detail."""

import numpy as np

from satfuse.arrays import FloatArray
from satfuse.geometry.resample import cubic_kernel


def bicubic_matrix(size: int, ratio: int) -> FloatArray:
    """Weights of bicubic interpolation from coarse to fine pixels along one axis.

    Pixels are areas (the first fine pixel is centred at (0.5 / ratio - 0.5) coarse pixels) and the
    border pixel repeats: `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`.

    Parameters
    ----------
    size : coarse pixels along the axis.
    ratio : fine pixels per coarse pixel.

    Returns
    -------
    (size * ratio, size) matrix; its rows sum to 1.
    """
    position = (np.arange(size * ratio) + 0.5) / ratio - 0.5  # of fine pixels, in coarse pixels
    nearest = np.floor(position).astype(int)
    fine = np.arange(len(position))
    matrix = np.zeros((size * ratio, size))
    for offset in (-1, 0, 1, 2):  # the four coarse pixels that cubic convolution reads
        column = np.clip(nearest + offset, 0, size - 1)
        np.add.at(matrix, (fine, column), cubic_kernel(position - nearest - offset))
    return matrix


def upsample(image: FloatArray, rows: FloatArray, columns: FloatArray) -> FloatArray:
    """Upsample along y and x with one matrix per axis.

    Parameters
    ----------
    image : (band, y, x) coarse image without NaN.
    rows, columns : (fine, coarse) matrices along y and x, or the rows of them that are needed.

    Returns
    -------
    (band, len(rows), len(columns)) float32.
    """
    return np.stack(
        [(rows @ band @ columns.T).astype(np.float32) for band in np.asarray(image, float)]
    )
