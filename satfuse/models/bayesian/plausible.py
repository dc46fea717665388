"""Do the two images show one scene, in the order of their bands? Nonsense is refused before anything is fitted to it.

The library's map predicts every coarse band from the guide to a few percent before it has seen the scene.
"""

from itertools import combinations

import numpy as np

from satfuse.errors import RadiometryError
from satfuse.models.bayesian.scene_sums import Channel
from satfuse.models.bayesian.spectral_prior import DARK, MapPrior

MOST_MISFIT, SURPRISE = (
    0.5,
    4.0,
)  # median error of a band over brightness, and over what the library expects
LEAST_APART = 0.015  # reflectance: two bands less apart may be off by as much
# Two bands are in each other's place where that takes so much of the error, in standard deviations
# that the library
# expects (of the two coarse bands, of the mean over all for two of the guide), and leaves no more
# than such a share.
COARSE_GAIN, COARSE_LEFT = 2.0, 0.35
GUIDE_GAIN, GUIDE_LEFT = 0.2, 0.6
USUAL = 1.5  # at most the mean over all bands, when the two are in their places
CALIBRATION, OFFSET = 0.04, 0.003  # expected besides: relative, reflectance
CHECKED, FEWEST_PIXELS = 500, 10  # pixels that are looked at, and that tell the correlation
FEWEST_BANDS = 8  # coarse bands that tell the order of the guide's
BLUE, RED, INFRARED = (
    ("B02", "Oa04"),
    ("B04", "Oa08"),
    ("B11", "S5N"),
)  # of the guide and of the coarse image
BRIGHT, WHITE = 0.35, 0.97  # cloud: blue, and blue over red; sand is redder
DARKER = (
    0.4,
    0.95,
)  # infrared of cloud over red; snow is darker there, salt is not darker than in red
ALL_CLOUD = 0.9  # of the pixels
LEAST_CORRELATION = 0.5  # images below it are flagged, scenes without contrast among them
MOST_SHIFT_SIGMA = 0.2  # coarse pixels: a shift known less well is flagged


def check_clouds(spectra, bands, role: str) -> None:
    """Refuse an image that shows nothing but cloud.

    Parameters
    ----------
    spectra : (b, n) reflectance; bands : their names. Images without blue, red and infrared bands pass.

    Raises
    ------
    RadiometryError
    """
    found = [[i for i, b in enumerate(bands) if b in names] for names in (BLUE, RED, INFRARED)]
    if not all(found) or spectra.shape[1] == 0:
        return
    blue, red, infrared = (spectra[i[0]] for i in found)
    cloud = (
        (blue > BRIGHT)
        & (blue > WHITE * red)
        & (infrared > DARKER[0] * red)
        & (infrared < DARKER[1] * red)
    ).mean()
    if cloud > ALL_CLOUD:
        raise RadiometryError(
            f"the {role} shows nothing but cloud ({cloud:.0%} of its pixels); take another date"
        )


def misfit(channels: list[Channel], prior: MapPrior, guide_bands, bands) -> np.ndarray:
    """(c,) median error of the prior's own prediction of a frame's bands, over the frame's rms; NaN without data.

    Raises
    ------
    RadiometryError
        Bands whose error is beyond what any surface explains, or that fit when two of them change places.
    """
    out = np.full(len(bands), np.nan)
    if not channels:
        return out
    index = [c.band for c in channels]
    y, z, prior = _some(channels, prior)
    apart = np.median(
        np.abs(y[:, :, None] - _predicted(z, prior.mean)[:, None]), 0
    )  # (seen, predicted)
    expected, brightness = _expected(z, prior), np.sqrt(np.square(y).mean()) + DARK
    out[index] = apart.diagonal() / brightness
    if hint := _swapped(apart, expected, y, z, prior, guide_bands, [bands[i] for i in index]):
        raise RadiometryError(
            f"the coarse image is not what the guide shows: {hint}; check the order of the bands"
        )
    wrong = out > MOST_MISFIT
    wrong[index] &= apart.diagonal() > SURPRISE * expected
    if wrong.any():
        names = ", ".join(
            f"{b} ({m:.0%})" for b, m, bad in zip(bands, out, wrong, strict=True) if bad
        )
        raise RadiometryError(
            f"the coarse image is not what the guide shows: {names} off from what the guide's spectrum allows; check "
            "the order and names of the bands of both images, their scale and offset, place and time, and mask clouds"
        )
    return out


def correlation(channels: list[Channel], prior: MapPrior) -> float:
    """Correlation of a frame's brightness with what the prior makes of the guide; NaN where few pixels tell.

    Bands weigh the more, the better the guide tells them.
    """
    if not channels or len(channels[0].y) < FEWEST_PIXELS:
        return np.nan
    y, z, prior = _some(channels, prior)
    weight = 1 / _expected(z, prior) ** 2
    seen, predicted = y @ weight, _predicted(z, prior.mean) @ weight
    return (
        float(np.corrcoef(seen, predicted)[0, 1])
        if min(np.ptp(seen), np.ptp(predicted)) > 0
        else np.nan
    )


def doubt(correlation: float, shift_sigma: float) -> str:
    """Why a shift is not to be trusted; empty = trusted.

    Parameters
    ----------
    correlation : see `correlation`; NaN where too few pixels tell, which the shift's own error then decides.
    shift_sigma : standard deviation of the shift, in coarse pixels.
    """
    if correlation < LEAST_CORRELATION:
        return (
            f"the two images are poorly correlated ({correlation:.2f}): another place or time, or a "
            "scene without contrast"
        )
    if shift_sigma >= MOST_SHIFT_SIGMA:
        return f"the shift is known to {shift_sigma:.2f} coarse pixels only"
    return ""


def _some(channels, prior):
    """Values (n, c) and features (n, c, f) of some pixels, and the prior of the channels' bands."""
    some = slice(None, None, -(-len(channels[0].y) // CHECKED))
    y, z = (np.stack(v, 1) for v in zip(*((c.y[some], c.z[some]) for c in channels), strict=True))
    return y, z, prior.of_bands([c.band for c in channels])


def _predicted(z, mean):
    return np.einsum("ncf,cf->nc", z, mean)


def _expected(z, prior):
    """(c,) standard deviation of the errors that map and sensors may have."""
    x, spread = (
        _predicted(z, prior.mean),
        np.einsum("ncf,cfg,ncg->nc", z, prior.of_each_band, z, optimize=True),
    )
    return np.sqrt(np.median(spread, 0) + (CALIBRATION * np.median(x, 0)) ** 2 + OFFSET**2)


def _swapped(apart, expected, y, z, prior, guide_bands, bands) -> str:
    """Which two bands fit best in each other's place; empty where none do."""
    apart, middle = apart / expected, np.median(_predicted(z, prior.mean), 0)
    found, takes = apart.diagonal(), {}
    for a, b in combinations(range(len(bands)), 2):
        now, then = found[a] + found[b], apart[a, b] + apart[b, a]
        left = (found.sum() - now + then) / len(found)
        unlike = abs(middle[a] - middle[b]) > LEAST_APART
        if unlike and now - then > COARSE_GAIN and then < COARSE_LEFT * now and left < USUAL:
            takes[f"{bands[a]} and {bands[b]} look swapped"] = now - then
    for a, b in combinations(range(len(guide_bands)) if len(bands) >= FEWEST_BANDS else (), 2):
        order = np.arange(z.shape[2])
        order[[a, b]] = b, a
        then = np.median(np.abs(y - _predicted(z[:, :, order], prior.mean)), 0) / expected
        if (found - then).mean() > GUIDE_GAIN and then.mean() < min(
            GUIDE_LEFT * found.mean(), USUAL
        ):
            takes[f"{guide_bands[a]} and {guide_bands[b]} of the guide look swapped"] = (
                found - then
            ).sum()
    return max(takes, key=takes.get, default="")
