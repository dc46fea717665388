"""Plausibility of the input: do both images show one scene, with bands in their stated order?

Implausible input is rejected before anything is fitted to it. The prior's map predicts every coarse
band from the guide to a few percent before it is adapted to the scene, so large errors of its
prediction mean wrong bands, units, places or unmasked cloud.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from satfuse.arrays import FloatArray
from satfuse.errors import RadiometryError
from satfuse.models.bayesian.spectral_prior import BRIGHTNESS_OFFSET, MapPrior
from satfuse.models.bayesian.sufficient_statistics import Channel

# A band is wrong if its median error is above both limits.
MAXIMUM_MISFIT = 0.5  # over the image's brightness
MAXIMUM_Z = 4.0  # z-score: over the standard deviation that the prior expects
# Two bands are swapped if exchanging them lowers their errors, in standard deviations that the
# prior expects, by more than *_GAIN and to less than *_SHARE of what they were. For coarse bands
# the error is summed over the two, for guide bands averaged over all coarse bands.
COARSE_GAIN = 2.0
COARSE_SHARE = 0.35
GUIDE_GAIN = 0.2
GUIDE_SHARE = 0.6
MAXIMUM_MEAN_Z = 1.5  # mean error of all bands after the exchange; else more than a swap is wrong
MINIMUM_DIFFERENCE = 0.015  # reflectance; bands closer to each other may be confused by calibration
MINIMUM_BANDS = 8  # coarse bands that can show the order of the guide's
# Expected errors of the sensors' calibration.
CALIBRATION = 0.04  # relative
OFFSET = 0.003  # reflectance
MAXIMUM_SAMPLES = 500  # pixels that are examined
MINIMUM_PIXELS = 10  # for a correlation
# Bands of the cloud test, of the guide and of the coarse image.
BLUE = ("B02", "Oa04")
RED = ("B04", "Oa08")
INFRARED = ("B11", "S5N")
BRIGHT = 0.35  # minimum reflectance of cloud in blue
WHITE = 0.97  # minimum of blue over red; sand is redder
# Range of short-wave infrared over red; snow is darker there, salt as bright as in red.
DARKENING = (0.4, 0.95)
CLOUDY = 0.9  # share of cloudy pixels above which an image is rejected
MINIMUM_CORRELATION = (
    0.5  # below it the shift is doubted; scenes without contrast are below as well
)
MAXIMUM_SHIFT_SIGMA = 0.2  # coarse pixels, above which the shift is doubted


def check_clouds(spectra: FloatArray, bands: Sequence[str], role: str) -> None:
    """Reject an image that is fully cloudy.

    Parameters
    ----------
    spectra : (b, n) reflectance. Images without a blue, red and infrared band pass.
    bands : names of the b bands.
    role : name of the image in the message.

    Raises
    ------
    RadiometryError
    """
    present = [[i for i, b in enumerate(bands) if b in names] for names in (BLUE, RED, INFRARED)]
    if not all(present) or spectra.shape[1] == 0:
        return
    blue, red, infrared = (spectra[index[0]] for index in present)
    white = (blue > BRIGHT) & (blue > WHITE * red)
    dark_in_infrared = (infrared > DARKENING[0] * red) & (infrared < DARKENING[1] * red)
    cloud = (white & dark_in_infrared).mean()
    if cloud > CLOUDY:
        raise RadiometryError(
            f"the {role} shows nothing but cloud ({cloud:.0%} of its pixels); take another date"
        )


def misfit(
    channels: list[Channel],
    prior: MapPrior,
    guide_bands: Sequence[str],
    coarse_bands: Sequence[str],
) -> FloatArray:
    """Misfit (c,) of a frame: median error of the prior's prediction over the frame's brightness.

    NaN for bands without data.

    Raises
    ------
    RadiometryError
        Bands whose misfit no surface explains, or that fit after two of them are exchanged.
    """
    out = np.full(len(coarse_bands), np.nan)
    if not channels:
        return out
    index = [c.band for c in channels]
    sample = _Sample.of(channels, prior)
    brightness = np.sqrt(np.square(sample.y).mean()) + BRIGHTNESS_OFFSET
    error = sample.errors.diagonal()
    out[index] = error / brightness
    if swap := _likely_swap(sample, guide_bands, [coarse_bands[i] for i in index]):
        raise RadiometryError(
            f"the coarse image is not what the guide shows: {swap}; check the order of the bands"
        )
    wrong = out > MAXIMUM_MISFIT
    wrong[index] &= error > MAXIMUM_Z * sample.expected
    if wrong.any():
        names = ", ".join(
            f"{b} ({m:.0%})" for b, m, bad in zip(coarse_bands, out, wrong, strict=True) if bad
        )
        raise RadiometryError(
            f"the coarse image is not what the guide shows: {names} off from what the guide's "
            "spectrum allows; check the order and names of the bands of both images, their scale "
            "and offset, place and time, and mask clouds"
        )
    return out


def correlation(channels: list[Channel], prior: MapPrior) -> float:
    """Correlation of a frame's brightness with that predicted from the guide.

    Bands are weighted by the inverse variance of their expected error. NaN with too few pixels, or
    without contrast.
    """
    if not channels or len(channels[0].y) < MINIMUM_PIXELS:
        return np.nan
    sample = _Sample.of(channels, prior)
    weight = 1 / sample.expected**2
    observed = sample.y @ weight
    predicted = sample.predicted @ weight
    if min(np.ptp(observed), np.ptp(predicted)) == 0:
        return np.nan
    return float(np.corrcoef(observed, predicted)[0, 1])


def doubt(correlation: float, shift_sigma: float, *, registered: bool) -> str:
    """Reason not to trust a shift; empty = trusted.

    Parameters
    ----------
    correlation : of `correlation`; where it is NaN, `shift_sigma` alone decides.
    shift_sigma : standard deviation of the shift, in coarse pixels.
    registered : True = the image was registered before; only evidence against it counts then.
    """
    if correlation < MINIMUM_CORRELATION:
        return (
            f"the two images are poorly correlated ({correlation:.2f}): another place or time, "
            "or a scene without contrast"
        )
    if shift_sigma >= MAXIMUM_SHIFT_SIGMA and not registered:
        return f"the shift is known to {shift_sigma:.2f} coarse pixels only"
    return ""


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """Some pixels of a frame and their prediction by the prior.

    Parameters
    ----------
    y : (n, c) coarse values.
    z : (n, c, f) features.
    prior : of the c bands.
    predicted : (n, c) of the prior's mean.
    errors : (c, c) median absolute difference of band i from the prediction of band j.
    expected : (c,) standard deviation of the errors that the prior and the sensors may have.
    """

    y: FloatArray
    z: FloatArray
    prior: MapPrior
    predicted: FloatArray
    errors: FloatArray
    expected: FloatArray

    @classmethod
    def of(cls, channels: list[Channel], prior: MapPrior) -> "_Sample":
        step = -(-len(channels[0].y) // MAXIMUM_SAMPLES)  # rounded up
        y = np.stack([c.y[::step] for c in channels], 1)
        z = np.stack([c.z[::step] for c in channels], 1)
        prior = prior.select([c.band for c in channels])
        predicted = _predict(z, prior)
        # y_i - x_j for all pairs of bands
        errors = np.median(np.abs(y[:, :, None] - predicted[:, None]), 0)
        of_map = np.einsum("ncf,cfg,ncg->nc", z, prior.by_band, z, optimize=True)  # z' A_b z
        of_sensors = (CALIBRATION * np.median(predicted, 0)) ** 2
        expected = np.sqrt(np.median(of_map, 0) + of_sensors + OFFSET**2)
        return cls(y=y, z=z, prior=prior, predicted=predicted, errors=errors, expected=expected)


def _predict(z: FloatArray, prior: MapPrior) -> FloatArray:
    return np.einsum("ncf,cf->nc", z, prior.mean)


def _likely_swap(sample: _Sample, guide_bands: Sequence[str], coarse_bands: Sequence[str]) -> str:
    """The exchange of two bands that explains most of the error, in words; empty = none does."""
    swaps = dict(_coarse_swaps(sample, coarse_bands))
    if len(coarse_bands) >= MINIMUM_BANDS:
        swaps |= dict(_guide_swaps(sample, guide_bands))
    return max(swaps, key=lambda name: swaps[name], default="")


def _coarse_swaps(sample: _Sample, bands: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Pairs of coarse bands that look swapped, with the error that their exchange explains."""
    z_score = sample.errors / sample.expected
    error = z_score.diagonal()
    typical = np.median(sample.predicted, 0)
    for a, b in combinations(range(len(bands)), 2):
        as_named = error[a] + error[b]
        swapped = z_score[a, b] + z_score[b, a]
        mean = (error.sum() - as_named + swapped) / len(error)
        distinct = abs(typical[a] - typical[b]) > MINIMUM_DIFFERENCE
        explains = as_named - swapped > COARSE_GAIN and swapped < COARSE_SHARE * as_named
        if distinct and explains and mean < MAXIMUM_MEAN_Z:
            yield f"{bands[a]} and {bands[b]} look swapped", as_named - swapped


def _guide_swaps(sample: _Sample, bands: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Pairs of guide bands that look swapped, with the error that their exchange explains."""
    error = (sample.errors / sample.expected).diagonal()
    for a, b in combinations(range(len(bands)), 2):
        order = np.arange(sample.z.shape[2])
        order[[a, b]] = b, a
        predicted = _predict(sample.z[:, :, order], sample.prior)
        swapped = np.median(np.abs(sample.y - predicted), 0) / sample.expected
        allowed = min(GUIDE_SHARE * error.mean(), MAXIMUM_MEAN_Z)
        if (error - swapped).mean() > GUIDE_GAIN and swapped.mean() < allowed:
            name = f"{bands[a]} and {bands[b]} of the guide look swapped"
            yield name, (error - swapped).sum()
