"""Bands of Sentinel-2 MSI and Sentinel-3 SYN: names, centres, widths, native pixel sizes."""

from collections.abc import Iterable
from dataclasses import dataclass

from satfuse.errors import BandError


@dataclass(frozen=True, slots=True)
class Band:
    """One spectral band.

    Centre wavelength and width (FWHM) are in nm, the native ground sampling distance in m.
    """

    name: str
    wavelength_nm: float
    fwhm_nm: float
    gsd_m: int


COARSE_M = 300.0  # pixel of SYN: native for OLCI; SLSTR is resampled to it
RATIO = 30  # fine pixels of 10 m per coarse pixel, along each axis

# Centre and FWHM of the S2A responses (ESA SRF v4.0).
S2_BANDS = (
    Band("B01", 442.70, 19.7, 60),
    Band("B02", 492.72, 64.3, 10),
    Band("B03", 559.85, 34.8, 10),
    Band("B04", 664.62, 30.6, 10),
    Band("B05", 704.11, 14.0, 20),
    Band("B06", 740.49, 13.6, 20),
    Band("B07", 782.75, 19.0, 20),
    Band("B08", 832.77, 104.8, 10),
    Band("B8A", 864.70, 20.5, 20),
    Band("B09", 945.05, 19.5, 60),
    Band("B11", 1613.68, 89.7, 20),
    Band("B12", 2202.37, 173.6, 20),
)

# The 21 nadir bands of SY_2_SYN in ascending nominal wavelength, in the order of Cristille et al.
# (2024). SLSTR bands (S..N) are natively 500 m and resampled to the 300 m grid of OLCI.
S3_BANDS = (
    Band("Oa01", 400.0, 15.0, 300),
    Band("Oa02", 412.5, 10.0, 300),
    Band("Oa03", 442.5, 10.0, 300),
    Band("Oa04", 490.0, 10.0, 300),
    Band("Oa05", 510.0, 10.0, 300),
    Band("S1N", 555.0, 20.0, 500),
    Band("Oa06", 560.0, 10.0, 300),
    Band("Oa07", 620.0, 10.0, 300),
    Band("S2N", 659.0, 20.0, 500),
    Band("Oa08", 665.0, 10.0, 300),
    Band("Oa09", 673.75, 7.5, 300),
    Band("Oa10", 681.25, 7.5, 300),
    Band("Oa11", 708.75, 10.0, 300),
    Band("Oa12", 753.75, 7.5, 300),
    Band("Oa16", 778.75, 15.0, 300),
    Band("Oa17", 865.0, 20.0, 300),
    Band("S3N", 868.0, 20.6, 500),
    Band("Oa18", 885.0, 10.0, 300),
    Band("Oa21", 1020.0, 40.0, 300),
    Band("S5N", 1610.0, 60.0, 500),
    Band("S6N", 2250.0, 50.0, 500),
)

S2_NAMES = tuple(b.name for b in S2_BANDS)
S2_GSD_M = {b.name: b.gsd_m for b in S2_BANDS}
S3_NAMES = tuple(b.name for b in S3_BANDS)
S3_ENMAP_NAMES = S3_NAMES[2:]  # EnMAP starts at 418 nm: Oa01 and Oa02 cannot be simulated from it

# Measured centre and FWHM in nm of S2C (products reference, computed from ESA's responses). It has
# no freely licensed response table, so `srf` makes Gaussians of these numbers.
S2C_CENTRE_FWHM_NM = {
    "B01": (444.22, 20.3), "B02": (489.03, 65.3), "B03": (560.63, 35.4), "B04": (666.53, 30.4),
    "B05": (707.07, 15.3), "B06": (741.07, 15.3), "B07": (784.66, 20.3), "B08": (834.61, 95.8),
    "B8A": (865.57, 20.0), "B09": (947.20, 20.1), "B11": (1612.00, 90.3), "B12": (2191.27, 183.2),
}  # fmt: skip

_BY_NAME = {b.name: b for b in S2_BANDS + S3_BANDS}


def bands(names: Iterable[str]) -> tuple[Band, ...]:
    """Look bands up by name, in the order of `names`.

    Raises
    ------
    BandError
        An unknown name; the message lists the known ones.
    """
    names = tuple(names)
    unknown = [n for n in names if n not in _BY_NAME]
    if unknown:
        raise BandError(
            f"unknown band {', '.join(map(repr, unknown))}; known: {', '.join(_BY_NAME)}"
        )
    return tuple(_BY_NAME[n] for n in names)


def wavelengths_nm(names: Iterable[str]) -> list[float]:
    """Nominal centre wavelengths in nm of named bands."""
    return [b.wavelength_nm for b in bands(names)]
