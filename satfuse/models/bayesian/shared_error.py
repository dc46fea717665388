"""The part of a scene's coarse residual that a smooth fine error field explains, and its interpolation.

The field is Gaussian with a correlation of `LENGTH`; what the coarse grid says of it is a weight per coarse pixel,
which the fine grid sees through a Gaussian that is cut at `REACH`. (Simple kriging of the residual with the PSF as its
support.)
"""

import numpy as np
import torch

from satfuse.models.bayesian.scene_sums import LENGTH, shared_variance

ITERATIONS = 40
REACH = 3  # coarse pixels


def field_weights(residual, known, shared, psf_sigma):
    """Weights whose interpolation is the expected fine field.

    Parameters
    ----------
    residual : (c, h, w), what the map does not explain, any value where not known.
    known : (h, w) bool.
    shared : variance of the field at the coarse scale over that of the noise.
    psf_sigma : (c,) coarse pixels.

    Returns
    -------
    (c, h, w): zero where not known, and everywhere where `shared` is 0.
    """
    if shared == 0:
        return np.zeros_like(residual)
    kernels = {
        s: [_kernel(size, shared_variance(s)) for size in known.shape] for s in set(psf_sigma)
    }
    right = residual * known
    x = np.zeros_like(right)
    left = right.copy()
    direction, power = left.copy(), (left**2).sum((1, 2))
    for _ in range(ITERATIONS):  # conjugate gradients on (shared K + 1) x = right, band by band
        pushed = direction.copy()
        for s, (rows, columns) in kernels.items():
            of = psf_sigma == s
            pushed[of] += shared * (rows @ direction[of] @ columns) * known
        step = power / np.maximum((direction * pushed).sum((1, 2)), 1e-30)
        x += step[:, None, None] * direction
        left -= step[:, None, None] * pushed
        power, before = (left**2).sum((1, 2)), power
        direction = left + (power / np.maximum(before, 1e-30))[:, None, None] * direction
    return shared * x


def move(weights, step):
    """Weights (c, h, w) moved by whole coarse pixels (x, y); what leaves the grid is lost, zeros come in."""
    out = np.zeros_like(weights)
    (x, y), (height, width) = step, weights.shape[1:]
    rows, columns = (slice(max(s, 0), size + min(s, 0)) for s, size in ((y, height), (x, width)))
    from_rows, from_columns = (
        slice(max(-s, 0), size + min(-s, 0)) for s, size in ((y, height), (x, width))
    )
    out[:, rows, columns] = weights[:, from_rows, from_columns]
    return out


def margin(weights):
    """Weights (c, h, w) with `REACH` zeros around them, so that a tile of them brings its own context."""
    return np.pad(weights, ((0, 0), (REACH, REACH), (REACH, REACH)))


def add_field(image, weights: torch.Tensor, ratio: int, psf_sigma, shift) -> None:
    """Add the field of the weights (c, h + 2 * REACH, w + 2 * REACH) to the images (b, c, h * ratio, w * ratio).

    Parameters
    ----------
    weights : as from `margin`; psf_sigma : (c,), shift : (x, y), in coarse pixels.
    """
    width = LENGTH**2 + psf_sigma.double() ** 2
    height, length = (n - 2 * REACH for n in weights.shape[1:])
    rows, columns = (
        _axis(n, ratio, width, float(s)) for n, s in ((height, shift[1]), (length, shift[0]))
    )
    columns = columns * (shared_variance(psf_sigma.double()) / width)[:, None, None]
    across = weights @ columns.to(weights).mT
    for each in image:
        each.baddbmm_(rows.to(weights), across)


def _axis(count, ratio, variance, shift):
    """(c, count * ratio, count + 2 * REACH): Gaussian of the distance of fine pixels from coarse ones near them."""
    fine = (torch.arange(count * ratio, dtype=torch.float64) + 0.5) / ratio - 0.5 + shift
    distance = (fine[:, None] - torch.arange(-REACH, count + REACH)).to(variance)
    near = (
        distance - shift
    ).abs() < REACH + 0.5  # of a fine pixel, whatever the shift: the same in every tile
    return near * torch.exp(-0.5 * distance**2 / variance[:, None, None])


def _kernel(size, variance):
    index = np.arange(size)
    return np.exp(-0.5 * (index[:, None] - index) ** 2 / variance)
