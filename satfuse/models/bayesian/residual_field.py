"""Residual field: simple kriging of what the map does not explain of the coarse image.

The coarse residual is r = f + e with f a smooth field seen through the PSF and e white noise of
variance v. With K the correlation of f between coarse pixels (`sufficient_statistics`) and s v its
variance, the simple-kriging predictor of the fine-scale field (Cressie 1993, chapter 3) is

    f(u) = k(u)' c,    c = s (s K + 1)^-1 r

where k(u) is the correlation of the field at the fine pixel u with what the coarse pixels see. The
*weights* c are found once per scene; each tile interpolates them with k, cut off at `REACH`.
"""

from collections.abc import Sequence

import numpy as np
import torch

from satfuse.arrays import BoolArray, FloatArray, IntArray
from satfuse.models.bayesian.sufficient_statistics import CORRELATION_LENGTH, correlation_variance

ITERATIONS = 40  # of conjugate gradients
TINY = 1e-30  # instead of zero in a denominator, once a band's residual has vanished
REACH = 3  # coarse pixels from which a fine pixel takes weights


def kriging_weights(
    residual: FloatArray, known: BoolArray, correlated: float, psf_sigma: FloatArray
) -> FloatArray:
    """Weights c of the residual field, band by band.

    Parameters
    ----------
    residual : (c, h, w) r, any value where not known.
    known : (h, w) bool, True = the residual is known.
    correlated : s, variance of the field at the coarse scale over that of the noise.
    psf_sigma : (c,) in coarse pixels.

    Returns
    -------
    (c, h, w): zero where not known, and everywhere where `correlated` is 0.
    """
    if correlated == 0:
        return np.zeros_like(residual)
    kernels = {
        width: tuple(_kernel(size, correlation_variance(width)) for size in known.shape)
        for width in set(psf_sigma)
    }

    def system(image: FloatArray) -> FloatArray:
        """(s K + 1) image; K is separable into rows and columns."""
        out = image.copy()
        for width, (rows, columns) in kernels.items():
            bands = psf_sigma == width
            out[bands] += correlated * (rows @ image[bands] @ columns) * known
        return out

    # conjugate gradients on (s K + 1) solution = r (Hestenes and Stiefel 1952), all bands at once
    solution = np.zeros_like(residual)
    remainder = residual * known
    direction = remainder.copy()
    power = (remainder**2).sum((1, 2))
    for _ in range(ITERATIONS):
        image = system(direction)
        step = power / np.maximum((direction * image).sum((1, 2)), TINY)
        solution += step[:, None, None] * direction
        remainder -= step[:, None, None] * image
        previous = power
        power = (remainder**2).sum((1, 2))
        ratio = power / np.maximum(previous, TINY)
        direction = remainder + ratio[:, None, None] * direction
    return correlated * solution


def translate(weights: FloatArray, step: IntArray) -> FloatArray:
    """Weights (c, h, w) moved by whole coarse pixels `step` (x, y); zeros move in at the edges."""
    x, y = step
    height, width = weights.shape[1:]
    out = np.zeros_like(weights)
    to_rows, from_rows = _overlap(y, height)
    to_columns, from_columns = _overlap(x, width)
    out[:, to_rows, to_columns] = weights[:, from_rows, from_columns]
    return out


def _overlap(step: int, size: int) -> tuple[slice, slice]:
    """Target and source of a move along one axis."""
    forward = slice(max(step, 0), size + min(step, 0))
    backward = slice(max(-step, 0), size + min(-step, 0))
    return forward, backward


def with_margin(weights: FloatArray) -> FloatArray:
    """Weights (c, h, w) with `REACH` zeros around, so that a tile of them has its own context."""
    return np.pad(weights, ((0, 0), (REACH, REACH), (REACH, REACH)))


def add_residual_field(
    image: torch.Tensor,
    weights: torch.Tensor,
    ratio: int,
    psf_sigma: torch.Tensor,
    shift: Sequence[float],
) -> None:
    """Interpolate the residual field and add it to images in place.

    Parameters
    ----------
    image : (b, c, h * ratio, w * ratio).
    weights : (c, h + 2 * REACH, w + 2 * REACH), see `with_margin`.
    ratio : fine pixels per coarse pixel.
    psf_sigma : (c,) in coarse pixels.
    shift : (x, y) in coarse pixels, of the coarse grid against the image.
    """
    # k(u) is a Gaussian of squared width l^2 + p^2: the PSF acts at the coarse pixel only. K is
    # scaled to 1 at distance 0, where a field seen through two PSFs has the variance l^2 / (l^2 +
    # 2 p^2) and through one l^2 / (l^2 + p^2): hence the factor (l^2 + 2 p^2) / (l^2 + p^2).
    variance = CORRELATION_LENGTH**2 + psf_sigma.double() ** 2
    height, width = (size - 2 * REACH for size in weights.shape[1:])
    rows = _interpolation(height, ratio, variance, shift[1])
    columns = _interpolation(width, ratio, variance, shift[0])
    columns = columns * (correlation_variance(psf_sigma.double()) / variance)[:, None, None]
    across = weights @ columns.to(weights).mT
    for each in image:
        each.baddbmm_(rows.to(weights), across)


def _interpolation(count: int, ratio: int, variance: torch.Tensor, shift: float) -> torch.Tensor:
    """k along one axis: (c, count * ratio, count + 2 * REACH) from coarse to fine pixels."""
    fine = (torch.arange(count * ratio, dtype=torch.float64) + 0.5) / ratio - 0.5 + shift
    distance = (fine[:, None] - torch.arange(-REACH, count + REACH)).to(variance)
    # the cut-off ignores the shift, so that a fine pixel uses the same coarse ones in every tile
    near = (distance - shift).abs() < REACH + 0.5
    return near * torch.exp(-0.5 * distance**2 / variance[:, None, None])


def _kernel(size: int, variance: float) -> FloatArray:
    """Gaussian correlation (size, size) along one axis."""
    index = np.arange(size)
    return np.exp(-0.5 * (index[:, None] - index) ** 2 / variance)
