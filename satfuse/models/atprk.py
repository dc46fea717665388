"""Area-to-point regression kriging (ATPRK).

Wang, Shi, Atkinson and Zhao 2015, "Downscaling MODIS images with area-to-point regression kriging", Remote Sensing of
Environment 166; kriging from areas: Kyriakidis 2004, "A geostatistical framework for area-to-point spatial
interpolation", Geographical Analysis 36. The trend is the scene regression; its coarse residual is brought to
the fine grid by ordinary kriging with the PSF as support, so that degrading the result gives the coarse image back.
"""

from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional as F

from satfuse.models.interface import Fused, input_ratio
from satfuse.models.regression import MAX_PSF_SIGMA, Regression
from satfuse.models.trend import coarse_parts, required, trend
from satfuse.sensors.degradation import psf_kernel, psf_radius

WINDOW = 3  # kriging reads 7 x 7 coarse pixels; of white noise 5 x 5 would leave twice the error after degrading
LAGS = 8  # longest lag of the semivariogram along an axis, in coarse pixels
RANGES = tuple(np.geomspace(0.2, 20, 21))  # candidates, in coarse pixels
CELLS = 6  # points along a coarse pixel's side when a semivariogram is regularised


class ATPRK(Regression):
    """Trend from the guide, residual by area-to-point kriging with one exponential semivariogram per coarse band.

    The kriging weights depend on the semivariogram's range alone: there is no nugget, and the sill cancels.
    """

    name = "atprk"

    def reach(self, ratio):
        return psf_radius(MAX_PSF_SIGMA) + 1 + WINDOW  # residual, its local mean, kriging

    def fit(self, scene):
        """The state of `Regression` and `range` (c_coarse,), in coarse pixels.

        The range is the candidate whose point semivariogram `1 - exp(-h / range)`, averaged over the PSF and scaled
        by the best sill, is nearest to the empirical one in least squares, weighted by pairs / lag^2 (the usual weights
        of gstat).
        """
        state = super().fit(scene)
        residual = scene.coarse - trend(scene.guide_coarse[None], state)[0]
        semivariance, pairs = semivariogram(residual.double(), scene.valid, LAGS)
        squares = torch.arange(LAGS + 1).to(pairs).square()
        weight = pairs / (squares[:, None] + squares).clamp(min=1)
        shapes = torch.from_numpy(
            np.stack([regularised(r, scene.psf_sigma, LAGS) for r in RANGES])
        ).to(pairs)
        norm = (weight * shapes.square()).sum((-2, -1)).clamp(min=1e-12)
        fits = torch.einsum("kij,rij->kr", semivariance * weight, shapes)
        best = (fits.clamp(min=0).square() / norm).argmax(1)  # what the best sill explains
        return state | {"range": torch.tensor(RANGES, dtype=torch.float64)[best.cpu()]}

    def forward(self, guide, coarse, *, state=None, guide_valid=None, coarse_valid=None):
        state = required(state, self.name)
        ratio, sigma = input_ratio(guide, coarse), float(state["psf_sigma"])
        _, residual = coarse_parts(guide, coarse, state, guide_valid, coarse_valid)
        weights = np.stack(
            [kriging_weights(extent, sigma, ratio) for extent in state["range"].tolist()]
        )
        return Fused(trend(guide, state).add_(krige(residual, torch.from_numpy(weights).to(guide))))


def semivariogram(
    image: torch.Tensor, valid: torch.Tensor, lags: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Half the mean squared difference of valid pixels that lie (dy, dx) apart, mirrored lags taken together.

    Parameters
    ----------
    image : (c, h, w); `valid` (h, w) bool, True = usable.
    lags : longest lag along an axis, in pixels.

    Returns
    -------
    semivariance (c, lags + 1, lags + 1), 0 where there is no pair; pairs (lags + 1, lags + 1).
    """
    height, width = valid.shape
    total = image.new_zeros(len(image), lags + 1, lags + 1)
    pairs = image.new_zeros(lags + 1, lags + 1)
    for dy in range(min(lags + 1, height)):
        for dx in range(-min(lags, width - 1), min(lags + 1, width)):
            if (dy, dx) == (0, 0) or (dy == 0 and dx < 0):
                continue
            here = slice(dy, None), slice(max(dx, 0), width + min(dx, 0))
            there = slice(None, height - dy), slice(max(-dx, 0), width - max(dx, 0))
            both = valid[here] & valid[there]
            total[:, dy, abs(dx)] += ((image[:, *here] - image[:, *there]).square() * both).sum(
                (-2, -1)
            ) / 2
            pairs[dy, abs(dx)] += both.sum()
    return total / pairs.clamp(min=1), pairs


@lru_cache(maxsize=64)
def regularised(extent: float, psf_sigma: float, lags: int) -> np.ndarray:
    """(lags + 1, lags + 1) semivariogram of coarse pixels where that of points is `1 - exp(-h / extent)`."""
    blocks = _blocks(lags + 1, psf_sigma, CELLS)
    covariance = _covariance(blocks[:1], blocks, extent * CELLS)[0]
    return (covariance[0] - covariance).reshape(lags + 1, lags + 1)


@lru_cache(maxsize=64)
def kriging_weights(extent: float, psf_sigma: float, ratio: int) -> np.ndarray:
    """Weights of 7 x 7 coarse pixels for each fine pixel of the middle one; they sum to 1.

    Ordinary kriging: covariances among coarse pixels and from coarse to fine pixels, both under the point covariance
    `exp(-h / extent)` with the PSF as weight, and one Lagrange multiplier for the unknown mean.

    Parameters
    ----------
    extent, psf_sigma : range and PSF width, in coarse pixels.
    ratio : fine pixels per coarse pixel.

    Returns
    -------
    (ratio, ratio, 7, 7)
    """
    side = 2 * WINDOW + 1
    blocks = _blocks(side, psf_sigma, ratio)
    centre = WINDOW * ratio - psf_kernel(ratio, psf_sigma).first
    fine = np.eye(ratio, blocks.shape[1], centre)
    among, to_fine = (_covariance(blocks, other, extent * ratio) for other in (blocks, fine))
    system = np.ones((side**2 + 1, side**2 + 1))
    system[:-1, :-1], system[-1, -1] = among, 0
    weights = np.linalg.solve(system, np.vstack([to_fine, np.ones(ratio**2)]))[:-1]
    return weights.T.reshape(ratio, ratio, side, side)


def krige(image: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Apply `kriging_weights` (c, ratio, ratio, 7, 7) to (b, c, h, w); edges are replicated."""
    bands, ratio = weights.shape[:2]
    padded = F.pad(image, (WINDOW,) * 4, mode="replicate")
    parts = F.conv2d(
        padded, weights.reshape(bands * ratio**2, 1, *weights.shape[-2:]), groups=bands
    )
    return F.pixel_shuffle(parts, ratio)


def _blocks(count, psf_sigma, ratio):
    """(count, n) PSF of neighbouring coarse pixels along one axis of fine pixels, from where the first one begins."""
    weights = psf_kernel(ratio, psf_sigma).weights
    out = np.zeros((count, (count - 1) * ratio + len(weights)))
    for i in range(count):
        out[i, i * ratio : i * ratio + len(weights)] = weights
    return out


def _covariance(first, second, extent):
    """Covariance of the 2D supports whose axes are rows of `first` and `second`: (rows of first^2, rows of second^2).

    The exponential is not separable, but the supports are: all depends on the offset between two points.
    """
    offsets = np.arange(1 - first.shape[1], first.shape[1])
    points = np.exp(-np.hypot(offsets[:, None], offsets) / extent)
    along = np.stack(
        [[np.correlate(a, b, "full") for b in second] for a in first]
    )  # (first, second, offset)
    both = np.einsum("ikm,mn,jln->ijkl", along, points, along, optimize=True)
    return both.reshape(len(first) ** 2, len(second) ** 2)
