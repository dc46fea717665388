"""Lazy reading of raster assets onto a GeoBox, by odc-stac or stackstac (extra `stackstac`).

A loader is a plain function that reads one raster onto one GeoBox (`Loader`). `lazy_raster` calls
it once per chunk inside a dask task, so that every failure names item and asset, credentials are
looked up in the process that reads, and no loader fills holes in its own way.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import dask.array as da
import numpy as np
import numpy.typing as npt
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

if TYPE_CHECKING:
    from odc.loader._rio import LocalContext
    from odc.loader.types import RasterLoadParams, RasterSource, ReaderSubsetSelection

log = logging.getLogger(__name__)

UNREADABLE = -1  # pixels of an asset that could not be read, where the caller allows holes
FAILURES = (RasterioError, CPLE_BaseError, OSError, RuntimeError, EOFError)
# With several threads GDAL decodes a truncated JPEG 2000 file without any error and invents the
# missing tiles.
_STRICT = {"GDAL_NUM_THREADS": "1"}
_ANY_TIME = datetime(2000, 1, 1, tzinfo=UTC)  # STAC items must have a time; nobody reads this one


@dataclass(frozen=True, kw_only=True)
class ItemAsset:
    """One asset of one item by its canonical key, small enough to go into every dask task."""

    spec: CatalogSpec
    item: pystac.Item
    sensor: str
    key: str

    @classmethod
    def of(cls, spec: CatalogSpec, item: pystac.Item, sensor: str, key: str) -> "ItemAsset":
        """Select an asset; of the item only the id and this asset are kept.

        Where the item lacks the asset all others are kept, for the message of a later `ReadError`.
        """
        service_key = spec.assets.get(sensor, {}).get(key)
        small = pystac.Item(item.id, geometry=None, bbox=None, datetime=_ANY_TIME, properties={})
        for name, asset in item.assets.items():
            if name == service_key or service_key not in item.assets:
                small.add_asset(name, asset.clone())
        return cls(spec=spec, item=small, sensor=sensor, key=key)

    def error(self, cause: object) -> ReadError:
        """Make the error that names item, asset and cause."""
        return ReadError(
            f"{self.item.id}: asset {self.key} could not be read, it is missing or damaged: {cause}"
        )

    @contextmanager
    def opened(self) -> Iterator[str]:
        """Set GDAL up for the asset and give the name to open.

        GDAL's failures become `ReadError`, or `AccessError` where the service refuses or sends a
        login page; an `AccessError` never becomes a hole.
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
        """Open the raster and read its last pixel, which a truncated JP2 or TIFF lacks.

        Raises
        ------
        ReadError
            The raster is missing or damaged.
        """
        with self.opened() as href, rasterio.open(href) as raster:
            raster.read(1, window=Window(raster.width - 1, raster.height - 1, 1, 1))


BlockInfo = dict[int | None, dict[str, Any]]  # as `dask.array.map_blocks` passes it


class Loader(Protocol):
    """Reads one raster onto a GeoBox; raises one of `FAILURES` where a part is unreadable."""

    def __call__(
        self, href: str, geobox: GeoBox, *, dtype: str, resampling: str
    ) -> npt.NDArray[Any]:
        """(y, x) array of `dtype`; 0 where the raster has no data or does not cover the GeoBox."""


class _ZeroIsNodata(RioReader):
    """Reads zeros as nodata also from JPEG 2000 files, which have no nodata tag.

    Without one GDAL interpolates zeros into their neighbours, and from 3.11 on moves them a little,
    so that missing pixels look like data.
    """

    def read(
        self,
        cfg: "RasterLoadParams",
        dst_geobox: GeoBox,
        *,
        dst: npt.NDArray[Any] | None = None,
        selection: "ReaderSubsetSelection | None" = None,
    ) -> tuple[tuple[slice, slice], npt.NDArray[Any]]:
        cfg = replace(cfg, src_nodata_fallback=0)
        return super().read(cfg, dst_geobox, dst=dst, selection=selection)


class _Driver(RioDriver):
    """odc-stac's driver for rasterio with the reader above."""

    def open(self, src: "RasterSource", ctx: "LocalContext") -> RioReader:
        return _ZeroIsNodata(src, ctx)


def read_with_odc(href: str, geobox: GeoBox, *, dtype: str, resampling: str) -> npt.NDArray[Any]:
    """Read a raster with odc-stac, see `Loader`; pixels pass unchanged where the grids align."""
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


def read_with_stackstac(
    href: str, geobox: GeoBox, *, dtype: str, resampling: str
) -> npt.NDArray[Any]:
    """Read a raster with stackstac, see `Loader`.

    The GeoBox needs an EPSG code and square north-up pixels.
    """
    try:
        import stackstac
    except ImportError as error:
        raise MissingExtraError("stackstac", "stackstac") from error
    assert geobox.crs is not None
    stack = stackstac.stack(
        [_item_of(href, geobox, dtype).to_dict()],  # pystac items lose proj:epsg, dicts do not
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
    """Look up a loader: "odc" or "stackstac"; ConfigError for any other name."""
    if name not in LOADERS:
        raise ConfigError(f"unknown loader {name!r}; known: {', '.join(LOADERS)}")
    return LOADERS[name]


def lazy_raster(
    asset: ItemAsset,
    geobox: GeoBox,
    *,
    dtype: str,
    resampling: str,
    chunks: int,
    loader: Loader,
    holes: bool,
) -> da.Array:
    """Read a raster onto a GeoBox, chunk by chunk when computed.

    Parameters
    ----------
    asset : the raster.
    geobox : grid of the result.
    dtype : a signed type. float32 represents all digital numbers exactly, and interpolated ones
        without a rounding that would depend on the chunks.
    resampling : GDAL's name, such as "nearest" or "bilinear".
    chunks : pixels per chunk along y and x.
    loader : reads one chunk.
    holes : True = pixels that cannot be read become `UNREADABLE`; False = they raise.

    Returns
    -------
    (y, x) array of `dtype`; 0 where there is no data.

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
        asset=asset,
        geobox=geobox,
        number_type=dtype,
        resampling=resampling,
        loader=loader,
        holes=holes,
    )


def _read_block(
    asset: ItemAsset,
    geobox: GeoBox,
    number_type: str,  # `map_blocks` keeps an argument named dtype to itself
    resampling: str,
    loader: Loader,
    holes: bool,
    *,
    block_info: BlockInfo,
) -> npt.NDArray[Any]:
    (y0, y1), (x0, x1) = block_info[None]["array-location"]
    block = geobox[y0:y1, x0:x1]
    try:
        with asset.opened() as href:
            return loader(href, block, dtype=number_type, resampling=resampling)
    except ReadError as error:
        if not holes:
            raise
        log.warning("pixels are missing: %s", error)
        return np.full(block.shape, UNREADABLE, number_type)


def _item_of(href: str, geobox: GeoBox, dtype: str) -> pystac.Item:
    """Make a STAC item of one raster for the loaders.

    Its footprint is the requested GeoBox, so that no loader skips the raster as outside.
    """
    bbox = lonlat_bbox(geobox)
    item = pystac.Item("raster", box_polygon(bbox), list(bbox), _ANY_TIME, {})
    band = {"data_type": dtype, "nodata": 0}
    asset = pystac.Asset(href, roles=["data"], extra_fields={"raster:bands": [band]})
    item.add_asset("raster", asset)
    return item


def box_polygon(bbox: Sequence[float]) -> dict[str, Any]:
    """GeoJSON polygon of a box (west, south, east, north)."""
    west, south, east, north = bbox
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}
