"""What library spectra say about the map from guide to coarse bands: the map for all scenes, and how scenes differ.

The library comes as many simulated places, each a few materials mixed in its own way, in a spectral basis. So the
prior follows for any bands whose response is known, and needs no images.
"""

from dataclasses import dataclass

import numpy as np

from satfuse.sensors.srf import covering_matrix

CONSTANT = 0.1  # value of the feature that stands for the map's constant term
DARK = 0.02  # reflectance added to brightness where errors are taken relative to it
GUIDE_NOISE = 0.0007  # reflectance: maps must not trade guide bands against each other below it
PLATFORMS = (("S2A", "S3A"), ("S2B", "S3B"), ("S2C", "S3A"))  # of the simulated places, in turn


@dataclass(frozen=True, kw_only=True)
class MapPrior:
    """Gaussian prior of a scene's linear map from f = g + 1 features (guide bands, constant) to c coarse bands.

    Parameters
    ----------
    mean : (c, f) map of all places.
    together : (c * f, c * f) covariance of a place's deviations, between bands too.
    apart : the same without what bands share: zero between bands.
    remainder : (c,) mean square of what no linear map of a place explains, relative to brightness.
    """

    mean: np.ndarray
    together: np.ndarray
    apart: np.ndarray
    remainder: np.ndarray

    @property
    def of_each_band(self) -> np.ndarray:
        """(c, f, f) covariance of a place's deviations, band by band."""
        c, f = self.mean.shape
        return self.together.reshape(c, f, c, f)[range(c), :, range(c), :]

    def of_bands(self, index) -> "MapPrior":
        """The prior of some of the coarse bands."""
        f = self.mean.shape[1]
        rows = (np.asarray(index)[:, None] * f + np.arange(f)).ravel()
        together, apart = (m[np.ix_(rows, rows)] for m in (self.together, self.apart))
        return MapPrior(
            mean=self.mean[index], together=together, apart=apart, remainder=self.remainder[index]
        )


def map_prior(places, basis, centre, wavelength_nm, guide_bands, coarse_bands) -> MapPrior:
    """The prior of bands, from places in a spectral basis.

    Parameters
    ----------
    places : (s, p, k) coefficients of p pixels of each of s places.
    basis : (k, n), centre : (n,) ; a spectrum is `coefficients @ basis + centre` at `wavelength_nm` (n,).
    guide_bands, coarse_bands : names.

    Raises
    ------
    BandError
        A band that the spectra do not cover.
    """
    guide, coarse = (
        np.empty((*places.shape[:2], len(names))) for names in (guide_bands, coarse_bands)
    )
    for i, pair in enumerate(PLATFORMS):
        for values, platform, names in zip(
            (guide, coarse), pair, (guide_bands, coarse_bands), strict=True
        ):
            response = covering_matrix(platform, names, wavelength_nm)
            part = slice(i, None, len(PLATFORMS))
            values[part] = places[part] @ (basis @ response.T) + response @ centre
    return _of_band_values(guide, coarse)


def features(guide):
    """(..., g) guide values with the constant feature."""
    return np.concatenate([guide, np.full((*guide.shape[:-1], 1), CONSTANT)], -1)


def _of_band_values(guide, coarse) -> MapPrior:
    count, pixels, f, c = len(guide), guide.shape[1], guide.shape[2] + 1, coarse.shape[2]
    z = features(guide)
    root = 1 / (np.abs(guide.mean(-1, keepdims=True)) + DARK)  # errors count relative to brightness
    z, y, weight = z * root, coarse * root, (root**2).sum((1, 2))
    noise = np.diag(np.r_[np.full(f - 1, GUIDE_NOISE**2), 1e-8])
    gram = z.transpose(0, 2, 1) @ z + weight[:, None, None] * noise
    mean = np.linalg.solve(gram.sum(0), (z.transpose(0, 2, 1) @ y).sum(0)).T
    left = y - z @ mean.T
    deviation = np.linalg.solve(gram, z.transpose(0, 2, 1) @ left)  # (s, f, c)
    remainder = ((left - z @ deviation) ** 2).sum((0, 1)) / (count * pixels)
    rows = deviation.transpose(0, 2, 1).reshape(count, c * f)
    together = rows.T @ rows / count
    same_band = np.kron(np.eye(c), np.ones((f, f)))
    return MapPrior(mean=mean, together=together, apart=together * same_band, remainder=remainder)
