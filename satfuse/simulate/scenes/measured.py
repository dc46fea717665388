"""Measured spectra of the sample folder: what each source holds, and how it is cleaned.

The sources are the spectral libraries of EMIT, ECOSTRESS and ICRAF-ISRIC and pixels of three airborne scenes. Scenes
that a model is scored on (EnMAP Potsdam) are no source.
"""

import warnings
from pathlib import Path

import h5py
import numpy as np
import rasterio
import xarray as xr

from satfuse.errors import ReadError

WAVELENGTH_NM = np.arange(380, 2501, 5)
ATTRIBUTION = {
    "emit": "EMIT surface library (emit-sds/emit-sds-l2a, Apache-2.0): spectra of USGS splib07, ECOSTRESS and UCSB",
    "ecostress": "ECOSTRESS spectral library (c) Caltech/JPL, as gathered by ISOFIT (isofit/isofit-data, Apache-2.0)",
    "isric": "ICRAF-ISRIC soil VNIR spectral library (earth-chris/earthlib-legacy, MIT)",
    "jasper": "AVIRIS Jasper Ridge, NASA/JPL",
    "sjer": "NEON San Joaquin Experimental Range (SJER), CC0",
    "harv": "NEON Harvard Forest (HARV), CC0",
}
# file, source, material; None = decided by `_ecostress_material`
_LIBRARIES = (
    ("emit_vegetation", "emit", "vegetation"), ("emit_artificial_materials", "emit", "artificial"),
    ("emit_soils_and_mixtures", "emit", "soil"), ("emit_liquids", "emit", "water"),
    ("ecostress_with_mixtures", "ecostress", None), ("ecostress_snow_mixtures", "ecostress", "snow"),
    ("isric_soils", "isric", "soil"),
)  # fmt: skip
_EMIT_ARTIFICIAL_BAD = 117  # falls to -0.19 at 2500 nm
# later rows are computed from earlier ones (non-negative mixtures, exact to 3e-5)
_ECOSTRESS_MEASURED = 1041
_ECOSTRESS_ROCK = (490, 815)
_ECOSTRESS_OTHER = (906, 937)  # minerals, salts, snow
_DARKEST = 0.02  # a "rock" that stays below is a failed measurement, a "water" is dark water
_BRIGHTEST = 1.0
_ROUGHEST = 1.5  # sum of all rises and falls from 380 to 800 nm
# water vapour, and residues of the atmospheric correction, nm
_VAPOUR = ((1335, 1450), (1785, 1965))
_RESIDUE = ((755, 772), (805, 845), (890, 990), (1085, 1180))
_BLUE_END = 420  # airborne values below are the correction's, not the ground's
_PIXELS = {"jasper": 400, "sjer": 200, "harv": 200}


def read_measured(folder: Path) -> dict[str, np.ndarray]:
    """Cleaned spectra of every source under a sample folder.

    Returns
    -------
    dict of `reflectance (m, 425)` float32 on `WAVELENGTH_NM`, and `material`, `source`, `name` (m,) str.

    Raises
    ------
    ReadError
        A file of the list is missing.
    """
    parts = [
        _read_library(folder / "spectra" / f"{stem}.nc", source, kind)
        for stem, source, kind in _LIBRARIES
    ]
    parts += [_airborne(folder / "airborne", source) for source in _PIXELS]
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return dict(zip(("reflectance", "material", "source", "name"), columns, strict=True))


def to_grid(wavelength_nm, reflectance, *, masked=(), start_nm=0.0) -> np.ndarray:
    """Spectra (m, n) -> (m, 425) on `WAVELENGTH_NM`, linear; the nearest value beyond the ends.

    `masked` ranges and what lies below `start_nm` are bridged. Below `start_nm` the slope of the next 40 nm goes on,
    down to half the value there.
    """
    order = np.argsort(wavelength_nm, kind="stable")
    nm, values = np.asarray(wavelength_nm, float)[order], np.asarray(reflectance, float)[:, order]
    good = nm >= start_nm
    for low, high in masked:
        good &= (nm < low) | (nm > high)
    nm, values = nm[good], values[:, good]
    out = np.stack([np.interp(WAVELENGTH_NM, nm, row) for row in values])
    if start_nm:
        first = int(np.searchsorted(WAVELENGTH_NM, nm[0]))
        slope = (out[:, first + 8] - out[:, first]) / 8
        steps = np.arange(first) - first
        out[:, :first] = np.maximum(out[:, [first]] + slope[:, None] * steps, 0.5 * out[:, [first]])
    return out.astype(np.float32)


def _read_library(path, source, material):
    if not path.is_file():
        raise ReadError(
            f"{path} is missing; give a complete sample folder, or none for the parametric spectra"
        )
    with xr.open_dataset(path) as file:
        nm, raw, names = (
            file.wavelength_nm.values,
            file.reflectance.values,
            file.name.values.astype(str),
        )
    spectra = to_grid(nm, raw)
    row = np.arange(len(spectra))
    keep = (raw.min(1) > -0.01) & (raw.max(1) <= _BRIGHTEST)
    materials = np.full(len(row), material or "")
    if path.stem == "emit_artificial_materials":
        keep[_EMIT_ARTIFICIAL_BAD] = False
        keep &= (
            np.abs(np.diff(spectra[:, :85], axis=1)).sum(1) < _ROUGHEST
        )  # wavelength standards of rare earths
    if path.stem == "ecostress_with_mixtures":
        materials = _ecostress_material(spectra, row)
        keep &= (row < _ECOSTRESS_MEASURED) & (
            (spectra.max(1) >= _DARKEST) | (materials == "water")
        )
    spectra = np.maximum(spectra, 0)
    keep &= _first_of_equal(spectra)
    return spectra[keep], materials[keep], np.full(keep.sum(), source), names[keep]


def _ecostress_material(spectra, row):
    """The file orders its rows: vegetation, rock, soil and dry plants, minerals and salts, snow, dark water."""
    at = {nm: spectra[:, (nm - 380) // 5] for nm in (550, 665, 865, 1500, 1650)}
    ndvi = (at[865] - at[665]) / (at[865] + at[665] + 1e-6)
    snow = (at[550] > 0.5) & (at[1500] < 0.15) & (row >= _ECOSTRESS_OTHER[0])
    water = (spectra.max(1) < 0.05) & (row >= _ECOSTRESS_OTHER[0])
    plant = (row < _ECOSTRESS_ROCK[0]) | ((row < _ECOSTRESS_OTHER[0]) & (ndvi > 0.3))
    return np.select([snow, water, plant], ["snow", "water", "vegetation"], "soil")


def _airborne(folder, source):
    """Evenly spread pixels of an airborne scene."""
    nm, pixels = {"jasper": _jasper, "sjer": _sjer, "harv": _harv}[source](folder)
    index = np.unique(np.linspace(0, len(pixels) - 1, _PIXELS[source]).astype(int))
    masked = _VAPOUR if source == "jasper" else _VAPOUR + _RESIDUE
    usable = nm < 2450
    spectra = np.maximum(
        to_grid(nm[usable], pixels[index][:, usable] * 1e-4, masked=masked, start_nm=_BLUE_END), 0
    )
    red, near = spectra[:, (665 - 380) // 5], spectra[:, (865 - 380) // 5]
    ndvi = (near - red) / (near + red + 1e-6)
    material = np.select([(near < 0.05) & (ndvi < 0), ndvi > 0.6], ["water", "vegetation"], "mixed")
    names = np.array([f"{source}_{i:05d}" for i in index])
    return spectra, material, np.full(len(index), source), names


def _jasper(folder):
    """Centres are approximate: the nominal ones of AVIRIS-Classic + 5 nm, uncertain by about 8 nm."""
    nm = np.loadtxt(folder / "aviris_jasper_ridge_centres.csv", delimiter=",", skiprows=1)[:, 2]
    return nm, _pixels(folder / "aviris_jasper_ridge.tif")


def _sjer(folder):
    with h5py.File(folder / "neon_sjer_30x30.h5") as file:
        site = file["SJER/Reflectance"]
        return site["Metadata/Spectral_Data/Wavelength"][:], site["Reflectance_Data"][:].reshape(
            900, -1
        )


def _harv(folder):
    """The file names no wavelengths; those of SJER, the same instrument, are the nearest."""
    return _sjer(folder)[0], _pixels(folder / "neon_harv_40x40.tif")


def _pixels(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        image = rasterio.open(path)
    with image:
        return image.read().reshape(image.count, -1).T.astype(float)


def _first_of_equal(spectra):
    """(m,) bool, True for the first of every set of equal rows."""
    _, first = np.unique(np.round(spectra, 3), axis=0, return_index=True)
    keep = np.zeros(len(spectra), bool)
    keep[first] = True
    return keep
