"""The NetCDF files of a SY_2_SYN product: lazy variables, tie points, row times, flag masks; items for SEN3 folders."""

import logging
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dask.array as da
import h5netcdf
import numpy as np
import pystac

from satfuse.catalog import access
from satfuse.errors import ReadError
from satfuse.readers.loaders import Source

log = logging.getLogger(__name__)

TIE_STEP = 64  # columns between two OLCI tie points
HOLE = -40000  # in an int32 array: a block that could not be read, where the caller allows holes
_FAILURES = (OSError, KeyError, ValueError, RuntimeError)
_EPOCH = np.datetime64("2000-01-01", "us")
_ROW_TIMES_RIGHT_SINCE = datetime(2019, 6, 6, tzinfo=UTC)  # processing baseline 2.51
_NAME = re.compile(
    r"(S3[AB])_SY_2_SYN____(?:\d{8}T\d{6}_){3}\d{4}_(\d{3})_(\d{3})_\d{4}_\w{3}_O_(NT|ST)_"
)


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One variable of a product, raw, and where it comes from."""

    source: Source
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    chunks: tuple[int, ...]
    attrs: dict

    @property
    def scale(self) -> float:
        """Scale factor as the decimal that is meant: the files hold 1e-4 rounded to float32."""
        return float(str(self.attrs.get("scale_factor", 1.0)))

    @property
    def fill(self):
        """Value of pixels without data; None if the file names none."""
        return self.attrs.get("_FillValue")

    def values(self, *index) -> np.ndarray:
        """Read a part now; ReadError when it is damaged."""
        with _opened(self.source) as file:
            return file.variables[self.name][index or ...]

    def decoded(self) -> np.ndarray:
        """All values as float64, scaled, NaN for fill."""
        return _decode(self.values(), self.scale, self.fill)

    def lazy(self, *, holes: bool = False) -> da.Array:
        """Raw values as a dask array in the file's own chunks; with `holes` int32, `HOLE` where a block is damaged."""
        return self._blocks(_raw_block, "int32" if holes else self.dtype, holes=holes)

    def lazy_decoded(self) -> da.Array:
        """Like `decoded`, as a dask array."""
        return self._blocks(_decoded_block, "float64")

    def _blocks(self, function, dtype, **options):
        chunks = da.core.normalize_chunks(self.chunks, self.shape)
        meta = np.empty((0,) * len(self.shape), dtype)
        return da.map_blocks(
            function, chunks=chunks, dtype=dtype, meta=meta, variable=self, **options
        )


def open_variables(source: Source) -> tuple[dict[str, Variable], dict]:
    """Variables and global attributes of one file, after a read of the last value of each 2-D variable.

    Raises
    ------
    ReadError
        The file is missing or damaged.
    """
    with _opened(source) as file:
        found = {}
        for name, variable in file.variables.items():
            chunks = variable.chunks or (min(1024, variable.shape[0]), *variable.shape[1:])
            if not name.endswith("_err"):
                variable[(slice(-1, None),) * len(variable.shape)]
                found[name] = Variable(
                    source=source,
                    name=name,
                    shape=variable.shape,
                    dtype=variable.dtype,
                    chunks=chunks,
                    attrs=dict(variable.attrs),
                )
        return found, dict(file.attrs)


@contextmanager
def _opened(source: Source) -> Iterator[h5netcdf.File]:
    path = access.fetch(source.spec, source.item, source.sensor, source.key)
    try:
        with h5netcdf.File(path, "r") as file:
            yield file
    except _FAILURES as error:
        raise source.error(error) from error


def _window(block_info):
    return tuple(slice(*limits) for limits in block_info[None]["array-location"])


def _raw_block(variable, holes, block_info=None):
    window = _window(block_info)
    if not holes:
        return variable.values(*window)
    try:
        return variable.values(*window).astype("int32")
    except ReadError as error:
        log.warning("left a hole: %s", error)
        return np.full([w.stop - w.start for w in window], HOLE, "int32")


def _decoded_block(variable, block_info=None):
    return _decode(variable.values(*_window(block_info)), variable.scale, variable.fill)


def _decode(raw, scale, fill):
    values = raw * scale
    return values if fill is None else np.where(raw == fill, np.nan, values)


def tie_columns(count: int, columns: int, *, what: str) -> np.ndarray:
    """Columns of `count` tie points per row: every 64th, and the last column of the image.

    Raises
    ------
    ReadError
        `count` does not fit an image of `columns`.
    """
    positions = np.minimum(np.arange(count) * TIE_STEP, columns - 1)
    if count < 2 or positions[-1] != columns - 1 or positions[-2] == columns - 1:
        raise ReadError(
            f"{what}: {count} tie points per row do not fit {columns} columns at one every {TIE_STEP}"
        )
    return positions


def tie_directions(
    zenith: Variable, azimuth: Variable, shape: tuple[int, int], *, chunks: tuple[int, int]
) -> da.Array:
    """Two angles from tie points to every pixel, as directions: right at the poles, the antimeridian and nadir.

    Latitude and longitude are such a pair too: pass latitude as `zenith`; it then stays a latitude.

    Parameters
    ----------
    zenith, azimuth : flat variables in degrees, column-major: `reshape(ties, rows).T` is (row, tie).
    shape : (rows, columns) of the image.

    Returns
    -------
    (2, row, column) float64: zenith (or latitude), and azimuth -180 to 180, in degrees.

    Raises
    ------
    ReadError
        The number of tie points does not fit the image.
    """
    rows, columns = shape
    what = f"{zenith.source.item.id}: asset {zenith.source.key}"
    if zenith.shape[0] % rows:
        raise ReadError(f"{what}: {zenith.shape[0]} tie points are not a multiple of {rows} rows")
    positions = tie_columns(zenith.shape[0] // rows, columns, what=what)
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


def _direction_block(zenith, azimuth, rows, positions, block_info=None):
    _, (r0, r1), (c0, c1) = block_info[None]["array-location"]
    # Polar angle of the direction: the zenith angle, or 90 degrees minus the latitude.
    polar, around = (v.decoded().reshape(-1, rows).T[r0:r1] for v in (zenith, azimuth))
    is_latitude = zenith.name.endswith("lat")
    polar = np.radians(90 - polar if is_latitude else polar)
    around = np.radians(around)
    vectors = np.stack(
        [np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar)]
    )
    column = np.arange(c0, c1)
    left = (np.searchsorted(positions, column, side="right") - 1).clip(0, len(positions) - 2)
    weight = (column - positions[left]) / (positions[left + 1] - positions[left])
    x, y, z = vectors[..., left] * (1 - weight) + vectors[..., left + 1] * weight
    polar = np.degrees(np.arctan2(np.hypot(x, y), z))
    return np.stack([90 - polar if is_latitude else polar, np.degrees(np.arctan2(y, x))])


def flag_masks(variable: Variable, names) -> dict[str, int]:
    """Bit masks of named flags, from the attributes `flag_masks` and `flag_meanings` (a prefix `SYN_` may be absent).

    Raises
    ------
    ReadError
        The variable does not know one of the names: products before 2018 used another layout.
    """
    meanings = str(variable.attrs.get("flag_meanings", "")).split()
    masks = np.atleast_1d(variable.attrs.get("flag_masks", []))
    known = {m.removeprefix("SYN_"): int(v) for m, v in zip(meanings, masks, strict=False)}
    absent = [n for n in names if n not in known]
    if absent:
        raise variable.source.error(
            f"{variable.name} has no flag {', '.join(absent)}; it has {', '.join(known) or 'none'}"
        )
    return {n: known[n] for n in names}


def row_times(time: Variable | None, header: dict, interval: tuple[datetime, datetime], rows: int):
    """UTC of every row, and the clock that it rests on.

    Row times of SYN products are GPS times, 17 or 18 s ahead of UTC; the lead is measured against the header and taken
    off. The processor wrote wrong rows before 2019-06-06, and rows that lie elsewhere than the frame cannot be trusted
    either: then the frame's interval is divided evenly.

    Parameters
    ----------
    time : `Time` of time.nc, microseconds since 2000; or None.
    header : global attributes of the file; `start_time` is the start of the frame to the microsecond.
    interval : start and stop that the item states.
    rows : number of rows.

    Returns
    -------
    (row,) datetime64[ns], and "time.nc rows" or "frame interval".
    """
    start, stop = interval
    if "start_time" in header:
        stated = _utc_time(header["start_time"])
        start, stop = stated, stated + (stop - start)
    if time is not None and start >= _ROW_TIMES_RIGHT_SINCE:
        raw = time.values()
        index = np.flatnonzero(raw != (-1 if time.fill is None else time.fill))
        if len(raw) == rows and len(index):
            lead_s = (
                raw[index[0]] * np.timedelta64(1, "us") + _EPOCH - _utc(start)
            ) / np.timedelta64(1, "s")
            lead_s -= index[0] * (stop - start).total_seconds() / rows
            leap_s = round(lead_s)
            if leap_s in (17, 18) or abs(lead_s) < 2:
                micros = (
                    np.interp(np.arange(rows), index, raw[index].astype(float))
                    .round()
                    .astype("int64")
                )
                micros[index] = raw[index]
                utc = _EPOCH + micros * np.timedelta64(1, "us")
                return (utc - np.timedelta64(leap_s if leap_s in (17, 18) else 0, "s")).astype(
                    "M8[ns]"
                ), "time.nc rows"
            log.warning(
                "row times of %s start %.1f s off the frame: not used", time.source.item.id, lead_s
            )
    step = (stop - start) / rows
    return np.array([_utc(start + step * i) for i in range(rows)], "M8[ns]"), "frame interval"


def _utc_time(text) -> datetime:
    time = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _utc(time: datetime) -> np.datetime64:
    return np.datetime64(time.astimezone(UTC).replace(tzinfo=None), "us")


def sen3_item(path: str | Path) -> pystac.Item:
    """An item for a SEN3 folder on disk, with the asset keys and properties of the Copernicus Data Space.

    Open it with `catalog.specs.local_catalog(url, root)`, `root` being a folder above the SEN3 folder.

    Raises
    ------
    ReadError
        The name is not that of a SY_2_SYN product, or its manifest is missing or malformed.
    """
    path = Path(path).resolve()
    name, manifest = _NAME.match(path.name), path / "xfdumanifest.xml"
    if not name or not manifest.is_file():
        raise ReadError(
            f"{path} is no SY_2_SYN folder: its name or xfdumanifest.xml says otherwise"
        )
    try:
        root = ET.parse(manifest).getroot()
        start, stop = (_utc_time(_text(root, tag)) for tag in ("startTime", "stopTime"))
        ring = np.array(_text(root, "posList").split(), dtype=float).reshape(-1, 2)[:, ::-1]
        orbit = int(_text(root, "orbitNumber"))
    except (ET.ParseError, StopIteration, ValueError) as error:
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
    item.add_asset(
        "xfdumanifest",
        pystac.Asset(str(manifest), media_type="application/xml", roles=["metadata"]),
    )
    for file in sorted(path.glob("*.nc")):
        key = file.stem.replace("Syn_", "syn_", 1)
        item.add_asset(
            key, pystac.Asset(str(file), media_type="application/netcdf", roles=["data"])
        )
    return item


def _text(root, tag):
    return next(e.text for e in root.iter() if e.tag.rpartition("}")[2] == tag).strip()


def frame_interval(item: pystac.Item) -> tuple[datetime, datetime]:
    """Start and stop (UTC) that an item states; three minutes from the start where it states no stop."""
    times = item.common_metadata
    start = times.start_datetime or item.datetime
    if start is None:
        raise ReadError(f"{item.id} states no start_datetime")
    return start.astimezone(UTC), (times.end_datetime or start + timedelta(minutes=3)).astimezone(
        UTC
    )


def frame_key(item: pystac.Item) -> tuple:
    """What two processings of one frame share: platform ("3b"), absolute orbit, start to the second."""
    properties = item.properties
    platform = str(properties.get("platform", ""))[-2:].lower()
    return (
        platform,
        properties.get("sat:absolute_orbit"),
        frame_interval(item)[0].replace(microsecond=0),
    )
