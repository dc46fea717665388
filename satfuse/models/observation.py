"""The observation model on torch tensors: the same PSF as `satfuse.sensors.degradation`, differentiable.

Both directions work block by block of `ratio` fine pixels, so a pixel's value does not depend on where its tile
begins: tiled equals untiled to rounding.
"""

from functools import cache

import torch
from torch.nn import functional as F

from satfuse.errors import GridError
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA, TIE, PsfKernel, psf_kernel

CUBIC = (
    -0.75
)  # parameter of the cubic convolution kernel (Keys 1981), the one that torch's bicubic uses


def degrade(
    x, ratio, psf_sigma=DEFAULT_PSF_SIGMA, *, shift=(0.0, 0.0), valid=None, minimum_weight=0.5
):
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
        The image size is not a multiple of `ratio`, or there is another number of PSF widths than of bands.
    """
    height, width = x.shape[-2:]
    if height % ratio or width % ratio:
        raise GridError(f"{ratio=} does not divide the image size {height} x {width}")
    if isinstance(psf_sigma, (tuple, list)):
        if len(psf_sigma) != x.shape[1]:
            raise GridError(
                f"{len(psf_sigma)} PSF widths for {x.shape[1]} bands; give one, or one per band"
            )
        rest = {"shift": shift, "valid": valid, "minimum_weight": minimum_weight}
        return torch.cat(
            [degrade(x[:, i : i + 1], ratio, s, **rest) for i, s in enumerate(psf_sigma)], 1
        )
    kernels = [psf_kernel(ratio, psf_sigma, s) for s in shift]
    with _full_precision(x):
        if valid is None:
            return _weigh(x, kernels) / _weigh(torch.ones_like(x[:1, :1]), kernels)
        weight = _weigh(valid.to(x.dtype), kernels)
        mean = _weigh(torch.where(valid, x, 0.0), kernels) / weight.clamp(min=1e-6)
        return torch.where(weight > minimum_weight - TIE, mean, torch.nan)


def _full_precision(x):
    """Reflectance needs more digits than mixed precision's 16 bits keep."""
    return torch.autocast(x.device.type, enabled=False)


def _weigh(x, kernels):
    columns, rows = kernels
    return _decimate(_decimate(x, columns).mT, rows).mT


def _decimate(x: torch.Tensor, kernel: PsfKernel) -> torch.Tensor:
    """Weigh the last axis with the kernel at every coarse pixel; weights outside the image are dropped."""
    ratio, count = kernel.ratio, x.shape[-1] // kernel.ratio
    first_block, lead = divmod(kernel.first, ratio)
    blocks = -(-(lead + len(kernel.weights)) // ratio)
    padded = torch.zeros(blocks * ratio, dtype=x.dtype, device=x.device)
    padded[lead : lead + len(kernel.weights)] = torch.as_tensor(
        kernel.weights, dtype=x.dtype, device=x.device
    )
    parts = x.unflatten(-1, (count, ratio)) @ padded.view(blocks, ratio).T  # (..., count, blocks)
    # coarse pixel i takes part j of fine block i + first_block + j
    parts = F.pad(parts, (0, 0, max(-first_block, 0), max(first_block + blocks - 1, 0)))
    begin = max(first_block, 0)
    return sum(parts[..., begin + j : begin + j + count, j] for j in range(blocks))


def upsample(x: torch.Tensor, ratio: int) -> torch.Tensor:
    """Bicubic interpolation onto the fine grid, pixel areas aligned, edges replicated.

    The weights are those of `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`.

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


def _interpolate(x, weights):
    padded = torch.cat([x[..., :1], x[..., :1], x, x[..., -1:], x[..., -1:]], -1)
    return (padded.unfold(-1, 5, 1) @ weights).flatten(-2)


@cache
def _bicubic_weights(ratio):
    """(5, ratio): weight of coarse pixels i - 2 ... i + 2 for each fine pixel inside coarse pixel i."""
    phase = (torch.arange(ratio, dtype=torch.float64) + 0.5) / ratio - 0.5  # from the coarse centre
    distance = (torch.arange(-2, 3, dtype=torch.float64)[:, None] - phase).abs()
    near = (CUBIC + 2) * distance**3 - (CUBIC + 3) * distance**2 + 1
    far = CUBIC * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    weights = torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))
    return weights.tolist()
