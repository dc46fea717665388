"""Sub-pixel shift between the guide and the coarse image, with its uncertainty.

Model, per coarse pixel p: `coarse(p) = A g(p - s) + b(p) + e(p)`. g are the bands of the degraded
guide and coarse the coarse bands (leading principal components of both). A is fitted for every
trial shift s (spectral matching; variable projection, Golub and Pereyra 1973). b is anything smooth
(calibration, haze) and is removed from both sides by subtracting the mean of the valid pixels
around. e is correlated between bands.

The guide is interpolated, never the noisy coarse image. Both are smoothed slightly before:
interpolation half-way between pixels smooths too, and would attract the estimate to half pixels
wherever the guide shows detail that the coarse image lacks (another date, a preview).

Whole-pixel shifts are searched first, then refined by Gauss-Newton steps with Student-t weights.
The covariance is the robust sandwich estimate with spatially correlated residuals (Conley 1999).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from satfuse.arrays import BoolArray, FloatArray
from satfuse.errors import GridError

# Limits in coarse pixels have the suffix _PX.
SEARCH = 3  # whole-pixel shifts tried, in each direction
LIMIT_PX = 2.5  # a larger estimate is too near the edge of the search to be trusted
LIMIT_SIGMA_PX = 0.25  # a larger standard deviation is not trusted
MINIMUM_PIXELS = 24  # that are valid in both images
# Lowest correlation of texture; `_needed_correlation` asks for more where chance agreement is
# likely: few pixels and many regressors.
MINIMUM_CORRELATION = 0.15
FREEDOM = 4.0  # degrees of freedom of the Student-t weights
# Least standard deviation: the error of interpolating a guide that the PSF leaves slightly aliased.
FLOOR_PX = 0.01
STEPS = 12  # Gauss-Newton steps at most
CONVERGED_PX = 2e-3  # a shorter step ends the iteration
SMOOTHING_PX = 0.7  # standard deviation of the Gaussian applied to both images
COMPONENTS = 8  # principal components of either image, at most
SURROUNDINGS = 11  # pixels; width of the window whose mean is subtracted
PAD = 8  # pixels mirrored around the guide, so that the spline has no edge inside the search range


@dataclass(frozen=True, slots=True)
class ShiftEstimate:
    """How far coarse content is displaced from the guide, in metres east (dx) and north (dy).

    `sigma_m` is the standard deviation along the less certain direction. When `trusted` is False,
    `reason` says why and the shift must not be applied.
    """

    dx_m: float
    dy_m: float
    sigma_m: float
    trusted: bool
    reason: str


def estimate_shift(
    guide_coarse: npt.ArrayLike,
    coarse: npt.ArrayLike,
    *,
    pixel_m: float,
    valid: BoolArray | None = None,
) -> ShiftEstimate:
    """Estimate the shift of a coarse image against the guide degraded onto the same grid.

    Parameters
    ----------
    guide_coarse : (g, y, x), the guide degraded with the coarse sensor's PSF; NaN where missing.
    coarse : (c, y, x), NaN where missing. Bands and radiometry may differ from the guide's.
    pixel_m : size of a coarse pixel in m; rows run southward.
    valid : (y, x) bool or None, True = the coarse pixel is usable.

    Raises
    ------
    GridError
        The two images differ in size.
    """
    guide: FloatArray = np.asarray(guide_coarse, np.float64)
    image: FloatArray = np.asarray(coarse, np.float64)
    if guide.shape[-2:] != image.shape[-2:]:
        raise GridError(
            f"guide is {guide.shape[-2:]} and coarse {image.shape[-2:]} pixels; "
            "degrade the guide first"
        )
    guide = _bands_with_data(guide)
    image = _bands_with_data(image)
    guide_valid = _valid_pixels(guide)
    coarse_valid = _valid_pixels(image)
    if valid is not None:
        coarse_valid = coarse_valid & np.asarray(valid, bool)
    count = int((coarse_valid & guide_valid).sum()) if len(guide) and len(image) else 0
    if count < MINIMUM_PIXELS:
        return _untrusted(f"{count} pixels are valid in both images, {MINIMUM_PIXELS} are needed")
    # 15 pixels per regressor at least, so that small fields are not fitted by chance
    guide = _components(guide, guide_valid, max(1, count // 15))
    image = _components(image, coarse_valid, COMPONENTS)
    if not len(guide) or not len(image):
        return _untrusted("the image has no texture")
    problem = _Problem(_fill(guide, guide_valid), guide_valid, image, coarse_valid)
    scores = problem.search()
    if not scores:
        return _untrusted(f"too few of the {count} valid pixels overlap at trial shifts")
    fit = problem.refine(min(scores, key=lambda shift: scores[shift]))
    variance = np.linalg.eigvalsh(fit.covariance)[-1]  # along the less certain direction
    variance = variance + _ambiguity(scores, fit.shift, count) + FLOOR_PX**2
    return _judge(fit, float(np.sqrt(variance)), pixel_m)


def _bands_with_data(image: FloatArray) -> FloatArray:
    return image[np.isfinite(image).any((1, 2))]


def _valid_pixels(image: FloatArray) -> BoolArray:
    """(y, x) True = every band of (band, y, x) has data."""
    return np.asarray(np.isfinite(image).all(0))


def _ambiguity(scores: dict[tuple[int, int], float], shift: FloatArray, count: int) -> float:
    """Variance (coarse pixels squared) from distant whole-pixel shifts that fit nearly as well.

    Parameters
    ----------
    scores : log of the unexplained share per trial shift, from `_Problem.search`.
    shift : (2,) the estimate.
    count : pixels that are valid in both images.
    """
    trials = np.array(list(scores))
    score = np.array(list(scores.values()))
    likelihood = np.exp(-0.5 * count * (score - score.min()))
    # neighbours of the estimate belong to the same minimum, whose width the covariance describes
    elsewhere = likelihood * (np.abs(trials - shift).max(1) > 1.5)
    return float((elsewhere * ((trials - shift) ** 2).sum(1) / 2).sum() / likelihood.sum())


def _judge(fit: "_Fit", sigma: float, pixel_m: float) -> ShiftEstimate:
    """The estimate in metres, trusted unless a criterion fails."""
    reason = _doubt(fit, sigma)
    dx, dy = fit.shift  # array axes: right and down; down is south
    return ShiftEstimate(
        float(dx * pixel_m), float(-dy * pixel_m), sigma * pixel_m, not reason, reason
    )


def _doubt(fit: "_Fit", sigma: float) -> str:
    """Why a fit cannot be trusted; empty if it can. `sigma` is in coarse pixels."""
    length = np.hypot(*fit.shift)
    needed = _needed_correlation(fit)
    if not fit.converged or not np.isfinite(sigma):
        return "the estimate did not converge"
    if fit.pixels < MINIMUM_PIXELS:
        return (
            f"only {fit.pixels} valid pixels overlap at the estimated shift, "
            f"{MINIMUM_PIXELS} are needed"
        )
    if fit.correlation < needed:
        return (
            "the textures are poorly correlated: "
            f"correlation {fit.correlation:.2f}, {needed:.2f} is needed"
        )
    if length > LIMIT_PX:
        return f"{length:.2f} coarse pixels are beyond the limit of {LIMIT_PX}"
    if sigma > LIMIT_SIGMA_PX:
        return f"the standard deviation of {sigma:.2f} coarse pixels is above {LIMIT_SIGMA_PX}"
    return ""


def _needed_correlation(fit: "_Fit") -> float:
    """Least correlation of texture: 2.2 times what the regressors would reach by chance."""
    chance = np.sqrt(fit.columns / max(fit.pixels, 1))
    return max(MINIMUM_CORRELATION, min(0.85, 2.2 * chance))


def _untrusted(reason: str) -> ShiftEstimate:
    return ShiftEstimate(0.0, 0.0, float("inf"), False, reason)


def _components(image: FloatArray, valid: BoolArray, most: int) -> FloatArray:
    """Leading principal components of the standardised valid pixels, each of variance 1.

    Returns
    -------
    (k, y, x), 0 where not valid; k is at most `most` and `COMPONENTS`, and 0 without any texture.
    """
    values = image[:, valid]
    spread = values.std(1)
    textured = spread > 1e-6
    values = values[textured]
    spread = spread[textured]
    if not len(values):
        return values
    values = (values - values.mean(1, keepdims=True)) / spread[:, None]
    strength, vectors = np.linalg.eigh(values @ values.T / values.shape[1])
    # components below 1e-4 of the leading variance are noise that scaling would blow up
    keep = np.flatnonzero(strength > 1e-4 * strength[-1])[::-1][: min(most, COMPONENTS)]
    out = np.zeros((len(keep), *valid.shape))
    out[:, valid] = vectors[:, keep].T @ values / np.sqrt(strength[keep, None])
    return out


def _fill(image: FloatArray, valid: BoolArray) -> FloatArray:
    """Fill holes with Gaussian means of their surroundings, widening until all are filled."""
    if valid.all():
        return image
    for sigma in (1.0, 3.0, 10.0, float(max(valid.shape))):
        weight = ndimage.gaussian_filter(valid.astype(float), sigma, mode="constant")
        blurred = ndimage.gaussian_filter(image * valid, (0, sigma, sigma), mode="constant")
        reached = ~valid & (weight > 0.02)
        image = np.where(reached, blurred / np.maximum(weight, 1e-12), image)
        valid = valid | reached
    return image


@dataclass(frozen=True)
class _Fit:
    """Result of the refinement: shift (right, down) and its 2 x 2 covariance in coarse pixels.

    `columns` counts the regressors (components of the guide), `pixels` those that overlap.
    """

    shift: FloatArray
    covariance: FloatArray
    correlation: float
    pixels: int
    columns: int
    converged: bool


class _Problem:
    """The two images, prepared for evaluation at any trial shift (right, down) in coarse pixels.

    Parameters
    ----------
    guide : (g, y, x) components of the guide, without holes.
    guide_valid : (y, x) bool, True = the guide had data.
    coarse : (c, y, x) components of the coarse image.
    coarse_valid : (y, x) bool, True = usable.
    """

    def __init__(
        self,
        guide: FloatArray,
        guide_valid: BoolArray,
        coarse: FloatArray,
        coarse_valid: BoolArray,
    ) -> None:
        padded = (np.pad(g, PAD, mode="reflect", reflect_type="odd") for g in guide)
        self.splines = [
            ndimage.spline_filter(ndimage.gaussian_filter(p, SMOOTHING_PX)) for p in padded
        ]
        self.guide_valid = guide_valid.astype(float)
        self.coarse_valid = coarse_valid
        self.coarse = _smooth(coarse, coarse_valid)
        self.overlap = guide_valid & coarse_valid
        self.y, self.x = np.indices(coarse_valid.shape, dtype=float)

    def at(self, shift: FloatArray) -> tuple[BoolArray, FloatArray, FloatArray, FloatArray]:
        """Compare the images at a trial shift.

        Returns
        -------
        used : (y, x) bool, True = the n pixels that are valid in both images.
        weight : (n,) share of valid guide.
        guide : (n, g) detail of the shifted guide.
        coarse : (n, c) detail of the coarse image.
        """
        row = self.y - shift[1]
        column = self.x - shift[0]
        weight = ndimage.map_coordinates(self.guide_valid, (row, column), order=1, mode="constant")
        weight = weight * self.coarse_valid
        # tolerance: a whole-pixel shift may reach the edge itself
        inside = (row >= -1e-9) & (row <= self.y.max())
        inside &= (column >= -1e-9) & (column <= self.x.max())
        used = (weight > 0.5) & inside
        guide = _detail(self._interpolate(used, shift), used)
        coarse = _detail(self.coarse[:, used].T, used)
        return used, weight[used], guide, coarse

    def search(self) -> dict[tuple[int, int], float]:
        """Score every whole-pixel shift (right, down) with enough overlap; lower is better.

        The score is the log of the variance share that the guide leaves unexplained, mean over
        bands, with the degrees of freedom of the fit taken into account.
        """
        scores = {}
        trials = range(-SEARCH, SEARCH + 1)
        for shift in ((dx, dy) for dy in trials for dx in trials):
            _, weight, guide, coarse = self.at(np.array(shift, float))
            if len(weight) < max(self.overlap.sum() / 2, guide.shape[1] + 8):
                continue
            residual = coarse - guide @ _match(guide, coarse, weight)
            before = (weight[:, None] * coarse**2).sum(0)
            after = (weight[:, None] * residual**2).sum(0)
            freedom = len(weight) / (len(weight) - guide.shape[1])
            share = np.maximum(after, 1e-12) / np.maximum(before, 1e-12) * freedom
            scores[shift] = float(np.log(share).mean())
        return scores

    def refine(self, start: tuple[int, int]) -> _Fit:
        """Gauss-Newton iteration from a whole-pixel shift (right, down)."""
        shift: FloatArray = np.array(start, float)
        robust = np.ones(self.coarse_valid.shape)  # Student-t weights of the previous step
        for _ in range(STEPS):
            used, weight, guide, coarse = self.at(shift)
            weight = weight * robust[used]
            matched = _match(guide, coarse, weight)
            residual = coarse - guide @ matched
            whiten = _whitener(residual, weight)
            distance = ((residual @ whiten) ** 2).sum(1)
            robust[used] = (FREEDOM + len(whiten)) / (FREEDOM + distance)
            derivative = self._slopes(shift, used) @ (matched @ whiten)  # (2, n, c), of the model
            slopes = _projected(derivative, guide, weight, used)
            scores = np.einsum("inc,nc->ni", slopes, residual @ whiten * np.sqrt(weight)[:, None])
            hessian = np.einsum("inc,jnc->ij", slopes, slopes)
            if not np.linalg.cond(hessian) < 1e8:  # no texture along one direction
                return _Fit(shift, np.full((2, 2), np.inf), 0.0, len(weight), guide.shape[1], False)
            move = np.linalg.solve(hessian, scores.sum(0))
            if np.hypot(*move) < CONVERGED_PX:
                break
            # half a pixel per step at most, since the linearisation is local
            shift = np.clip(shift + move * min(1.0, 0.5 / np.hypot(*move)), -SEARCH - 1, SEARCH + 1)
        correlation = _texture_correlation(guide @ matched, coarse, used)
        freedom = len(weight) / max(len(weight) - guide.shape[1] - 2, 1)
        converged = np.hypot(*move) < 0.05 and np.abs(shift - start).max() < 1.5
        covariance = _sandwich(hessian, scores, used) * freedom
        return _Fit(shift, covariance, correlation, len(weight), guide.shape[1], bool(converged))

    def _slopes(self, shift: FloatArray, used: BoolArray) -> FloatArray:
        """(2, n, g) derivative of the shifted guide by the shift (right, down)."""
        steps = 0.25 * np.eye(2)  # central differences over half a pixel
        differences = [
            self._interpolate(used, shift + step) - self._interpolate(used, shift - step)
            for step in steps
        ]
        return np.stack(differences) * 2

    def _interpolate(self, used: BoolArray, shift: FloatArray) -> FloatArray:
        """(n, g) guide moved by the shift, at the pixels in use; cubic spline."""
        position = (self.y[used] - shift[1] + PAD, self.x[used] - shift[0] + PAD)
        bands = [
            ndimage.map_coordinates(spline, position, order=3, prefilter=False)
            for spline in self.splines
        ]
        return np.stack(bands, axis=1)


def _projected(
    slopes: FloatArray, guide: FloatArray, weight: FloatArray, used: BoolArray
) -> FloatArray:
    """Weighted detail of the slopes (2, n, c), without the part that the spectral match absorbs."""
    details = [_detail(slope, used) for slope in slopes]
    unmatched = [d - guide @ _match(guide, d, weight) for d in details]
    return np.stack(unmatched) * np.sqrt(weight)[:, None]


def _smooth(image: FloatArray, valid: BoolArray) -> FloatArray:
    """Gaussian mean of the valid pixels, at the valid pixels; 0 elsewhere."""
    sigma = (0, SMOOTHING_PX, SMOOTHING_PX)
    weight = ndimage.gaussian_filter(valid.astype(float), SMOOTHING_PX, mode="constant")
    blurred = ndimage.gaussian_filter(image * valid, sigma, mode="constant")
    return np.where(valid, blurred / np.maximum(weight, 1e-12), 0.0)


def _detail(values: FloatArray, used: BoolArray) -> FloatArray:
    """Values (n, k) at the pixels in use, minus the mean of those in the window around each."""
    planes = np.zeros((values.shape[1] + 1, *used.shape))
    planes[:-1, used] = values.T
    planes[-1] = used
    *means, weight = (
        ndimage.uniform_filter(plane, SURROUNDINGS, mode="constant")[used] for plane in planes
    )
    return values - np.stack(means, axis=1) / weight[:, None]


def _match(guide: FloatArray, values: FloatArray, weight: FloatArray) -> FloatArray:
    """(g, k) coefficients of the weighted least-squares fit of values (n, k) by guide (n, g)."""
    weighted = guide * weight[:, None]
    return np.linalg.lstsq(weighted.T @ guide, weighted.T @ values, rcond=1e-10)[0]


def _texture_correlation(model: FloatArray, coarse: FloatArray, used: BoolArray) -> float:
    """Correlation of differences between neighbouring pixels, of the best band.

    Smooth trends agree by chance; texture does not.

    Parameters
    ----------
    model, coarse : (n, c) at the pixels in use.
    """
    planes = np.full((2, model.shape[1], *used.shape), np.nan)
    planes[:, :, used] = np.stack([model.T, coarse.T])
    differences = [np.diff(planes, axis=a).reshape(*planes.shape[:2], -1) for a in (2, 3)]
    steps = np.concatenate(differences, axis=2)
    steps = steps[..., np.isfinite(steps).all((0, 1))]
    product = (steps[0] * steps[1]).sum(1)
    return float((product / np.sqrt((steps**2).sum(2).prod(0) + 1e-30)).max(initial=0.0))


def _whitener(residual: FloatArray, weight: FloatArray) -> FloatArray:
    """(c, c) matrix that decorrelates residuals (n, c) between bands.

    The covariance is shrunk towards its diagonal, the more the fewer pixels there are per band.
    """
    covariance = (residual * weight[:, None]).T @ residual / weight.sum()
    shrink = min(1.0, 0.02 + len(covariance) / len(residual))
    covariance = (1 - shrink) * covariance + shrink * np.diag(np.diag(covariance) + 1e-9)
    strength, vectors = np.linalg.eigh(covariance)
    return vectors / np.sqrt(np.maximum(strength, 1e-9 * strength[-1])) @ vectors.T


def _sandwich(hessian: FloatArray, scores: FloatArray, used: BoolArray) -> FloatArray:
    """Sandwich covariance of the shift (Conley 1999).

    Parameters
    ----------
    hessian : (2, 2) of the Gauss-Newton step.
    scores : (n, 2) gradient of each pixel in use; their correlation vanishes within 4 pixels.
    """
    planes = np.zeros((2, *used.shape))
    planes[:, used] = scores.T
    taper = np.array([1, 2, 3, 4, 3, 2, 1]) / 4  # Bartlett window
    spread = ndimage.convolve1d(planes, taper, axis=1, mode="constant")
    spread = ndimage.convolve1d(spread, taper, axis=2, mode="constant")
    meat = np.einsum("iyx,jyx->ij", planes, spread)
    bread = np.linalg.inv(hessian)
    return bread @ (meat + meat.T) / 2 @ bread
