"""`open_fused`: from a box and a date to one lazy Dataset."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from affine import Affine
from odc.geo import SomeCRS, SomeResolution
from odc.geo.crs import CRS, CRSError
from odc.geo.geobox import GeoBox
from odc.geo.geom import BoundingBox, bbox_intersection
from odc.geo.xr import xr_coords

from satfuse.dates import parse_date
from satfuse.errors import BandError, GridError, ProductError
from satfuse.geometry.grids import parse_bbox
from satfuse.product.layout import ATTRS, PIXEL_DIMS, SCALES, crs_of
from satfuse.product.mosaic import merge_time, on_grid, same_lattice
from satfuse.product.publish import read_items
from satfuse.product.store import Store, default_store
from satfuse.sensors.bands import bands as band_table
from satfuse.sensors.encoding import FILL
from satfuse.sensors.quality import flag_attrs

# Neighbouring tiles of one S2 overpass are this close in time, and no two overpasses are.
ONE_OVERPASS = timedelta(minutes=5)
VARIABLES = ("reflectance", "quality", "uncertainty")

_When = str | date | np.datetime64
_Box = tuple[float, float, float, float]  # west, south, east, north in degrees


def open_fused(
    bbox: str | Sequence[float],
    date: _When | Sequence[_When],
    *,
    store: "str | os.PathLike[str] | Store | None" = None,
    bands: str | Iterable[str] | None = None,
    crs: SomeCRS | None = None,
    resolution: float | None = None,
    chunks: int | Literal["auto"] | Mapping[Any, Any] | None = {},  # never changed
) -> xr.Dataset:
    """Open fused products lazily, clipped to a box and mosaicked.

    Parameters
    ----------
    bbox : (west, south, east, north) in degrees, or text "W,S,E,N".
    date : "YYYY-MM-DD" (the whole UTC day), a date, a datetime or ISO time (within five minutes),
        or an interval "start/end" of such; both ends are included.
    store : folder, `s3://` or `https://` address; by default `$SATFUSE_STORE` or the settings file.
    bands : names of coarse bands in the order requested; all by default.
    crs, resolution : resample onto this CRS and pixel size (in its units). By default the CRS and
        pixels of the products; where they differ, those of the first one.
    chunks : {} keeps the stored chunks, others as in `Dataset.chunk`; None reads the pixels at
        once.

    Returns
    -------
    Dataset with `reflectance (time, band, y, x)` float32, NaN where missing; `quality (time, y, x)`
    uint16, see `satfuse.sensors.quality`; coordinates `band`, `wavelength_nm`, `fwhm_nm`, `time`,
    `x`, `y`, `spatial_ref`. Products of one overpass share one time; where they overlap, the one
    with the smallest gap that has a value wins.
    Where a product has it, `uncertainty (time, band, y, x)` float32, the standard deviation of the
    error of reflectance; NaN where reflectance is missing or its product has none. Resampling
    takes the errors of neighbours as equal, so it gives an upper bound.
    `attrs`: `items`, the products' names, and `provenance`, JSON text of where each comes from.

    Raises
    ------
    GridError
        A malformed box, an unknown CRS, or a resolution that is not a positive number.
    ConfigError
        A malformed date or one in the future, or no store named.
    BandError
        An unknown band.
    ProductError
        No product there; the message names the nearest dates or the covered area.
    StoreError
        The store cannot be read.
    """
    box = parse_bbox(bbox)
    start, end = parse_date(date, around=ONE_OVERPASS)
    names = _band_names(bands)
    source = Store(store or default_store())
    items = read_items(source)
    hits = [i for i in items if _overlaps(i["bbox"], box) and start <= _time(i) <= end]
    products = [p for item in hits if (p := _open_item(source, item, box, names)) is not None]
    if not products:
        raise _nothing_there(source, items, box, start, end)
    data = _mosaic(_with_same_variables(products), box, crs, resolution)
    if chunks is None:
        return data.load()
    return data.chunk(chunks) if chunks else data


def _band_names(bands: str | Iterable[str] | None) -> list[str] | None:
    """Names of existing coarse bands, or None for all that a product has."""
    if bands is None:
        return None
    names = [bands] if isinstance(bands, str) else list(bands)
    band_table(names)  # refuses unknown names
    return names


def _with_same_variables(products: list[xr.Dataset]) -> list[xr.Dataset]:
    """Give every product an uncertainty, all missing, where another one has it."""
    if not any("uncertainty" in p for p in products):
        return products
    return [
        p if "uncertainty" in p else p.assign(uncertainty=xr.full_like(p.reflectance, FILL))
        for p in products
    ]


def _mosaic(
    products: list[xr.Dataset],
    box: _Box,
    crs: SomeCRS | None,
    resolution: float | None,
) -> xr.Dataset:
    """One decoded Dataset from encoded products: merged per overpass, stacked along time."""
    groups = _by_overpass(products)
    grid = _output_grid([p.odc.geobox for g in groups for p in g], box, crs, resolution)
    parts = [merge_time([on_grid(product, grid) for product in group]) for group in groups]
    data = parts[0]
    if len(parts) > 1:
        data = xr.concat(parts, "time", coords="minimal", compat="override", join="override")
    return _decode(data, [product.attrs["item"] for group in groups for product in group])


def _overlaps(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _time(item: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(item["properties"]["datetime"]).astimezone(UTC)


def _open_item(
    store: Store, item: dict[str, Any], box: _Box, bands: list[str] | None
) -> xr.Dataset | None:
    """The part of one product inside the box, still encoded; None where the box misses its pixels.

    Coordinates come from the item, so only the metadata of two or three arrays are read.
    """
    names = item["properties"]["cube:dimensions"]["band"]["values"]
    if absent := [b for b in bands or names if b not in names]:
        raise BandError(
            f"product {item['id']} has no band {', '.join(absent)}; it has {', '.join(names)}"
        )
    grid = _item_grid(item)
    rows, columns = _pixels(grid, _project(box, crs_of(grid)))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return None
    chosen = [names.index(b) for b in bands or names]
    arrays: dict[str, tuple[tuple[str, ...], da.Array, dict[str, Any]]] = {}
    for name in (v for v in VARIABLES if v in item["properties"]["cube:variables"]):
        array = _lazy(store, item, name)[..., rows, columns]
        if name == "quality":
            attrs = flag_attrs() | {"grid_mapping": "spatial_ref"}
            arrays[name] = (("time", "y", "x"), array, attrs)
        else:
            arrays[name] = (PIXEL_DIMS, array[:, chosen] if bands else array, ATTRS[name])
    coords = xr_coords(grid[rows, columns]) | _item_coords(item, chosen)
    return xr.Dataset(arrays, coords=coords, attrs={"item": item})


def _item_grid(item: Mapping[str, Any]) -> GeoBox:
    properties = item["properties"]
    crs = properties["proj:code"] or properties["proj:wkt2"]
    return GeoBox(properties["proj:shape"], Affine(*properties["proj:transform"][:6]), crs)


def _item_coords(item: Mapping[str, Any], chosen: list[int]) -> dict[str, Any]:
    """Coordinates of time and of the chosen bands."""
    properties = item["properties"]
    names = properties["cube:dimensions"]["band"]["values"]
    table = band_table([names[i] for i in chosen])
    return {
        "time": [np.datetime64(_time(item).replace(tzinfo=None), "ns")],
        "band": np.array([b.name for b in table], dtype=object),
        "wavelength_nm": ("band", [b.wavelength_nm for b in table], {"units": "nm"}),
        "fwhm_nm": ("band", [b.fwhm_nm for b in table], {"units": "nm"}),
        "band_source": ("band", [properties["satfuse:band_source"][i] for i in chosen]),
    }


def _lazy(store: Store, item: Mapping[str, Any], name: str) -> da.Array:
    """One array of a product in its stored chunks; equal names let dask share what it has read."""
    path = item["assets"]["data"]["href"].removeprefix("../")
    with store.guard(f"open product {item['id']}"):
        array = zarr.open_array(store.zarr(f"{path}/{name}"), mode="r", zarr_format=3)
    key = f"{name}-{store.url}/{path}"
    return da.from_array(array, chunks=array.chunks, name=key, asarray=False)


def _pixels(grid: GeoBox, box: BoundingBox) -> tuple[slice, slice]:
    """Rows and columns of the pixels that a box touches; empty slices where it touches none."""
    a, _, c, _, e, f = tuple(grid.affine)[:6]
    height, width = grid.shape.yx
    first_row = max(math.floor((box.top - f) / e), 0)
    last_row = min(math.ceil((box.bottom - f) / e), height)
    first_column = max(math.floor((box.left - c) / a), 0)
    last_column = min(math.ceil((box.right - c) / a), width)
    return slice(first_row, last_row), slice(first_column, last_column)


def _project(box: _Box, crs: CRS) -> BoundingBox:
    west, south, east, north = box
    return BoundingBox(west, south, east, north, crs="EPSG:4326").to_crs(crs)


def _by_overpass(products: list[xr.Dataset]) -> list[list[xr.Dataset]]:
    """Group products, given in order of time, by overpass; per group the smallest gap first."""
    groups: list[list[xr.Dataset]] = []
    for product in products:
        if groups and _seconds_apart(groups[-1][0], product) <= ONE_OVERPASS.total_seconds():
            groups[-1].append(product)
        else:
            groups.append([product])
    return [sorted(group, key=_absolute_gap) for group in groups]


def _seconds_apart(a: xr.Dataset, b: xr.Dataset) -> float:
    return float((b.time.values[0] - a.time.values[0]) / np.timedelta64(1, "s"))


def _absolute_gap(product: xr.Dataset) -> float:
    return abs(product.attrs["item"]["properties"].get("satfuse:gap_s", 0.0))


def _output_grid(
    grids: list[GeoBox],
    box: _Box,
    crs: SomeCRS | None,
    resolution: float | None,
) -> GeoBox:
    """The one grid of the result: the products' own pixels unless another grid is requested."""
    if crs is None and resolution is None:
        union = _union_on_lattice(grids)
        if union is not None:
            return union
    first = grids[0]
    target_crs = crs_of(first) if crs is None else _known_crs(crs)
    if resolution is not None:
        _check_resolution(resolution)
        pixel: SomeResolution = resolution
    elif first.crs == target_crs:
        pixel = abs(first.affine.a)
    else:
        pixel = first.to_crs(target_crs).resolution
    target = GeoBox.from_bbox(_project(box, target_crs), resolution=pixel)
    covered = [
        g.to_crs(target_crs).boundingbox if g.crs != target_crs else g.boundingbox for g in grids
    ]
    clipped = bbox_intersection([target.boundingbox, _enclosing(covered, target)])
    return GeoBox.from_bbox(clipped, resolution=target.resolution)


def _enclosing(boxes: list[BoundingBox], target: GeoBox) -> BoundingBox:
    """The smallest box that encloses all, in the CRS of `target`."""
    return BoundingBox(
        min(b.left for b in boxes),
        min(b.bottom for b in boxes),
        max(b.right for b in boxes),
        max(b.top for b in boxes),
        target.crs,
    )


def _check_resolution(resolution: float) -> None:
    """Refuse what is no finite positive number."""
    if not (isinstance(resolution, (int, float)) and 0 < resolution < math.inf):
        raise GridError(
            f"resolution {resolution!r} must be a positive number, in the units of the CRS"
        )


def _known_crs(crs: SomeCRS) -> CRS:
    try:
        return CRS(crs)
    except CRSError as error:
        raise GridError(f"CRS {crs!r} is unknown: {error}") from error


def _union_on_lattice(grids: list[GeoBox]) -> GeoBox | None:
    """The smallest GeoBox that encloses all, where their pixels coincide; else None."""
    union = grids[0]
    for grid in grids[1:]:
        if not same_lattice(grid, grids[0]):
            return None
        union = union | grid
    return union


def _decode(data: xr.Dataset, items: list[dict[str, Any]]) -> xr.Dataset:
    """Digital numbers to physical values, NaN where missing; attributes of the result."""
    ancillary = " ".join(str(name) for name in data.data_vars if name != "reflectance")
    for name in [str(n) for n in data.data_vars if n != "quality"]:
        value = data[name] * np.float32(SCALES[name])
        value = xr.where(data[name] != FILL, value, np.float32(np.nan)).astype("float32")
        data = data.assign({name: value.assign_attrs(ATTRS[name])})
    data["reflectance"].attrs["ancillary_variables"] = ancillary
    provenance = {item["id"]: _own_properties(item) for item in items}
    data.attrs = {
        "Conventions": "CF-1.11",
        "items": [item["id"] for item in items],
        "provenance": json.dumps(provenance),  # as text, since netCDF has no dicts
    }
    return data


def _own_properties(item: Mapping[str, Any]) -> dict[str, Any]:
    """The properties that satfuse defines, without their prefix."""
    return {
        key.removeprefix("satfuse:"): value
        for key, value in item["properties"].items()
        if key.startswith("satfuse:")
    }


def _nothing_there(
    store: Store, items: list[dict[str, Any]], box: _Box, start: datetime, end: datetime
) -> ProductError:
    """The error that says what the store has instead: nothing, other dates, or other places."""
    if not items:
        return ProductError(
            f"store {store.url} is empty; "
            f"make a product with `satfuse fuse ... --store {store.url}`"
        )
    here = [i for i in items if _overlaps(i["bbox"], box)]
    if here:
        middle = start + (end - start) / 2
        nearest = sorted(here, key=lambda i: abs(_time(i) - middle))[:3]
        dates = ", ".join(f"{_time(i):%Y-%m-%d} ({i['id']})" for i in nearest)
        return ProductError(
            f"no product from {start:%Y-%m-%d} to {end:%Y-%m-%d} in this box; "
            f"nearest dates: {dates}"
        )
    fields = sorted({tuple(round(v, 3) for v in i["bbox"]) for i in items})
    areas = "; ".join(",".join(map(str, f)) for f in fields[:5])
    more = f" and {len(fields) - 5} more" if len(fields) > 5 else ""
    return ProductError(
        f"no product covers the box {box}; the store covers (W,S,E,N): {areas}{more}"
    )
