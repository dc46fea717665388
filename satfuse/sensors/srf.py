"""Spectral responses of the sensors, and the matrix that turns spectra into band values.

S2A, S2B, S3A and S3B responses are ESA's measurements in steps of 2.5 nm, from `responses.csv`.
S2C has no freely licensed table: its bands are Gaussians, B08 and B12 flat-topped, made from the
measured centres and widths.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from satfuse.arrays import BoolArray, FloatArray, IntArray
from satfuse.errors import BandError
from satfuse.sensors.bands import S2_NAMES, S2C_CENTRE_FWHM_NM, S3_NAMES

PLATFORMS = ("S2A", "S2B", "S2C", "S3A", "S3B")
LARGEST_STEP_NM = 30.0  # samples of a spectrum further apart than this leave a gap between them


@cache
def response(platform: str, band: str) -> tuple[FloatArray, FloatArray]:
    """Relative spectral response of one band.

    Parameters
    ----------
    platform : {"S2A", "S2B", "S2C", "S3A", "S3B"}
    band : a Sentinel-2 or Sentinel-3 SYN band name that the platform carries.

    Returns
    -------
    wavelength_nm, response : (n,) float64; the response is not negative, its peak is about 1.

    Raises
    ------
    BandError
        An unknown platform, or a band that it does not carry.
    """
    if platform not in PLATFORMS:
        raise BandError(f"unknown platform {platform!r}; known: {', '.join(PLATFORMS)}")
    if band not in (S2_NAMES if platform.startswith("S2") else S3_NAMES):
        raise BandError(f"{platform} has no band {band!r}")
    if platform == "S2C":
        return _analytic_response(*S2C_CENTRE_FWHM_NM[band], flat=band in {"B08", "B12"})
    return _measured_responses()[platform, band]


@cache
def _measured_responses() -> dict[tuple[str, str], tuple[FloatArray, FloatArray]]:
    """Map (platform, band) to wavelength in nm and response.

    A line of the file is: platform, band, first wavelength in nm, step in nm, values.
    """
    responses = {}
    for line in Path(__file__).with_name("responses.csv").read_text("ascii").splitlines()[1:]:
        platform, band, *numbers = line.split(",")
        first, step, *values = map(float, numbers)
        wavelength = first + step * np.arange(len(values))
        responses[platform, band] = (wavelength, np.array(values))
    return responses


def _analytic_response(centre: float, fwhm: float, *, flat: bool) -> tuple[FloatArray, FloatArray]:
    """Wavelength in nm and response of a Gaussian band, or of a flat-topped one."""
    wavelength = np.arange(centre - 1.5 * fwhm, centre + 1.5 * fwhm, 0.5)
    power = 8 if flat else 2  # super-Gaussian of order 8; both are 0.5 at half of the FWHM
    return wavelength, 0.5 ** (np.abs((wavelength - centre) / (fwhm / 2)) ** power)


def srf_matrix(
    platform: str,
    names: Sequence[str],
    wavelength_nm: npt.ArrayLike,
    *,
    usable: npt.ArrayLike | None = None,
    minimum_coverage: float = 0.9,
) -> tuple[FloatArray, FloatArray]:
    """Weights that integrate sampled spectra over band responses.

    `rho_b = Int rho R_b dl / Int R_b dl` (Cristille et al. 2024, section 2; solar weight 1), by the
    trapezoid rule on a 1 nm grid. The *spectrum* is interpolated linearly to this grid, so bands
    narrower than the sampling are integrated correctly.

    Parameters
    ----------
    platform : see `response`.
    names : b band names.
    wavelength_nm : (n,) centres of the spectrum's samples in any order (EnMAP's two detectors
        overlap).
    usable : (n,) bool, True = the sample may be used; all by default.
    minimum_coverage : least share of a response that must be covered, which is where neighbouring
        usable samples are at most 30 nm apart. A band below it gets a row of NaN, never an
        invented value.

    Returns
    -------
    weights : (b, n) float64; rows sum to 1, or are NaN for bands that are not covered.
    coverage : (b,) share of each response that is covered, 0 to 1.
    """
    wavelength = np.asarray(wavelength_nm, dtype=float)
    samples, centres = _ordered_samples(wavelength, usable)
    weights = np.full((len(names), len(wavelength)), np.nan)
    coverage = np.zeros(len(names))
    for row, name in enumerate(names):
        grid, values = _on_1nm(platform, name)
        right = np.searchsorted(centres, grid).clip(1, len(centres) - 1)
        left = right - 1
        step = centres[right] - centres[left]
        inside = (grid >= centres[0]) & (grid <= centres[-1]) & (step <= LARGEST_STEP_NM)
        coverage[row] = values[inside].sum() / values.sum()
        if coverage[row] < minimum_coverage:
            continue
        # each grid point shares its response between the two samples that it is interpolated from
        fraction = np.where(inside, (grid - centres[left]) / step, 0.0)
        part = np.where(inside, values, 0.0)
        part /= part.sum()
        weights[row] = 0.0
        np.add.at(weights[row], samples[left], part * (1 - fraction))
        np.add.at(weights[row], samples[right], part * fraction)
    return weights, coverage


def covering_matrix(
    platform: str,
    names: Sequence[str],
    wavelength_nm: npt.ArrayLike,
    *,
    usable: npt.ArrayLike | None = None,
) -> FloatArray:
    """Weights of `srf_matrix`, (b, n), for spectra that must cover every band.

    Parameters
    ----------
    platform, names, wavelength_nm, usable : see `srf_matrix`.

    Raises
    ------
    BandError
        The spectra do not cover a band.
    """
    weights, coverage = srf_matrix(platform, names, wavelength_nm, usable=usable)
    uncovered = [
        f"{name} ({share:.0%})"
        for name, share, row in zip(names, coverage, weights, strict=True)
        if np.isnan(row).any()
    ]
    if uncovered:
        used = np.asarray(wavelength_nm)[_mask(usable, weights.shape[1])]
        raise BandError(
            f"spectra of {used.min():.0f} to {used.max():.0f} nm do not cover {platform} "
            f"{', '.join(uncovered)}; omit these bands, or use spectra that cover them"
        )
    return weights


def _mask(usable: npt.ArrayLike | None, count: int) -> BoolArray:
    return np.ones(count, bool) if usable is None else np.asarray(usable, bool)


def _ordered_samples(
    wavelength: FloatArray, usable: npt.ArrayLike | None
) -> tuple[IntArray, FloatArray]:
    """Indices and wavelengths of the usable samples, ascending, the first of equal wavelengths."""
    mask = _mask(usable, len(wavelength))
    index = np.flatnonzero(mask)[np.argsort(wavelength[mask], kind="stable")]
    centres = wavelength[index]
    first = np.concatenate([[True], np.diff(centres) > 0])
    return index[first], centres[first]


@cache
def _on_1nm(platform: str, band: str) -> tuple[FloatArray, FloatArray]:
    """Wavelength in whole nm, and the response there; 0 outside its table."""
    wavelength, values = response(platform, band)
    grid = np.arange(np.floor(wavelength[0]), np.ceil(wavelength[-1]) + 1.0)
    return grid, np.interp(grid, wavelength, values, left=0.0, right=0.0)
