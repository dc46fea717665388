"""Files of a SY_2_SYN product: lazy NetCDF variables, tie points, row times, flag masks, items."""

import logging
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dask.array as da
import h5netcdf
import numpy as np
import numpy.typing as npt
import pystac

from satfuse.arrays import FloatArray, IntArray
from satfuse.catalog import access
from satfuse.errors import ReadError
from satfuse.readers.loaders import BlockInfo, ItemAsset
from satfuse.readers.xml_elements import text

log = logging.getLogger(__name__)

TIE_STEP = 64  # columns between two OLCI tie points
HOLE = -40000  # in an int32 array: a block that could not be read, where the caller allows holes
_FAILURES = (OSError, KeyError, ValueError, RuntimeError)
_EPOCH = np.datetime64("2000-01-01", "us")  # of the variable `Time`
_ROW_TIMES_RIGHT_SINCE = datetime(2019, 6, 6, tzinfo=UTC)  # processing baseline 2.51
_GPS_LEADS_S = (17, 18)  # how far GPS time is ahead of UTC: 17 s until the end of 2016, then 18 s
_CLOCK_TOLERANCE_S = 2  # row times this close to the header's start are UTC already
_NAME = re.compile(
    r"(S3[AB])_SY_2_SYN____(?:\d{8}T\d{6}_){3}\d{4}_(\d{3})_(\d{3})_\d{4}_\w{3}_O_(NT|ST)_"
)


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One variable of a NetCDF file of a product, not yet read.

    Attributes
    ----------
    asset : the file.
    name, shape, dtype, attrs : of the variable as stored.
    chunks : shape of the blocks in which it is read.
    """

    asset: ItemAsset
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    attrs: dict[str, Any]

    @property
    def scale(self) -> float:
        """Scale factor as the decimal that is meant: the files store 1e-4 rounded to float32."""
        return float(str(self.attrs.get("scale_factor", 1.0)))

    @property
    def fill(self) -> int | float | None:
        """Value of pixels without data; None where the file names none."""
        return self.attrs.get("_FillValue")

    def values(self, *index: slice) -> npt.NDArray[Any]:
        """Read a part, or all, now; ReadError where it is damaged."""
        with _opened(self.asset) as file:
            return file.variables[self.name][index or ...]

    def decoded(self) -> FloatArray:
        """Read all values now as float64, scaled, NaN for fill."""
        return _decode(self.values(), self.scale, self.fill)

    def lazy(self, *, holes: bool = False) -> da.Array:
        """Raw values as a dask array in the file's chunks.

        With `holes` it is int32, and `HOLE` where a block is damaged.
        """
        return self._blocks(_raw_block, "int32" if holes else self.dtype, holes=holes)

    def lazy_decoded(self) -> da.Array:
        """Like `decoded`, as a dask array in the file's chunks."""
        return self._blocks(_decoded_block, "float64")

    def _blocks(
        self, function: Callable[..., npt.NDArray[Any]], dtype: npt.DTypeLike, **options: bool
    ) -> da.Array:
        chunks = da.core.normalize_chunks(self.chunks, self.shape)
        meta = np.empty((0,) * len(self.shape), dtype)
        return da.map_blocks(
            function, chunks=chunks, dtype=dtype, meta=meta, variable=self, **options
        )


def open_variables(asset: ItemAsset) -> tuple[dict[str, Variable], dict[str, Any]]:
    """Variables and global attributes of one file; the `*_err` variables are left out.

    The last value of each variable is read, which a truncated file lacks.

    Raises
    ------
    ReadError
        The file is missing or damaged.
    """
    with _opened(asset) as file:
        variables = {}
        for name, variable in file.variables.items():
            if name.endswith("_err"):
                continue
            variable[(slice(-1, None),) * len(variable.shape)]
            variables[name] = Variable(
                asset=asset,
                name=name,
                shape=variable.shape,
                dtype=variable.dtype,
                # contiguous variables have no chunks: blocks of up to 1024 rows
                chunks=variable.chunks or (min(1024, variable.shape[0]), *variable.shape[1:]),
                attrs=dict(variable.attrs),
            )
        return variables, dict(file.attrs)


@contextmanager
def _opened(asset: ItemAsset) -> Iterator[h5netcdf.File]:
    path = access.fetch(asset.spec, asset.item, asset.sensor, asset.key)
    try:
        with h5netcdf.File(path, "r") as file:
            yield file
    except _FAILURES as error:
        raise asset.error(error) from error


def _window(block_info: BlockInfo) -> tuple[slice, ...]:
    return tuple(slice(*limits) for limits in block_info[None]["array-location"])


def _raw_block(variable: Variable, holes: bool, *, block_info: BlockInfo) -> IntArray:
    window = _window(block_info)
    if not holes:
        return variable.values(*window)
    try:
        return variable.values(*window).astype("int32")
    except ReadError as error:
        log.warning("pixels are missing: %s", error)
        return np.full([w.stop - w.start for w in window], HOLE, "int32")


def _decoded_block(variable: Variable, *, block_info: BlockInfo) -> FloatArray:
    return _decode(variable.values(*_window(block_info)), variable.scale, variable.fill)


def _decode(raw: npt.NDArray[Any], scale: float, fill: float | None) -> FloatArray:
    values = raw * scale
    return values if fill is None else np.where(raw == fill, np.nan, values)


def tie_columns(count: int, columns: int, *, label: str) -> IntArray:
    """Image columns of the tie points of a row: every 64th, and the last.

    Parameters
    ----------
    count : tie points per row.
    columns : columns of the image.
    label : item and asset, for messages.

    Raises
    ------
    ReadError
        `count` does not fit an image of `columns`.
    """
    positions = np.minimum(np.arange(count) * TIE_STEP, columns - 1)
    if count < 2 or positions[-1] != columns - 1 or positions[-2] == columns - 1:
        raise ReadError(
            f"{label}: {count} tie points per row do not fit {columns} columns "
            f"at one every {TIE_STEP}"
        )
    return positions


def tie_directions(
    zenith: Variable, azimuth: Variable, shape: tuple[int, int], *, chunks: tuple[int, int]
) -> da.Array:
    """Interpolate two angles linearly from tie points to every pixel.

    The unit vectors are interpolated, which is correct also at the poles, the antimeridian and
    nadir. Latitude and longitude are such a pair too: pass latitude as `zenith`; it then stays a
    latitude.

    Parameters
    ----------
    zenith, azimuth : flat variables in degrees, column-major: `reshape(ties, rows).T` is (row,
        tie).
    shape : (rows, columns) of the image.
    chunks : rows and columns per chunk of the result.

    Returns
    -------
    (2, row, column) float64: zenith (or latitude), and azimuth -180 to 180, in degrees.

    Raises
    ------
    ReadError
        The number of tie points does not fit the image.
    """
    rows, columns = shape
    label = f"{zenith.asset.item.id}: asset {zenith.asset.key}"
    if zenith.shape[0] % rows:
        raise ReadError(f"{label}: {zenith.shape[0]} tie points are not a multiple of {rows} rows")
    positions = tie_columns(zenith.shape[0] // rows, columns, label=label)
    return da.map_blocks(
        _direction_block,
        chunks=da.core.normalize_chunks((2, *chunks), (2, rows, columns)),
        dtype="float64",
        meta=np.empty((0, 0, 0)),
        zenith=zenith,
        azimuth=azimuth,
        rows=rows,
        positions=positions,
    )


def _direction_block(
    zenith: Variable, azimuth: Variable, rows: int, positions: IntArray, *, block_info: BlockInfo
) -> FloatArray:
    _, (r0, r1), (c0, c1) = block_info[None]["array-location"]
    is_latitude = zenith.name.endswith("lat")
    tie_zenith = zenith.decoded().reshape(-1, rows).T[r0:r1]
    # polar angle of the direction: the zenith angle, or 90 degrees minus the latitude
    polar = np.radians(90 - tie_zenith if is_latitude else tie_zenith)
    around = np.radians(azimuth.decoded().reshape(-1, rows).T[r0:r1])
    vectors = np.stack(
        [np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar)]
    )
    # linear between the tie points left and right of each column
    column = np.arange(c0, c1)
    left = (np.searchsorted(positions, column, side="right") - 1).clip(0, len(positions) - 2)
    weight = (column - positions[left]) / (positions[left + 1] - positions[left])
    x, y, z = vectors[..., left] * (1 - weight) + vectors[..., left + 1] * weight
    polar = np.degrees(np.arctan2(np.hypot(x, y), z))
    return np.stack([90 - polar if is_latitude else polar, np.degrees(np.arctan2(y, x))])


def flag_masks(variable: Variable, names: Iterable[str]) -> dict[str, int]:
    """Bit masks of named flags, from the attributes `flag_masks` and `flag_meanings`.

    Parameters
    ----------
    variable : a variable of flags.
    names : without the prefix `SYN_`, which not all products have.

    Raises
    ------
    ReadError
        The variable lacks one of the flags: products before 2018 used another layout.
    """
    meanings = str(variable.attrs.get("flag_meanings", "")).split()
    masks = np.atleast_1d(variable.attrs.get("flag_masks", []))
    known = {m.removeprefix("SYN_"): int(v) for m, v in zip(meanings, masks, strict=False)}
    absent = [n for n in names if n not in known]
    if absent:
        raise variable.asset.error(
            f"{variable.name} has no flag {', '.join(absent)}; it has {', '.join(known) or 'none'}"
        )
    return {n: known[n] for n in names}


def row_times(
    time: Variable | None,
    header: dict[str, Any],
    interval: tuple[datetime, datetime],
    rows: int,
) -> tuple[npt.NDArray[np.datetime64], str]:
    """UTC of every row, and the clock that it comes from.

    Row times of SYN products are GPS times, 17 or 18 s ahead of UTC; the lead is measured against
    the header and subtracted. Where row times cannot be trusted the frame's interval is divided
    evenly: before 2019-06-06, when the processor wrote wrong ones, and where they are not those of
    the frame.

    Parameters
    ----------
    time : `Time` of time.nc, microseconds since 2000; or None.
    header : global attributes of the file; `start_time` is the start of the frame to the
        microsecond.
    interval : start and stop that the item states.
    rows : number of rows.

    Returns
    -------
    times : (row,) datetime64[ns].
    clock : "time.nc rows" or "frame interval".
    """
    start, stop = interval
    if "start_time" in header:
        duration = stop - start
        start = _utc_time(header["start_time"])
        stop = start + duration
    step = (stop - start) / rows
    if time is not None and start >= _ROW_TIMES_RIGHT_SINCE:
        times = _times_of_file(time, start, (stop - start).total_seconds(), rows)
        if times is not None:
            return times, "time.nc rows"
    return np.array([_utc(start + step * i) for i in range(rows)], "M8[ns]"), "frame interval"


def _times_of_file(
    time: Variable, start: datetime, duration_s: float, rows: int
) -> npt.NDArray[np.datetime64] | None:
    """UTC of every row from time.nc, rows without a time interpolated; None where not plausible."""
    raw = time.values()
    index = np.flatnonzero(raw != (-1 if time.fill is None else time.fill))
    if len(raw) != rows or not len(index):
        return None
    first = raw[index[0]] * np.timedelta64(1, "us") + _EPOCH
    lead_s = (first - _utc(start)) / np.timedelta64(1, "s")
    lead_s -= index[0] * duration_s / rows  # the first stored time may belong to a later row
    gps_lead_s = round(lead_s)
    if gps_lead_s not in _GPS_LEADS_S:
        gps_lead_s = 0
        if abs(lead_s) >= _CLOCK_TOLERANCE_S:
            log.warning(
                "row times of %s start %.1f s off the frame: not used", time.asset.item.id, lead_s
            )
            return None
    micros = np.interp(np.arange(rows), index, raw[index].astype(float)).round().astype("int64")
    micros[index] = raw[index]  # exact where a time is stored
    utc = _EPOCH + micros * np.timedelta64(1, "us") - np.timedelta64(gps_lead_s, "s")
    return utc.astype("M8[ns]")


def _utc_time(iso_text: object) -> datetime:
    time = datetime.fromisoformat(str(iso_text).replace("Z", "+00:00"))
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _utc(time: datetime) -> np.datetime64:
    return np.datetime64(time.astimezone(UTC).replace(tzinfo=None), "us")


def sen3_item(path: str | Path) -> pystac.Item:
    """Make an item for a SEN3 folder on disk, with the keys of the Copernicus Data Space.

    Open it with `catalog.specs.local_catalog(url, root)`, `root` being a folder above the SEN3
    folder.

    Raises
    ------
    ReadError
        The name is not that of a SY_2_SYN product, or its manifest is missing or malformed.
    """
    path = Path(path).resolve()
    name = _NAME.match(path.name)
    manifest = path / "xfdumanifest.xml"
    if not name or not manifest.is_file():
        raise ReadError(
            f"{path} is no SY_2_SYN folder: it needs a name S3?_SY_2_SYN____….SEN3 "
            "and xfdumanifest.xml"
        )
    try:
        root = ET.parse(manifest).getroot()
        start = _utc_time(text(root, ".//{*}startTime"))
        stop = _utc_time(text(root, ".//{*}stopTime"))
        # latitude longitude latitude longitude …
        ring = np.array(text(root, ".//{*}posList").split(), dtype=float).reshape(-1, 2)[:, ::-1]
        orbit = int(text(root, ".//{*}orbitNumber"))
    except (ET.ParseError, ValueError) as error:
        raise ReadError(f"{manifest} is damaged or of another format: {error!r}") from error
    item = pystac.Item(
        path.name.removesuffix(".SEN3"),
        geometry={"type": "Polygon", "coordinates": [ring.tolist()]},
        bbox=[*ring.min(axis=0).tolist(), *ring.max(axis=0).tolist()],
        datetime=start,
        start_datetime=start,
        end_datetime=stop,
        properties={
            "platform": f"sentinel-{name[1][1:].lower()}",
            "constellation": "sentinel-3",
            "sat:absolute_orbit": orbit,
            "sat:orbit_cycle": int(name[2]),
            "sat:relative_orbit": int(name[3]),
            "product:timeliness_category": name[4],
        },
        collection=f"sentinel-3-syn-2-syn-{'ntc' if name[4] == 'NT' else 'stc'}",
    )
    asset = pystac.Asset(str(manifest), media_type="application/xml", roles=["metadata"])
    item.add_asset("xfdumanifest", asset)
    for file in sorted(path.glob("*.nc")):
        asset = pystac.Asset(str(file), media_type="application/netcdf", roles=["data"])
        item.add_asset(file.stem.replace("Syn_", "syn_", 1), asset)
    return item


def frame_interval(item: pystac.Item) -> tuple[datetime, datetime]:
    """Start and stop (UTC) that an item states; a frame without a stop takes three minutes.

    Raises
    ------
    ReadError
        The item states no start.
    """
    times = item.common_metadata
    start = times.start_datetime or item.datetime
    if start is None:
        raise ReadError(f"{item.id} states no start_datetime")
    stop = times.end_datetime or start + timedelta(minutes=3)
    return start.astimezone(UTC), stop.astimezone(UTC)


def frame_key(item: pystac.Item) -> tuple[str, int | None, datetime]:
    """Key of a frame in any processing: platform ("3b"), absolute orbit, start to the second."""
    start, _ = frame_interval(item)
    platform = str(item.properties.get("platform", ""))[-2:].lower()
    return platform, item.properties.get("sat:absolute_orbit"), start.replace(microsecond=0)
