"""Measured spectra of the sample folder: sources, cleaning, and resampling to one grid.

The sources are the spectral libraries of EMIT, ECOSTRESS and ICRAF-ISRIC and pixels of three
airborne scenes. Scenes that a model is scored on (EnMAP Potsdam) are not among them.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import rasterio
import xarray as xr

from satfuse.arrays import BoolArray, FloatArray, IntArray
from satfuse.errors import ReadError

Table = dict[str, npt.NDArray[Any]]  # columns of one length, see `read_measured`
Columns = tuple[FloatArray, npt.NDArray[np.str_], npt.NDArray[np.str_], npt.NDArray[np.str_]]
COLUMNS = ("reflectance", "material", "source", "name")

WAVELENGTH_NM = np.arange(380, 2501, 5)
ATTRIBUTION = {
    "emit": "EMIT surface library (emit-sds/emit-sds-l2a, Apache-2.0): spectra of USGS splib07, "
    "ECOSTRESS and UCSB",
    "ecostress": "ECOSTRESS spectral library (c) Caltech/JPL, as gathered by ISOFIT "
    "(isofit/isofit-data, Apache-2.0)",
    "isric": "ICRAF-ISRIC soil VNIR spectral library (earth-chris/earthlib-legacy, MIT)",
    "jasper": "AVIRIS Jasper Ridge, NASA/JPL",
    "sjer": "NEON San Joaquin Experimental Range (SJER), CC0",
    "harv": "NEON Harvard Forest (HARV), CC0",
}
# file, source, material; None = decided by `_ecostress_material`
_LIBRARIES = (
    ("emit_vegetation", "emit", "vegetation"),
    ("emit_artificial_materials", "emit", "artificial"),
    ("emit_soils_and_mixtures", "emit", "soil"),
    ("emit_liquids", "emit", "water"),
    ("ecostress_with_mixtures", "ecostress", None),
    ("ecostress_snow_mixtures", "ecostress", "snow"),
    ("isric_soils", "isric", "soil"),
)
_EMIT_ARTIFICIAL_BAD = 117  # row that falls to -0.19 at 2500 nm
# rows of the ECOSTRESS file; the later ones are non-negative mixtures of these, exact to 3e-5
_ECOSTRESS_MEASURED = 1041
_ECOSTRESS_ROCK = (490, 815)
_ECOSTRESS_OTHER = (906, 937)  # minerals, salts, snow
_DARKEST = 0.02  # a "rock" below it everywhere is a failed measurement, a "water" is dark water
_BRIGHTEST = 1.0
_ROUGHEST = 1.5  # sum of all rises and falls from 380 to 800 nm
# bridged ranges of airborne spectra, nm: water vapour, and residues of the atmospheric correction
_VAPOUR = ((1335, 1450), (1785, 1965))
_RESIDUE = ((755, 772), (805, 845), (890, 990), (1085, 1180))
_BLUE_END = 420  # nm; below it, airborne spectra show errors of the atmospheric correction
_LONGEST = 2450  # nm; airborne bands beyond it are left out
_PIXELS = {"jasper": 400, "sjer": 200, "harv": 200}  # per scene


def read_measured(folder: Path) -> Table:
    """Read and clean the spectra of every source under a sample folder.

    Returns
    -------
    dict of `reflectance (m, 425)` float32 on `WAVELENGTH_NM`, and `material`, `source`, `name`
    (m,) str.

    Raises
    ------
    ReadError
        A file of the list is missing.
    """
    parts = [
        _read_library(folder / "spectra" / f"{stem}.nc", source, material)
        for stem, source, material in _LIBRARIES
    ]
    parts += [_read_airborne(folder / "airborne", source) for source in _PIXELS]
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return dict(zip(COLUMNS, columns, strict=True))


def to_grid(
    wavelength_nm: npt.ArrayLike,
    reflectance: npt.ArrayLike,
    *,
    masked: Sequence[tuple[float, float]] = (),
    start_nm: float = 0.0,
) -> FloatArray:
    """Spectra on `WAVELENGTH_NM` by linear interpolation; the nearest value beyond the ends.

    Parameters
    ----------
    wavelength_nm : (n,) in any order.
    reflectance : (m, n).
    masked : ranges in nm that are bridged.
    start_nm : below it, the slope of the next 40 nm is continued, down to half the value there.

    Returns
    -------
    (m, 425) float32.
    """
    order = np.argsort(wavelength_nm, kind="stable")
    nm = np.asarray(wavelength_nm, float)[order]
    values = np.asarray(reflectance, float)[:, order]
    good = nm >= start_nm
    for low, high in masked:
        good &= (nm < low) | (nm > high)
    nm = nm[good]
    out = np.stack([np.interp(WAVELENGTH_NM, nm, row) for row in values[:, good]])
    if start_nm:
        first = int(np.searchsorted(WAVELENGTH_NM, nm[0]))
        slope = (out[:, first + 8] - out[:, first]) / 8  # 8 steps of 5 nm
        steps = np.arange(first) - first
        out[:, :first] = np.maximum(out[:, [first]] + slope[:, None] * steps, 0.5 * out[:, [first]])
    return out.astype(np.float32)


def reflectance_at(spectra: FloatArray, nm: int) -> FloatArray:
    """Values (m,) of spectra (m, 425) at a wavelength of `WAVELENGTH_NM`."""
    return spectra[:, (nm - 380) // 5]


def _read_library(path: Path, source: str, material: str | None) -> Columns:
    if not path.is_file():
        raise ReadError(
            f"{path} is missing; give a complete sample folder, or none for the parametric spectra"
        )
    with xr.open_dataset(path) as file:
        nm = file.wavelength_nm.values
        raw = file.reflectance.values
        names = file.name.values.astype(str)
    spectra = to_grid(nm, raw)
    row = np.arange(len(spectra))
    keep = (raw.min(1) > -0.01) & (raw.max(1) <= _BRIGHTEST)
    materials = np.full(len(row), material or "")
    if path.stem == "emit_artificial_materials":
        keep[_EMIT_ARTIFICIAL_BAD] = False
        # wavelength standards of rare earths, with many narrow lines
        keep &= np.abs(np.diff(spectra[:, :85], axis=1)).sum(1) < _ROUGHEST
    if path.stem == "ecostress_with_mixtures":
        materials = _ecostress_material(spectra, row)
        bright = spectra.max(1) >= _DARKEST
        keep &= (row < _ECOSTRESS_MEASURED) & (bright | (materials == "water"))
    spectra = np.maximum(spectra, 0)
    keep &= _first_of_equal(spectra)
    return spectra[keep], materials[keep], np.full(keep.sum(), source), names[keep]


def _ecostress_material(spectra: FloatArray, row: IntArray) -> npt.NDArray[np.str_]:
    """Material (m,) of each row, from its value and its place in the file.

    The order of the file is vegetation, rock, soil and dry plants, minerals and salts, snow, dark
    water.
    """
    bright_green = reflectance_at(spectra, 550) > 0.5
    dark_swir = reflectance_at(spectra, 1500) < 0.15
    snow = bright_green & dark_swir & (row >= _ECOSTRESS_OTHER[0])
    water = (spectra.max(1) < 0.05) & (row >= _ECOSTRESS_OTHER[0])
    green = (row < _ECOSTRESS_OTHER[0]) & (_ndvi(spectra) > 0.3)
    plant = (row < _ECOSTRESS_ROCK[0]) | green
    return np.select([snow, water, plant], ["snow", "water", "vegetation"], "soil")


def _ndvi(spectra: FloatArray) -> FloatArray:
    red = reflectance_at(spectra, 665)
    near_infrared = reflectance_at(spectra, 865)
    return (near_infrared - red) / (near_infrared + red + 1e-6)


def _read_airborne(folder: Path, source: str) -> Columns:
    """Evenly spread pixels of an airborne scene."""
    nm, pixels = {"jasper": _read_jasper, "sjer": _read_sjer, "harv": _read_harv}[source](folder)
    index = np.unique(np.linspace(0, len(pixels) - 1, _PIXELS[source]).astype(int))
    usable = nm < _LONGEST
    reflectance = pixels[index][:, usable] * 1e-4
    masked = _VAPOUR if source == "jasper" else _VAPOUR + _RESIDUE
    spectra = to_grid(nm[usable], reflectance, masked=masked, start_nm=_BLUE_END)
    spectra = np.maximum(spectra, 0)
    ndvi = _ndvi(spectra)
    water = (reflectance_at(spectra, 865) < 0.05) & (ndvi < 0)
    material = np.select([water, ndvi > 0.6], ["water", "vegetation"], "mixed")
    names = np.array([f"{source}_{i:05d}" for i in index])
    return spectra, material, np.full(len(index), source), names


def _read_jasper(folder: Path) -> tuple[FloatArray, FloatArray]:
    """Band centres in nm and pixels (m, n) of Jasper Ridge.

    The centres are the nominal ones of AVIRIS-Classic + 5 nm, uncertain by about 8 nm.
    """
    nm = np.loadtxt(folder / "aviris_jasper_ridge_centres.csv", delimiter=",", skiprows=1)[:, 2]
    return nm, _read_pixels(folder / "aviris_jasper_ridge.tif")


def _read_sjer(folder: Path) -> tuple[FloatArray, FloatArray]:
    with h5py.File(folder / "neon_sjer_30x30.h5") as file:
        site = file["SJER/Reflectance"]
        nm = site["Metadata/Spectral_Data/Wavelength"][:]
        return nm, site["Reflectance_Data"][:].reshape(900, -1)


def _read_harv(folder: Path) -> tuple[FloatArray, FloatArray]:
    """Band centres in nm and pixels (m, n) of Harvard Forest.

    The file has no wavelengths; those of SJER, of the same instrument, are the nearest.
    """
    nm, _ = _read_sjer(folder)
    return nm, _read_pixels(folder / "neon_harv_40x40.tif")


def _read_pixels(path: Path) -> FloatArray:
    """(pixels, bands) float64 of a raster file, unscaled."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        image = rasterio.open(path)
    with image:
        return image.read().reshape(image.count, -1).T.astype(float)


def _first_of_equal(spectra: FloatArray) -> BoolArray:
    """(m,) bool, True for the first of every set of spectra that are equal to three decimals."""
    _, first = np.unique(np.round(spectra, 3), axis=0, return_index=True)
    keep = np.zeros(len(spectra), bool)
    keep[first] = True
    return keep
