"""Sentinel-3 SY_2_SYN items on their swath: 21 nadir bands, flags, positions, times, angles.

Reflectance is decoded by hand (int16, scale, fill -10000; zeros are data). The `*_err` variables
are not read: their values are no standard deviation. Every band has its own valid pixels; `valid`
is their intersection over the bands that could be read.
"""

import logging
from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import pairwise
from typing import Any

import dask.array as da
import numpy as np
import pystac
import xarray as xr

from satfuse.catalog.specs import CatalogSpec
from satfuse.errors import BandError, ConfigError, ReadError
from satfuse.geometry.grids import parse_bbox
from satfuse.readers.ledger import Read, log_holes
from satfuse.readers.loaders import ItemAsset
from satfuse.readers.sentinel3_files import (
    HOLE,
    Variable,
    flag_masks,
    frame_interval,
    frame_key,
    open_variables,
    row_times,
    sen3_item,
    tie_directions,
)
from satfuse.sensors.bands import S3_NAMES
from satfuse.sensors.bands import bands as bands_named
from satfuse.sensors.quality import COARSE_INVALID, Quality, flag_attrs

__all__ = ["open_syn", "sen3_item"]
log = logging.getLogger(__name__)

MARGIN = 4  # pixels kept around a bbox, for the interpolation of the swath mapping
JOIN_S = 5  # frames with a longer pause between them are not consecutive
_SWATH = ("row", "column")
# Flags of flags.nc and the quality flags that they become.
_CLOUD_FLAGS = {
    "CLOUD": Quality.COARSE_CLOUD,
    "CLOUD_AMBIGUOUS": Quality.COARSE_CLOUD,
    "CLOUD_MARGIN": Quality.COARSE_CLOUD,
    "SNOW_ICE": Quality.SNOW,
}
_SYN_FLAGS = {
    "no_olc": Quality.COARSE_MISSING,
    "no_sln": Quality.COARSE_MISSING,
    "SDR_OOR": Quality.COARSE_SUSPECT,
    "partly_water": Quality.COARSE_SUSPECT,
    "too_low": Quality.COARSE_SUSPECT,
    "high_error": Quality.COARSE_SUSPECT,
}
_SYN_REQUIRED = ("land", "success")  # COARSE_SUSPECT where one of them is not set
# asset key -> variables and global attributes of the file
_Files = dict[str, tuple[dict[str, Variable], dict[str, Any]]]


def open_syn(
    items: pystac.Item | Iterable[pystac.Item],
    *,
    spec: CatalogSpec,
    bands: Iterable[str] = S3_NAMES,
    missing: str = "raise",
    bbox: str | Sequence[float] | None = None,
) -> xr.Dataset:
    """Open one frame, or consecutive frames of one orbit joined along rows, lazily.

    Parameters
    ----------
    items : frames in any order; of two processings of one frame NTC is kept.
    spec : the catalogue of the items.
    bands : names of nadir bands; () for flags, times and angles alone.
    missing : "raise", or "flag" to leave holes where files cannot be read. A hole is NaN, has
        `Quality.ASSET_MISSING`, and is listed in the ledger. `valid` ignores a band that cannot be
        read, unless none can. Without flags.nc it depends on the bands alone; without time.nc the
        frame's interval is divided evenly over the rows. geolocation.nc may always be missing:
        positions then come from the OLCI tie points (every 64th column, not corrected for terrain).
    bbox : (west, south, east, north) in degrees, or text "W,S,E,N": cut to the rows and columns
        that cover the box and 4 pixels around. None = the whole swath.

    Returns
    -------
    Dataset with `reflectance (band, row, column)` float32, NaN where missing; `valid (row, column)`
    bool, True = usable in every band that was read (no bit of `COARSE_INVALID`); `quality` uint16;
    `latitude`, `longitude`, `sun_zenith`, `view_zenith`, `sun_azimuth`, `view_azimuth (row,
    column)` degrees, azimuths 0 to 360 from north; `time (row)` UTC. `attrs`: `ledger`, `item_ids`,
    `platform`, `clock` ("time.nc rows" or "frame interval"), `positions`.

    Raises
    ------
    ReadError
        A file is missing or damaged; frames do not follow each other; the swath does not cover
        `bbox`.
    BandError, ConfigError, GridError
        Unknown band, value of `missing`, or a bad `bbox`.
    """
    items = _in_order([items] if isinstance(items, pystac.Item) else list(items))
    bands = tuple(bands)
    if unknown := set(bands) - set(S3_NAMES):
        raise BandError(
            f"SYN has no nadir band {', '.join(sorted(unknown))}; known: {', '.join(S3_NAMES)}"
        )
    if missing not in ("raise", "flag"):
        raise ConfigError(f'missing={missing!r} must be "raise" or "flag"')
    frames = [_frame(item, spec, bands, missing == "flag") for item in items]
    columns = {f.sizes["column"] for f in frames}
    if len(columns) > 1:
        raise ReadError(
            f"frames {', '.join(i.id for i in items)} differ in their number of columns: "
            f"{sorted(columns)}"
        )
    swath = _join(frames)
    known = bands_named(bands)
    swath = swath.assign_coords(
        band=list(bands),
        wavelength_nm=("band", np.array([b.wavelength_nm for b in known]), {"units": "nm"}),
        fwhm_nm=("band", np.array([b.fwhm_nm for b in known]), {"units": "nm"}),
    )
    swath.attrs["item_ids"] = [i.id for i in items]
    log_holes(swath.attrs["ledger"])
    return swath if bbox is None else _cut(swath, parse_bbox(bbox))


def _in_order(items: list[pystac.Item]) -> list[pystac.Item]:
    """Sort by start, keep one item per frame (NTC before STC), check that they are consecutive."""
    if not items:
        raise ReadError("no Sentinel-3 item to open")
    frames: dict[tuple[Any, ...], pystac.Item] = {}
    for item in sorted(items, key=_is_stc):  # False, NTC, comes first
        frames.setdefault(frame_key(item), item)
    ordered = sorted(frames.values(), key=frame_interval)
    for before, after in pairwise(ordered):
        pause_s = (frame_interval(after)[0] - frame_interval(before)[1]).total_seconds()
        if frame_key(before)[:2] != frame_key(after)[:2] or pause_s > JOIN_S:
            raise ReadError(
                f"{before.id} and {after.id} are not consecutive frames of one orbit "
                f"({pause_s:.0f} s apart)"
            )
    return ordered


def _is_stc(item: pystac.Item) -> bool:
    return "_O_ST_" in item.id or item.properties.get("product:timeliness_category") == "ST"


def _open_files(
    item: pystac.Item, spec: CatalogSpec, bands: tuple[str, ...], holes: bool
) -> tuple[_Files, list[Read]]:
    """Open every file that can be opened, and record the others in the ledger."""
    files: _Files = {}
    ledger = []
    # the tie points come before the geolocation that they may replace
    for key in (*bands, "flags", "time", "tiepoints_olci", "geolocation"):
        try:
            files[key] = open_variables(ItemAsset.of(spec, item, "sentinel3_syn", key))
            ledger.append(Read(item=item.id, asset=key, status="read"))
        except ReadError as error:
            if key == "geolocation" and "tiepoints_olci" in files:
                cause = f"positions come from the OLCI tie points; {error}"
                ledger.append(Read(item=item.id, asset=key, status="replaced", cause=cause))
            elif holes:
                ledger.append(Read(item=item.id, asset=key, status="missing", cause=str(error)))
            else:
                raise
    if "geolocation" not in files and "tiepoints_olci" not in files:
        raise ReadError(
            f"{item.id}: neither geolocation nor tiepoints_olci can be read, "
            "so no pixel has a position"
        )
    return files, ledger


def _frame(item: pystac.Item, spec: CatalogSpec, bands: tuple[str, ...], holes: bool) -> xr.Dataset:
    """Open one whole frame, lazily."""
    files, ledger = _open_files(item, spec, bands, holes)
    like = _grid_variable(item, files, bands)
    raw = {b: _raw(files, b, like, holes) for b in bands}
    layers = [_decoded(files, b, raw[b]) for b in bands]
    latitude, longitude = _positions(files, like)
    time = _variable(files, "time", "Time") if "time" in files else None
    _, header = next(iter(files.values()))
    times, clock = row_times(time, header, frame_interval(item), like.shape[0])
    quality = _quality(files, raw, layers, like, any(r.status == "missing" for r in ledger))
    reflectance = da.empty((0, *like.shape), dtype="float32", chunks=(0, *like.chunks))
    if layers:
        reflectance = da.stack(layers)
    variables: dict[str, tuple[Any, ...]] = {
        "reflectance": (("band", *_SWATH), reflectance, {"units": "1"}),
        "valid": (_SWATH, (quality & np.uint16(COARSE_INVALID)) == 0),
        "quality": (_SWATH, quality, flag_attrs()),
    }
    for name, values in _angles(files, like).items():
        variables[name] = (_SWATH, values, {"units": "degree"})
    coords = {
        "latitude": (_SWATH, latitude, {"standard_name": "latitude", "units": "degrees_north"}),
        "longitude": (_SWATH, longitude, {"standard_name": "longitude", "units": "degrees_east"}),
        "time": ("row", times, {"standard_name": "time"}),
    }
    attrs = {
        "ledger": ledger,
        "clock": clock,
        "positions": "geolocation.nc" if "geolocation" in files else "OLCI tie points",
        "platform": f"S{frame_key(item)[0].upper()}",
    }
    return xr.Dataset(variables, coords=coords, attrs=attrs)


def _grid_variable(item: pystac.Item, files: _Files, bands: tuple[str, ...]) -> Variable:
    """Any variable on the image grid, for its shape and chunks; ReadError unless all agree."""
    names = {**{b: f"SDR_{b}" for b in bands}, "flags": "SYN_flags", "geolocation": "lat"}
    variables = {key: _variable(files, key, name) for key, name in names.items() if key in files}
    if not variables:
        raise ReadError(f"{item.id}: none of its image files can be read")
    shapes = {key: v.shape for key, v in variables.items()}
    if len(set(shapes.values())) > 1:
        raise ReadError(f"{item.id}: its files differ in size (rows, columns): {shapes}")
    return next(iter(variables.values()))


def _variable(files: _Files, key: str, name: str) -> Variable:
    variables, _ = files[key]
    if name not in variables:
        asset = next(iter(variables.values())).asset
        raise asset.error(f"it has no variable {name}, only {', '.join(variables)}")
    return variables[name]


def _raw(files: _Files, band: str, like: Variable, holes: bool) -> da.Array:
    if band not in files:
        return da.full(like.shape, HOLE, dtype="int32", chunks=like.chunks)
    return _variable(files, band, f"SDR_{band}").lazy(holes=holes)


def _decoded(files: _Files, band: str, raw: da.Array) -> da.Array:
    if band not in files:
        return da.full(raw.shape, np.nan, dtype="float32", chunks=raw.chunks)
    variable = _variable(files, band, f"SDR_{band}")
    scaled = raw.astype("float32") * np.float32(variable.scale)
    return da.where((raw == variable.fill) | (raw == HOLE), np.float32(np.nan), scaled)


def _quality(
    files: _Files,
    raw: dict[str, da.Array],
    layers: list[da.Array],
    like: Variable,
    incomplete: bool,
) -> da.Array:
    """Flags (row, column): of all bands, of flags.nc, and of missing files where `incomplete`."""
    base = Quality.ASSET_MISSING if incomplete else Quality(0)
    quality = da.full(like.shape, np.uint16(base), dtype="uint16", chunks=like.chunks)
    holes = [raw[band] == HOLE for band in raw]
    for hole, layer in zip(holes, layers, strict=True):
        quality |= (da.isnan(layer) & ~hole).astype("uint16") * np.uint16(Quality.COARSE_MISSING)
        quality |= hole.astype("uint16") * np.uint16(Quality.ASSET_MISSING)
    if holes:
        no_band = reduce(da.logical_and, holes).astype("uint16")
        quality |= no_band * np.uint16(Quality.COARSE_MISSING)
    if "flags" in files:
        quality |= _flag_quality(_variable(files, "flags", "CLOUD_flags"), _CLOUD_FLAGS)
        syn_flags = _variable(files, "flags", "SYN_flags")
        quality |= _flag_quality(syn_flags, _SYN_FLAGS, required=_SYN_REQUIRED)
    return quality


def _flag_quality(
    variable: Variable, meaning: dict[str, Quality], *, required: tuple[str, ...] = ()
) -> da.Array:
    """Quality of flags that are set, and `COARSE_SUSPECT` where a required one is not."""
    bits = flag_masks(variable, (*meaning, *required))
    flags = variable.lazy()
    quality = da.zeros(variable.shape, dtype="uint16", chunks=flags.chunks)
    for flag, mark in meaning.items():
        quality |= ((flags & bits[flag]) != 0).astype("uint16") * np.uint16(mark)
    for flag in required:
        unset = ((flags & bits[flag]) == 0).astype("uint16")
        quality |= unset * np.uint16(Quality.COARSE_SUSPECT)
    return quality


def _positions(files: _Files, like: Variable) -> tuple[da.Array, da.Array]:
    """Latitude and longitude (row, column) in degrees."""
    if "geolocation" in files:
        latitude = _variable(files, "geolocation", "lat").lazy_decoded()
        return latitude, _variable(files, "geolocation", "lon").lazy_decoded()
    directions = _directions(files, like, "OLC_TP_lat", "OLC_TP_lon")
    return directions[0], directions[1]


def _angles(files: _Files, like: Variable) -> dict[str, da.Array]:
    """Sun and view angles (row, column) in degrees; NaN where the tie points cannot be read."""
    if "tiepoints_olci" not in files:
        hole = da.full(like.shape, np.nan, chunks=like.chunks)
        return dict.fromkeys(("sun_zenith", "sun_azimuth", "view_zenith", "view_azimuth"), hole)
    angles: dict[str, da.Array] = {}
    for name, zenith, azimuth in (("sun", "SZA", "SAA"), ("view", "OLC_VZA", "OLC_VAA")):
        directions = _directions(files, like, zenith, azimuth)
        angles |= {f"{name}_zenith": directions[0], f"{name}_azimuth": directions[1] % 360}
    return angles


def _directions(files: _Files, like: Variable, zenith: str, azimuth: str) -> da.Array:
    rows, columns = like.shape
    row_chunk, column_chunk = like.chunks
    return tie_directions(
        _variable(files, "tiepoints_olci", zenith),
        _variable(files, "tiepoints_olci", azimuth),
        (rows, columns),
        chunks=(row_chunk, column_chunk),
    )


def _join(frames: list[xr.Dataset]) -> xr.Dataset:
    """Concatenate frames along rows; rows that an earlier frame has already are dropped."""
    parts: list[xr.Dataset] = []
    last = None
    for frame in frames:
        if last is not None:
            frame = frame.isel(row=np.flatnonzero(frame.time.values > last))
        if frame.sizes["row"]:
            last = frame.time.values[-1]
            parts.append(frame)
    clocks = {f.attrs["clock"] for f in parts}
    attrs = parts[0].attrs | {
        "ledger": [r for f in frames for r in f.attrs["ledger"]],
        "clock": clocks.pop() if len(clocks) == 1 else "frame interval",
        "positions": ", ".join(dict.fromkeys(f.attrs["positions"] for f in parts)),
    }
    if len(parts) == 1:
        return parts[0].assign_attrs(attrs)
    return xr.concat(parts, "row", combine_attrs="drop_conflicts").assign_attrs(attrs)


def _cut(swath: xr.Dataset, bbox: tuple[float, float, float, float]) -> xr.Dataset:
    """Cut to the rows and columns that cover a box, and a margin around."""
    west, south, east, north = bbox
    lat = swath.latitude
    lon = swath.longitude
    inside = (lat >= south) & (lat <= north) & (lon >= west) & (lon <= east)
    rows, columns = da.compute(inside.any("column").data, inside.any("row").data)
    if not rows.any():
        raise ReadError(
            f"the swath of {', '.join(swath.attrs['item_ids'])} does not cover the box {bbox}"
        )
    window = {}
    for dim, covered in (("row", rows), ("column", columns)):
        index = np.flatnonzero(covered)
        window[dim] = slice(max(index[0] - MARGIN, 0), index[-1] + 1 + MARGIN)
    return swath.isel(window)
