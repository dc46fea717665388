"""Sub-pixel shift between the guide and the coarse image, with its uncertainty.

Model, per coarse pixel p: `coarse(p) = A g(p - s) + b(p) + e(p)`, where g are the degraded guide's bands and coarse
the coarse bands (leading principal components of both), A is fitted for every trial shift s (spectral matching:
variable projection, Golub and Pereyra 1973), b is anything smooth (calibration, haze), removed from both sides by
subtracting the mean of the valid pixels around, and e is correlated between bands. The guide is interpolated, never
the noisy coarse image; both are smoothed slightly before, because interpolating half-way between pixels smooths too,
which would draw the estimate there wherever the guide shows detail that the coarse image lacks (another date, a
preview). Whole-pixel shifts are searched first, then Gauss-Newton steps with Student-t weights; the covariance is the
robust sandwich estimate with spatially correlated residuals (Conley 1999).
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from satfuse.errors import GridError

SEARCH = 3  # whole-pixel shifts tried, each way
LIMIT_PX = 2.5  # a larger estimate lies too near the search's edge to be trusted
LIMIT_SIGMA_PX = 0.25
MINIMUM_PIXELS = 24
# of texture; more where few pixels and many regressors make chance agreement likely
MINIMUM_CORRELATION = 0.15
FREEDOM = 4.0  # of the Student-t weights
# of the standard deviation: interpolating a guide that the PSF leaves slightly aliased
FLOOR_PX = 0.01
STEPS = 12  # of Gauss-Newton
SMOOTHING_PX = 0.7  # standard deviation of the Gaussian that both images get
COMPONENTS = 8  # principal components of either image
SURROUNDINGS = 11  # pixels; width of the window whose mean is subtracted
PAD = 8  # mirrored pixels around the guide, so that the spline has no edge


@dataclass(frozen=True, slots=True)
class ShiftEstimate:
    """How far coarse content lies from where the guide has it, in metres east (dx) and north (dy).

    `sigma_m` is the standard deviation along the less certain direction. When `trusted` is False, `reason` says why
    and the shift must not be applied.
    """

    dx_m: float
    dy_m: float
    sigma_m: float
    trusted: bool
    reason: str


def estimate_shift(guide_coarse, coarse, *, pixel_m: float, valid=None) -> ShiftEstimate:
    """Estimate the shift of a coarse image against the guide degraded onto the same grid.

    Parameters
    ----------
    guide_coarse : (g, y, x), the guide degraded with the coarse sensor's PSF; NaN where it has no data.
    coarse : (c, y, x); NaN where it has no data. Bands and radiometry may differ from the guide's.
    pixel_m : size of a coarse pixel in m; rows run southward.
    valid : (y, x) bool or None, True = the coarse pixel is usable. Holes of the guide are NaN in `guide_coarse`.

    Raises
    ------
    GridError
        The two images differ in size.
    """
    guide, coarse = (np.asarray(a, np.float64) for a in (guide_coarse, coarse))
    if guide.shape[-2:] != coarse.shape[-2:]:
        raise GridError(
            f"guide is {guide.shape[-2:]} and coarse {coarse.shape[-2:]} pixels; degrade the guide first"
        )
    coarse = coarse[np.isfinite(coarse).any((1, 2))]
    guide = guide[np.isfinite(guide).any((1, 2))]
    usable = (
        np.isfinite(coarse).all(0)
        if valid is None
        else np.isfinite(coarse).all(0) & np.asarray(valid, bool)
    )
    known = np.isfinite(guide).all(0)
    count = int((usable & known).sum()) if len(guide) and len(coarse) else 0
    if count < MINIMUM_PIXELS:
        return _untrusted(f"{count} pixels are valid in both images, {MINIMUM_PIXELS} are needed")
    guide, coarse = (
        _components(guide, known, max(1, count // 15)),
        _components(coarse, usable, COMPONENTS),
    )
    if not len(guide) or not len(coarse):
        return _untrusted("the image has no texture")
    problem = _Problem(_fill(guide, known), known, coarse, usable)
    scores = problem.search()
    if not scores:
        return _untrusted(f"too few of the {count} valid pixels overlap at trial shifts")
    fit = problem.refine(min(scores, key=scores.get))
    variance = (
        np.linalg.eigvalsh(fit.covariance)[-1] + _ambiguity(scores, fit.shift, count) + FLOOR_PX**2
    )
    return _judge(fit, float(np.sqrt(variance)), pixel_m)


def _ambiguity(scores, shift, count):
    """Variance from whole-pixel shifts elsewhere that fit nearly as well, each weighed by its likelihood."""
    trials, score = np.array(list(scores)), np.array(list(scores.values()))
    likelihood = np.exp(-0.5 * count * (score - score.min()))
    elsewhere = likelihood * (np.abs(trials - shift).max(1) > 1.5)
    return float((elsewhere * ((trials - shift) ** 2).sum(1) / 2).sum() / likelihood.sum())


def _judge(fit, sigma, pixel_m):
    length = np.hypot(*fit.shift)
    needed = max(MINIMUM_CORRELATION, min(0.85, 2.2 * np.sqrt(fit.columns / max(fit.pixels, 1))))
    reason = ""
    if not fit.converged or not np.isfinite(sigma):
        reason = "the estimate did not converge"
    elif fit.pixels < MINIMUM_PIXELS:
        reason = f"only {fit.pixels} valid pixels overlap at the shift found, {MINIMUM_PIXELS} are needed"
    elif fit.correlation < needed:
        reason = (
            f"the textures hardly agree: correlation {fit.correlation:.2f}, {needed:.2f} is needed"
        )
    elif length > LIMIT_PX:
        reason = f"{length:.2f} coarse pixels are beyond the limit of {LIMIT_PX}"
    elif sigma > LIMIT_SIGMA_PX:
        reason = f"the standard deviation of {sigma:.2f} coarse pixels is above {LIMIT_SIGMA_PX}"
    dx, dy = fit.shift  # array axes: right and down; down is south
    return ShiftEstimate(
        float(dx * pixel_m), float(-dy * pixel_m), sigma * pixel_m, not reason, reason
    )


def _untrusted(reason):
    return ShiftEstimate(0.0, 0.0, float("inf"), False, reason)


def _components(image, known, most):
    """Leading principal components of the standardised image (known pixels), each of variance 1; 0 elsewhere."""
    values = image[:, known]
    spread = values.std(1)
    values, spread = values[spread > 1e-6], spread[spread > 1e-6]
    if not len(values):
        return values
    values = (values - values.mean(1, keepdims=True)) / spread[:, None]
    strength, vectors = np.linalg.eigh(values @ values.T / values.shape[1])
    keep = np.flatnonzero(strength > 1e-4 * strength[-1])[::-1][: min(most, COMPONENTS)]
    out = np.zeros((len(keep), *known.shape))
    out[:, known] = vectors[:, keep].T @ values / np.sqrt(strength[keep, None])
    return out


def _fill(image, known):
    """Fill holes with a Gaussian mean of what is around, widening until every hole is reached."""
    if known.all():
        return image
    for sigma in (1.0, 3.0, 10.0, float(max(known.shape))):
        weight = ndimage.gaussian_filter(known.astype(float), sigma, mode="constant")
        blurred = ndimage.gaussian_filter(image * known, (0, sigma, sigma), mode="constant")
        reached = ~known & (weight > 0.02)
        image = np.where(reached, blurred / np.maximum(weight, 1e-12), image)
        known = known | reached
    return image


@dataclass(frozen=True)
class _Fit:
    """Result of the refinement: shift (right, down) and its 2 x 2 covariance in coarse pixels."""

    shift: np.ndarray
    covariance: np.ndarray
    correlation: float
    pixels: int
    columns: int
    converged: bool


class _Problem:
    """The images and what every trial shift needs of them."""

    def __init__(self, guide, known, coarse, usable):
        padded = (np.pad(g, PAD, mode="reflect", reflect_type="odd") for g in guide)
        self.splines = [
            ndimage.spline_filter(ndimage.gaussian_filter(p, SMOOTHING_PX)) for p in padded
        ]
        self.known = known.astype(float)
        self.usable = usable
        self.coarse = _smooth(coarse, usable)
        self.overlap = known & usable
        self.y, self.x = np.indices(usable.shape, dtype=float)

    def at(self, shift):
        """Pixels in use, their weight, and there the detail of the guide (n, g) and of the coarse image (n, c)."""
        place = (self.y - shift[1], self.x - shift[0])
        weight = ndimage.map_coordinates(self.known, place, order=1, mode="constant") * self.usable
        inside = (
            (place[0] >= -1e-9)
            & (place[0] <= self.y.max())
            & (place[1] >= -1e-9)
            & (place[1] <= self.x.max())
        )
        used = (weight > 0.5) & inside
        guide, coarse = self._interpolate(used, shift), self.coarse[:, used].T
        return used, weight[used], _detail(guide, used), _detail(coarse, used)

    def search(self):
        """Log of the share left unexplained, mean over bands, per whole-pixel shift with enough overlap."""
        scores = {}
        trials = range(-SEARCH, SEARCH + 1)
        for shift in ((dx, dy) for dy in trials for dx in trials):
            _, weight, guide, coarse = self.at(shift)
            if len(weight) < max(self.overlap.sum() / 2, guide.shape[1] + 8):
                continue
            before = (weight[:, None] * coarse**2).sum(0)
            after = (weight[:, None] * (coarse - guide @ _match(guide, coarse, weight)) ** 2).sum(0)
            freedom = len(weight) / (len(weight) - guide.shape[1])
            scores[shift] = np.log(
                np.maximum(after, 1e-12) / np.maximum(before, 1e-12) * freedom
            ).mean()
        return scores

    def refine(self, start):
        """Gauss-Newton from a whole-pixel shift."""
        shift, robust = np.array(start, float), np.ones(self.usable.shape)
        for _ in range(STEPS):
            used, weight, guide, coarse = self.at(shift)
            weight = weight * robust[used]
            matched = _match(guide, coarse, weight)
            residual = coarse - guide @ matched
            whiten = _whitener(residual, weight)
            distance = ((residual @ whiten) ** 2).sum(1)
            robust[used] = (FREEDOM + len(whiten)) / (FREEDOM + distance)
            slopes = self._slopes(shift, used) @ (matched @ whiten)  # (2, n, c): d model / d shift
            slopes = [_detail(s, used) for s in slopes]
            slopes = (
                np.stack([s - guide @ _match(guide, s, weight) for s in slopes])
                * np.sqrt(weight)[:, None]
            )
            scores = np.einsum("inc,nc->ni", slopes, residual @ whiten * np.sqrt(weight)[:, None])
            hessian = np.einsum("inc,jnc->ij", slopes, slopes)
            if not np.linalg.cond(hessian) < 1e8:
                return _Fit(shift, np.full((2, 2), np.inf), 0.0, len(weight), guide.shape[1], False)
            move = np.linalg.solve(hessian, scores.sum(0))
            if np.hypot(*move) < 2e-3:
                break
            shift = np.clip(shift + move * min(1.0, 0.5 / np.hypot(*move)), -SEARCH - 1, SEARCH + 1)
        correlation = _texture_correlation(guide @ matched, coarse, used)
        free = len(weight) / max(len(weight) - guide.shape[1] - 2, 1)
        converged = np.hypot(*move) < 0.05 and np.abs(shift - start).max() < 1.5
        covariance = _sandwich(hessian, scores, used) * free
        return _Fit(shift, covariance, correlation, len(weight), guide.shape[1], bool(converged))

    def _slopes(self, shift, used):
        """(2, n, g) derivative of the shifted guide by the shift (right, down), by central differences."""
        steps = 0.25 * np.eye(2)
        return np.stack(
            [
                (self._interpolate(used, shift + s) - self._interpolate(used, shift - s)) * 2
                for s in steps
            ]
        )

    def _interpolate(self, used, shift):
        """(n, g) guide moved by the shift, at the pixels in use: cubic spline."""
        place = (self.y[used] - shift[1] + PAD, self.x[used] - shift[0] + PAD)
        return np.stack(
            [ndimage.map_coordinates(s, place, order=3, prefilter=False) for s in self.splines],
            axis=1,
        )


def _smooth(image, usable):
    """Gaussian mean of the usable pixels, at the usable pixels; 0 elsewhere."""
    weight = ndimage.gaussian_filter(usable.astype(float), SMOOTHING_PX, mode="constant")
    blurred = ndimage.gaussian_filter(
        image * usable, (0, SMOOTHING_PX, SMOOTHING_PX), mode="constant"
    )
    return np.where(usable, blurred / np.maximum(weight, 1e-12), 0.0)


def _detail(values, used):
    """Values (n, k) at the pixels in use, less the mean of those around each."""
    field = np.zeros((values.shape[1] + 1, *used.shape))
    field[:-1, used] = values.T
    field[-1] = used
    *means, weight = (ndimage.uniform_filter(f, SURROUNDINGS, mode="constant")[used] for f in field)
    return values - np.stack(means, axis=1) / weight[:, None]


def _match(guide, values, weight):
    """(g, k) coefficients of the weighted least-squares fit of values (n, k) by guide (n, g)."""
    heavy = guide * weight[:, None]
    return np.linalg.lstsq(heavy.T @ guide, heavy.T @ values, rcond=1e-10)[0]


def _texture_correlation(model, coarse, used):
    """Correlation of neighbour differences, of the best band: smooth trends agree by chance, texture does not."""
    fields = np.full((2, model.shape[1], *used.shape), np.nan)
    fields[:, :, used] = np.stack([model.T, coarse.T])
    steps = np.concatenate(
        [np.diff(fields, axis=a).reshape(*fields.shape[:2], -1) for a in (2, 3)], axis=2
    )
    steps = steps[..., np.isfinite(steps).all((0, 1))]
    together = (steps[0] * steps[1]).sum(1)
    return float((together / np.sqrt((steps**2).sum(2).prod(0) + 1e-30)).max(initial=0.0))


def _whitener(residual, weight):
    """(c, c) matrix that makes residuals independent between bands, with shrinkage towards independence."""
    covariance = (residual * weight[:, None]).T @ residual / weight.sum()
    shrink = min(1.0, 0.02 + len(covariance) / len(residual))
    covariance = (1 - shrink) * covariance + shrink * np.diag(np.diag(covariance) + 1e-9)
    strength, vectors = np.linalg.eigh(covariance)
    return vectors / np.sqrt(np.maximum(strength, 1e-9 * strength[-1])) @ vectors.T


def _sandwich(hessian, scores, used):
    """Covariance of the shift from scores (n, 2), whose spatial correlation dies out within 4 pixels."""
    field = np.zeros((2, *used.shape))
    field[:, used] = scores.T
    taper = np.array([1, 2, 3, 4, 3, 2, 1]) / 4
    spread = ndimage.convolve1d(
        ndimage.convolve1d(field, taper, axis=1, mode="constant"), taper, axis=2, mode="constant"
    )
    meat = np.einsum("iyx,jyx->ij", field, spread)
    bread = np.linalg.inv(hessian)
    return bread @ (meat + meat.T) / 2 @ bread
