"""Writes Sentinel-3 SY_2_SYN products as SEN3 folders, and makes the curved swath that they lie on.

Names, types, scales and attributes follow a product of 2023 (processing baseline SYN_L2_.002.18.01).
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import xarray as xr

from satfuse.errors import BandError, GridError
from satfuse.sensors.bands import S3_BANDS, S3_NAMES
from satfuse.simulate.sen3_manifest import FLAGS, write_manifest
from satfuse.simulate.sphere import EARTH_RADIUS_M, bearing, destination, sun_angles

ORBIT_HEIGHT_M = 814500
ALONG_TRACK_M, ACROSS_TRACK_M = 295.0, 270.0  # spacing of rows and columns, measured on a real product
TIE_STEP = 64
SDR_FILL, ANGLE_FILL, ALTITUDE_FILL, TIME_FILL = -10000, -(2**31), -(2**15), -1
EPOCH = datetime(2000, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Swath:
    """Where the pixels of a swath lie and how the satellite sees them. Arrays are (row, column), degrees.

    Azimuths point from the pixel to the satellite, -180..180 clockwise from north.
    """

    latitude: np.ndarray
    longitude: np.ndarray
    view_zenith: np.ndarray
    view_azimuth: np.ndarray

    def rows(self, start: int, stop: int) -> "Swath":
        """The rows `start` to `stop`, which is how an orbit is cut into frames."""
        return Swath(**{name: values[start:stop] for name, values in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class SynFrame:
    """What a SYN product's name and header say. Times are UTC; `start` is the time of the first row.

    `frame` counts seconds along the orbit. `clock_offset_s` is how far the row times in `time.nc` run ahead of UTC:
    18 in real products, whose rows carry GPS time.
    """

    platform: str
    start: datetime
    rows: int
    relative_orbit: int
    cycle: int
    frame: int
    absolute_orbit: int = 28029
    timeliness: str = "NT"
    row_step_s: float = 0.044
    clock_offset_s: float = 18.0
    sun_zenith_deg: float = 45.0
    sun_azimuth_deg: float = 150.0

    @property
    def stop(self) -> datetime:
        """One row step after the last row: the start of the next frame."""
        return self.start + timedelta(seconds=self.rows * self.row_step_s)

    @property
    def processed(self) -> datetime:
        """When the ground segment made the product: a day later (ST), or two (NT)."""
        return self.start + timedelta(days=1 if self.timeliness == "ST" else 2)

    @property
    def name(self) -> str:
        """Product name without `.SEN3`; also the id of its STAC item."""
        times = "_".join(f"{t:%Y%m%dT%H%M%S}" for t in (self.start, self.stop, self.processed))
        seconds = int((self.stop - self.start).total_seconds())
        place = f"{seconds:04d}_{self.cycle:03d}_{self.relative_orbit:03d}_{self.frame:04d}"
        return f"{self.platform}_SY_2_SYN____{times}_{place}_PS2_O_{self.timeliness}_002"


def swath_grid(latitude, longitude, *, rows, columns, row=None, column=None, heading_deg=195.0, nadir_west_m=250e3):
    """A descending swath with a given pixel at a given place.

    Rows follow a great circle along the ground track, each row is a great circle across it, so latitude depends on
    row and column and neither row nor column is a line on a map grid.

    Parameters
    ----------
    latitude, longitude : degrees, of the pixel (`row`, `column`), by default the middle one.
    rows, columns : size of the swath. Rows go along the track (southward), columns from west to east.
    heading_deg : direction in which rows go at that pixel, clockwise from north.
    nadir_west_m : ground distance from that pixel west to the ground track; negative on the western side.

    Returns
    -------
    Swath
    """
    row, column = (rows // 2 if row is None else row), (columns // 2 if column is None else column)
    arc = np.degrees(1 / EARTH_RADIUS_M)
    westward = heading_deg + 90
    nadir = destination(latitude, longitude, westward, nadir_west_m * arc)
    east_of_nadir = destination(latitude, longitude, westward, (nadir_west_m - 1e4) * arc)
    across = bearing(*nadir, *east_of_nadir)[0]
    along = (np.arange(rows) - row)[:, None] * ALONG_TRACK_M * arc
    track = destination(*nadir, across + 90, along)
    ahead = destination(*nadir, across + 90, along + 0.01)
    scan = bearing(*track, *ahead)[0] - 90
    distance_m = nadir_west_m + (np.arange(columns) - column)[None, :] * ACROSS_TRACK_M
    lat, lon = destination(*track, scan, distance_m * arc)
    angle = np.abs(distance_m) / EARTH_RADIUS_M
    height = (EARTH_RADIUS_M + ORBIT_HEIGHT_M) / EARTH_RADIUS_M
    zenith = np.degrees(angle + np.arctan2(np.sin(angle), height - np.cos(angle)))
    return Swath(
        latitude=lat,
        longitude=lon,
        view_zenith=np.broadcast_to(zenith, lat.shape),
        view_azimuth=bearing(lat, lon, *track)[0],
    )


def write_sen3(folder: Path, reflectance, swath: Swath, cloud, land, frame: SynFrame) -> Path:
    """Write one SYN frame with its 21 nadir bands.

    Parameters
    ----------
    folder : where the `.SEN3` folder is made.
    reflectance : (21, row, column) float in the order of `S3_NAMES`, NaN where there is none.
    cloud, land : (row, column) bool. Reflectance is written where it is land and not cloud, as in real products.

    Returns
    -------
    Path of the `.SEN3` folder.

    Raises
    ------
    BandError, GridError
        Arrays that do not fit together.
    """
    _check_sizes(reflectance, swath, cloud, land, frame)
    sen3 = Path(folder) / f"{frame.name}.SEN3"
    sen3.mkdir(parents=True, exist_ok=True)
    seen = land & ~cloud
    for band, values in zip(S3_BANDS, reflectance, strict=True):
        _write_band(sen3, frame, band, np.where(seen, values, np.nan))
    ok = seen & np.isfinite(reflectance).all(0)
    _write_flags(sen3, frame, cloud, land, ok)
    _write_geolocation(sen3, frame, swath)
    _write_time(sen3, frame)
    _write_tie_points(sen3, frame, swath)
    write_manifest(sen3, frame, swath, cloud, land)
    return sen3


def tie_columns(columns: int) -> np.ndarray:
    """Columns of the OLCI tie points: every 64th, and the last."""
    return np.unique([*range(0, columns, TIE_STEP), columns - 1])


def _check_sizes(reflectance, swath, cloud, land, frame):
    if len(reflectance) != len(S3_NAMES):
        raise BandError(f"{len(reflectance)} bands; a SYN frame has {len(S3_NAMES)}: {', '.join(S3_NAMES)}")
    shape = swath.latitude.shape
    if not shape == reflectance.shape[1:] == cloud.shape == land.shape or shape[0] != frame.rows:
        raise GridError(
            f"swath {shape}, reflectance {reflectance.shape[1:]}, cloud {cloud.shape}, land {land.shape} and "
            f"{frame.rows} rows of the frame must agree"
        )


def _stamp(time):
    return f"{time:%Y-%m-%dT%H:%M:%S.%f}Z"


def _write_netcdf(path, frame, title, variables, resolution="[ 300 300 ]"):
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
        "start_time": _stamp(frame.start),
        "stop_time": _stamp(frame.stop),
        "title": f"SYN L2, {title}",
    }
    encoding = {name: {"zlib": True, "complevel": 2, "shuffle": True} for name in variables}
    xr.Dataset(variables, attrs=attributes).to_netcdf(path, encoding=encoding)


def _write_band(sen3, frame, band, values):
    name, sensor = f"SDR_{band.name}", "OLCI" if band.name.startswith("Oa") else "SLSTR"
    view = "" if sensor == "OLCI" else " acquired in nadir view"
    source = f"associated with {sensor} channel {band.name[2:] if sensor == 'OLCI' else '0' + band.name[1]}{view}"
    numbers = np.where(np.isfinite(values), np.clip(np.rint(values * 1e4), 0, 10000), SDR_FILL).astype("int16")
    scaling = {
        "_FillValue": np.int16(SDR_FILL),
        "bandwidth": np.float32(band.fwhm_nm),
        "scale_factor": np.float32(1e-4),
        "valid_max": np.int16(10000),
        "valid_min": np.int16(0),
        "wavelength": np.float32(band.wavelength_nm),
    }
    quantity, dims = "urface directional reflectance", ("rows", "columns")
    variables = {
        name: (
            dims,
            numbers,
            {
                **scaling,
                "ancillary_variables": f"{name}_err",
                "long_name": f"S{quantity} {source}",
                "standard_name": "surface_directional_reflectance",
            },
        ),
        f"{name}_err": (
            dims,
            np.full_like(numbers, SDR_FILL),  # filled for nearly all pixels of real products too
            {
                **scaling,
                "long_name": f"S{quantity} error estimate {source}",
                "standard_name": "surface_directional_reflectance_error_estimate",
            },
        ),
    }
    _write_netcdf(sen3 / f"Syn_{band.name}_reflectance.nc", frame, f"s{quantity} {source}", variables)


def _write_flags(sen3, frame, cloud, land, ok):
    bits = {
        "CLOUD_flags": {"CLOUD": cloud},
        "SYN_flags": {"SYN_cloud": cloud, "SYN_land": land, "SYN_success": ok},
        "OLC_flags": {"OLC_land": land, "OLC_bright": cloud},
        "SLN_flags": {"SLN_land": land, "SLN_ocean": ~land, "SLN_day": np.ones_like(land), "SLN_summary_cloud": cloud},
    }
    variables = {}
    for name, (dtype, masks) in FLAGS.items():
        values = sum(masks[flag] * is_set.astype(dtype) for flag, is_set in bits[name].items())
        attributes = {
            "flag_masks": np.array(list(masks.values()), dtype),
            "flag_meanings": " ".join(masks),
            "long_name": f"{name.split('_')[0]} classification and quality flags",
        }
        variables[name] = (("rows", "columns"), values.astype(dtype), attributes)
    _write_netcdf(sen3 / "flags.nc", frame, "classification and quality flags", variables)


def _micro(values):
    return np.rint(np.asarray(values) * 1e6).astype("int32")


def _angle(kind, standard_name, limit, *, coordinates=None, signed=True):
    attributes = {
        "_FillValue": np.int32(ANGLE_FILL),
        "long_name": kind,
        "scale_factor": np.float32(1e-6),
        "standard_name": standard_name,
        "units": {"latitude": "degrees_north", "longitude": "degrees_east"}.get(standard_name, "degrees"),
        "valid_max": np.int32(limit * 10**6),
        "valid_min": np.int32(-limit * 10**6 if signed else 0),
    }
    return {**attributes, "coordinates": coordinates} if coordinates else attributes


def _write_geolocation(sen3, frame, swath):
    dims = ("rows", "columns")
    altitude = {"_FillValue": np.int16(ALTITUDE_FILL), "long_name": "DEM corrected altitude", "units": "m"}
    variables = {
        "altitude": (dims, np.zeros(swath.latitude.shape, "int16"), {**altitude, "standard_name": "altitude"}),
        "lat": (dims, _micro(swath.latitude), _angle("DEM corrected latitude", "latitude", 90)),
        "lon": (dims, _micro(swath.longitude), _angle("DEM corrected longitude", "longitude", 180)),
    }
    _write_netcdf(sen3 / "geolocation.nc", frame, "high resolution georeferencing data", variables)


def _write_time(sen3, frame):
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
    _write_netcdf(sen3 / "time.nc", frame, "time stamp annotations", {"Time": ("rows", times, attributes)})


def _write_tie_points(sen3, frame, swath):
    columns = tie_columns(swath.latitude.shape[1])
    lat, lon = swath.latitude[:, columns], swath.longitude[:, columns]
    middle = tuple(float(v[v.shape[0] // 2, v.shape[1] // 2]) for v in (swath.latitude, swath.longitude))
    sun_azimuth, sun_zenith = sun_angles(lat, lon, middle, frame.sun_zenith_deg, frame.sun_azimuth_deg)
    on, olci = {"coordinates": "OLC_TP_lat OLC_TP_lon"}, "olci_view_azimuth_angle"
    points = {
        "OLC_TP_lat": (lat, _angle("Latitude (WGS-84)", "latitude", 90)),
        "OLC_TP_lon": (lon, _angle("Longitude (WGS-84)", "longitude", 180)),
        "OLC_VAA": (swath.view_azimuth[:, columns], _angle("OLCI view azimuth angle", olci, 180, **on)),
        "OLC_VZA": (
            swath.view_zenith[:, columns],
            _angle("OLCI view zenith angle", "OLCI_view_zenith_angle", 90, signed=False, **on),
        ),
        "SAA": (sun_azimuth, _angle("Sun Azimuth Angle", "solar_azimuth_angle", 180, **on)),
        "SZA": (sun_zenith, _angle("Sun Zenith Angle", "solar_zenith_angle", 90, signed=False, **on)),
    }
    variables = {n: ("olc_number_tp", _micro(values).ravel(order="F"), a) for n, (values, a) in points.items()}
    title = "low resolution georeferencing data and Sun and View angles associated with OLCI products"
    _write_netcdf(sen3 / "tiepoints_olci.nc", frame, title, variables, "[ 16000 300 ]")
