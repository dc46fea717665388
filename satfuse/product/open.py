"""`open_fused`: from a box and a date to one lazy Dataset."""

import json
import math
from datetime import UTC, datetime, timedelta

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from affine import Affine
from odc.geo.crs import CRS, CRSError
from odc.geo.geobox import GeoBox
from odc.geo.geom import BoundingBox, bbox_intersection
from odc.geo.xr import xr_coords

from satfuse.dates import parse_date
from satfuse.errors import BandError, GridError, ProductError
from satfuse.geometry.grids import parse_bbox
from satfuse.product.layout import ATTRS, FILL, SCALE
from satfuse.product.mosaic import merge_time, on_grid
from satfuse.product.publish import read_items
from satfuse.product.store import Store, default_store
from satfuse.sensors.bands import bands as band_table
from satfuse.sensors.quality import flag_attrs

# neighbouring tiles of one S2 overpass lie within this, and no two overpasses are this close
ONE_OVERPASS = timedelta(minutes=5)


def open_fused(
    bbox,
    date,
    *,
    store=None,
    bands=None,
    crs=None,
    resolution=None,
    chunks={},  # noqa: B006  never changed; shown in the signature as xarray shows it
) -> xr.Dataset:
    """Open fused products lazily, clipped to a box and mosaicked.

    Parameters
    ----------
    bbox : (west, south, east, north) in degrees, or text "W,S,E,N".
    date : "YYYY-MM-DD" (the whole UTC day), a date, a datetime or ISO time (within five minutes), or an interval
        "start/end" of such; both ends are included.
    store : folder, `s3://` or `https://` address; by default `$SATFUSE_STORE` or the settings file.
    bands : names of coarse bands in the order wanted; all by default.
    crs, resolution : resample onto this CRS and pixel size (in its units). By default the CRS and pixels of the
        products; where they differ, those of the first one.
    chunks : {} keeps the stored chunks, others as in `Dataset.chunk`; None reads the pixels at once.

    Returns
    -------
    Dataset with `reflectance (time, band, y, x)` float32, NaN where missing; `quality (time, y, x)` uint16, see
    `satfuse.sensors.quality`; coordinates `band`, `wavelength_nm`, `fwhm_nm`, `time`, `x`, `y`, `spatial_ref`.
    Products of one overpass share one time; where they overlap, the one with the smallest gap that has a value wins.
    Where a product has it, `uncertainty (time, band, y, x)` float32, the standard deviation of the error of
    reflectance; NaN where reflectance is missing or its product has none. Resampling takes the errors of neighbours
    as equal, so it gives an upper bound.
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
        Nothing there; the message names the nearest dates or the covered area.
    StoreError
        The store cannot be read.
    """
    box = parse_bbox(bbox)
    start, end = parse_date(date, around=ONE_OVERPASS)
    if bands is not None:
        bands = [bands] if isinstance(bands, str) else list(bands)
        band_table(bands)
    store = Store(store or default_store())
    items = read_items(store)
    hits = [i for i in items if _overlaps(i["bbox"], box) and start <= _time(i) <= end]
    products = [p for item in hits if (p := _open_item(store, item, box, bands)) is not None]
    if not products:
        raise _nothing_there(store, items, box, start, end)
    if any("uncertainty" in p for p in products):
        none = {"uncertainty": lambda p: xr.full_like(p.reflectance, FILL)}
        products = [p if "uncertainty" in p else p.assign(none) for p in products]
    groups = _by_overpass(products)
    grid = _output_grid(groups, box, crs, resolution)
    parts = [merge_time([on_grid(product, grid) for product in group]) for group in groups]
    data = (
        parts[0]
        if len(parts) == 1
        else xr.concat(parts, "time", coords="minimal", compat="override", join="override")
    )
    data = _decode(data, [product.attrs["item"] for group in groups for product in group])
    if chunks is None:
        return data.load()
    return data.chunk(chunks) if chunks else data


def _overlaps(a, b) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _time(item) -> datetime:
    return datetime.fromisoformat(item["properties"]["datetime"]).astimezone(UTC)


def _open_item(store: Store, item: dict, box, bands) -> xr.Dataset | None:
    """The part of one product inside the box, still encoded; None where the box misses its pixels.

    Coordinates come from the item, so only the metadata of two or three arrays are read.
    """
    properties = item["properties"]
    names = properties["cube:dimensions"]["band"]["values"]
    if absent := [b for b in bands or names if b not in names]:
        raise BandError(
            f"product {item['id']} has no band {', '.join(absent)}; it has {', '.join(names)}"
        )
    crs = properties["proj:code"] or properties["proj:wkt2"]
    grid = GeoBox(properties["proj:shape"], Affine(*properties["proj:transform"][:6]), crs)
    rows, columns = _pixels(grid, _project(box, grid.crs))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return None
    chosen = [names.index(b) for b in bands or names]
    table = band_table([names[i] for i in chosen])
    arrays = {}
    for name in (
        n for n in ("reflectance", "quality", "uncertainty") if n in properties["cube:variables"]
    ):
        array = _lazy(store, item, name)[..., rows, columns]
        if name == "quality":
            arrays[name] = (
                ("time", "y", "x"),
                array,
                flag_attrs() | {"grid_mapping": "spatial_ref"},
            )
        else:
            arrays[name] = (
                ("time", "band", "y", "x"),
                array[:, chosen] if bands else array,
                ATTRS[name],
            )
    return xr.Dataset(
        arrays,
        coords={
            **xr_coords(grid[rows, columns]),
            "time": [np.datetime64(_time(item).replace(tzinfo=None), "ns")],
            "band": np.array([b.name for b in table], dtype=object),
            "wavelength_nm": ("band", [b.wavelength_nm for b in table], {"units": "nm"}),
            "fwhm_nm": ("band", [b.fwhm_nm for b in table], {"units": "nm"}),
            "band_source": ("band", [properties["satfuse:band_source"][i] for i in chosen]),
        },
        attrs={"item": item},
    )


def _lazy(store: Store, item: dict, name: str):
    path = item["assets"]["data"]["href"].removeprefix("../")
    with store.guard(f"open product {item['id']}"):
        array = zarr.open_array(store.zarr(f"{path}/{name}"), mode="r", zarr_format=3)
    return da.from_array(
        array, chunks=array.chunks, name=f"{name}-{store.url}/{path}", asarray=False
    )


def _pixels(grid: GeoBox, box: BoundingBox) -> tuple[slice, slice]:
    """Rows and columns of the pixels that a box touches; empty slices where it touches none."""
    a, _, c, _, e, f = tuple(grid.affine)[:6]
    height, width = grid.shape
    rows = slice(
        max(math.floor((box.top - f) / e), 0), min(math.ceil((box.bottom - f) / e), height)
    )
    return rows, slice(
        max(math.floor((box.left - c) / a), 0), min(math.ceil((box.right - c) / a), width)
    )


def _project(box, crs) -> BoundingBox:
    return BoundingBox(*box, crs="EPSG:4326").to_crs(crs)


def _by_overpass(products: list[xr.Dataset]) -> list[list[xr.Dataset]]:
    """Products in groups of one overpass, each group by ascending absolute gap."""
    groups = []
    for product in products:  # in order of time
        if groups and product.time.values[0] - groups[-1][0].time.values[0] <= np.timedelta64(
            ONE_OVERPASS
        ):
            groups[-1].append(product)
        else:
            groups.append([product])
    return [
        sorted(g, key=lambda p: abs(p.attrs["item"]["properties"].get("satfuse:gap_s", 0.0)))
        for g in groups
    ]


def _output_grid(groups, box, crs, resolution) -> GeoBox:
    """The one grid of the result: the products' own pixels where nothing else is asked for."""
    grids = [p.odc.geobox for group in groups for p in group]
    first = grids[0]
    if crs is None and resolution is None:
        union = _union_on_lattice(grids)
        if union is not None:
            return union
    crs = first.crs if crs is None else _known_crs(crs)
    if resolution is not None and not (
        isinstance(resolution, (int, float)) and 0 < resolution < math.inf
    ):
        raise GridError(
            f"resolution {resolution!r} must be a positive number, in the units of the CRS"
        )
    if resolution is None:
        resolution = abs(first.affine.a) if first.crs == crs else first.to_crs(crs).resolution
    target = GeoBox.from_bbox(_project(box, crs), resolution=resolution)
    covered = [g.to_crs(crs).boundingbox if g.crs != crs else g.boundingbox for g in grids]
    reach = BoundingBox(
        min(b.left for b in covered), min(b.bottom for b in covered), max(b.right for b in covered),
        max(b.top for b in covered), target.crs,
    )  # fmt: skip
    return GeoBox.from_bbox(
        bbox_intersection([target.boundingbox, reach]), resolution=target.resolution
    )


def _known_crs(crs) -> CRS:
    try:
        return CRS(crs)
    except CRSError as error:
        raise GridError(f"CRS {crs!r} is unknown: {error}") from error


def _union_on_lattice(grids: list[GeoBox]) -> GeoBox | None:
    """The smallest GeoBox that holds all, where they share CRS, pixel size and phase; else None."""
    first = grids[0]
    for grid in grids[1:]:
        if (
            grid.crs != first.crs
            or grid.affine.a != first.affine.a
            or grid.affine.e != first.affine.e
        ):
            return None
        phase = (
            (grid.affine.c - first.affine.c) / first.affine.a,
            (grid.affine.f - first.affine.f) / first.affine.e,
        )
        if any(abs(p - round(p)) > 1e-6 for p in phase):
            return None
    union = first
    for grid in grids[1:]:
        union = union | grid
    return union


def _decode(data: xr.Dataset, items: list[dict]) -> xr.Dataset:
    beside = " ".join(name for name in data.data_vars if name != "reflectance")
    for name in (n for n in data.data_vars if n != "quality"):
        number = data[name]
        value = xr.where(
            number != FILL, number * np.float32(SCALE[name]), np.float32(np.nan)
        ).astype("float32")
        data = data.assign({name: value.assign_attrs(ATTRS[name])})
    data["reflectance"].attrs["ancillary_variables"] = beside
    data.attrs = {
        "Conventions": "CF-1.11",
        "items": [item["id"] for item in items],
        "provenance": json.dumps(
            {item["id"]: _own_properties(item) for item in items}
        ),  # netCDF holds no dicts
    }
    return data


def _own_properties(item: dict) -> dict:
    return {
        key.removeprefix("satfuse:"): v
        for key, v in item["properties"].items()
        if key.startswith("satfuse:")
    }


def _nothing_there(store: Store, items: list[dict], box, start, end) -> ProductError:
    if not items:
        return ProductError(
            f"store {store.url} is empty; make a product with `satfuse fuse ... --store {store.url}`"
        )
    here = [i for i in items if _overlaps(i["bbox"], box)]
    if here:
        middle = start + (end - start) / 2
        nearest = sorted(here, key=lambda i: abs(_time(i) - middle))[:3]
        dates = ", ".join(f"{_time(i):%Y-%m-%d} ({i['id']})" for i in nearest)
        return ProductError(
            f"no product from {start:%Y-%m-%d} to {end:%Y-%m-%d} in this box; nearest dates: {dates}"
        )
    fields = sorted({tuple(round(v, 3) for v in i["bbox"]) for i in items})
    areas = "; ".join(",".join(map(str, f)) for f in fields[:5])
    more = f" and {len(fields) - 5} more" if len(fields) > 5 else ""
    return ProductError(
        f"no product covers the box {box}; the store covers (W,S,E,N): {areas}{more}"
    )
