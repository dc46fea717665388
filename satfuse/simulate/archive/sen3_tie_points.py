"""The tie points of a SYN product: sun and view angles of OLCI and SLSTR, and the weather.

All variables are one-dimensional. OLCI has tie points at every row and every 64th column, stored
column after column; those of SLSTR have no grid.
"""

from pathlib import Path

import numpy as np

from satfuse.arrays import FloatArray, IntArray
from satfuse.simulate.archive.sen3_files import (
    Attributes,
    Variable,
    angle_attributes,
    micro,
    write_netcdf,
)
from satfuse.simulate.archive.sen3_swath import Swath, SynFrame
from satfuse.simulate.archive.sphere import sun_angles

TIE_STEP = 64
SLSTR_STEP = 3  # pixels, about 0.8 km, the density of real products
OBLIQUE_ZENITH_DEG = 55.0
WEATHER_FILL = -1
_TITLE = "low resolution georeferencing data and Sun and View angles associated with"
_OLCI_RESOLUTION = "[ 16000 300 ]"
_COORDINATES = "OLC_TP_lat OLC_TP_lon"


def tie_columns(columns: int) -> IntArray:
    """Columns of the OLCI tie points: every 64th, and the last."""
    return np.unique([*range(0, columns, TIE_STEP), columns - 1])


def write_olci(sen3: Path, frame: SynFrame, swath: Swath) -> None:
    """Write positions, view angles of OLCI and sun angles."""
    columns = tie_columns(swath.latitude.shape[1])
    lat = swath.latitude[:, columns]
    lon = swath.longitude[:, columns]
    azimuth, zenith = sun_angles(
        lat, lon, _centre(swath), frame.sun_zenith_deg, frame.sun_azimuth_deg
    )
    # the capitals of the standard names are those of real products
    points = {
        "OLC_TP_lat": (lat, angle_attributes("Latitude (WGS-84)", "latitude", 90)),
        "OLC_TP_lon": (lon, angle_attributes("Longitude (WGS-84)", "longitude", 180)),
        "OLC_VAA": (
            swath.view_azimuth[:, columns],
            _azimuth_attributes("OLCI view azimuth angle", "olci_view_azimuth_angle"),
        ),
        "OLC_VZA": (
            swath.view_zenith[:, columns],
            _zenith_attributes("OLCI view zenith angle", "OLCI_view_zenith_angle"),
        ),
        "SAA": (azimuth, _azimuth_attributes("Sun Azimuth Angle", "solar_azimuth_angle")),
        "SZA": (zenith, _zenith_attributes("Sun Zenith Angle", "solar_zenith_angle")),
    }
    variables = {
        name: _olci_variable(micro(values), attributes)
        for name, (values, attributes) in points.items()
    }
    title = f"{_TITLE} OLCI products"
    write_netcdf(sen3 / "tiepoints_olci.nc", frame, title, variables, _OLCI_RESOLUTION)


def _centre(swath: Swath) -> tuple[float, float]:
    """Latitude and longitude of the middle pixel."""
    middle = tuple(n // 2 for n in swath.latitude.shape)
    return float(swath.latitude[middle]), float(swath.longitude[middle])


def _azimuth_attributes(long_name: str, standard_name: str) -> Attributes:
    return angle_attributes(long_name, standard_name, 180, coordinates=_COORDINATES)


def _zenith_attributes(long_name: str, standard_name: str) -> Attributes:
    return angle_attributes(long_name, standard_name, 90, coordinates=_COORDINATES, signed=False)


def _olci_variable(values: np.ndarray, attributes: Attributes) -> Variable:
    return "olc_number_tp", values.ravel(order="F"), attributes  # column after column


def write_meteo(sen3: Path, frame: SynFrame, swath: Swath, altitude_m: FloatArray) -> None:
    """Write pressure at the ground, ozone and water vapour at the tie points of OLCI.

    Pressure follows the barometric formula of the ICAO standard atmosphere; ozone and water vapour
    vary slowly with latitude.
    """
    columns = tie_columns(swath.latitude.shape[1])
    tropical = np.cos(np.radians(swath.latitude[:, columns]))
    pressure = 1013.25 * (1 - 2.25577e-5 * altitude_m[:, columns]) ** 5.25588
    points = {
        "air_pressure": (pressure, "Mean air pressure at the surface", "hPa"),
        "ozone": (0.0075 - 0.002 * tropical, "Total columnar ozone", "kg.m-2"),
        "water_vapour": (5 + 40 * tropical**2, "Total column water vapour", "kg.m-2"),
    }
    variables = {
        name: _olci_variable(values.astype("float32"), _weather_attributes(long_name, units))
        for name, (values, long_name, units) in points.items()
    }
    path = sen3 / "tiepoints_meteo.nc"
    write_netcdf(path, frame, "ECMWF meteorology data", variables, _OLCI_RESOLUTION)


def _weather_attributes(long_name: str, units: str) -> Attributes:
    return {
        "_FillValue": np.float32(WEATHER_FILL),
        "coordinates": _COORDINATES,
        "long_name": long_name,
        "units": units,
    }


def write_slstr(sen3: Path, frame: SynFrame, swath: Swath) -> None:
    """Write positions and view angles of SLSTR.

    The nadir view covers the whole swath, the oblique one its eastern half.
    """
    _write_slstr_view(sen3, frame, swath, "nadir", swath.view_zenith, swath.view_azimuth, 0)
    zenith = np.full_like(swath.latitude, OBLIQUE_ZENITH_DEG)
    half = swath.latitude.shape[1] // 2
    _write_slstr_view(sen3, frame, swath, "oblique", zenith, _oblique_azimuth(swath), half)


def _write_slstr_view(
    sen3: Path,
    frame: SynFrame,
    swath: Swath,
    view: str,
    zenith: FloatArray,
    azimuth: FloatArray,
    first: int,
) -> None:
    """Write the tie points of one view of SLSTR from the column `first` on."""
    key = f"SL{view[0].upper()}"
    cut = (slice(None, None, SLSTR_STEP), slice(first, None, SLSTR_STEP))
    points = {
        "TP_lat": (swath.latitude, "float64", "Latitude (WGS-84)", "degrees_north"),
        "TP_lon": (swath.longitude, "float64", "Longitude (WGS-84)", "degrees_east"),
        "VAA": (azimuth, "float32", f"SLSTR {view} view azimuth angle", "degrees"),
        "VZA": (zenith, "float32", f"SLSTR {view} view zenith angle", "degrees"),
    }
    variables: dict[str, Variable] = {
        f"{key}_{name}": (
            f"{key.lower()}_number_tp",
            values[cut].astype(dtype).ravel(order="F"),
            {"long_name": long_name, "units": units},
        )
        for name, (values, dtype, long_name, units) in points.items()
    }
    title = f"{_TITLE} SLSTR {view} view products"
    path = sen3 / f"tiepoints_slstr_{view[0]}.nc"
    write_netcdf(path, frame, title, variables, "[ 16000 16000 ]")


def _oblique_azimuth(swath: Swath) -> FloatArray:
    """Azimuth of the satellite, -180..180, when it looks back at a pixel.

    At the zenith angle `OBLIQUE_ZENITH_DEG` it is as far to the side of the track as in the nadir
    view; the remaining distance is ahead, on its southward track.
    """
    ahead = swath.view_azimuth - 90
    west = np.cos(np.radians(ahead)) < 0  # nadir is to the west of the pixel
    ahead = np.where(west, ahead, swath.view_azimuth + 90)
    side = np.tan(np.radians(swath.view_zenith)) / np.tan(np.radians(OBLIQUE_ZENITH_DEG))
    turn = np.degrees(np.arcsin(np.minimum(side, 1)))
    return (ahead + np.where(west, turn, -turn) + 180) % 360 - 180
