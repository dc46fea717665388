"""The curved swath of a Sentinel-3 SYN product, and the frame that a product cuts out of it."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from satfuse.arrays import FloatArray
from satfuse.simulate.archive.sphere import EARTH_RADIUS_M, bearing, destination

ORBIT_HEIGHT_M = 814500
# spacing of rows and of columns, measured on a real product
ALONG_TRACK_M = 295.0
ACROSS_TRACK_M = 270.0


@dataclass(frozen=True, kw_only=True)
class Swath:
    """Positions and view angles of the pixels of a swath. Arrays are (row, column), in degrees.

    Azimuths point from the pixel to the satellite, -180..180 clockwise from north.
    """

    latitude: FloatArray
    longitude: FloatArray
    view_zenith: FloatArray
    view_azimuth: FloatArray

    def rows(self, start: int, stop: int) -> "Swath":
        """The rows `start` to `stop`, which is how an orbit is cut into frames."""
        return Swath(**{name: values[start:stop] for name, values in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class SynFrame:
    """Name and header of a SYN product. Times are UTC; `start` is the time of the first row.

    `frame` counts seconds along the orbit. `clock_offset_s` is how far the row times in `time.nc`
    are ahead of UTC: 18 s in real products, whose rows carry GPS time.
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
        """Time of processing by the ground segment: a day later (ST), or two (NT)."""
        return self.start + timedelta(days=1 if self.timeliness == "ST" else 2)

    @property
    def name(self) -> str:
        """Product name without `.SEN3`; also the id of its STAC item."""
        times = "_".join(f"{t:%Y%m%dT%H%M%S}" for t in (self.start, self.stop, self.processed))
        seconds = int((self.stop - self.start).total_seconds())
        place = f"{seconds:04d}_{self.cycle:03d}_{self.relative_orbit:03d}_{self.frame:04d}"
        return f"{self.platform}_SY_2_SYN____{times}_{place}_PS2_O_{self.timeliness}_002"


def swath_grid(
    latitude: float,
    longitude: float,
    *,
    rows: int,
    columns: int,
    row: int | None = None,
    column: int | None = None,
    heading_deg: float = 195.0,
    nadir_west_m: float = 250e3,
) -> Swath:
    """A descending swath with a given pixel at a given position.

    Rows follow a great circle along the ground track and each row is a great circle across it, so
    latitude depends on row and column and neither is a line on a map grid.

    Parameters
    ----------
    latitude, longitude : degrees, of the pixel (`row`, `column`), by default the middle one.
    rows, columns : size of the swath. Rows go along the track (southward), columns from west to
        east.
    heading_deg : direction in which rows go at that pixel, clockwise from north.
    nadir_west_m : ground distance from that pixel west to the ground track; negative where the
        track is to the east.
    """
    row = rows // 2 if row is None else row
    column = columns // 2 if column is None else column
    arc = np.degrees(1 / EARTH_RADIUS_M)  # degrees of a great circle per metre
    westward = heading_deg + 90
    nadir = destination(latitude, longitude, westward, nadir_west_m * arc)
    east_of_nadir = destination(latitude, longitude, westward, (nadir_west_m - 1e4) * arc)
    across = bearing(*nadir, *east_of_nadir)[0]
    along = (np.arange(rows) - row)[:, None] * ALONG_TRACK_M * arc
    track = destination(*nadir, across + 90, along)
    ahead = destination(*nadir, across + 90, along + 0.01)  # for the heading at every row
    scan = bearing(*track, *ahead)[0] - 90
    distance_m = nadir_west_m + (np.arange(columns) - column)[None, :] * ACROSS_TRACK_M
    lat, lon = destination(*track, scan, distance_m * arc)
    return Swath(
        latitude=lat,
        longitude=lon,
        view_zenith=np.broadcast_to(_view_zenith(distance_m), lat.shape),
        view_azimuth=bearing(lat, lon, *track)[0],
    )


def _view_zenith(distance_m: FloatArray) -> FloatArray:
    """View zenith angle in degrees at ground distances from nadir, above a spherical Earth."""
    angle = np.abs(distance_m) / EARTH_RADIUS_M
    height = (EARTH_RADIUS_M + ORBIT_HEIGHT_M) / EARTH_RADIUS_M
    return np.degrees(angle + np.arctan2(np.sin(angle), height - np.cos(angle)))
