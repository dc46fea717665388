"""The NetCDF files of a SYN product on its swath.

Bands, flags, aerosol, removed pixels, geolocation and time. Names, types, scales and attributes
follow a product of 2023 (processing baseline SYN_L2_.002.18.01).
"""

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from satfuse.arrays import BoolArray, FloatArray, IntArray
from satfuse.sensors.bands import S3_BANDS, Band
from satfuse.simulate.archive.sen3_swath import Swath, SynFrame

SDR_FILL = -10000
ANGLE_FILL = -(2**31)
ALTITUDE_FILL = -(2**15)
TIME_FILL = -1
INDEX_FILL = 0
EPOCH = datetime(2000, 1, 1)
REMOVED_SHARE = 122 / 4865  # columns in the files of removed pixels over those of the image
# the aerosol of every pixel
CONTINENTAL = 1  # number of the aerosol model
ANGSTROM_EXPONENT = 1.3
GRID = ("rows", "columns")
# The oblique view of SLSTR has the bands of the nadir view.
OBLIQUE_BANDS = tuple(replace(b, name=f"{b.name[:2]}O") for b in S3_BANDS if b.name.startswith("S"))

_SLSTR_MASKS = {
    "saturation": 16, "invalid_radiance": 32, "no_parameters": 64, "unfilled": 128,
    "coastline": 256, "ocean": 512, "tidal": 1024, "land": 2048, "inland_water": 4096,
    "cosmetic": 65536, "day": 262144, "twilight": 524288, "sun_glint": 1048576, "snow": 2097152,
    "summary_cloud": 4194304, "pointing": 8388608,
}  # fmt: skip
# flag variable -> its type and the meaning of its bits
FLAGS: dict[str, tuple[str, dict[str, int]]] = {
    "CLOUD_flags": (
        "uint8",
        {"CLOUD": 1, "CLOUD_AMBIGUOUS": 2, "CLOUD_MARGIN": 4, "SNOW_ICE": 8},
    ),
    "SYN_flags": (
        "uint16",
        {
            "SYN_cloud": 1, "SYN_snow_risk": 2, "SYN_SDR_OOR": 4, "SYN_AOT_climato": 8,
            "SYN_land": 16, "SYN_no_olc": 32, "SYN_no_sln": 64, "SYN_no_slo": 128,
            "SYN_partly_cloudy": 256, "SYN_partly_water": 512, "SYN_border": 1024,
            "SYN_aerosol_filled": 2048, "SYN_success": 4096, "SYN_negative_curvature": 8192,
            "SYN_too_low": 16384, "SYN_high_error": 32768,
        },
    ),
    "OLC_flags": (
        "uint16",
        {
            "OLC_summary_saturated": 1, "OLC_dubious": 2, "OLC_sun_glint_risk": 4,
            "OLC_cosmetic": 8, "OLC_invalid": 16, "OLC_bright": 256, "OLC_tidal": 512,
            "OLC_fresh_inland_water": 1024, "OLC_coastline": 2048, "OLC_land": 4096,
        },
    ),
    **{
        f"{view}_flags": ("uint32", {f"{view}_{name}": mask for name, mask in _SLSTR_MASKS.items()})
        for view in ("SLN", "SLO")
    },
}  # fmt: skip

Attributes = dict[str, Any]
Dims = str | tuple[str, ...]
Variable = tuple[Dims, np.ndarray, Attributes]  # as xarray.Dataset takes them


def stamp(time: datetime) -> str:
    """A time in the format of the headers: UTC with microseconds and Z."""
    return f"{time:%Y-%m-%dT%H:%M:%S.%f}Z"


def write_netcdf(
    path: Path,
    frame: SynFrame,
    title: str,
    variables: dict[str, Variable],
    resolution: str = "[ 300 300 ]",
) -> None:
    """Write variables with the global attributes that every SYN file has."""
    made = f"{frame.processed:%Y-%m-%dT%H:%M:%SZ}"
    attributes = {
        "absolute_orbit_number": np.uint32(frame.absolute_orbit),
        "comment": " ",
        "contact": "eosupport@copernicus.esa.int",
        "creation_time": made,
        "history": f"  {made}: satfuse.simulate",
        "institution": "PS2",
        "processing_baseline": "SYN_L2_.002.18.01",
        "product_name": f"{frame.name}.SEN3",
        "references": "S3IPF PDS 006 - i1r15 - Product Data Format Specification - SYNERGY",
        "resolution": resolution,
        "source": "IPF-SY-2 06.26",
        "start_time": stamp(frame.start),
        "stop_time": stamp(frame.stop),
        "title": f"SYN L2, {title}",
    }
    encoding = {name: {"zlib": True, "complevel": 2, "shuffle": True} for name in variables}
    xr.Dataset(variables, attrs=attributes).to_netcdf(path, encoding=encoding)


def write_band(sen3: Path, frame: SynFrame, band: Band, values: FloatArray) -> None:
    """Write the reflectance of one band, (row, column) float, NaN = no data."""
    title = f"surface directional reflectance {band_source(band)}"
    path = sen3 / f"Syn_{band.name}_reflectance.nc"
    write_netcdf(path, frame, title, _band_variables(band, GRID, values))


def band_source(band: Band) -> str:
    """Instrument, channel and view of a band, in the words of the product."""
    if band.name.startswith("Oa"):
        return f"associated with OLCI channel {band.name[2:]}"
    view = "nadir" if band.name.endswith("N") else "oblique"
    return f"associated with SLSTR channel 0{band.name[1]} acquired in {view} view"


def _scaled(values: FloatArray) -> IntArray:
    """Reflectance or optical thickness as int16: 0..10000, `SDR_FILL` where it is not finite."""
    numbers = np.clip(np.rint(values * 1e4), 0, 10000)
    return np.where(np.isfinite(values), numbers, SDR_FILL).astype("int16")


def _band_variables(band: Band, dims: Dims, values: FloatArray) -> dict[str, Variable]:
    name = f"SDR_{band.name}"
    numbers = _scaled(values)
    scaling = {
        "_FillValue": np.int16(SDR_FILL),
        "bandwidth": np.float32(band.fwhm_nm),
        "scale_factor": np.float32(1e-4),
        "valid_max": np.int16(10000),
        "valid_min": np.int16(0),
        "wavelength": np.float32(band.wavelength_nm),
    }
    reflectance = {
        "ancillary_variables": f"{name}_err",
        "long_name": f"Surface directional reflectance {band_source(band)}",
        "standard_name": "surface_directional_reflectance",
    }
    error = {
        "long_name": f"Surface directional reflectance error estimate {band_source(band)}",
        "standard_name": "surface_directional_reflectance_error_estimate",
    }
    empty = np.full_like(numbers, SDR_FILL)  # as for nearly all pixels of real products
    return {
        name: (dims, numbers, {**scaling, **reflectance}),
        f"{name}_err": (dims, empty, {**scaling, **error}),
    }


def write_flags(sen3: Path, frame: SynFrame, masks: dict[str, BoolArray]) -> None:
    """Write the five flag variables.

    `masks` are (row, column) bool: cloud, land, inland_water, shore, ok (reflectance was retrieved)
    and oblique (the oblique view covers the pixel).
    """
    variables = {}
    for name, bits in _flag_bits(masks).items():
        dtype, values = FLAGS[name]
        total = sum(values[flag] * mask.astype(dtype) for flag, mask in bits.items())
        variables[name] = _flag_variable(name, GRID, np.asarray(total))
    write_netcdf(sen3 / "flags.nc", frame, "classification and quality flags", variables)


def _flag_bits(masks: dict[str, BoolArray]) -> dict[str, dict[str, BoolArray]]:
    """Flag variable -> the flags that the simulation sets, and where."""
    cloud = masks["cloud"]
    land = masks["land"]
    oblique = masks["oblique"]
    slstr = {
        "coastline": masks["shore"],
        "ocean": ~land,
        "land": land,
        "inland_water": masks["inland_water"],
        "day": np.ones_like(land),
        "summary_cloud": cloud,
    }
    return {
        "CLOUD_flags": {"CLOUD": cloud},
        "SYN_flags": {
            "SYN_cloud": cloud,
            "SYN_land": land,
            "SYN_no_slo": ~oblique,
            "SYN_success": masks["ok"],
        },
        "OLC_flags": {
            "OLC_bright": cloud,
            "OLC_fresh_inland_water": masks["inland_water"],
            "OLC_coastline": masks["shore"],
            "OLC_land": land,
        },
        "SLN_flags": {f"SLN_{name}": mask for name, mask in slstr.items()},
        "SLO_flags": {
            "SLO_unfilled": ~oblique,
            **{f"SLO_{name}": mask & oblique for name, mask in slstr.items()},
        },
    }


def _flag_variable(name: str, dims: Dims, values: np.ndarray) -> Variable:
    dtype, masks = FLAGS[name]
    attributes = {
        "flag_masks": np.array(list(masks.values()), dtype),
        "flag_meanings": " ".join(masks),
        "long_name": f"{name.split('_')[0]} classification and quality flags",
    }
    return dims, values.astype(dtype), attributes


def write_aerosol(sen3: Path, frame: SynFrame, swath: Swath, retrieved: BoolArray) -> None:
    """Write the aerosol: optical thickness at 550 nm, its error, Angstrom exponent, model number.

    The optical thickness varies slowly with the position: 0.08 to 0.16 over some degrees.
    """
    place = np.sin(np.radians(40 * swath.latitude)) * np.cos(np.radians(40 * swath.longitude))
    variables = _aerosol_variables(GRID, np.where(retrieved, 0.12 + 0.04 * place, np.nan))
    titles = {
        "Syn_AOT550": ("aerosol optical thickness data set", ("T550", "T550_err")),
        "Syn_Angstrom_exp550": ("aerosol angstrom exponent data set", ("A550",)),
        "Syn_AMIN": ("aerosol model index number data", ("AMIN",)),
    }
    for stem, (title, names) in titles.items():
        write_netcdf(sen3 / f"{stem}.nc", frame, title, {name: variables[name] for name in names})


def _aerosol_variables(dims: Dims, thickness: FloatArray) -> dict[str, Variable]:
    retrieved = np.isfinite(thickness)
    name = "Aerosol optical thickness at 550 nm"
    step = np.float32(0.015)  # of the Angstrom exponent
    exponent = np.where(retrieved, np.rint(ANGSTROM_EXPONENT / step), INDEX_FILL).astype("uint8")
    model = np.where(retrieved, CONTINENTAL, INDEX_FILL).astype("uint8")
    scaling = {"_FillValue": np.int16(SDR_FILL), "scale_factor": np.float32(1e-4)}
    index = {"_FillValue": np.uint8(INDEX_FILL)}
    values = {"ancillary_variables": "T550_err", "long_name": name}
    error = {"long_name": f"{name} error estimate"}
    angstrom = {"long_name": "Aerosol Angstrom exponent at 550 nm", "scale_factor": step}
    return {
        "T550": (dims, _scaled(thickness), {**scaling, **values}),
        "T550_err": (dims, _scaled(0.2 * thickness), {**scaling, **error}),
        "A550": (dims, exponent, {**index, **angstrom}),
        "AMIN": (dims, model, {**index, "long_name": "Aerosol model index number"}),
    }


def write_removed_pixels(sen3: Path, frame: SynFrame, shape: tuple[int, ...]) -> None:
    """Write the files of pixels in the overlap of two cameras; `shape` is that of the image.

    The simulated cameras do not overlap, so all values are fill.
    """
    dims = ("rows", "removed_pixels")
    size = (shape[0], max(round(REMOVED_SHARE * shape[1]), 1))
    empty = np.full(size, np.nan)
    variables = _aerosol_variables(dims, empty)
    for band in (*S3_BANDS, *OBLIQUE_BANDS):
        variables |= _band_variables(band, dims, empty)
    title = "surface directional reflectance and aerosol parameters associated with removed pixel"
    write_netcdf(sen3 / "Syn_SDR_removed_pixel.nc", frame, title, variables)
    flags = {name: _flag_variable(name, dims, np.zeros(size)) for name in FLAGS}
    title = "annotations parameters associated with removed pixel"
    write_netcdf(sen3 / "Syn_annot_rem.nc", frame, title, flags)


def micro(degrees: FloatArray) -> IntArray:
    """Degrees as int32 millionths."""
    return np.rint(np.asarray(degrees) * 1e6).astype("int32")


def angle_attributes(
    long_name: str,
    standard_name: str,
    limit: int,
    *,
    coordinates: str | None = None,
    signed: bool = True,
) -> Attributes:
    """Attributes of an angle that `micro` encodes; `limit` is the largest value in degrees."""
    units = {"latitude": "degrees_north", "longitude": "degrees_east"}
    attributes = {
        "_FillValue": np.int32(ANGLE_FILL),
        "long_name": long_name,
        "scale_factor": np.float32(1e-6),
        "standard_name": standard_name,
        "units": units.get(standard_name, "degrees"),
        "valid_max": np.int32(limit * 10**6),
        "valid_min": np.int32(-limit * 10**6 if signed else 0),
    }
    return {**attributes, "coordinates": coordinates} if coordinates else attributes


def write_geolocation(sen3: Path, frame: SynFrame, swath: Swath, altitude_m: FloatArray) -> None:
    """Write latitude, longitude and altitude of every pixel."""
    altitude = {
        "_FillValue": np.int16(ALTITUDE_FILL),
        "long_name": "DEM corrected altitude",
        "standard_name": "altitude",
        "units": "m",
    }
    latitude = angle_attributes("DEM corrected latitude", "latitude", 90)
    longitude = angle_attributes("DEM corrected longitude", "longitude", 180)
    variables: dict[str, Variable] = {
        "altitude": (GRID, np.rint(altitude_m).astype("int16"), altitude),
        "lat": (GRID, micro(swath.latitude), latitude),
        "lon": (GRID, micro(swath.longitude), longitude),
    }
    write_netcdf(sen3 / "geolocation.nc", frame, "high resolution georeferencing data", variables)


def write_time(sen3: Path, frame: SynFrame) -> None:
    """Write the time of every row, on the frame's clock."""
    attributes = {
        "_FillValue": np.int64(TIME_FILL),
        "long_name": "Time of measurement",
        "standard_name": "time_of_measurement",
        "units": "microseconds since 2000-01-01 00:00:00",
        "valid_max": np.int64(2**63 - 1),
        "valid_min": np.int64(0),
    }
    first = (frame.start - EPOCH) / timedelta(microseconds=1) + frame.clock_offset_s * 1e6
    times = np.rint(first + np.arange(frame.rows) * frame.row_step_s * 1e6).astype("int64")
    variables: dict[str, Variable] = {"Time": ("rows", times, attributes)}
    write_netcdf(sen3 / "time.nc", frame, "time stamp annotations", variables)
