"""Prior of the spectral map from library spectra.

The library is a set of simulated training scenes, each a few materials in random mixtures, as
coefficients of a spectral basis. The prior therefore follows for any bands whose spectral response
is known, and needs no images. With Z (p, f) the features and Y (p, c) the coarse bands of the p
pixels of training scene s, both divided by brightness,

    M   = (sum_s Y_s' Z_s) (sum_s G_s)^-1          weighted least squares over all scenes
    D_s = (Y_s - Z_s M')' Z_s G_s^-1               deviation of the scene's own map from M
    A   = mean_s vec(D_s) vec(D_s)'                prior covariance

where G_s = Z_s' Z_s + N, and N is what noise of the guide adds to Z_s' Z_s on average.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from satfuse.arrays import FloatArray, IntArray
from satfuse.sensors.srf import covering_matrix

CONSTANT = 0.1  # value of the constant feature; of the size of reflectance, as the others are
BRIGHTNESS_OFFSET = 0.02  # reflectance; keeps relative errors finite over water and shadow
# Standard deviation of the guide's noise, in reflectance: the ridge that keeps maps from weighing
# guide bands against each other below it.
GUIDE_NOISE = 0.0007
CONSTANT_RIDGE = 1e-8  # the constant has no noise; only keeps the system regular
# Platforms of guide and coarse image, assigned to the training scenes in turn, so that differences
# between sensors of one kind are part of the prior.
PLATFORMS = (("S2A", "S3A"), ("S2B", "S3B"), ("S2C", "S3A"))


@dataclass(frozen=True, kw_only=True)
class MapPrior:
    """Gaussian prior of a scene's linear map W from f = g + 1 features to c coarse bands.

    Parameters
    ----------
    mean : (c, f) M, the map of all training scenes together.
    covariance : (c * f, c * f) A, covariance of a scene's deviation from M, across bands too.
    within_bands : (c * f, c * f) the same with zeros between different bands.
    nonlinear : (c,) mean square of what no linear map of a training scene explains, relative to
        brightness squared.
    """

    mean: FloatArray
    covariance: FloatArray
    within_bands: FloatArray
    nonlinear: FloatArray

    @property
    def by_band(self) -> FloatArray:
        """(c, f, f) covariance of each band's own row of the map."""
        c, f = self.mean.shape
        return self.covariance.reshape(c, f, c, f)[range(c), :, range(c), :]

    def select(self, bands: list[int] | IntArray) -> "MapPrior":
        """Marginal prior of some of the coarse bands, by index."""
        f = self.mean.shape[1]
        rows = (np.asarray(bands)[:, None] * f + np.arange(f)).ravel()
        block = np.ix_(rows, rows)
        return MapPrior(
            mean=self.mean[bands],
            covariance=self.covariance[block],
            within_bands=self.within_bands[block],
            nonlinear=self.nonlinear[bands],
        )


def map_prior(
    coefficients: FloatArray,
    basis: FloatArray,
    centre: FloatArray,
    wavelength_nm: FloatArray,
    guide_bands: Sequence[str],
    coarse_bands: Sequence[str],
) -> MapPrior:
    """Prior for named bands, from training scenes in a spectral basis.

    Parameters
    ----------
    coefficients : (s, p, k) of p pixels of each of s training scenes.
    basis : (k, n) spectra.
    centre : (n,) mean spectrum; a spectrum is `coefficients @ basis + centre`.
    wavelength_nm : (n,).
    guide_bands, coarse_bands : names.

    Raises
    ------
    BandError
        A band that the spectra do not cover.
    """
    guide = np.empty((*coefficients.shape[:2], len(guide_bands)))
    coarse = np.empty((*coefficients.shape[:2], len(coarse_bands)))
    for first, (guide_platform, coarse_platform) in enumerate(PLATFORMS):
        scenes = slice(first, None, len(PLATFORMS))
        for values, platform, names in (
            (guide, guide_platform, guide_bands),
            (coarse, coarse_platform, coarse_bands),
        ):
            response = covering_matrix(platform, names, wavelength_nm)
            values[scenes] = coefficients[scenes] @ (basis @ response.T) + response @ centre
    return prior_of_band_values(guide, coarse)


def features(guide: FloatArray) -> FloatArray:
    """Guide values (..., g) with the constant feature appended: (..., g + 1)."""
    return np.concatenate([guide, np.full((*guide.shape[:-1], 1), CONSTANT)], -1)


def prior_of_band_values(guide: FloatArray, coarse: FloatArray) -> MapPrior:
    """Prior from the guide (s, p, g) and coarse (s, p, c) bands of training scenes."""
    scenes, pixels, g = guide.shape
    f = g + 1
    c = coarse.shape[2]
    # rows divided by brightness: relative errors count, so that dark surfaces are not neglected
    scale = 1 / (np.abs(guide.mean(-1, keepdims=True)) + BRIGHTNESS_OFFSET)
    z = features(guide) * scale
    y = coarse * scale
    noise = np.diag(np.r_[np.full(g, GUIDE_NOISE**2), CONSTANT_RIDGE])
    # E[(Z + noise)' (Z + noise)] for rows scaled by `scale`
    gram = z.transpose(0, 2, 1) @ z + (scale**2).sum((1, 2))[:, None, None] * noise
    mean = np.linalg.solve(gram.sum(0), (z.transpose(0, 2, 1) @ y).sum(0)).T
    residual = y - z @ mean.T
    deviation = np.linalg.solve(gram, z.transpose(0, 2, 1) @ residual)  # (s, f, c)
    nonlinear = ((residual - z @ deviation) ** 2).sum((0, 1)) / (scenes * pixels)
    rows = deviation.transpose(0, 2, 1).reshape(scenes, c * f)  # vec(D_s), band by band
    covariance = rows.T @ rows / scenes
    same_band = np.kron(np.eye(c), np.ones((f, f)))
    return MapPrior(
        mean=mean,
        covariance=covariance,
        within_bands=covariance * same_band,
        nonlinear=nonlinear,
    )
