"""Writes Sentinel-3 SY_2_SYN products as SEN3 folders, and makes the curved swath that they lie on."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from satfuse.errors import BandError, GridError
from satfuse.sensors.bands import S3_BANDS, S3_NAMES
from satfuse.simulate.archive import sen3_files, sen3_tie_points
from satfuse.simulate.archive.sen3_files import OBLIQUE_BANDS
from satfuse.simulate.archive.sen3_manifest import write_manifest
from satfuse.simulate.archive.sphere import EARTH_RADIUS_M, bearing, destination

ORBIT_HEIGHT_M = 814500
SHORE = 0.05  # share of water, or of land, from which a pixel counts as coastline
ALONG_TRACK_M, ACROSS_TRACK_M = (
    295.0,
    270.0,
)  # spacing of rows and columns, measured on a real product


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


def swath_grid(
    latitude,
    longitude,
    *,
    rows,
    columns,
    row=None,
    column=None,
    heading_deg=195.0,
    nadir_west_m=250e3,
):
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


def write_sen3(
    folder: Path,
    reflectance,
    swath: Swath,
    cloud,
    land,
    frame: SynFrame,
    *,
    water=None,
    altitude_m=None,
    oblique=None,
) -> Path:
    """Write one SYN frame with all 38 files of a product.

    Parameters
    ----------
    folder : where the `.SEN3` folder is made.
    reflectance : (21, row, column) float in the order of `S3_NAMES`, NaN where there is none.
    cloud, land : (row, column) bool. Reflectance is written where it is land and not cloud, as in real products. What
        is not land is sea; inland water is land.
    water : (row, column) share of water, 0 to 1; without it land is dry and sea is all water.
    altitude_m : (row, column) height of the ground; 0 by default.
    oblique : (5, row, column) reflectance of S1, S2, S3, S5, S6 in the oblique view, which covers the eastern half of a
        swath; what lies west of it is not written. Without it the oblique files hold no pixel.

    Returns
    -------
    Path of the `.SEN3` folder.

    Raises
    ------
    BandError, GridError
        Arrays that do not fit together.
    """
    _check_sizes(reflectance, swath, cloud, land, frame)
    shape = cloud.shape
    water = np.where(land, 0.0, 1.0) if water is None else water
    altitude_m = np.zeros(shape) if altitude_m is None else altitude_m
    oblique = np.full((len(OBLIQUE_BANDS), *shape), np.nan) if oblique is None else oblique
    sen3 = Path(folder) / f"{frame.name}.SEN3"
    sen3.mkdir(parents=True, exist_ok=True)
    seen = land & ~cloud
    in_oblique = np.isfinite(oblique).all(0) & (np.arange(shape[1]) >= shape[1] // 2)
    for band, values in zip(S3_BANDS, reflectance, strict=True):
        sen3_files.write_band(sen3, frame, band, np.where(seen, values, np.nan))
    for band, values in zip(OBLIQUE_BANDS, oblique, strict=True):
        sen3_files.write_band(sen3, frame, band, np.where(seen & in_oblique, values, np.nan))
    ok = seen & np.isfinite(reflectance).all(0)
    masks = {
        "cloud": cloud,
        "land": land,
        "inland_water": land & (water > 0.5),
        "ok": ok,
        "oblique": in_oblique,
    }
    masks["shore"] = (water > SHORE) & (water < 1 - SHORE)
    sen3_files.write_flags(sen3, frame, masks)
    sen3_files.write_aerosol(sen3, frame, swath, ok)
    sen3_files.write_removed_pixels(sen3, frame, shape)
    sen3_files.write_geolocation(sen3, frame, swath, altitude_m)
    sen3_files.write_time(sen3, frame)
    sen3_tie_points.write_olci(sen3, frame, swath)
    sen3_tie_points.write_meteo(sen3, frame, swath, altitude_m)
    sen3_tie_points.write_slstr(sen3, frame, swath)
    write_manifest(sen3, frame, swath, masks)
    return sen3


def _check_sizes(reflectance, swath, cloud, land, frame):
    if len(reflectance) != len(S3_NAMES):
        raise BandError(
            f"{len(reflectance)} bands; a SYN frame has {len(S3_NAMES)}: {', '.join(S3_NAMES)}"
        )
    shape = swath.latitude.shape
    if not shape == reflectance.shape[1:] == cloud.shape == land.shape or shape[0] != frame.rows:
        raise GridError(
            f"swath {shape}, reflectance {reflectance.shape[1:]}, cloud {cloud.shape}, land {land.shape} and "
            f"{frame.rows} rows of the frame must agree"
        )
