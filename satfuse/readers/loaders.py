"""Raster assets onto a GeoBox, lazily: odc-stac does the reading, stackstac is its stand-in (extra `stackstac`).

A loader is a plain function that reads one raster onto one GeoBox (`Loader`). `lazy_raster` calls it once per chunk
inside a dask task, so that a failure names item and asset at whatever moment it happens, credentials are looked up in
the process that reads, and no loader's own way of filling holes is ever used.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

import dask.array as da
import numpy as np
import odc.stac
import pystac
import rasterio
from odc.geo.geobox import GeoBox
from odc.loader import RioDriver, RioReader
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.windows import Window

from satfuse.catalog import access
from satfuse.catalog.specs import CatalogSpec
from satfuse.errors import ConfigError, MissingExtraError, ReadError
from satfuse.geometry.grids import lonlat_bbox

log = logging.getLogger(__name__)

UNREADABLE = -1  # marks pixels of an asset that could not be read, where the caller allows holes
FAILURES = (RasterioError, CPLE_BaseError, OSError, RuntimeError, EOFError)
# With several threads GDAL decodes a truncated JPEG 2000 file without any error and invents the
# missing tiles.
_STRICT = {"GDAL_NUM_THREADS": "1"}
_ANY_TIME = datetime(2000, 1, 1, tzinfo=UTC)  # STAC items must have one


@dataclass(frozen=True, kw_only=True)
class Source:
    """One asset of one item by its canonical key, small enough to travel with every dask task."""

    spec: CatalogSpec
    item: pystac.Item
    sensor: str
    key: str

    @classmethod
    def of(cls, spec: CatalogSpec, item: pystac.Item, sensor: str, key: str) -> "Source":
        """Keep of the item only its id and this asset (all assets where it lacks this one, for the message)."""
        name = spec.assets.get(sensor, {}).get(key)
        kept = [name] if name in item.assets else list(item.assets)
        slim = pystac.Item(item.id, geometry=None, bbox=None, datetime=_ANY_TIME, properties={})
        for kept_name in kept:
            slim.add_asset(kept_name, item.assets[kept_name].clone())
        return cls(spec=spec, item=slim, sensor=sensor, key=key)

    def error(self, cause) -> ReadError:
        """The error that names item, asset and cause."""
        return ReadError(
            f"{self.item.id}: asset {self.key} could not be read, it is missing or damaged: {cause}"
        )

    @contextmanager
    def opened(self) -> Iterator[str]:
        """Inside: GDAL is set up for the source. Gives the name to open.

        GDAL's failures become `ReadError`, or `AccessError` where the service refuses or sends a login page; the latter
        is never a hole.
        """
        slot = nullcontext() if "file" in self.spec.schemes else access.connection_slot(self.spec)
        with slot, rasterio.Env(**access.gdal_env(self.spec, self.sensor), **_STRICT):
            href = access.gdal_name(self.spec, self.item, self.sensor, self.key)
            try:
                yield href
            except FAILURES as error:
                access.check_remote(self.spec, self.item, self.sensor, self.key)
                raise self.error(error.__cause__ or error) from error

    def probe(self) -> None:
        """Open the raster and read its last pixel, which a truncated JP2 or TIFF no longer has.

        Raises
        ------
        ReadError
            Missing or damaged.
        """
        with self.opened() as href, rasterio.open(href) as raster:
            raster.read(1, window=Window(raster.width - 1, raster.height - 1, 1, 1))


class Loader(Protocol):
    """Reads one raster onto a GeoBox; raises one of `FAILURES` when any needed part cannot be read."""

    def __call__(self, href: str, geobox: GeoBox, *, dtype: str, resampling: str) -> np.ndarray:
        """(y, x) array of `dtype`; 0 where the raster has no data or does not reach."""


class _ZeroIsNodata(RioReader):
    """JPEG 2000 files have no nodata tag. Without one GDAL interpolates zeros into their neighbours, and from 3.11 on
    moves them a little, so that missing pixels look like data."""

    def read(self, cfg, dst_geobox, *, dst=None, selection=None):
        cfg = replace(cfg, src_nodata_fallback=0)
        return super().read(cfg, dst_geobox, dst=dst, selection=selection)


class _Driver(RioDriver):
    def open(self, src, ctx):
        return _ZeroIsNodata(src, ctx)


def read_with_odc(href: str, geobox: GeoBox, *, dtype: str, resampling: str) -> np.ndarray:
    """`Loader` by odc-stac. Pixels pass unchanged where the grids align; nodata is 0."""
    data = odc.stac.load(
        [_item_of(href, geobox, dtype)],
        bands=["raster"],
        geobox=geobox,
        dtype=dtype,
        nodata=0,
        resampling=resampling,
        fail_on_error=True,
        driver=_Driver(),
    )
    return data["raster"].values[0]


def read_with_stackstac(href: str, geobox: GeoBox, *, dtype: str, resampling: str) -> np.ndarray:
    """`Loader` by stackstac, for GeoBoxes with an EPSG code and square north-up pixels; nodata is 0."""
    try:
        import stackstac
    except ImportError as error:
        raise MissingExtraError("stackstac", "stackstac") from error
    stack = stackstac.stack(
        [
            _item_of(href, geobox, dtype).to_dict()
        ],  # pystac items lose proj:epsg, plain dicts do not
        assets=["raster"],
        epsg=geobox.crs.epsg,
        resolution=geobox.affine.a,
        bounds=tuple(geobox.boundingbox),
        snap_bounds=False,
        resampling=rasterio.enums.Resampling[resampling],
        dtype=np.dtype(dtype),
        fill_value=np.dtype(dtype).type(0),
        rescale=False,  # satfuse applies the radiometry
        errors_as_nodata=(),  # the default turns HTTP 404 into nodata
        xy_coords=False,
    )
    return stack.data.compute(scheduler="synchronous")[0, 0]


LOADERS: dict[str, Loader] = {"odc": read_with_odc, "stackstac": read_with_stackstac}


def loader_named(name: str) -> Loader:
    """Look a loader up: "odc" or "stackstac"."""
    if name not in LOADERS:
        raise ConfigError(f"unknown loader {name!r}; known: {', '.join(LOADERS)}")
    return LOADERS[name]


def lazy_raster(
    source: Source,
    geobox: GeoBox,
    *,
    dtype: str,
    resampling: str,
    chunks: int,
    loader: Loader,
    holes: bool,
) -> da.Array:
    """A raster on a GeoBox, read chunk by chunk when computed.

    Returns
    -------
    (y, x) of `dtype`, which must be signed: 0 where there is no data, `UNREADABLE` where reading failed and `holes`
    allows it. float32 holds all digital numbers exactly, and interpolated ones without a rounding that would depend on
    the chunks.

    Raises
    ------
    ReadError
        When computed, unless `holes`.
    """
    return da.map_blocks(
        _read_block,
        chunks=da.core.normalize_chunks(chunks, tuple(geobox.shape)),
        dtype=dtype,
        meta=np.empty((0, 0), dtype),
        source=source,
        geobox=geobox,
        number_type=dtype,
        resampling=resampling,
        loader=loader,
        holes=holes,
    )


def _read_block(source, geobox, number_type, resampling, loader, holes, block_info=None):
    (y0, y1), (x0, x1) = block_info[None]["array-location"]
    block = geobox[y0:y1, x0:x1]
    try:
        with source.opened() as href:
            return loader(href, block, dtype=number_type, resampling=resampling)
    except ReadError as error:
        if not holes:
            raise
        log.warning("left a hole: %s", error)
        return np.full(block.shape, UNREADABLE, number_type)


def _item_of(href, geobox, dtype):
    """A STAC item of one raster. Its footprint is the GeoBox asked for, so that no loader skips it as outside."""
    west, south, east, north = bbox = lonlat_bbox(geobox)
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    item = pystac.Item(
        "raster", {"type": "Polygon", "coordinates": [ring]}, list(bbox), _ANY_TIME, {}
    )
    band = {"data_type": dtype, "nodata": 0}
    item.add_asset(
        "raster", pystac.Asset(href, roles=["data"], extra_fields={"raster:bands": [band]})
    )
    return item
