"""The observation model on torch tensors, differentiable, and its counterpart, interpolation.

`degrade` has the PSF of `satfuse.sensors.degradation`. Both directions work block by block of
`ratio` fine pixels, so a pixel's value does not depend on where its tile begins: tiled equals
untiled up to rounding.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch.nn import functional as F

from satfuse.errors import GridError
from satfuse.geometry.resample import cubic_kernel
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA, TIE, PsfKernel, psf_kernel

# Keeps the quotient of two sums finite where no pixel is valid; such pixels become NaN anyway.
LEAST_WEIGHT = 1e-6


def degrade(
    x: torch.Tensor,
    ratio: int,
    psf_sigma: float | tuple[float, ...] | list[float] = DEFAULT_PSF_SIGMA,
    *,
    shift: Sequence[float] = (0.0, 0.0),
    valid: torch.Tensor | None = None,
    minimum_weight: float = 0.5,
) -> torch.Tensor:
    """Blur and decimate fine images; the torch twin of `satfuse.sensors.degradation.degrade`.

    Parameters
    ----------
    x : (b, c, H, W) float tensor, finite; H and W are multiples of `ratio`.
    ratio : fine pixels per coarse pixel.
    psf_sigma : in coarse pixels; one number, or c of them.
    shift : (x, y) in coarse pixels along the array axes, see `psf_kernel`.
    valid : (b, 1, H, W) bool or None, True = usable.
    minimum_weight : coarse pixels with less than this share of valid PSF weight become NaN.

    Returns
    -------
    (b, c, H / ratio, W / ratio) of the type of `x`.

    Raises
    ------
    GridError
        The image size is not a multiple of `ratio`, or the number of PSF widths is not that of
        bands.
    """
    height, width = x.shape[-2:]
    if height % ratio or width % ratio:
        raise GridError(f"{ratio=} does not divide the image size {height} x {width}")
    if isinstance(psf_sigma, tuple | list):
        if len(psf_sigma) != x.shape[1]:
            raise GridError(
                f"{len(psf_sigma)} PSF widths for {x.shape[1]} bands; give one, or one per band"
            )
        parts = [
            degrade(
                x[:, i : i + 1], ratio, s, shift=shift, valid=valid, minimum_weight=minimum_weight
            )
            for i, s in enumerate(psf_sigma)
        ]
        return torch.cat(parts, 1)
    kernels = [psf_kernel(ratio, psf_sigma, s) for s in shift]
    with _full_precision(x):
        if valid is None:
            return _weigh(x, kernels) / _weigh(torch.ones_like(x[:1, :1]), kernels)
        weight = _weigh(valid.to(x.dtype), kernels)
        mean = _weigh(torch.where(valid, x, 0.0), kernels) / weight.clamp(min=LEAST_WEIGHT)
        return torch.where(weight > minimum_weight - TIE, mean, torch.nan)


def _full_precision(x: torch.Tensor) -> torch.autocast:
    """Mixed precision switched off: its 16 bits have too few digits for reflectance."""
    return torch.autocast(x.device.type, enabled=False)


def _weigh(x: torch.Tensor, kernels: Sequence[PsfKernel]) -> torch.Tensor:
    """Sums weighted by the PSF, without normalisation; `kernels` along columns (x) and rows (y)."""
    columns, rows = kernels
    return _decimate(_decimate(x, columns).mT, rows).mT


def _decimate(x: torch.Tensor, kernel: PsfKernel) -> torch.Tensor:
    """Weigh the last axis with the kernel at every coarse pixel.

    Weights outside the image are dropped.
    """
    ratio = kernel.ratio
    count = x.shape[-1] // ratio
    first_block, offset = divmod(kernel.first, ratio)
    blocks = -(-(offset + len(kernel.weights)) // ratio)  # rounded up
    weights = torch.zeros(blocks * ratio, dtype=x.dtype, device=x.device)
    weights[offset : offset + len(kernel.weights)] = torch.as_tensor(
        kernel.weights, dtype=x.dtype, device=x.device
    )
    parts = x.unflatten(-1, (count, ratio)) @ weights.view(blocks, ratio).T  # (..., count, blocks)
    # coarse pixel i takes part j of fine block i + first_block + j
    parts = F.pad(parts, (0, 0, max(-first_block, 0), max(first_block + blocks - 1, 0)))
    begin = max(first_block, 0)
    shifted = (parts[..., begin + j : begin + j + count, j] for j in range(blocks))
    return sum(shifted, start=x.new_zeros(()))


def upsample(x: torch.Tensor, ratio: int) -> torch.Tensor:
    """Bicubic interpolation onto the fine grid, pixel areas aligned, edges replicated.

    The weights are those of `torch.nn.functional.interpolate(mode="bicubic",
    align_corners=False)`.

    Parameters
    ----------
    x : (..., h, w) float tensor.
    ratio : fine pixels per coarse pixel.

    Returns
    -------
    (..., h * ratio, w * ratio)
    """
    weights = torch.tensor(_bicubic_weights(ratio), dtype=x.dtype, device=x.device)
    with _full_precision(x):
        return _interpolate(_interpolate(x.mT, weights).mT, weights)


def _interpolate(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Interpolate along the last axis with (5, ratio) weights."""
    padded = torch.cat([x[..., :1], x[..., :1], x, x[..., -1:], x[..., -1:]], -1)
    return (padded.unfold(-1, 5, 1) @ weights).flatten(-2)


@cache
def _bicubic_weights(ratio: int) -> list[list[float]]:
    """(5, ratio): weights of coarse pixels i - 2 ... i + 2 for each fine pixel of coarse pixel i.

    Fine pixels left of the centre have a weight of 0 for i + 2, those right of it for i - 2.
    """
    phase = (np.arange(ratio) + 0.5) / ratio - 0.5  # from the centre of the coarse pixel
    weights: list[list[float]] = cubic_kernel(np.arange(-2, 3)[:, None] - phase).tolist()
    return weights
