"""Sentinel-2 L2A items on a GeoBox: SAFE folders, JP2 assets, COGs.

Reflectance is (DN + offset) / quantification, negative values kept. Pixels of bands whose native grid is the GeoBox's
pass bit-identical; all others are interpolated bilinearly. A 20 or 60 m band on a 10 m GeoBox then shows the native
pixel (a box) convolved with a triangle whose half width is one native pixel: its blur stays known. SCL is put on the
GeoBox by nearest neighbour.
"""

import logging
from collections.abc import Iterable
from functools import reduce

import dask.array as da
import numpy as np
import pystac
import rasterio
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

from satfuse.catalog.specs import CatalogSpec
from satfuse.errors import BandError, ConfigError, RadiometryError, ReadError
from satfuse.readers.ledger import Read, log_holes
from satfuse.readers.loaders import UNREADABLE, Source, lazy_raster, loader_named
from satfuse.readers.sentinel2_angles import angle_variables
from satfuse.readers.sentinel2_metadata import (
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

SATURATED = 65535
# Between a saturated pixel and its neighbours interpolation leaves values that no surface has:
# reflectance above 2.9.
SATURATED_MIX = 30000
_SCL_QUALITY = {
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
_DARK_DN = (
    900,
    1700,
)  # where the darkest surfaces lie in all of _DARK_BANDS while the offset of 1000 is in the data


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

    Several items are scaled each by its own metadata, then mosaicked: every pixel comes, with all its bands, from the
    first item in which it is usable, else from the first that has data there.

    Parameters
    ----------
    items : items of one acquisition in order of preference.
    geobox : any CRS; the tiles may lie in other UTM zones.
    spec : the catalogue of the items.
    bands : band names; () for SCL alone.
    loader : "odc" or "stackstac".
    missing : "raise", or "flag" to leave holes where assets cannot be read. A hole is NaN, has
        `Quality.ASSET_MISSING`, and stands in the ledger.
    chunks : pixels per chunk along y and x.
    boa_offset : overrides the offset in digital numbers, -1000 or 0, where the metadata cannot say.

    Returns
    -------
    Dataset of dask arrays with `reflectance (band, y, x)` float32, NaN where missing; `valid (y, x)` bool, True =
    usable in every band (no bit of `GUIDE_INVALID`); `quality (y, x)` uint16; `scl (y, x)` uint8; `sun_zenith`,
    `sun_azimuth`, `view_zenith`, `view_azimuth (y_angle, x_angle)` in degrees, azimuths from north, at nodes at most
    5 km apart from edge to edge of the GeoBox, views being means over bands and detectors. `attrs`: `ledger`,
    `item_ids`, `platform`, and one per item: `baselines`, `offsets` (dicts), `angles` ("MTD_TL grids", "item
    properties", or "none": NaN).

    Raises
    ------
    ReadError
        An asset is missing or damaged; when opening if its header or its end shows it, else when computed.
    RadiometryError
        The offset cannot be decided.
    BandError, ConfigError
        Unknown band, loader or value of `missing` or `boa_offset`.
    """
    items = [items] if isinstance(items, pystac.Item) else list(items)
    bands = tuple(bands)
    if not items:
        raise ReadError("no Sentinel-2 item to open")
    if foreign := set(bands) - set(S2_NAMES):
        raise BandError(
            f"Sentinel-2 has no band {', '.join(sorted(foreign))}; known: {', '.join(S2_NAMES)}"
        )
    if missing not in ("raise", "flag"):
        raise ConfigError(f'missing={missing!r} must be "raise" or "flag"')
    if boa_offset not in (None, -1000, 0):
        raise ConfigError(f"{boa_offset=} must be -1000 or 0: it is added to the digital numbers")
    options = {
        "geobox": geobox,
        "loader": loader_named(loader),
        "chunks": chunks,
        "holes": missing == "flag",
    }
    ledger, tiles, directions, facts = [], [], [], []
    for item in items:
        offset, quantification, baseline = _radiometry(item, spec, bands, boa_offset)
        numbers = [_numbers(spec, item, key, ledger, **options) for key in (*bands, "SCL")]
        tile = _tile(numbers[:-1], numbers[-1], bands, offset, quantification, geobox)
        nodes, source, reads = field_angles(item, spec, geobox, holes=missing == "flag")
        if any(read.status == "missing" for read in reads):
            tile["quality"] = tile["quality"] | np.uint16(Quality.ASSET_MISSING)
        ledger += reads
        tiles.append(tile)
        directions.append(nodes)
        facts.append({"baselines": baseline, "offsets": offset, "angles": source})
    log_holes(ledger)
    attrs = {
        "ledger": ledger,
        "item_ids": [i.id for i in items],
        "platform": platform_of(items[0]),
        **{name: [f[name] for f in facts] for name in facts[0]},
    }
    return _dataset(_mosaic(tiles), directions, bands, geobox, attrs)


def _numbers(spec, item, key, ledger, *, geobox, loader, chunks, holes):
    """Digital numbers (y, x) of one asset, UNREADABLE all over where it cannot be opened and may be missing."""
    source = Source.of(spec, item, "sentinel2", key)
    dtype, resampling = ("int16", "nearest") if key == "SCL" else ("float32", "bilinear")
    try:
        source.probe()
    except ReadError as error:
        if not holes:
            raise
        ledger.append(Read(item=item.id, asset=key, status="missing", cause=str(error)))
        return da.full(tuple(geobox.shape), UNREADABLE, dtype=dtype, chunks=chunks)
    ledger.append(Read(item=item.id, asset=key, status="read"))
    return lazy_raster(
        source,
        geobox,
        dtype=dtype,
        resampling=resampling,
        chunks=chunks,
        loader=loader,
        holes=holes,
    )


def _tile(numbers, scl, bands, offset, quantification, geobox):
    """reflectance (band, y, x), quality and scl (y, x) of one item."""
    layers = [
        da.where(
            dn > 0, (dn + np.float32(offset[b])) / np.float32(quantification), np.float32(np.nan)
        )
        for dn, b in zip(numbers, bands, strict=True)
    ]
    native = abs(geobox.affine.a)
    limits = [SATURATED if b.gsd_m == native else SATURATED_MIX for b in bands_named(bands)]
    saturated = [dn >= limit for dn, limit in zip(numbers, limits, strict=True)]
    quality = scl.map_blocks(_scl_quality, dtype="uint16", meta=np.empty((0, 0), "uint16"))
    for flag, masks in (
        (Quality.GUIDE_MISSING, [dn <= 0 for dn in (*numbers, scl)]),
        (Quality.ASSET_MISSING, [dn == UNREADABLE for dn in (*numbers, scl)]),
        (Quality.GUIDE_SATURATED, saturated),
    ):
        if masks:
            quality = quality | reduce(da.logical_or, masks).astype("uint16") * np.uint16(flag)
    reflectance = (
        da.stack(layers)
        if layers
        else da.empty((0, *geobox.shape), dtype="float32", chunks=(0, *scl.chunks))
    )
    return {
        "reflectance": reflectance,
        "quality": quality,
        "scl": da.maximum(scl, 0).astype("uint8"),
    }


def _scl_quality(scl):
    quality = np.zeros(scl.shape, "uint16")
    for value, flag in _SCL_QUALITY.items():
        quality[scl == value] = flag
    return quality


def _mosaic(tiles):
    """Per pixel the first tile that is usable there, else the first with any data, else the first."""
    if len(tiles) == 1:
        return tiles[0]
    rank = [_rank(t) for t in tiles]
    choice = da.argmax(da.stack(rank), axis=0)
    return {name: _choose(choice, [t[name] for t in tiles]) for name in tiles[0]}


def _rank(tile):
    usable = (tile["quality"] & np.uint16(GUIDE_INVALID)) == 0
    anything = (tile["scl"] > 0) | da.isfinite(tile["reflectance"]).any(axis=0)
    return usable.astype("uint8") + anything.astype("uint8")


def _choose(choice, layers):
    out = layers[0]
    for index, layer in enumerate(layers[1:], start=1):
        out = da.where(choice == index, layer, out)
    return out


def _dataset(mosaic, directions, bands, geobox, attrs):
    known = bands_named(bands)
    variables, nodes = angle_variables(directions, geobox)
    plane = ("y", "x")
    return xr.Dataset(
        {
            "reflectance": (
                ("band", *plane),
                mosaic["reflectance"],
                {"units": "1", "grid_mapping": "spatial_ref"},
            ),
            "valid": (
                plane,
                (mosaic["quality"] & np.uint16(GUIDE_INVALID)) == 0,
                {"grid_mapping": "spatial_ref"},
            ),
            "quality": (plane, mosaic["quality"], flag_attrs() | {"grid_mapping": "spatial_ref"}),
            "scl": (
                plane,
                mosaic["scl"],
                {"long_name": "scene classification", "grid_mapping": "spatial_ref"},
            ),
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


def _radiometry(item, spec, bands, boa_offset):
    """Offset per band, quantification and baseline: by the product metadata, or by the baseline and the data."""
    rule = spec.radiometry.get("sentinel2", "product_metadata")
    if boa_offset is None and rule.startswith("boa_offset="):
        boa_offset = int(rule.removeprefix("boa_offset="))
    if boa_offset is not None:
        return dict.fromkeys(bands, boa_offset), 10000.0, item_baseline(item)
    if not bands:
        return {}, 10000.0, item_baseline(item)
    if rule == "baseline":
        return dict.fromkeys(bands, _offset_by_baseline(item, spec)), 10000.0, item_baseline(item)
    baseline, offsets, quantification = radiometry(item, spec)
    if offsets is None:
        raise RadiometryError(
            f"{item.id}: no product_metadata (MTD_MSIL2A.xml) states the offset of every band, "
            f"which baseline {baseline or 'unknown'} needs; {OVERRIDE}"
        )
    return {b: offsets[b] for b in bands}, quantification, baseline


def _offset_by_baseline(item, spec):
    """-1000 from baseline 04.00 on, else 0, when the darkest digital numbers of the tile do not speak against it.

    Services have taken the offset out of some items and left it in others. In four bands the 2nd percentile tells:
    below 900 in any of them, the data cannot hold the added 1000; between 900 and 1700 in all, they do (water, shadow,
    forest). A tile without dark surfaces tells nothing; then only a baseline below 04.00 is safe.
    """
    stated = item_baseline(item)
    try:
        added = float(stated) >= OFFSET_SINCE_BASELINE
    except ValueError as error:
        raise RadiometryError(
            f"{item.id} states no processing baseline (found {stated!r}); {OVERRIDE}"
        ) from error
    dark = [_dark_number(Source.of(spec, item, "sentinel2", band)) for band in _DARK_BANDS]
    low, high = _DARK_DN
    seen = False if min(dark) < low else True if max(dark) <= high else None
    numbers = ", ".join(f"{b} {d:.0f}" for b, d in zip(_DARK_BANDS, dark, strict=True))
    if seen is None and added:
        raise RadiometryError(
            f"{item.id}: baseline {stated} adds 1000 to the digital numbers, but the tile has no dark surface to check "
            f"whether they still hold it (2nd percentile: {numbers}); {OVERRIDE}"
        )
    if seen not in (None, added):
        raise RadiometryError(
            f"{item.id}: by baseline {stated} 1000 was {'added' if added else 'not added'} to the digital numbers, "
            f"the data say the opposite (2nd percentile: {numbers}); {OVERRIDE}"
        )
    return -1000 if added else 0


def _dark_number(source):
    """2nd percentile of the digital numbers of a whole tile, from about 400 x 400 pixels."""
    with source.opened() as href, rasterio.open(href) as raster:
        size = (min(400, raster.height), min(400, raster.width))
        numbers = raster.read(1, out_shape=size)
    numbers = numbers[numbers > 0]
    if not numbers.size:
        raise ReadError(f"{source.item.id}: asset {source.key} holds no data at all")
    return float(np.percentile(numbers, 2))
