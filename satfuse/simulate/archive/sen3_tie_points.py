"""The tie points of a SYN product: sun and view angles of OLCI and SLSTR, and the weather.

All are one-dimensional. OLCI's lie on every row and every 64th column, column after column; SLSTR's have no grid.
"""

import numpy as np

from satfuse.simulate.archive.sen3_files import angle_attributes, micro, write_netcdf
from satfuse.simulate.archive.sphere import sun_angles

TIE_STEP = 64
SLSTR_STEP = 3  # about 0.8 km, the density of real products
OBLIQUE_ZENITH_DEG = 55.0
WEATHER_FILL = -1


def tie_columns(columns: int) -> np.ndarray:
    """Columns of the OLCI tie points: every 64th, and the last."""
    return np.unique([*range(0, columns, TIE_STEP), columns - 1])


def write_olci(sen3, frame, swath):
    """Positions, view angles of OLCI and sun angles."""
    columns = tie_columns(swath.latitude.shape[1])
    lat, lon = swath.latitude[:, columns], swath.longitude[:, columns]
    middle = tuple(
        float(v[v.shape[0] // 2, v.shape[1] // 2]) for v in (swath.latitude, swath.longitude)
    )
    sun_azimuth, sun_zenith = sun_angles(
        lat, lon, middle, frame.sun_zenith_deg, frame.sun_azimuth_deg
    )
    on, olci = {"coordinates": "OLC_TP_lat OLC_TP_lon"}, "olci_view_azimuth_angle"
    points = {
        "OLC_TP_lat": (lat, angle_attributes("Latitude (WGS-84)", "latitude", 90)),
        "OLC_TP_lon": (lon, angle_attributes("Longitude (WGS-84)", "longitude", 180)),
        "OLC_VAA": (
            swath.view_azimuth[:, columns],
            angle_attributes("OLCI view azimuth angle", olci, 180, **on),
        ),
        "OLC_VZA": (
            swath.view_zenith[:, columns],
            angle_attributes(
                "OLCI view zenith angle", "OLCI_view_zenith_angle", 90, signed=False, **on
            ),
        ),
        "SAA": (
            sun_azimuth,
            angle_attributes("Sun Azimuth Angle", "solar_azimuth_angle", 180, **on),
        ),
        "SZA": (
            sun_zenith,
            angle_attributes("Sun Zenith Angle", "solar_zenith_angle", 90, signed=False, **on),
        ),
    }
    variables = {
        n: ("olc_number_tp", micro(values).ravel(order="F"), a) for n, (values, a) in points.items()
    }
    title = (
        "low resolution georeferencing data and Sun and View angles associated with OLCI products"
    )
    write_netcdf(sen3 / "tiepoints_olci.nc", frame, title, variables, "[ 16000 300 ]")


def write_meteo(sen3, frame, swath, altitude_m):
    """Pressure at the ground by the barometric formula; ozone and water vapour as slow functions of latitude."""
    columns = tie_columns(swath.latitude.shape[1])
    tropical = np.cos(np.radians(swath.latitude[:, columns]))
    pressure = 1013.25 * (1 - 2.25577e-5 * altitude_m[:, columns]) ** 5.25588
    points = {
        "air_pressure": (pressure, "Mean air pressure at the surface", "hPa"),
        "ozone": (0.0075 - 0.002 * tropical, "Total columnar ozone", "kg.m-2"),
        "water_vapour": (5 + 40 * tropical**2, "Total column water vapour", "kg.m-2"),
    }
    variables = {
        name: (
            "olc_number_tp",
            values.astype("float32").ravel(order="F"),
            {
                "_FillValue": np.float32(WEATHER_FILL),
                "coordinates": "OLC_TP_lat OLC_TP_lon",
                "long_name": long_name,
                "units": units,
            },
        )
        for name, (values, long_name, units) in points.items()
    }
    write_netcdf(
        sen3 / "tiepoints_meteo.nc", frame, "ECMWF meteorology data", variables, "[ 16000 300 ]"
    )


def write_slstr(sen3, frame, swath):
    """Positions and view angles of SLSTR: the nadir view on the whole swath, the oblique one on its eastern half."""
    columns = swath.latitude.shape[1]
    for view, zenith, azimuth, first in (
        ("nadir", swath.view_zenith, swath.view_azimuth, 0),
        (
            "oblique",
            np.full_like(swath.latitude, OBLIQUE_ZENITH_DEG),
            _oblique_azimuth(swath),
            columns // 2,
        ),
    ):
        key, cut = (
            f"SL{view[0].upper()}",
            (slice(None, None, SLSTR_STEP), slice(first, None, SLSTR_STEP)),
        )
        points = {
            "TP_lat": (swath.latitude, "float64", "Latitude (WGS-84)", "degrees_north"),
            "TP_lon": (swath.longitude, "float64", "Longitude (WGS-84)", "degrees_east"),
            "VAA": (azimuth, "float32", f"SLSTR {view} view azimuth angle", "degrees"),
            "VZA": (zenith, "float32", f"SLSTR {view} view zenith angle", "degrees"),
        }
        variables = {
            f"{key}_{name}": (
                f"{key.lower()}_number_tp",
                values[cut].astype(dtype).ravel(order="F"),
                {"long_name": long_name, "units": units},
            )
            for name, (values, dtype, long_name, units) in points.items()
        }
        title = f"low resolution georeferencing data and Sun and View angles associated with SLSTR {view} view products"
        write_netcdf(
            sen3 / f"tiepoints_slstr_{view[0]}.nc", frame, title, variables, "[ 16000 16000 ]"
        )


def _oblique_azimuth(swath):
    """Azimuth of the satellite, -180..180, when it looks back at a pixel under `OBLIQUE_ZENITH_DEG`.

    It is as far to the side as in the nadir view, and the rest of the way ahead on its southward track.
    """
    ahead = swath.view_azimuth - 90
    west = np.cos(np.radians(ahead)) < 0  # nadir lies to the west
    ahead = np.where(west, ahead, swath.view_azimuth + 90)
    side = np.tan(np.radians(swath.view_zenith)) / np.tan(np.radians(OBLIQUE_ZENITH_DEG))
    turn = np.degrees(np.arcsin(np.minimum(side, 1)))
    return (ahead + np.where(west, turn, -turn) + 180) % 360 - 180
