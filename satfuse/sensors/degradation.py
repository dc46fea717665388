"""The observation model in space: how a fine image becomes a coarse one. Its only definition.

A coarse pixel is the mean of the fine image under a separable Gaussian point spread function (PSF),
centred on the coarse pixel and moved by the shift. Everything that blurs and decimates (simulator,
training, consistency with the coarse image, validation) goes through `psf_kernel`; `degrade`
applies it to numpy arrays, `satfuse.models.observation.degrade` to torch tensors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from satfuse.arrays import BoolArray, FloatArray
from satfuse.errors import GridError

# Sigma in coarse pixels. The MTF at the coarse Nyquist frequency is exp(-(pi * 0.5008)^2 / 2) =
# 0.29, a usual value.
DEFAULT_PSF_SIGMA = 0.5008
TRUNCATE = 3.0  # kernel radius in sigmas
TIE = 1e-5  # tolerance: a weight of exactly the minimum is enough, whatever its rounding


@dataclass(frozen=True, slots=True)
class PsfKernel:
    """PSF along one axis.

    Coarse pixel i weighs fine pixels `i * ratio + first ...` with `weights`, whose sum is 1.
    """

    first: int
    weights: FloatArray
    ratio: int


def psf_kernel(ratio: int, psf_sigma: float = DEFAULT_PSF_SIGMA, shift: float = 0.0) -> PsfKernel:
    """Sample the PSF along one axis.

    Parameters
    ----------
    ratio : fine pixels per coarse pixel.
    psf_sigma : standard deviation of the Gaussian in *coarse* pixels.
    shift : displacement of the coarse content from the fine image, in *coarse* pixels along the
        array axis (+ = towards higher index). The coarse pixel at p shows the fine image at
        p - shift.

    Raises
    ------
    GridError
        `ratio` is not an integer of at least 1, or `psf_sigma` is not positive.
    """
    if ratio != int(ratio) or ratio < 1:
        raise GridError(f"{ratio=} must be an integer of at least 1: fine pixels per coarse pixel")
    if not psf_sigma > 0:
        raise GridError(f"{psf_sigma=} must be positive, in coarse pixels")
    ratio = int(ratio)
    centre = (ratio - 1) / 2 - shift * ratio  # of coarse pixel 0, in fine pixel indices
    sigma = psf_sigma * ratio
    # at least half a fine pixel on both sides, else a tiny sigma would fall between two fine pixels
    radius = max(TRUNCATE * sigma, 0.5)
    first = int(np.ceil(centre - radius))
    position = np.arange(first, int(np.floor(centre + radius)) + 1)
    weights = np.exp(-0.5 * ((position - centre) / sigma) ** 2)
    return PsfKernel(first, weights / weights.sum(), ratio)


def psf_radius(psf_sigma: float = DEFAULT_PSF_SIGMA) -> int:
    """Coarse pixels of context that `degrade` reads on each side, for shifts below half a pixel."""
    return int(np.ceil(TRUNCATE * psf_sigma))


def degrade(
    image: npt.ArrayLike,
    ratio: int,
    psf_sigma: float | Sequence[float] | FloatArray = DEFAULT_PSF_SIGMA,
    *,
    shift: Sequence[float] | FloatArray = (0.0, 0.0),
    valid: BoolArray | None = None,
    minimum_weight: float = 0.5,
) -> FloatArray:
    """Blur and decimate a fine image onto the coarse grid that nests in it.

    Weights outside the image or on invalid pixels are dropped and the others renormalised, so
    constants stay constant everywhere, and a linear ramp is sampled at coarse pixel centres away
    from the edge.

    Parameters
    ----------
    image : (..., y, x) array; y and x are multiples of `ratio`.
    ratio : fine pixels per coarse pixel.
    psf_sigma : in coarse pixels; one number, or one per band (then image is (band, y, x)).
    shift : (x, y) in coarse pixels along the array axes (+x = right, +y = down); see `psf_kernel`.
    valid : (y, x) bool or None, True = usable. NaN in invalid pixels is allowed.
    minimum_weight : coarse pixels with less than this share of valid PSF weight become NaN.

    Returns
    -------
    (..., y / ratio, x / ratio) float64 (float32 for float32 input).

    Raises
    ------
    GridError
        The image size is not a multiple of `ratio`, or the PSF widths are not one per band.
    """
    image = np.asarray(image)
    height, width = image.shape[-2:]
    if height % ratio or width % ratio:
        raise GridError(f"{ratio=} does not divide the image size {height} x {width}")
    if np.ndim(psf_sigma):
        widths = np.asarray(psf_sigma)
        if image.ndim != 3 or len(widths) != image.shape[0]:
            raise GridError(
                f"{len(widths)} PSF widths for an image of shape {image.shape}; give one per band"
            )
        parts = [
            degrade(b, ratio, float(s), shift=shift, valid=valid, minimum_weight=minimum_weight)
            for b, s in zip(image, widths, strict=True)
        ]
        return np.stack(parts)
    psf_sigma = cast(float, psf_sigma)
    rows = axis_matrix(height, psf_kernel(ratio, psf_sigma, shift[1]))
    columns = axis_matrix(width, psf_kernel(ratio, psf_sigma, shift[0]))
    dtype = np.float32 if image.dtype == np.float32 else np.float64
    if valid is None:
        # weights that the image's edge cuts off are made up for
        total = rows.sum(1)[:, None] * columns.sum(1)[None]
        with np.errstate(invalid="ignore", divide="ignore"):
            return (rows @ image.astype(np.float64) @ columns.T / total).astype(dtype)
    valid = np.asarray(valid, bool)
    weight = rows @ valid.astype(np.float64) @ columns.T
    filled = np.where(valid, image, 0.0).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        out = (rows @ filled @ columns.T) / weight
    return np.where(weight > minimum_weight - TIE, out, np.nan).astype(dtype)


def axis_matrix(size: int, kernel: PsfKernel) -> FloatArray:
    """(size / ratio, size) matrix that applies the PSF along one axis.

    Weights outside the image are cut off, so rows near the edge sum to less than 1.
    """
    starts = np.arange(size // kernel.ratio) * kernel.ratio + kernel.first
    index = np.arange(size) - starts[:, None]  # into the kernel's weights
    inside = (index >= 0) & (index < len(kernel.weights))
    return np.where(inside, kernel.weights[index.clip(0, len(kernel.weights) - 1)], 0.0)
