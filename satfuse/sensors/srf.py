"""Spectral responses of the sensors, and the matrix that turns spectra into band values.

S2A, S2B, S3A and S3B responses are ESA's measurements in steps of 2.5 nm, from `responses.csv`. S2C has no freely
licensed table: its bands are Gaussians, B08 and B12 flat-topped, from the measured centres and widths.
"""

from functools import cache
from pathlib import Path

import numpy as np

from satfuse.errors import BandError
from satfuse.sensors.bands import S2_NAMES, S2C_CENTRE_FWHM_NM, S3_NAMES

PLATFORMS = ("S2A", "S2B", "S2C", "S3A", "S3B")


@cache
def response(platform: str, band: str) -> tuple[np.ndarray, np.ndarray]:
    """Relative spectral response of one band.

    Parameters
    ----------
    platform : {"S2A", "S2B", "S2C", "S3A", "S3B"}
    band : a Sentinel-2 or Sentinel-3 SYN band name that the platform carries.

    Returns
    -------
    wavelength_nm, response : float64 arrays of one length; the response is not negative, its peak is about 1.

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
def _measured_responses():
    """(platform, band) -> wavelength in nm, response; a line is platform, band, first nm, step nm, values."""
    responses = {}
    for line in Path(__file__).with_name("responses.csv").read_text("ascii").splitlines()[1:]:
        platform, band, *numbers = line.split(",")
        first, step, *values = map(float, numbers)
        responses[platform, band] = first + step * np.arange(len(values)), np.array(values)
    return responses


def _analytic_response(centre, fwhm, flat):
    wavelength = np.arange(centre - 1.5 * fwhm, centre + 1.5 * fwhm, 0.5)
    power = 8 if flat else 2  # a super-Gaussian of order 8 for the wide flat-topped bands
    return wavelength, 0.5 ** (np.abs((wavelength - centre) / (fwhm / 2)) ** power)


def srf_matrix(platform, names, wavelength_nm, *, usable=None, minimum_coverage=0.9):
    """Weights that integrate sampled spectra over band responses.

    `rho_b = Int rho R_b dl / Int R_b dl` (Cristille et al. 2024, section 2; solar weight 1), trapezoid rule on a
    1 nm grid to which the *spectrum* is interpolated linearly, so narrow bands between two samples are right.

    Parameters
    ----------
    platform : see `response`.
    names : band names, b of them.
    wavelength_nm : (n,) centres of the spectrum's samples in any order (EnMAP's two detectors overlap).
    usable : (n,) bool, True = the sample may be used; all by default.
    minimum_coverage : smallest share of a response that must lie where neighbouring usable samples are at most
        30 nm apart; a band below it gets a row of NaN, never an invented value.

    Returns
    -------
    weights : (b, n) float64; rows sum to 1, or are NaN for bands that are not covered.
    coverage : (b,) share of each response on usable samples, 0 to 1.
    """
    wavelength_nm = np.asarray(wavelength_nm, dtype=float)
    usable = np.ones(len(wavelength_nm), bool) if usable is None else np.asarray(usable, bool)
    index = np.flatnonzero(usable)[np.argsort(wavelength_nm[usable], kind="stable")]
    centres = wavelength_nm[index]
    index, centres = _merge_equal(index, centres)
    weights = np.full((len(names), len(wavelength_nm)), np.nan)
    coverage = np.zeros(len(names))
    for row, name in enumerate(names):
        grid, values = _on_1nm(platform, name)
        right = np.searchsorted(centres, grid).clip(1, len(centres) - 1)
        left = right - 1
        step = centres[right] - centres[left]
        inside = (grid >= centres[0]) & (grid <= centres[-1]) & (step <= 30.0)
        coverage[row] = values[inside].sum() / values.sum()
        if coverage[row] < minimum_coverage:
            continue
        fraction = np.where(inside, (grid - centres[left]) / step, 0.0)
        part = np.where(inside, values, 0.0)
        part /= part.sum()
        weights[row] = 0.0
        np.add.at(weights[row], index[left], part * (1 - fraction))
        np.add.at(weights[row], index[right], part * fraction)
    return weights, coverage


def covering_matrix(platform, names, wavelength_nm, *, usable=None) -> np.ndarray:
    """The weights of `srf_matrix`, for spectra that must cover every band.

    Raises
    ------
    BandError
        A band that they do not cover.
    """
    weights, coverage = srf_matrix(platform, names, wavelength_nm, usable=usable)
    bare = [
        f"{n} ({c:.0%})"
        for n, c, row in zip(names, coverage, weights, strict=True)
        if np.isnan(row).any()
    ]
    if bare:
        used = np.asarray(wavelength_nm)[slice(None) if usable is None else usable]
        raise BandError(
            f"spectra of {used.min():.0f} to {used.max():.0f} nm do not cover {platform} {', '.join(bare)}; "
            "leave these bands out, or take spectra that reach them"
        )
    return weights


def _merge_equal(index, centres):
    keep = np.concatenate([[True], np.diff(centres) > 0])
    return index[keep], centres[keep]


@cache
def _on_1nm(platform, band):
    wavelength, values = response(platform, band)
    grid = np.arange(np.floor(wavelength[0]), np.ceil(wavelength[-1]) + 1.0)
    return grid, np.interp(grid, wavelength, values, left=0.0, right=0.0)
