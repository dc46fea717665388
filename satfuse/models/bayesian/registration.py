"""Registration of a coarse frame: shift and PSF width at the maximum of their posterior.

For every candidate theta = (dx, dy, log p) the guide is degraded with shift (dx, dy) and PSF width
p, and the prior of the spectral map predicts the coarse image from it. Candidates are compared by
their posterior

    log p(theta | y) = log p(y | theta) / T + log p(theta) + const

The evidence p(y | theta) integrates map and gains out, so a few dozen coarse pixels are enough. For
a band with features Z, prediction x = Z m, and precisions w of its pixels,

    y - x ~ N(0, B B' + v diag(1 / w)),    B = [sqrt(c) Z L, s_g x]

where L L' is the prior covariance of the band's row of the map, c and s_g are fixed
hyperparameters, and the noise variance v is found by MacKay's fixed-point iteration (Bishop 2006,
sections 3.5.1 and 3.5.2). T tempers the evidence, since the bands' errors are not independent.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy.optimize import minimize

from satfuse.arrays import BoolArray, FloatArray
from satfuse.geometry.cells import cell_psf_sigma
from satfuse.models.bayesian.spectral_prior import MapPrior
from satfuse.models.bayesian.sufficient_statistics import usable_features
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA, axis_matrix, psf_kernel

WINDOW = 24  # side in coarse pixels of the part that is registered; more pixels add no accuracy
MINIMUM_COVERAGE = 0.35  # of the PSF on usable guide, for a coarse pixel to be used
MINIMUM_PIXELS = 6  # coarse pixels that shift and width are estimated from
MINIMUM_PRECISION = 2.0  # their summed `relative_precision`
# Log-normal prior of the PSF width: median in coarse pixels, standard deviation of the logarithm.
PSF_SIGMA = 0.5
PSF_LOG_SIGMA = 0.25
PSF_LIMITS = (0.25, 1.2)  # coarse pixels
# Standard deviation of the shift's Gaussian prior, and the largest shift that is searched, both in
# coarse pixels; True = the frame is registered already.
SHIFT_SIGMA = {False: 0.7, True: 0.1}
SEARCH_RADIUS = {False: 2.5, True: 0.25}
MAP_SCALE = 0.3  # c: prior covariance of the map, relative to the library's
GAIN_SIGMA = 0.02  # s_g
NOISE_ITERATIONS = 4
NOISE_FLOOR = 1e-9  # reflectance squared
TEMPERATURE = 4.0  # T: the bands' errors are correlated, so their summed evidence is too large
OUTLIER_Z = 4.0  # robust standard deviations at which a pixel's weight is halved
OUTLIER_FLOOR = 3e-4  # reflectance: smallest standard deviation that z-scores refer to
# Error variance of a pixel whose PSF is on hidden ground only, over the noise variance.
UNSEEN_VARIANCE = 1000.0
GRID_STEP = 0.5  # coarse pixels between the starting shifts of an unregistered frame
GRID_RADIUS = 2.0
SIMPLEX_STEPS = (0.2, 0.05)  # of the two Nelder-Mead searches, coarse then fine
WIDE_CANDIDATES = 39  # PSF widths that are compared for the wide bands
CURVATURE_STEP = 0.03  # coarse pixels, of the finite differences


@dataclass(frozen=True, kw_only=True)
class GuideCells:
    """The guide's means over cells, from which it can be degraded under any PSF and shift.

    Parameters
    ----------
    image : (g, y, x) reflectance, zero where not valid.
    valid : (y, x) float, 1 = usable, 0 = not.
    cells_per_pixel : cells along a coarse pixel.
    ratio : fine pixels along a coarse pixel.
    """

    image: FloatArray
    valid: FloatArray
    cells_per_pixel: int
    ratio: int

    def degrade(self, psf_sigma: float, shift: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The guide (g, h, w) at the coarse scale, and the coverage (h, w): PSF on usable guide."""
        sigma = cell_psf_sigma(psf_sigma, self.ratio, self.cells_per_pixel)
        rows, columns = (
            axis_matrix(size, psf_kernel(self.cells_per_pixel, sigma, s))
            for size, s in zip(self.valid.shape, shift[::-1], strict=True)
        )
        coverage = rows @ self.valid @ columns.T
        return (rows @ self.image @ columns.T) / np.maximum(coverage, 1e-6), coverage

    def window(self, rows: slice, columns: slice) -> "GuideCells":
        """The cells of a window of coarse pixels."""
        k = self.cells_per_pixel
        cut = tuple(slice(s.start * k, s.stop * k) for s in (rows, columns))
        return GuideCells(
            image=self.image[:, *cut], valid=self.valid[cut], cells_per_pixel=k, ratio=self.ratio
        )


@dataclass(frozen=True, kw_only=True)
class FrameObservation:
    """How one frame was observed, in coarse pixels.

    Parameters
    ----------
    shift : (2,) along x and y.
    shift_sigma : (2,) standard deviation of the shift along x and y.
    psf_sigma : (c,) PSF width of each coarse band.
    """

    shift: FloatArray
    shift_sigma: FloatArray
    psf_sigma: FloatArray


def estimate_observation(
    cells: GuideCells,
    coarse: FloatArray,
    valid: BoolArray,
    prior: MapPrior,
    *,
    wide: BoolArray,
    registered: bool,
) -> FrameObservation:
    """Shift and PSF widths of one frame.

    Parameters
    ----------
    coarse : (c, h, w) reflectance.
    valid : (h, w) bool, True = usable.
    prior : of the c bands.
    wide : (c,) bool, True = a band with a PSF width of its own (SLSTR, natively 500 m).
    registered : True = the frame is registered already, so its shift is small.
    """
    main = ~wide if (~wide).any() else wide
    posterior = _Posterior.of(cells, coarse, valid, prior, main, registered)
    if posterior is None:
        return uninformed(len(coarse), registered)
    theta = posterior.start()
    for step in SIMPLEX_STEPS:
        # The weights are held during a search; otherwise a candidate could gain by leaving out
        # pixels that it does not explain.
        weight = posterior.weights(theta)
        cost = partial(posterior.cost, weight=weight, bands=main)
        theta = _minimise(cost, theta, step)
    psf_sigma = np.full(len(coarse), np.exp(theta[2]))
    if wide.any() and not wide.all():
        log_widths = np.log(np.linspace(*PSF_LIMITS, WIDE_CANDIDATES))
        candidates = [np.array([*theta[:2], width]) for width in log_widths]
        best = min(candidates, key=partial(posterior.cost, weight=weight, bands=wide))
        psf_sigma[wide] = np.exp(best[2])
    shift_sigma = _laplace_sigma(cost, theta, SHIFT_SIGMA[registered])
    return FrameObservation(shift=theta[:2], shift_sigma=shift_sigma, psf_sigma=psf_sigma)


def uninformed(bands: int, registered: bool) -> FrameObservation:
    """Observation of a frame without enough data: the prior's."""
    return FrameObservation(
        shift=np.zeros(2),
        shift_sigma=np.zeros(2) + SHIFT_SIGMA[registered],
        psf_sigma=np.full(bands, DEFAULT_PSF_SIGMA),
    )


def relative_precision(coverage: FloatArray) -> FloatArray:
    """Inverse error variance of coarse pixels, over that of a pixel with full coverage.

    With coverage a, the error has the variance 1 / a^2 of noise that is not averaged out, plus
    `UNSEEN_VARIANCE` (1 - a)^2 of hidden ground.
    """
    hidden = UNSEEN_VARIANCE * (1 - coverage.clip(max=1)) ** 2
    return 1 / (1 / coverage.clip(1e-3, 1) ** 2 + hidden)


def cauchy_weights(y: FloatArray, predicted: FloatArray) -> FloatArray:
    """Robust weights (n,) of pixels by the error of their brightness: cloud and change get little.

    w = 1 / (1 + (z / OUTLIER_Z)^2), the Cauchy weight function (Holland and Welsch 1977), with
    z-scores from median and median absolute deviation. An error common to all pixels is no outlier.

    Parameters
    ----------
    y, predicted : (n, c) reflectance.
    """
    error = (y - predicted).mean(1)
    error = error - np.median(error)
    # 1.4826 turns the median absolute deviation of a Gaussian into its standard deviation
    scale = 1.4826 * np.median(np.abs(error)) + OUTLIER_FLOOR
    return 1 / (1 + (error / (OUTLIER_Z * scale)) ** 2)


@dataclass(frozen=True, kw_only=True)
class _Posterior:
    """Posterior of theta = (dx, dy, log PSF width), for the best covered window of a frame.

    Parameters
    ----------
    cells, y, usable : guide, coarse values (c, h, w) and their validity in the window.
    prior : of the c bands.
    root : (c, f, f) Cholesky factors L of the prior covariance, band by band.
    main : (c,) bool, True = a band that the shift is estimated from.
    registered : True = the shift is small.
    required : sum of weights below which a candidate is rejected.
    """

    cells: GuideCells
    y: FloatArray
    usable: BoolArray
    prior: MapPrior
    root: FloatArray
    main: BoolArray
    registered: bool
    required: float = MINIMUM_PRECISION

    @classmethod
    def of(
        cls,
        cells: GuideCells,
        coarse: FloatArray,
        valid: BoolArray,
        prior: MapPrior,
        main: BoolArray,
        registered: bool,
    ) -> "_Posterior | None":
        """Posterior of a frame; None without enough usable pixels."""
        _, coverage = cells.degrade(PSF_SIGMA, np.zeros(2))
        rows, columns = _best_window(valid & (coverage > MINIMUM_COVERAGE))
        posterior = cls(
            cells=cells.window(rows, columns),
            y=coarse[:, rows, columns],
            usable=valid[rows, columns],
            prior=prior,
            root=np.linalg.cholesky(prior.by_band + 1e-12 * np.eye(prior.mean.shape[1])),
            main=main,
            registered=registered,
        )
        weight = posterior.weights(_centre())
        if not _enough(weight, MINIMUM_PRECISION):
            return None
        # half of what the centre has: candidates that cover little would win too easily
        return replace(posterior, required=max(MINIMUM_PRECISION, weight.sum() / 2))

    def start(self) -> FloatArray:
        """Where to start the search: the prior mean, or the best shift of a grid."""
        centre = _centre()
        if self.registered:
            return centre
        steps = np.arange(-GRID_RADIUS, GRID_RADIUS + 0.01, GRID_STEP)
        grid = [np.array([dx, dy, centre[2]]) for dx in steps for dy in steps]
        return min([centre, *grid], key=lambda t: self.cost(t, self.weights(t), self.main))

    def weights(self, theta: FloatArray) -> FloatArray:
        """Relative precision (h, w) of the pixels under theta; 0 = not used."""
        _, coverage = self.cells.degrade(np.exp(theta[2]), theta[:2])
        used = self.usable & (coverage > MINIMUM_COVERAGE)
        return np.where(used, relative_precision(coverage), 0.0)

    def cost(self, theta: FloatArray, weight: FloatArray, bands: BoolArray) -> float:
        """Negative log posterior for some of the bands; infinite outside the search limits."""
        shift = theta[:2]
        log_width = theta[2]
        within = np.abs(shift).max() <= SEARCH_RADIUS[self.registered]
        if not (within and PSF_LIMITS[0] <= np.exp(log_width) <= PSF_LIMITS[1]):
            return np.inf
        if not _enough(weight, self.required):
            return np.inf
        used = weight > 0
        guide_coarse, _ = self.cells.degrade(np.exp(log_width), shift)
        evidence = _log_evidence(
            usable_features(guide_coarse, used),
            self.y[bands][:, used].T,
            weight[used],
            self.prior.mean[bands],
            self.root[bands],
        )
        of_width = ((log_width - np.log(PSF_SIGMA)) / PSF_LOG_SIGMA) ** 2
        of_shift = np.square(shift).sum() / SHIFT_SIGMA[self.registered] ** 2
        return (of_width + of_shift) / 2 - evidence / TEMPERATURE


def _centre() -> FloatArray:
    """Prior mean of theta."""
    return np.array([0.0, 0.0, np.log(PSF_SIGMA)])


def _enough(weight: FloatArray, required: float) -> bool:
    return bool((weight > 0).sum() >= MINIMUM_PIXELS and weight.sum() >= required)


def _minimise(cost: Callable[[FloatArray], float], start: FloatArray, step: float) -> FloatArray:
    """Minimum by Nelder and Mead (1965) from a simplex of side `step`; the cost may be infinite."""
    simplex = start + step * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    options = {"initial_simplex": simplex, "xatol": 2e-3, "fatol": 0.02, "maxfev": 160}
    with np.errstate(invalid="ignore"):  # inf - inf in the simplex
        return minimize(cost, start, method="Nelder-Mead", options=options).x


def _laplace_sigma(
    cost: Callable[[FloatArray], float], theta: FloatArray, prior_sigma: float
) -> FloatArray:
    """Standard deviation (2,) of the shift by Laplace's approximation (Bishop 2006, section 4.4).

    1 / sqrt(curvature of the cost) along each axis, at most that of the prior.
    """
    sigma = []
    for axis in (0, 1):
        step = np.eye(3)[axis] * CURVATURE_STEP
        second_difference = cost(theta + step) + cost(theta - step) - 2 * cost(theta)
        curvature = second_difference / CURVATURE_STEP**2
        known = 0 < curvature < np.inf
        sigma.append(min(1 / np.sqrt(curvature), prior_sigma) if known else prior_sigma)
    return np.array(sigma)


def _log_evidence(
    z: FloatArray, y: FloatArray, weight: FloatArray, mean: FloatArray, root: FloatArray
) -> float:
    """Log evidence of coarse values under the prior, relative to that of a constant image.

    -1/2 (log |C| + r' C^-1 r) per band for r = y - x and C = B B' + v diag(1 / w), by the
    eigenvalues l and eigenvectors V of B' diag(w) B (Rasmussen and Williams 2006, equation 2.30):

        log |C|    = n log v - sum log w + sum log(1 + l / v)
        r' C^-1 r  = (r' diag(w) r - sum a^2 / (l + v)) / v      with a = V' B' diag(w) r

    The reference makes candidates comparable that use different pixels.

    Parameters
    ----------
    z : (n, f), y : (n, c), weight : (n,) w.
    mean : (c, f) prior mean, root : (c, f, f) Cholesky factors of its covariance.
    """
    n = len(y)
    x = z @ mean.T
    r = y - x
    of_map = np.sqrt(MAP_SCALE) * (z @ root)
    of_gain = GAIN_SIGMA * x.T[..., None]
    design = np.concatenate([of_map, of_gain], 2)  # B: (c, n, f + 1)
    weighted = design * weight[:, None]
    eigenvalues, vectors = np.linalg.eigh(weighted.transpose(0, 2, 1) @ design)
    eigenvalues = np.maximum(eigenvalues, 0)
    a = np.einsum("cij,ci->cj", vectors, np.einsum("cni,nc->ci", weighted, r))
    rr = (weight[:, None] * r**2).sum(0)
    noise = _noise_variance(eigenvalues, a, rr, n)
    fit = (rr - (a**2 / (eigenvalues + noise[:, None])).sum(1)) / noise
    log_det = n * np.log(noise) - np.log(weight).sum()
    log_det = log_det + np.log1p(eigenvalues / noise[:, None]).sum(1)
    centred = y - np.average(y, axis=0, weights=weight)
    variance = np.average(centred**2, axis=0, weights=weight)
    of_constant = n * (np.log(variance + NOISE_FLOOR) + 1) - np.log(weight).sum()
    return 0.5 * (of_constant - log_det - fit).sum()


def _noise_variance(eigenvalues: FloatArray, a: FloatArray, rr: FloatArray, n: int) -> FloatArray:
    """Noise variance v (c,) of greatest evidence, from `_log_evidence`'s sums.

    Fixed point v = RSS / (n - gamma) for the residual sum of squares RSS of the posterior mean and
    gamma = sum l / (l + v) effective parameters (Bishop 2006, equations 3.91 and 3.95).
    """
    noise = np.full(len(rr), rr.mean() / n)
    for _ in range(NOISE_ITERATIONS):
        coefficients = a / (eigenvalues + noise[:, None])  # posterior mean in the eigenvectors
        rss = rr - (2 * coefficients * a - eigenvalues * coefficients**2).sum(1)
        free = n - (eigenvalues / (eigenvalues + noise[:, None])).sum(1)
        noise = np.maximum(rss / np.maximum(free, 0.1 * n), NOISE_FLOOR)
    return noise


def _best_window(valid: BoolArray) -> tuple[slice, slice]:
    """Rows and columns of the window, at most `WINDOW` pixels a side, with most usable pixels."""
    total = np.pad(valid.cumsum(0).cumsum(1), ((1, 0), (1, 0)))  # integral image
    h, w = (min(WINDOW, size) for size in valid.shape)
    count = total[h:, w:] - total[:-h, w:] - total[h:, :-w] + total[:-h, :-w]
    row, column = np.unravel_index(count.argmax(), count.shape)
    return slice(row, row + h), slice(column, column + w)
