"""EnMAP L2A items: COG or GeoTIFF with METADATA.XML, or bare tiles with wavelengths as band tags.

Bands keep the file's order, in which wavelengths are not monotonic where the two detectors overlap.
Which bands have no data differs from scene to scene, so it is determined per scene, not listed.
Pixels are invalid where cloud, cloud shadow or cirrus is flagged; haze and snow stay valid (PACO
corrects haze, snow is a surface). The test flags and the defective pixel mask are not used: the
meaning of their bits is not published, and they are set all over ordinary scenes.
"""

import logging
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import pystac
import rasterio
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from rasterio.errors import RasterioError
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from satfuse.arrays import BoolArray, FloatArray
from satfuse.catalog import access
from satfuse.catalog.specs import CatalogSpec
from satfuse.errors import ConfigError, ReadError
from satfuse.readers.ledger import Read, log_holes
from satfuse.readers.loaders import BlockInfo, ItemAsset, box_polygon
from satfuse.readers.xml_elements import element, number
from satfuse.sensors.quality import GUIDE_INVALID, Quality, flag_attrs

log = logging.getLogger(__name__)

NODATA = -32768  # of real scenes; METADATA.XML states a background value of 0, which is data
CHUNK = 256  # pixels per chunk along y and x
DEAD_MEAN = -1000000  # `mean` that bandStatistics gives to a band without data
# Water vapour absorbs almost all light: bands without signal, and spikes.
VAPOUR_NM = ((1320, 1410), (1790, 1970))
_LAYERS = {
    "quality_cloud": Quality.GUIDE_CLOUD,
    "quality_cirrus": Quality.GUIDE_CLOUD,
    "quality_cloud_shadow": Quality.GUIDE_SHADOW,
    "quality_snow": Quality.SNOW,
}
_ASSET_OF_FILE = {
    "METADATA": "metadata",
    "SPECTRAL_IMAGE": "image",
    "QL_QUALITY_CLASSES": "quality_classes",
    "QL_QUALITY_CLOUD": "quality_cloud",
    "QL_QUALITY_CLOUDSHADOW": "quality_cloud_shadow",
    "QL_QUALITY_HAZE": "quality_haze",
    "QL_QUALITY_CIRRUS": "quality_cirrus",
    "QL_QUALITY_SNOW": "quality_snow",
    "QL_QUALITY_TESTFLAGS": "quality_testflags",
    "QL_PIXELMASK": "defective_pixel_mask",
}


@dataclass(frozen=True, kw_only=True)
class _Spectral:
    """Spectral and radiometric metadata, one number per band."""

    wavelength_nm: FloatArray
    fwhm_nm: FloatArray
    gain: FloatArray  # reflectance = DN * gain + offset
    offset: FloatArray
    dead: BoolArray  # True = the metadata say that the band has no data


def open_enmap(item: pystac.Item, *, spec: CatalogSpec, missing: str = "raise") -> xr.Dataset:
    """Open one item on its own grid, lazily.

    Parameters
    ----------
    item : an EnMAP L2A item, from a catalogue or from `enmap_item`.
    spec : the catalogue of the item.
    missing : "raise", or "flag" to go on without quality layers that cannot be read: `quality` then
        has `Quality.ASSET_MISSING` everywhere and `valid` depends on the image alone. The image is
        always needed, METADATA.XML unless the image has the band tags `wavelength` and `fwhm`.

    Returns
    -------
    Dataset with `reflectance (band, y, x)` float32, NaN where missing, negative values kept; `band`
    1..n; `wavelength_nm`, `fwhm_nm`, `usable (band)` bool, True = the band has data and is outside
    the two water vapour regions; `valid (y, x)` bool, True = data in all usable bands and no bit of
    `GUIDE_INVALID`; `quality (y, x)` uint16. `attrs`: `ledger`, `item_ids`, `wavelengths_from`.

    Raises
    ------
    ReadError
        A missing or damaged asset, or an image without wavelengths.
    ConfigError
        Unknown value of `missing`.
    """
    if missing not in ("raise", "flag"):
        raise ConfigError(f'missing={missing!r} must be "raise" or "flag"')
    image = ItemAsset.of(spec, item, "enmap", "image")
    image.probe()
    ledger = [Read(item=item.id, asset="image", status="read")]
    with image.opened() as href, rasterio.open(href) as raster:
        geobox = GeoBox((raster.height, raster.width), raster.transform, raster.crs)
        nodata = NODATA if raster.nodata is None else raster.nodata
        spectral, origin = _spectral(item, spec, raster, ledger)
        empty = _empty_bands(raster, nodata)
    usable = ~(spectral.dead | empty)
    for low, high in VAPOUR_NM:
        usable &= (spectral.wavelength_nm < low) | (spectral.wavelength_nm > high)
    reflectance = _reflectance(image, geobox, spectral, nodata)
    quality = _quality(item, spec, geobox, ledger, holes=missing == "flag")
    incomplete = da.isnan(reflectance[usable]).any(axis=0)
    quality = quality | incomplete.astype("uint16") * np.uint16(Quality.GUIDE_MISSING)
    log_holes(ledger)
    attrs = {"ledger": ledger, "item_ids": [item.id], "wavelengths_from": origin}
    return _dataset(reflectance, quality, spectral, usable, geobox).assign_attrs(attrs)


def _dataset(
    reflectance: da.Array,
    quality: da.Array,
    spectral: _Spectral,
    usable: BoolArray,
    geobox: GeoBox,
) -> xr.Dataset:
    plane = ("y", "x")
    grid = {"grid_mapping": "spatial_ref"}
    return xr.Dataset(
        {
            "reflectance": (("band", *plane), reflectance, {"units": "1"} | grid),
            "valid": (plane, (quality & np.uint16(GUIDE_INVALID)) == 0, grid),
            "quality": (plane, quality, flag_attrs() | grid),
        },
        coords={
            **xr_coords(geobox),
            "band": np.arange(1, len(usable) + 1),
            "wavelength_nm": ("band", spectral.wavelength_nm, {"units": "nm"}),
            "fwhm_nm": ("band", spectral.fwhm_nm, {"units": "nm"}),
            "usable": ("band", usable),
        },
    )


def _spectral(
    item: pystac.Item, spec: CatalogSpec, raster: rasterio.DatasetReader, ledger: list[Read]
) -> tuple[_Spectral, str]:
    """Read METADATA.XML, else the band tags of the image; return also which of the two it was."""
    try:
        path = access.fetch(spec, item, "enmap", "metadata")
    except ReadError as error:
        if not raster.tags(1).get("wavelength"):
            raise ReadError(
                f"{item.id}: asset metadata (METADATA.XML) is missing and the image has no band "
                "tag `wavelength`, so nothing states its wavelengths; "
                f"put METADATA.XML next to the image ({error})"
            ) from error
        cause = f"wavelengths come from the band tags of the image; {error}"
        ledger.append(Read(item=item.id, asset="metadata", status="replaced", cause=cause))
        return _from_tags(raster), "band tags"
    try:
        spectral = _from_xml(ET.parse(path).getroot())
    except (ET.ParseError, AttributeError, ValueError, TypeError) as error:
        raise ReadError(
            f"{item.id}: asset metadata ({path.name}) is damaged or of another format: {error}"
        ) from error
    if len(spectral.dead) != raster.count:
        raise ReadError(
            f"{item.id}: METADATA.XML describes {len(spectral.dead)} bands, "
            f"the image has {raster.count}"
        )
    ledger.append(Read(item=item.id, asset="metadata", status="read"))
    return spectral, "METADATA.XML"


def _from_xml(root: ET.Element) -> _Spectral:
    bands = element(root, ".//bandCharacterisation").findall("bandID")

    def column(tag: str) -> FloatArray:
        return np.array([number(b, tag) for b in bands])

    dead = {
        s.get("number")
        for s in root.findall(".//bandStatistics/bandID")
        if number(s, "mean") == DEAD_MEAN or number(s, "stdDeviation") == 0
    }
    return _Spectral(
        wavelength_nm=column("wavelengthCenterOfBand"),
        fwhm_nm=column("FWHMOfBand"),
        gain=column("GainOfBand"),
        offset=column("OffsetOfBand"),
        dead=np.array([b.get("number") in dead for b in bands]),
    )


def _from_tags(raster: rasterio.DatasetReader) -> _Spectral:
    tags = [raster.tags(i) for i in raster.indexes]
    in_micrometres = tags[0].get("wavelength_units", "").lower().startswith("micro")
    unit_nm = 1000.0 if in_micrometres else 1.0
    return _Spectral(
        wavelength_nm=np.array([float(t["wavelength"]) for t in tags]) * unit_nm,
        fwhm_nm=np.array([float(t.get("fwhm", "nan")) for t in tags]) * unit_nm,
        gain=np.array(raster.scales),
        offset=np.array(raster.offsets),
        dead=np.array([t.get("bbl", "1") == "0" for t in tags]),  # ENVI's bad bands list
    )


def _empty_bands(raster: rasterio.DatasetReader, nodata: float) -> BoolArray:
    """(band,) True = nodata in every pixel of a sample of about 64 x 64."""
    sample = raster.read(out_shape=(raster.count, min(64, raster.height), min(64, raster.width)))
    return (sample == nodata).all(axis=(1, 2))


def _reflectance(image: ItemAsset, geobox: GeoBox, spectral: _Spectral, nodata: float) -> da.Array:
    return da.map_blocks(
        _reflectance_block,
        chunks=da.core.normalize_chunks((-1, CHUNK, CHUNK), (len(spectral.gain), *geobox.shape)),
        dtype="float32",
        meta=np.empty((0, 0, 0), "float32"),
        asset=image,
        spectral=spectral,
        nodata=nodata,
    )


def _reflectance_block(
    asset: ItemAsset, spectral: _Spectral, nodata: float, *, block_info: BlockInfo
) -> npt.NDArray[np.float32]:
    raw = _read_block(asset, block_info[None]["array-location"][1:])
    gain = spectral.gain.astype("float32")[:, None, None]
    offset = spectral.offset.astype("float32")[:, None, None]
    return np.where(raw == nodata, np.float32(np.nan), raw * gain + offset)


def _read_block(asset: ItemAsset, window: list[tuple[int, int]]) -> npt.NDArray[Any]:
    (y0, y1), (x0, x1) = window
    with asset.opened() as href, rasterio.open(href) as raster:
        return raster.read(window=Window(x0, y0, x1 - x0, y1 - y0))


def _quality(
    item: pystac.Item, spec: CatalogSpec, geobox: GeoBox, ledger: list[Read], *, holes: bool
) -> da.Array:
    """Flags (y, x) of the quality layers; what is missing is flagged where `holes` allows it."""
    quality = da.zeros(tuple(geobox.shape), dtype="uint16", chunks=CHUNK)
    for key, flag in _LAYERS.items():
        asset = ItemAsset.of(spec, item, "enmap", key)
        try:
            asset.probe()
        except ReadError as error:
            if not holes:
                raise
            ledger.append(Read(item=item.id, asset=key, status="missing", cause=str(error)))
            quality = quality | np.uint16(Quality.ASSET_MISSING)
            continue
        ledger.append(Read(item=item.id, asset=key, status="read"))
        layer = da.map_blocks(
            _layer_block,
            chunks=quality.chunks,
            dtype="uint8",
            meta=np.empty((0, 0), "uint8"),
            asset=asset,
        )
        quality = quality | (layer > 0).astype("uint16") * np.uint16(flag)
    return quality


def _layer_block(asset: ItemAsset, *, block_info: BlockInfo) -> npt.NDArray[Any]:
    return _read_block(asset, block_info[None]["array-location"])[0]


def enmap_item(path: str | Path) -> pystac.Item:
    """Make an item for EnMAP files on disk, with the asset keys of DLR's catalogue.

    Open it with `catalog.specs.local_catalog(url, root)`, `root` being a folder above the files.

    Parameters
    ----------
    path : a folder with files named as delivered (`…-SPECTRAL_IMAGE.TIF` or `…_COG.TIF`,
        `…-METADATA.XML`, `…-QL_QUALITY_CLOUD.TIF`, …), or one GeoTIFF that is the image.

    Raises
    ------
    ReadError
        The spectral image is missing or cannot be opened.
    """
    path = Path(path).resolve()
    files = _delivered_files(path) if path.is_dir() else {"image": path}
    if "image" not in files:
        raise ReadError(
            f"{path} has no EnMAP image: there is no file named …-SPECTRAL_IMAGE.TIF or …_COG.TIF"
        )
    try:
        with rasterio.open(files["image"]) as raster:
            bbox = transform_bounds(raster.crs, "EPSG:4326", *raster.bounds)
            start = raster.tags().get("start_time")
    except (RasterioError, OSError) as error:
        raise ReadError(
            f"{files['image']} cannot be opened, it is missing or damaged: {error}"
        ) from error
    item = pystac.Item(
        path.name if path.is_dir() else path.stem,
        geometry=box_polygon(bbox),
        bbox=list(bbox),
        datetime=_start_time(path.name, start),
        properties={"platform": "enmap"},
        collection="ENMAP_HSI_L2A",
    )
    for key, file in files.items():
        role = "data" if key == "image" else "metadata"
        item.add_asset(key, pystac.Asset(str(file), roles=[role]))
    return item


def _delivered_files(folder: Path) -> dict[str, Path]:
    """Files of a delivered product by asset key."""
    files = {}
    for file in sorted(folder.iterdir()):
        key = _ASSET_OF_FILE.get(file.stem.rpartition("-")[2].upper().removesuffix("_COG"))
        if key and file.suffix.upper() in (".TIF", ".TIFF", ".XML"):
            files[key] = file
    return files


def _start_time(name: str, tag: str | None) -> datetime:
    """Start of the acquisition, from the tag `start_time`, else from the product name."""
    if tag:
        return datetime.fromisoformat(tag).replace(tzinfo=UTC)
    for part in name.split("_"):
        try:
            return datetime.strptime(part, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        except ValueError:
            continue
    raise ReadError(
        f"{name}: neither the tag start_time nor the name states when the image was taken"
    )
