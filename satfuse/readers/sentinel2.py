"""Sentinel-2 L2A items on a GeoBox: SAFE folders, JP2 assets, COGs.

Reflectance is (DN + offset) / quantification, negative values kept. Pixels of bands whose native
grid is the GeoBox's pass bit-identical; all others are interpolated bilinearly. The point spread of
a 20 or 60 m band on a 10 m GeoBox is then known: the native pixel (a box) convolved with a triangle
whose half width is one native pixel. SCL is resampled by nearest neighbour.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import dask.array as da
import numpy as np
import pystac
import rasterio
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

from satfuse.arrays import FloatArray, IntArray
from satfuse.catalog.specs import CatalogSpec
from satfuse.errors import BandError, ConfigError, RadiometryError, ReadError
from satfuse.readers.ledger import Read, log_holes
from satfuse.readers.loaders import UNREADABLE, ItemAsset, Loader, lazy_raster, loader_named
from satfuse.readers.sentinel2_angles import angle_variables
from satfuse.readers.sentinel2_metadata import (
    DEFAULT_QUANTIFICATION,
    OFFSET_SINCE_BASELINE,
    S2Metadata,
    field_angles,
    item_baseline,
    metadata,
    platform_of,
    radiometry,
    safe_item,
)
from satfuse.sensors.bands import S2_NAMES
from satfuse.sensors.bands import bands as bands_named
from satfuse.sensors.quality import GUIDE_INVALID, Quality, flag_attrs

__all__ = ["S2Metadata", "metadata", "open_sentinel2", "platform_of", "safe_item"]
log = logging.getLogger(__name__)

SATURATED = 65535  # digital number of a saturated pixel
# Interpolation between a saturated pixel and its neighbours gives digital numbers that no surface
# has: above 30000 the reflectance is above 2.9.
SATURATED_MIX = 30000
_SCL_QUALITY = {  # classes of the scene classification that become quality flags
    1: Quality.GUIDE_SATURATED,
    3: Quality.GUIDE_SHADOW,
    8: Quality.GUIDE_CLOUD,
    9: Quality.GUIDE_CLOUD,
    10: Quality.GUIDE_CLOUD,
    11: Quality.SNOW,
}
OVERRIDE = (
    "if you know the offset, pass boa_offset=-1000 or boa_offset=0, "
    'or write sentinel2 = "boa_offset=-1000" under [radiometry] in a copy of the catalogue file'
)
_DARK_BANDS = ("B02", "B03", "B04", "B12")
# Range of the darkest surfaces' digital numbers in all of _DARK_BANDS, with the added 1000.
_DARK_DN = (900, 1700)


def open_sentinel2(
    items: pystac.Item | Iterable[pystac.Item],
    geobox: GeoBox,
    *,
    spec: CatalogSpec,
    bands: Iterable[str] = S2_NAMES,
    loader: str = "odc",
    missing: str = "raise",
    chunks: int = 1800,
    boa_offset: int | None = None,
) -> xr.Dataset:
    """Open one acquisition (one item, or several tiles of it) on a GeoBox, lazily.

    Several items are scaled each by its own metadata, then mosaicked: every pixel comes, with all
    its bands, from the first item in which it is usable, else from the first that has data there.

    Parameters
    ----------
    items : items of one acquisition in order of preference.
    geobox : any CRS; the tiles may be in other UTM zones.
    spec : the catalogue of the items.
    bands : band names; () for SCL alone.
    loader : "odc" or "stackstac".
    missing : "raise", or "flag" to leave holes where assets cannot be read. A hole is NaN, has
        `Quality.ASSET_MISSING`, and is listed in the ledger.
    chunks : pixels per chunk along y and x.
    boa_offset : overrides the offset in digital numbers, -1000 or 0, where no metadata states it.

    Returns
    -------
    Dataset of dask arrays with `reflectance (band, y, x)` float32, NaN where missing; `valid (y,
    x)` bool, True = usable in every band (no bit of `GUIDE_INVALID`); `quality (y, x)` uint16; `scl
    (y, x)` uint8; `sun_zenith`, `sun_azimuth`, `view_zenith`, `view_azimuth (y_angle, x_angle)` in
    degrees, azimuths from north, at nodes at most 5 km apart from edge to edge of the GeoBox; views
    are means over bands and detectors. `attrs`: `ledger`, `item_ids`, `platform`, and one per item:
    `baselines`, `offsets` (dicts), `angles` ("MTD_TL grids", "item properties", or "none": NaN).

    Raises
    ------
    ReadError
        An asset is missing or damaged; raised when opening if its header or its end shows it, else
        when computed.
    RadiometryError
        The offset cannot be determined.
    BandError, ConfigError
        Unknown band, loader or value of `missing` or `boa_offset`.
    """
    items = [items] if isinstance(items, pystac.Item) else list(items)
    bands = tuple(bands)
    if not items:
        raise ReadError("no Sentinel-2 item to open")
    if unknown := set(bands) - set(S2_NAMES):
        raise BandError(
            f"Sentinel-2 has no band {', '.join(sorted(unknown))}; known: {', '.join(S2_NAMES)}"
        )
    if missing not in ("raise", "flag"):
        raise ConfigError(f'missing={missing!r} must be "raise" or "flag"')
    if boa_offset not in (None, -1000, 0):
        raise ConfigError(f"{boa_offset=} must be -1000 or 0: it is added to the digital numbers")
    grid = _GridOptions(geobox, loader_named(loader), chunks, holes=missing == "flag")
    tiles = [_read_tile(item, spec, bands, boa_offset, grid) for item in items]
    ledger = [read for tile in tiles for read in tile.ledger]
    log_holes(ledger)
    attrs = {
        "ledger": ledger,
        "item_ids": [i.id for i in items],
        "platform": platform_of(items[0]),
        "baselines": [tile.baseline for tile in tiles],
        "offsets": [tile.offsets for tile in tiles],
        "angles": [tile.angles_from for tile in tiles],
    }
    mosaic = _mosaic([tile.layers for tile in tiles])
    return _dataset(mosaic, [tile.angles for tile in tiles], bands, geobox, attrs)


@dataclass(frozen=True)
class _GridOptions:
    """The grid to read onto, and how."""

    geobox: GeoBox
    loader: Loader
    chunks: int
    holes: bool


@dataclass(frozen=True, kw_only=True)
class _Tile:
    """One item on the grid: lazy layers (`reflectance`, `quality`, `scl`), angles and metadata."""

    layers: dict[str, da.Array]
    angles: FloatArray  # (4, y, x) at the field's nodes
    angles_from: str
    baseline: str
    offsets: dict[str, int]
    ledger: list[Read]


def _read_tile(
    item: pystac.Item,
    spec: CatalogSpec,
    bands: tuple[str, ...],
    boa_offset: int | None,
    grid: _GridOptions,
) -> _Tile:
    offsets, quantification, baseline = _radiometry(item, spec, bands, boa_offset)
    ledger: list[Read] = []
    numbers = [_numbers(spec, item, key, ledger, grid) for key in (*bands, "SCL")]
    layers = _layers(numbers[:-1], numbers[-1], bands, offsets, quantification, grid.geobox)
    angles, angles_from, reads = field_angles(item, spec, grid.geobox, holes=grid.holes)
    if any(read.status == "missing" for read in reads):
        layers["quality"] = layers["quality"] | np.uint16(Quality.ASSET_MISSING)
    return _Tile(
        layers=layers,
        angles=angles,
        angles_from=angles_from,
        baseline=baseline,
        offsets=offsets,
        ledger=ledger + reads,
    )


def _numbers(
    spec: CatalogSpec, item: pystac.Item, key: str, ledger: list[Read], grid: _GridOptions
) -> da.Array:
    """Digital numbers (y, x) of one asset; all `UNREADABLE` where it cannot be opened."""
    asset = ItemAsset.of(spec, item, "sentinel2", key)
    dtype, resampling = ("int16", "nearest") if key == "SCL" else ("float32", "bilinear")
    try:
        asset.probe()
    except ReadError as error:
        if not grid.holes:
            raise
        ledger.append(Read(item=item.id, asset=key, status="missing", cause=str(error)))
        return da.full(tuple(grid.geobox.shape), UNREADABLE, dtype=dtype, chunks=grid.chunks)
    ledger.append(Read(item=item.id, asset=key, status="read"))
    return lazy_raster(
        asset,
        grid.geobox,
        dtype=dtype,
        resampling=resampling,
        chunks=grid.chunks,
        loader=grid.loader,
        holes=grid.holes,
    )


def _layers(
    numbers: list[da.Array],
    scl: da.Array,
    bands: tuple[str, ...],
    offsets: dict[str, int],
    quantification: float,
    geobox: GeoBox,
) -> dict[str, da.Array]:
    """reflectance (band, y, x), quality and scl (y, x) of one item."""
    reflectance = da.empty((0, *geobox.shape), dtype="float32", chunks=(0, *scl.chunks))
    if bands:
        reflectance = da.stack(
            [
                _reflectance(dn, offsets[band], quantification)
                for dn, band in zip(numbers, bands, strict=True)
            ]
        )
    return {
        "reflectance": reflectance,
        "quality": _quality(numbers, scl, bands, geobox),
        "scl": da.maximum(scl, 0).astype("uint8"),
    }


def _reflectance(dn: da.Array, offset: int, quantification: float) -> da.Array:
    scaled = (dn + np.float32(offset)) / np.float32(quantification)
    return da.where(dn > 0, scaled, np.float32(np.nan))


def _quality(
    numbers: list[da.Array], scl: da.Array, bands: tuple[str, ...], geobox: GeoBox
) -> da.Array:
    native = abs(geobox.affine.a)
    limits = [SATURATED if b.gsd_m == native else SATURATED_MIX for b in bands_named(bands)]
    saturated = [dn >= limit for dn, limit in zip(numbers, limits, strict=True)]
    quality = da.map_blocks(_scl_quality, scl, dtype="uint16", meta=np.empty((0, 0), "uint16"))
    for flag, masks in (
        (Quality.GUIDE_MISSING, [dn <= 0 for dn in (*numbers, scl)]),
        (Quality.ASSET_MISSING, [dn == UNREADABLE for dn in (*numbers, scl)]),
        (Quality.GUIDE_SATURATED, saturated),
    ):
        if masks:
            quality = quality | reduce(da.logical_or, masks).astype("uint16") * np.uint16(flag)
    return quality


def _scl_quality(scl: IntArray) -> IntArray:
    quality = np.zeros(scl.shape, "uint16")
    for value, flag in _SCL_QUALITY.items():
        quality[scl == value] = flag
    return quality


def _mosaic(tiles: list[dict[str, da.Array]]) -> dict[str, da.Array]:
    """Take per pixel the first tile usable there, else the first with any data, else the first."""
    if len(tiles) == 1:
        return tiles[0]
    # argmax takes the first of equal ranks
    choice = da.argmax(da.stack([_rank(t) for t in tiles]), axis=0)
    return {name: _choose(choice, [t[name] for t in tiles]) for name in tiles[0]}


def _rank(tile: dict[str, da.Array]) -> da.Array:
    """2 where a tile is usable, 1 where it has any data, else 0."""
    usable = (tile["quality"] & np.uint16(GUIDE_INVALID)) == 0
    has_data = (tile["scl"] > 0) | da.isfinite(tile["reflectance"]).any(axis=0)
    return usable.astype("uint8") + has_data.astype("uint8")


def _choose(choice: da.Array, layers: list[da.Array]) -> da.Array:
    out = layers[0]
    for index, layer in enumerate(layers[1:], start=1):
        out = da.where(choice == index, layer, out)
    return out


def _dataset(
    mosaic: dict[str, da.Array],
    angles: list[FloatArray],
    bands: tuple[str, ...],
    geobox: GeoBox,
    attrs: dict[str, Any],
) -> xr.Dataset:
    known = bands_named(bands)
    variables, nodes = angle_variables(angles, geobox)
    plane = ("y", "x")
    grid = {"grid_mapping": "spatial_ref"}
    valid = (mosaic["quality"] & np.uint16(GUIDE_INVALID)) == 0
    return xr.Dataset(
        {
            "reflectance": (("band", *plane), mosaic["reflectance"], {"units": "1"} | grid),
            "valid": (plane, valid, grid),
            "quality": (plane, mosaic["quality"], flag_attrs() | grid),
            "scl": (plane, mosaic["scl"], {"long_name": "scene classification"} | grid),
            **variables,
        },
        coords={
            **xr_coords(geobox),
            **nodes,
            "band": list(bands),
            "wavelength_nm": ("band", np.array([b.wavelength_nm for b in known]), {"units": "nm"}),
            "fwhm_nm": ("band", np.array([b.fwhm_nm for b in known]), {"units": "nm"}),
        },
        attrs=attrs,
    )


def _radiometry(
    item: pystac.Item, spec: CatalogSpec, bands: tuple[str, ...], boa_offset: int | None
) -> tuple[dict[str, int], float, str]:
    """Offset per band, quantification and baseline, as the catalogue's rule finds them."""
    rule = spec.radiometry.get("sentinel2", "product_metadata")
    if boa_offset is None and rule.startswith("boa_offset="):
        boa_offset = int(rule.removeprefix("boa_offset="))
    if boa_offset is None and bands and rule == "baseline":
        boa_offset = _offset_by_baseline(item, spec)
    if boa_offset is not None or not bands:
        offset = dict.fromkeys(bands, boa_offset or 0)
        return offset, DEFAULT_QUANTIFICATION, item_baseline(item)
    baseline, offsets, quantification = radiometry(item, spec)
    if offsets is None:
        raise RadiometryError(
            f"{item.id}: no product_metadata (MTD_MSIL2A.xml) states the offset of every band, "
            f"which baseline {baseline or 'unknown'} needs; {OVERRIDE}"
        )
    return {b: offsets[b] for b in bands}, quantification, baseline


def _offset_by_baseline(item: pystac.Item, spec: CatalogSpec) -> int:
    """Determine the offset from the baseline, checked against the darkest digital numbers.

    It is -1000 from baseline 04.00 on, else 0; but services have removed the added 1000 from some
    items and not from others. The 2nd percentile of four bands decides: below 900 in any of them,
    the data cannot include the added 1000; between 900 and 1700 in all of them, they do (water,
    shadow, forest). A tile without dark surfaces decides nothing; then only a baseline below 04.00
    is safe.
    """
    baseline = item_baseline(item)
    try:
        added = float(baseline) >= OFFSET_SINCE_BASELINE
    except ValueError as error:
        raise RadiometryError(
            f"{item.id} states no processing baseline (found {baseline!r}); {OVERRIDE}"
        ) from error
    dark = [_dark_number(ItemAsset.of(spec, item, "sentinel2", band)) for band in _DARK_BANDS]
    numbers = ", ".join(f"{b} {d:.0f}" for b, d in zip(_DARK_BANDS, dark, strict=True))
    lowest, highest = _DARK_DN
    data_exclude = min(dark) < lowest
    data_include = not data_exclude and max(dark) <= highest
    if added and not (data_exclude or data_include):
        raise RadiometryError(
            f"{item.id}: baseline {baseline} adds 1000 to the digital numbers, but the tile has no "
            f"dark surface to check that they include it (2nd percentile: {numbers}); {OVERRIDE}"
        )
    if (added and data_exclude) or (not added and data_include):
        raise RadiometryError(
            f"{item.id}: by baseline {baseline} 1000 was {'added' if added else 'not added'} to "
            "the digital numbers, the data show the opposite "
            f"(2nd percentile: {numbers}); {OVERRIDE}"
        )
    return -1000 if added else 0


def _dark_number(asset: ItemAsset) -> float:
    """2nd percentile of the digital numbers of a whole tile, from about 400 x 400 pixels."""
    with asset.opened() as href, rasterio.open(href) as raster:
        size = (min(400, raster.height), min(400, raster.width))
        numbers = raster.read(1, out_shape=size)
    numbers = numbers[numbers > 0]
    if not numbers.size:
        raise ReadError(f"{asset.item.id}: asset {asset.key} has no data at all")
    return float(np.percentile(numbers, 2))
