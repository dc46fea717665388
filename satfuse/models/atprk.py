"""Area-to-point regression kriging (ATPRK).

Wang, Shi, Atkinson and Zhao 2015, "Downscaling MODIS images with area-to-point regression kriging",
Remote Sensing of Environment 166; kriging from areas: Kyriakidis 2004, "A geostatistical framework
for area-to-point spatial interpolation", Geographical Analysis 36.

The trend is the scene regression. Its coarse residual is brought to the fine grid by ordinary
kriging with the PSF as support, so that degrading the result gives the coarse image back. With the
guide g, the coarse image y, S degrading and one coarse band:

    e = y - S (a g + b)                                 residual
    C(u, v) = exp(-|u - v| / r)                         covariance of points, range r
    C_ij = sum_uv h_i(u) h_j(v) C(u, v)                 of coarse pixels i and j with PSF h
    c_i(x) = sum_u h_i(u) C(u, x)                       of coarse pixel i and fine pixel x
    sum_j C_ij w_j(x) + m = c_i(x),  sum_j w_j(x) = 1   weights w, Lagrange multiplier m
    fused(x) = a g(x) + b + sum_j w_j(x) e_j            j: 7 x 7 coarse pixels around x
"""

from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional as F

from satfuse.arrays import FloatArray
from satfuse.models.interface import Fused, State, input_ratio
from satfuse.models.regression import MAX_PSF_SIGMA, Regression
from satfuse.models.summary import Summary
from satfuse.models.trend import coarse_parts, required, trend
from satfuse.sensors.degradation import psf_kernel, psf_radius

# Kriging reads 3 coarse pixels on each side, 7 x 7. Of white noise 5 x 5 would leave twice the
# error after degrading.
WINDOW = 3
LAGS = 8  # longest lag of the semivariogram along an axis, in coarse pixels
RANGES = tuple(np.geomspace(0.2, 20, 21))  # candidates, in coarse pixels
CELLS = 6  # points along a coarse pixel's side when a semivariogram is regularised


class ATPRK(Regression):
    """Trend from the guide, residual by area-to-point kriging.

    Each coarse band has one exponential semivariogram. The kriging weights depend on its range
    alone: there is no nugget, and the sill cancels.
    """

    name = "atprk"

    def reach(self, ratio: int) -> int:
        return psf_radius(MAX_PSF_SIGMA) + 1 + WINDOW  # residual, its local mean, kriging

    def fit(self, summary: Summary) -> State:
        """Fit the trend, and the range of each band's residual.

        The range is the candidate whose point semivariogram `1 - exp(-h / range)`, averaged over
        the PSF and scaled by the best sill, is nearest to the empirical one in least squares,
        weighted by pairs / lag^2 (the usual weights of gstat).

        Returns
        -------
        The state of `Regression`, and `range` (c_coarse,) in coarse pixels.
        """
        state = super().fit(summary)
        residual = summary.coarse - trend(summary.guide_coarse[None], state)[0]
        semivariance, pairs = semivariogram(residual.double(), summary.valid, LAGS)
        squares = torch.arange(LAGS + 1).to(pairs).square()
        weight = pairs / (squares[:, None] + squares).clamp(min=1)
        candidates = np.stack([regularised(r, summary.psf_sigma, LAGS) for r in RANGES])
        shapes = torch.from_numpy(candidates).to(pairs)
        norm = (weight * shapes.square()).sum((-2, -1)).clamp(min=1e-12)
        fits = torch.einsum("kij,rij->kr", semivariance * weight, shapes)
        # sum of squares that a candidate explains with its best sill, which is not negative
        best = (fits.clamp(min=0).square() / norm).argmax(1)
        return state | {"range": torch.tensor(RANGES, dtype=torch.float64)[best.cpu()]}

    def forward(
        self,
        guide: torch.Tensor,
        coarse: torch.Tensor,
        *,
        state: State | None = None,
        guide_valid: torch.Tensor | None = None,
        coarse_valid: torch.Tensor | None = None,
    ) -> Fused:
        state = required(state, self.name)
        ratio = input_ratio(guide, coarse)
        sigma = float(state["psf_sigma"])
        _, residual = coarse_parts(guide, coarse, state, guide_valid, coarse_valid)
        per_band = [kriging_weights(extent, sigma, ratio) for extent in state["range"].tolist()]
        weights = torch.from_numpy(np.stack(per_band)).to(guide)
        return Fused(trend(guide, state).add_(krige(residual, weights)))


def semivariogram(
    image: torch.Tensor, valid: torch.Tensor, lags: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Half the mean squared difference of valid pixels (dy, dx) apart; mirrored lags together.

    Parameters
    ----------
    image : (c, h, w).
    valid : (h, w) bool, True = usable.
    lags : longest lag along an axis, in pixels.

    Returns
    -------
    semivariance : (c, lags + 1, lags + 1), 0 where there is no pair.
    pairs : (lags + 1, lags + 1) numbers of pairs.
    """
    height, width = valid.shape
    total = image.new_zeros(len(image), lags + 1, lags + 1)
    pairs = image.new_zeros(lags + 1, lags + 1)
    for dy in range(min(lags + 1, height)):
        for dx in range(-min(lags, width - 1), min(lags + 1, width)):
            if dy == 0 and dx <= 0:
                continue  # no lag at all, or the mirror of one along the row
            here = slice(dy, None), slice(max(dx, 0), width + min(dx, 0))
            there = slice(None, height - dy), slice(max(-dx, 0), width - max(dx, 0))
            both = valid[here] & valid[there]
            squares = (image[:, *here] - image[:, *there]).square() * both
            total[:, dy, abs(dx)] += squares.sum((-2, -1)) / 2
            pairs[dy, abs(dx)] += both.sum()
    return total / pairs.clamp(min=1), pairs


@lru_cache(maxsize=64)
def regularised(extent: float, psf_sigma: float, lags: int) -> FloatArray:
    """Semivariogram (lags + 1, lags + 1) of coarse pixels where that of points is exponential.

    Parameters
    ----------
    extent : range r of `1 - exp(-h / r)`, in coarse pixels.
    psf_sigma : in coarse pixels.
    lags : longest lag along an axis, in coarse pixels.
    """
    supports = _supports(lags + 1, psf_sigma, CELLS)
    covariance = _covariance(supports[:1], supports, extent * CELLS)[0]
    return (covariance[0] - covariance).reshape(lags + 1, lags + 1)


@lru_cache(maxsize=64)
def kriging_weights(extent: float, psf_sigma: float, ratio: int) -> FloatArray:
    """Weights of 7 x 7 coarse pixels for each fine pixel of the middle one; they sum to 1.

    Ordinary kriging, see the equations of this module.

    Parameters
    ----------
    extent : range of the covariance, in coarse pixels.
    psf_sigma : in coarse pixels.
    ratio : fine pixels per coarse pixel.

    Returns
    -------
    (ratio, ratio, 7, 7)
    """
    side = 2 * WINDOW + 1
    supports = _supports(side, psf_sigma, ratio)
    centre = WINDOW * ratio - psf_kernel(ratio, psf_sigma).first
    points = np.eye(ratio, supports.shape[1], centre)  # fine pixels of the middle coarse pixel
    to_coarse = _covariance(supports, supports, extent * ratio)
    to_fine = _covariance(supports, points, extent * ratio)
    system = np.ones((side**2 + 1, side**2 + 1))
    system[:-1, :-1] = to_coarse
    system[-1, -1] = 0
    weights = np.linalg.solve(system, np.vstack([to_fine, np.ones(ratio**2)]))[:-1]
    return weights.T.reshape(ratio, ratio, side, side)


def krige(image: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Interpolate to the fine grid; edges are replicated.

    Parameters
    ----------
    image : (b, c, h, w).
    weights : (c, ratio, ratio, 7, 7), see `kriging_weights`.

    Returns
    -------
    (b, c, h * ratio, w * ratio)
    """
    bands, ratio = weights.shape[:2]
    padded = F.pad(image, (WINDOW,) * 4, mode="replicate")
    kernels = weights.reshape(bands * ratio**2, 1, *weights.shape[-2:])
    return F.pixel_shuffle(F.conv2d(padded, kernels, groups=bands), ratio)


def _supports(count: int, psf_sigma: float, ratio: int) -> FloatArray:
    """PSF (count, n) of neighbouring coarse pixels along one axis of n fine pixels.

    The axis begins where the PSF of the first coarse pixel does.
    """
    weights = psf_kernel(ratio, psf_sigma).weights
    out = np.zeros((count, (count - 1) * ratio + len(weights)))
    for i in range(count):
        out[i, i * ratio : i * ratio + len(weights)] = weights
    return out


def _covariance(first: FloatArray, second: FloatArray, extent: float) -> FloatArray:
    """Covariances of supports in the plane under `exp(-h / extent)`.

    The exponential is not separable, but the supports are: their covariance is a sum over the
    offsets between two points, weighted by the correlation of the supports along either axis.

    Parameters
    ----------
    first, second : (p, n) and (q, n) supports along one axis; either axis has the same.
    extent : range in fine pixels.

    Returns
    -------
    (p * p, q * q)
    """
    offsets = np.arange(1 - first.shape[1], first.shape[1])
    points = np.exp(-np.hypot(offsets[:, None], offsets) / extent)
    correlations = [[np.correlate(a, b, "full") for b in second] for a in first]
    along = np.stack(correlations)  # (p, q, offset)
    plane = np.einsum("ikm,mn,jln->ijkl", along, points, along, optimize=True)
    return plane.reshape(len(first) ** 2, len(second) ** 2)
