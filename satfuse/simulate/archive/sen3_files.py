"""The NetCDF files of a SYN product on its swath: bands, flags, aerosol, removed pixels, geolocation, time.

Names, types, scales and attributes follow a product of 2023 (processing baseline SYN_L2_.002.18.01).
"""

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import xarray as xr

from satfuse.sensors.bands import S3_BANDS

SDR_FILL, ANGLE_FILL, ALTITUDE_FILL, TIME_FILL, INDEX_FILL = -10000, -(2**31), -(2**15), -1, 0
EPOCH = datetime(2000, 1, 1)
REMOVED_SHARE = 122 / 4865  # columns of the files of removed pixels, of the columns of the image
CONTINENTAL, ANGSTROM_EXPONENT = 1, 1.3  # the aerosol model of every pixel
GRID = ("rows", "columns")
# The oblique view of SLSTR has the bands of the nadir view.
OBLIQUE_BANDS = tuple(replace(b, name=f"{b.name[:2]}O") for b in S3_BANDS if b.name.startswith("S"))

_SLSTR_MASKS = {
    "saturation": 16, "invalid_radiance": 32, "no_parameters": 64, "unfilled": 128, "coastline": 256, "ocean": 512,
    "tidal": 1024, "land": 2048, "inland_water": 4096, "cosmetic": 65536, "day": 262144, "twilight": 524288,
    "sun_glint": 1048576, "snow": 2097152, "summary_cloud": 4194304, "pointing": 8388608,
}  # fmt: skip
# Flag variable -> its type and what its bits mean.
FLAGS = {
    "CLOUD_flags": (
        "uint8",
        {"CLOUD": 1, "CLOUD_AMBIGUOUS": 2, "CLOUD_MARGIN": 4, "SNOW_ICE": 8},
    ),
    "SYN_flags": (
        "uint16",
        {
            "SYN_cloud": 1, "SYN_snow_risk": 2, "SYN_SDR_OOR": 4, "SYN_AOT_climato": 8, "SYN_land": 16,
            "SYN_no_olc": 32, "SYN_no_sln": 64, "SYN_no_slo": 128, "SYN_partly_cloudy": 256, "SYN_partly_water": 512,
            "SYN_border": 1024, "SYN_aerosol_filled": 2048, "SYN_success": 4096, "SYN_negative_curvature": 8192,
            "SYN_too_low": 16384, "SYN_high_error": 32768,
        },
    ),
    "OLC_flags": (
        "uint16",
        {
            "OLC_summary_saturated": 1, "OLC_dubious": 2, "OLC_sun_glint_risk": 4, "OLC_cosmetic": 8, "OLC_invalid": 16,
            "OLC_bright": 256, "OLC_tidal": 512, "OLC_fresh_inland_water": 1024, "OLC_coastline": 2048,
            "OLC_land": 4096,
        },
    ),
    **{
        f"{view}_flags": ("uint32", {f"{view}_{name}": mask for name, mask in _SLSTR_MASKS.items()})
        for view in ("SLN", "SLO")
    },
}  # fmt: skip


def stamp(time) -> str:
    """A time as headers write it."""
    return f"{time:%Y-%m-%dT%H:%M:%S.%f}Z"


def write_netcdf(path, frame, title, variables, resolution="[ 300 300 ]"):
    """Write variables (name -> (dims, values, attributes)) with the global attributes of every SYN file."""
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


def write_band(sen3, frame, band, values):
    """Reflectance of one band, (row, column) float, NaN where there is none."""
    title = f"surface directional reflectance {band_source(band)}"
    write_netcdf(
        sen3 / f"Syn_{band.name}_reflectance.nc", frame, title, _band_variables(band, GRID, values)
    )


def band_source(band) -> str:
    """What a band's values are associated with, in the words of the product."""
    if band.name.startswith("Oa"):
        return f"associated with OLCI channel {band.name[2:]}"
    view = "nadir" if band.name.endswith("N") else "oblique"
    return f"associated with SLSTR channel 0{band.name[1]} acquired in {view} view"


def _scaled(values):
    """Reflectance or optical thickness as int16."""
    return np.where(np.isfinite(values), np.clip(np.rint(values * 1e4), 0, 10000), SDR_FILL).astype(
        "int16"
    )


def _band_variables(band, dims, values):
    name, numbers = f"SDR_{band.name}", _scaled(values)
    scaling = {
        "_FillValue": np.int16(SDR_FILL),
        "bandwidth": np.float32(band.fwhm_nm),
        "scale_factor": np.float32(1e-4),
        "valid_max": np.int16(10000),
        "valid_min": np.int16(0),
        "wavelength": np.float32(band.wavelength_nm),
    }
    measured = {
        "ancillary_variables": f"{name}_err",
        "long_name": f"Surface directional reflectance {band_source(band)}",
        "standard_name": "surface_directional_reflectance",
    }
    error = {
        "long_name": f"Surface directional reflectance error estimate {band_source(band)}",
        "standard_name": "surface_directional_reflectance_error_estimate",
    }
    filled = np.full_like(numbers, SDR_FILL)  # filled for nearly all pixels of real products too
    return {
        name: (dims, numbers, {**scaling, **measured}),
        f"{name}_err": (dims, filled, {**scaling, **error}),
    }


def write_flags(sen3, frame, masks):
    """The five flag variables; `masks` are (row, column) bool: cloud, land, inland_water, shore, ok, oblique."""
    cloud, land, oblique = masks["cloud"], masks["land"], masks["oblique"]
    slstr = {
        "coastline": masks["shore"],
        "ocean": ~land,
        "land": land,
        "inland_water": masks["inland_water"],
        "day": np.ones_like(land),
        "summary_cloud": cloud,
    }
    bits = {
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
    variables = {}
    for name in FLAGS:
        values = sum(
            FLAGS[name][1][flag] * mask.astype(FLAGS[name][0]) for flag, mask in bits[name].items()
        )
        variables[name] = _flag_variable(name, GRID, values)
    write_netcdf(sen3 / "flags.nc", frame, "classification and quality flags", variables)


def _flag_variable(name, dims, values):
    dtype, masks = FLAGS[name]
    attributes = {
        "flag_masks": np.array(list(masks.values()), dtype),
        "flag_meanings": " ".join(masks),
        "long_name": f"{name.split('_')[0]} classification and quality flags",
    }
    return dims, values.astype(dtype), attributes


def write_aerosol(sen3, frame, swath, retrieved):
    """Optical thickness at 550 nm, a slow function of place, its error, Angstrom exponent and model number."""
    place = np.sin(np.radians(40 * swath.latitude)) * np.cos(np.radians(40 * swath.longitude))
    variables = _aerosol_variables(GRID, np.where(retrieved, 0.12 + 0.04 * place, np.nan))
    titles = {
        "Syn_AOT550": ("aerosol optical thickness data set", ("T550", "T550_err")),
        "Syn_Angstrom_exp550": ("aerosol angstrom exponent data set", ("A550",)),
        "Syn_AMIN": ("aerosol model index number data", ("AMIN",)),
    }
    for stem, (title, names) in titles.items():
        write_netcdf(sen3 / f"{stem}.nc", frame, title, {name: variables[name] for name in names})


def _aerosol_variables(dims, thickness):
    retrieved = np.isfinite(thickness)
    scaling = {"_FillValue": np.int16(SDR_FILL), "scale_factor": np.float32(1e-4)}
    index = {"_FillValue": np.uint8(INDEX_FILL)}
    name, step = "Aerosol optical thickness at 550 nm", np.float32(0.015)
    exponent = np.where(retrieved, np.rint(ANGSTROM_EXPONENT / step), INDEX_FILL).astype("uint8")
    model = np.where(retrieved, CONTINENTAL, INDEX_FILL).astype("uint8")
    return {
        "T550": (
            dims,
            _scaled(thickness),
            {**scaling, "ancillary_variables": "T550_err", "long_name": name},
        ),
        "T550_err": (
            dims,
            _scaled(0.2 * thickness),
            {**scaling, "long_name": f"{name} error estimate"},
        ),
        "A550": (
            dims,
            exponent,
            {**index, "long_name": "Aerosol Angstrom exponent at 550 nm", "scale_factor": step},
        ),
        "AMIN": (dims, model, {**index, "long_name": "Aerosol model index number"}),
    }


def write_removed_pixels(sen3, frame, shape):
    """The files of pixels that two cameras saw. The simulated cameras do not overlap, so all of them are fill."""
    dims, size = ("rows", "removed_pixels"), (shape[0], max(round(REMOVED_SHARE * shape[1]), 1))
    nothing = np.full(size, np.nan)
    variables = _aerosol_variables(dims, nothing)
    for band in (*S3_BANDS, *OBLIQUE_BANDS):
        variables |= _band_variables(band, dims, nothing)
    title = "surface directional reflectance and aerosol parameters associated with removed pixel"
    write_netcdf(sen3 / "Syn_SDR_removed_pixel.nc", frame, title, variables)
    flags = {name: _flag_variable(name, dims, np.zeros(size)) for name in FLAGS}
    write_netcdf(
        sen3 / "Syn_annot_rem.nc",
        frame,
        "annotations parameters associated with removed pixel",
        flags,
    )


def micro(values) -> np.ndarray:
    """Degrees as int32 millionths."""
    return np.rint(np.asarray(values) * 1e6).astype("int32")


def angle_attributes(kind, standard_name, limit, *, coordinates=None, signed=True) -> dict:
    """Attributes of an angle that is stored by `micro`; `limit` in degrees."""
    attributes = {
        "_FillValue": np.int32(ANGLE_FILL),
        "long_name": kind,
        "scale_factor": np.float32(1e-6),
        "standard_name": standard_name,
        "units": {"latitude": "degrees_north", "longitude": "degrees_east"}.get(
            standard_name, "degrees"
        ),
        "valid_max": np.int32(limit * 10**6),
        "valid_min": np.int32(-limit * 10**6 if signed else 0),
    }
    return {**attributes, "coordinates": coordinates} if coordinates else attributes


def write_geolocation(sen3, frame, swath, altitude_m):
    """Latitude, longitude and altitude of every pixel."""
    altitude = {
        "_FillValue": np.int16(ALTITUDE_FILL),
        "long_name": "DEM corrected altitude",
        "standard_name": "altitude",
        "units": "m",
    }
    variables = {
        "altitude": (GRID, np.rint(altitude_m).astype("int16"), altitude),
        "lat": (
            GRID,
            micro(swath.latitude),
            angle_attributes("DEM corrected latitude", "latitude", 90),
        ),
        "lon": (
            GRID,
            micro(swath.longitude),
            angle_attributes("DEM corrected longitude", "longitude", 180),
        ),
    }
    write_netcdf(sen3 / "geolocation.nc", frame, "high resolution georeferencing data", variables)


def write_time(sen3, frame):
    """Time of every row, on the frame's clock."""
    first = (frame.start - EPOCH) / timedelta(microseconds=1) + frame.clock_offset_s * 1e6
    attributes = {
        "_FillValue": np.int64(TIME_FILL),
        "long_name": "Time of measurement",
        "standard_name": "time_of_measurement",
        "units": "microseconds since 2000-01-01 00:00:00",
        "valid_max": np.int64(2**63 - 1),
        "valid_min": np.int64(0),
    }
    times = np.rint(first + np.arange(frame.rows) * frame.row_step_s * 1e6).astype("int64")
    write_netcdf(
        sen3 / "time.nc", frame, "time stamp annotations", {"Time": ("rows", times, attributes)}
    )
