"""How the coarse sensor saw a scene: shift and PSF width, found where the library's map explains the coarse image best.

For every candidate the guide is degraded, mapped to the coarse bands with the library's prior, and the evidence of
what is left is compared: the map is integrated out, so scenes of a few dozen coarse pixels are enough.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from satfuse.geometry.cells import cell_psf_sigma
from satfuse.models.bayesian.scene_sums import usable_features
from satfuse.models.bayesian.spectral_prior import MapPrior
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA, axis_matrix, psf_kernel

WINDOW = 24  # coarse pixels: more do not make shift and PSF surer than the model is right
LEAST_SHARE = 0.35  # of the PSF on usable guide
FEWEST, LEAST_SEEN = (
    6,
    2.0,
)  # coarse pixels that shift and width are judged on, and the sum of their `certainty`
PSF_SIGMA, PSF_SPREAD = (
    0.5,
    0.25,
)  # prior of the width: median in coarse pixels, standard deviation of its logarithm
WIDTHS = (0.25, 1.2)
SPREAD = {False: 0.7, True: 0.1}  # prior of the shift in coarse pixels: unregistered, registered
SEARCH, LEFT = 2.5, 0.25  # coarse pixels: how far an unregistered, a registered image is looked for
MAP_SCALE, GAIN_SCALE = 0.3, 0.02  # strengths of the prior while searching
ROUNDS = 4
OUTLIER, LEAST_ERROR = 4.0, 3e-4  # standard deviations, reflectance
MISSING = 1000.0  # error variance, over the noise's, of a pixel whose PSF sees nothing of the guide
INDEPENDENT = 4.0  # the bands' errors have few independent parts: their evidence counts so many times too often


@dataclass(frozen=True, kw_only=True)
class Fine:
    """The guide on cells: `image (g, y, x)`, zero where not `valid (y, x)`; `cells`, `ratio` per coarse pixel."""

    image: np.ndarray
    valid: np.ndarray
    cells: int
    ratio: int

    def degrade(self, psf_sigma, shift) -> tuple[np.ndarray, np.ndarray]:
        """(g, h, w) at the coarse scale, and the share (h, w) of the PSF on usable guide."""
        sigma = cell_psf_sigma(psf_sigma, self.ratio, self.cells)
        rows, columns = (
            axis_matrix(size, psf_kernel(self.cells, sigma, s))
            for size, s in zip(self.valid.shape, shift[::-1], strict=True)
        )
        share = rows @ self.valid @ columns.T
        return (rows @ self.image @ columns.T) / np.maximum(share, 1e-6), share

    def window(self, rows: slice, columns: slice) -> "Fine":
        """The cells of a window of coarse pixels."""
        cut = tuple(slice(s.start * self.cells, s.stop * self.cells) for s in (rows, columns))
        return Fine(
            image=self.image[:, *cut], valid=self.valid[cut], cells=self.cells, ratio=self.ratio
        )


@dataclass(frozen=True, kw_only=True)
class Observation:
    """Shift (x, y) of a frame and its standard deviation per axis, PSF width per coarse band; all in coarse pixels."""

    shift: np.ndarray
    shift_sigma: np.ndarray
    psf_sigma: np.ndarray


def find_observation(
    fine: Fine, coarse, valid, prior: MapPrior, *, wide, registered: bool
) -> Observation:
    """Shift and widths of one frame.

    Parameters
    ----------
    coarse : (c, h, w), valid : (h, w) bool, True = usable.
    wide : (c,) bool, True = a band with a PSF of its own (SLSTR's, natively 500 m).
    registered : True = the shift is small already.
    """
    _, share = fine.degrade(PSF_SIGMA, (0.0, 0.0))
    rows, columns = _window(valid & (share > LEAST_SHARE))
    part, y, usable = fine.window(rows, columns), coarse[:, rows, columns], valid[rows, columns]
    root = np.linalg.cholesky(prior.of_each_band + 1e-12 * np.eye(prior.mean.shape[1]))
    main = ~wide if (~wide).any() else wide
    shift_spread, search = SPREAD[registered], LEFT if registered else SEARCH

    def weights(place):
        _, share = part.degrade(np.exp(place[2]), place[:2])
        return np.where(usable & (share > LEAST_SHARE), certainty(share), 0.0)

    def cost(place, weight=None, bands=main):
        *shift, width = place
        if not (np.abs(shift).max() <= search and WIDTHS[0] <= np.exp(width) <= WIDTHS[1]):
            return np.inf
        weight = weights(place) if weight is None else weight
        used = weight > 0
        if used.sum() < FEWEST or weight.sum() < least:
            return np.inf
        z, _ = part.degrade(np.exp(width), shift)
        evidence = _evidence(
            usable_features(z, used),
            y[bands][:, used].T,
            weight[used],
            prior.mean[bands],
            root[bands],
        )
        prior_cost = ((width - np.log(PSF_SIGMA)) / PSF_SPREAD) ** 2 + np.square(
            shift
        ).sum() / shift_spread**2
        return prior_cost / 2 - evidence / INDEPENDENT

    start = np.array([0.0, 0.0, np.log(PSF_SIGMA)])
    seen = weights(start)
    if (seen > 0).sum() < FEWEST or seen.sum() < LEAST_SEEN:
        return unknown(len(coarse), registered)
    least = max(LEAST_SEEN, seen.sum() / 2)  # or places would win that see little
    if not registered:
        steps = np.arange(-2, 2.01, 0.5)
        places = [np.array([dx, dy, start[2]]) for dx in steps for dy in steps]
        start = min([start, *places], key=cost)
    place = start
    for step in (
        0.2,
        0.05,
    ):  # of the same pixels with the same weights, or a place would win by what it leaves out
        weight = weights(place)
        place = _descend(lambda p, w=weight: cost(p, w), place, step)
    psf_sigma = np.full(len(coarse), np.exp(place[2]))
    if wide.any() and not wide.all():
        widths = np.log(np.linspace(*WIDTHS, 39))
        psf_sigma[wide] = np.exp(min(widths, key=lambda w: cost([*place[:2], w], weight, wide)))
    shift_sigma = _uncertainty(lambda p: cost(p, weight), place, shift_spread)
    return Observation(shift=place[:2], shift_sigma=shift_sigma, psf_sigma=psf_sigma)


def unknown(bands: int, registered: bool) -> Observation:
    """Of a frame that says nothing of it."""
    nothing, psf_sigma = np.zeros(2), np.full(bands, DEFAULT_PSF_SIGMA)
    return Observation(shift=nothing, shift_sigma=nothing + SPREAD[registered], psf_sigma=psf_sigma)


def certainty(share):
    """Inverse variance of a coarse pixel's error, over the noise's, where `share` of its PSF lies on usable guide."""
    return 1 / (1 / share.clip(1e-3, 1) ** 2 + MISSING * (1 - share.clip(max=1)) ** 2)


def trust(seen, predicted):
    """(n,) weights, near 1, and small where the brightness of (n, c) is far off: unseen clouds, change.

    Cauchy's, with a scale of `OUTLIER` robust standard deviations.
    """
    error = (seen - predicted).mean(1)
    error = error - np.median(error)
    scale = 1.4826 * np.median(np.abs(error)) + LEAST_ERROR
    return 1 / (1 + (error / (OUTLIER * scale)) ** 2)


def _descend(cost, start, step):
    simplex = start + step * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    options = {"initial_simplex": simplex, "xatol": 2e-3, "fatol": 0.02, "maxfev": 160}
    with np.errstate(invalid="ignore"):
        return minimize(cost, start, method="Nelder-Mead", options=options).x


def _uncertainty(cost, place, most, step=0.03):
    """Standard deviation of the shift per axis from the curvature of the cost, `most` where that says nothing."""
    out = []
    for axis in (0, 1):
        move = np.eye(3)[axis] * step
        curvature = (cost(place + move) + cost(place - move) - 2 * cost(place)) / step**2
        out.append(min(1 / np.sqrt(curvature), most) if 0 < curvature < np.inf else most)
    return np.array(out)


def _evidence(z, y, weight, mean, root):
    """Log evidence of y (n, c) under the prior's map and gain errors and white noise of unknown variance.

    Relative to a constant per band, so that candidates that use other pixels compare.
    """
    count, bands = y.shape
    x = z @ mean.T
    r = y - x
    design = np.concatenate(
        [np.sqrt(MAP_SCALE) * (z @ root), GAIN_SCALE * x.T[..., None]], 2
    )  # (c, n, f + 1)
    heavy = design * weight[:, None]
    values, vectors = np.linalg.eigh(heavy.transpose(0, 2, 1) @ design)
    values = np.maximum(values, 0)
    along = np.einsum("cij,ci->cj", vectors, np.einsum("cni,nc->ci", heavy, r))
    total = (weight[:, None] * r**2).sum(0)
    noise = np.full(bands, total.mean() / count)
    for _ in range(ROUNDS):
        part = along / (values + noise[:, None])
        left = total - (2 * part * along - values * part**2).sum(1)
        free = count - (values / (values + noise[:, None])).sum(1)
        noise = np.maximum(left / np.maximum(free, 0.1 * count), 1e-9)
    fit = (total - (along**2 / (values + noise[:, None])).sum(1)) / noise
    varied = np.average((y - np.average(y, axis=0, weights=weight)) ** 2, axis=0, weights=weight)
    blind = count * (np.log(varied + 1e-9) + 1) - np.log(weight).sum()
    volume = count * np.log(noise) - np.log(weight).sum() + np.log1p(values / noise[:, None]).sum(1)
    return 0.5 * (blind - volume - fit).sum()


def _window(valid):
    """The window of at most `WINDOW` pixels a side that holds most usable pixels."""
    total = np.pad(valid.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    h, w = (min(WINDOW, size) for size in valid.shape)
    count = total[h:, w:] - total[:-h, w:] - total[h:, :-w] + total[:-h, :-w]
    row, column = np.unravel_index(count.argmax(), count.shape)
    return slice(row, row + h), slice(column, column + w)
