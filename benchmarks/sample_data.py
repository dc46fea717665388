"""The real samples as inputs of satfuse: what `benchmarks.samples` shows and `tests/samples` asserts opens them here.

`folder` is the folder of the samples, `work` an empty one for what must be unpacked or given another header.
"""

import shutil
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pystac
import rasterio
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.transform import from_origin
from scipy import ndimage

from satfuse.catalog.specs import CatalogSpec, local_catalog
from satfuse.geometry.grids import lonlat_bbox
from satfuse.geometry.shift import ShiftEstimate, estimate_shift
from satfuse.geometry.swath import rectify
from satfuse.readers.sentinel3_syn import open_syn, sen3_item
from satfuse.sensors.bands import S2_NAMES
from satfuse.sensors.degradation import degrade

SENEGAL_BANDS = ("Oa04", "Oa06", "Oa08", "Oa17")  # the others of the 21 are not in the sample
T28PDC = GeoBox((366, 366), Affine(300, 0, 399_960, 0, -300, 1_800_000), "EPSG:32628")
# the grid of the tile's preview; 343 of its pixels cover 5488 of the 5490 pixels of SCL
PREVIEW = GeoBox((343, 343), Affine(320, 0, 399_960, 0, -320, 1_800_000), "EPSG:32628")
CLEAR = (2, 4, 5, 6, 7)  # classes of SCL
# Upper left corners where the pixels of the Major-TOM cells really lie; the stored transform is the
# same for all bands.
THAILAND = {10: (362610, 1987090), 20: (362620, 1987080), 60: (362640, 1987080)}
THAILAND_STORED = dict.fromkeys(THAILAND, THAILAND[10])


def catalogue(root: Path) -> CatalogSpec:
    """The catalogue of items whose files lie under `root`; nothing is asked of its address."""
    return local_catalog("http://127.0.0.1:7822", root)


def unpack(folder: Path, pattern: str, work: Path) -> Path:
    """Unpack the one zip that matches; gives the product's folder."""
    (archive,) = folder.glob(pattern)
    with zipfile.ZipFile(archive) as file:
        file.extractall(work)
    return next(path for path in work.iterdir() if path.suffix in (".SAFE", ".SEN3"))


def senegal(folder: Path, work: Path) -> xr.Dataset:
    """SYN of 2023-09-12 around tile T28PDC; positions come from the tie points, flags and 17 bands are absent."""
    product = unpack(folder, "s3_syn_senegal/S3B*.zip", work)
    item, box = sen3_item(product), lonlat_bbox(T28PDC)
    return open_syn(
        item, spec=catalogue(work), bands=SENEGAL_BANDS, missing="flag", bbox=box
    ).load()


def senegal_classes(folder: Path) -> np.ndarray:
    """Scene classification of T28PDC at 20 m, one day before."""
    (path,) = folder.glob("s3_syn_senegal/*SCL_20m.tif")
    with rasterio.open(path) as raster:
        return raster.read(1)


def senegal_preview(folder: Path, work: Path) -> np.ndarray:
    """The preview image (red, green, blue; 8 bits) of T28PDC at 320 m, one day before, on `PREVIEW`."""
    safe = unpack(folder, "s3_syn_senegal/S2A*20230911*.SAFE.zip", work)
    with rasterio.open(next(safe.glob("GRANULE/*/QI_DATA/*PVI.jp2"))) as raster:
        if raster.transform != PREVIEW.affine:
            raise ValueError(f"the preview lies on {raster.transform}, not on {PREVIEW.affine}")
        return raster.read().astype(float)


def senegal_shifts(
    swath: xr.Dataset, preview: np.ndarray, classes: np.ndarray, phase_m=(0.0, 0.0)
) -> dict[str, ShiftEstimate]:
    """Shift of SYN against two references that share nothing but the ground, on a grid moved by `phase_m`.

    `preview` is the colours of `senegal_preview`, `SCL` the shares of shadow, vegetation and bare ground.
    """
    coarse = rectify(swath, PREVIEW, phase_m)["reflectance"].values
    classes = classes[:5488, :5488]
    clear = np.isin(classes, CLEAR).reshape(343, 16, 343, 16).mean((1, 3)) > 0.95
    shares = degrade(np.stack([classes == c for c in (3, 4, 5)]).astype("float32"), 16)
    part = (..., slice(60, 320), slice(150, 343))  # where most of SYN is clear
    return {
        name: estimate_shift(np.where(clear, guide, np.nan)[part], coarse[part], pixel_m=320)
        for name, guide in (
            ("preview", ndimage.gaussian_filter(preview, (0, 0.5, 0.5))),
            ("SCL", shares),
        )
    }


def sweden(folder: Path) -> xr.Dataset:
    """OLCI of 2018-07-04 as a swath, laid out as `open_syn` does; top of atmosphere."""
    (path,) = folder.glob("s3_olci_sweden/*.nc")
    with xr.open_dataset(path) as data:
        data = data.load().rename(y="row", x="column")
    plane, shape = ("row", "column"), data["lat"].shape
    start, step = np.datetime64("2018-07-04T09:21:55", "ns"), np.timedelta64(44, "ms")
    return xr.Dataset(
        {
            "reflectance": (
                ("band", *plane),
                np.stack([data[n].values for n in ("rtoa_3", "rtoa_6", "rtoa_8")]),
            ),
            "valid": (plane, np.ones(shape, bool)),
            "quality": (plane, np.zeros(shape, "uint16")),
            "latitude": (plane, data["lat"].values.astype(float)),
            "longitude": (plane, data["lon"].values.astype(float)),
            "time": ("row", start + np.arange(shape[0]) * step),
        },
        coords={"band": ["Oa03", "Oa06", "Oa08"]},
    )


def thailand(folder: Path, work: Path, *, corners: dict = THAILAND, names=S2_NAMES) -> pystac.Item:
    """The Major-TOM cell of 2020-02-23 with the corners of its grids given; it has no SCL, so all is class 5."""
    (cell,) = folder.glob("s2_l2a_thailand/S2B*")
    return _cell(cell, work, corners, "EPSG:32648", names)


def congo(folder: Path, work: Path) -> pystac.Item:
    """B02 (512 x 512 px) and B8A of the cell under cirrus, on their true grids; all of SCL is class 5."""
    (cell,) = folder.glob("s2_l2a_congo_cirrus/S2A*")
    left, top, crs = congo_corner(folder)
    return _cell(cell, work, {10: (left, top), 20: (left - 10, top)}, crs, ("B02", "B8A"))


def congo_corner(folder: Path) -> tuple[float, float, rasterio.crs.CRS]:
    """Upper left corner of the 10 m band, and its CRS."""
    with rasterio.open(next(folder.glob("s2_l2a_congo_cirrus/S2A*/B02_crop512.jp2"))) as image:
        return image.transform.c, image.transform.f, image.crs


def _cell(cell, work, corners, crs, names):
    """An item for a Major-TOM cell: its bands on the grids given, and an SCL of one class."""
    keys = catalogue(work).assets["sentinel2"]
    parts = cell.name.split("_")
    baseline = {"N9999": "99.99", "N0400": "04.00"}[parts[3]]
    properties = {
        "platform": f"sentinel-{parts[0][1:].lower()}",
        "s2:processing_baseline": baseline,
    }
    item = pystac.Item(
        cell.name,
        None,
        None,
        datetime.strptime(parts[2], "%Y%m%dT%H%M%S").replace(tzinfo=UTC),
        properties,
    )
    layers = {}
    for name in names:
        with rasterio.open(next(cell.glob(f"{name}*.jp2"))) as image:
            layers[name] = image.read(1), int(image.transform.a)
    layers["SCL"] = np.full((534, 534), 5, "uint8"), 20
    for name, (numbers, gsd_m) in layers.items():
        path = work / f"{name}.tif"
        height, width = numbers.shape
        profile = {
            "driver": "GTiff",
            "count": 1,
            "dtype": numbers.dtype,
            "height": height,
            "width": width,
            "nodata": 0,
        }
        with rasterio.open(
            path, "w", **profile, crs=crs, transform=from_origin(*corners[gsd_m], gsd_m, gsd_m)
        ) as image:
            image.write(numbers, 1)
        item.add_asset(keys[name], pystac.Asset(str(path)))
    return item


def coast_with_wavelengths(folder: Path, work: Path) -> Path:
    """A copy of the coast patch's folder, whose image has the band tags of the Potsdam scene: its own are lost."""
    (source,) = (folder / "enmap_coast_patch").iterdir()
    copy = work / source.name
    shutil.copytree(source, copy, copy_function=shutil.copyfile)
    (image,) = copy.glob("*-SPECTRAL_IMAGE.TIF")
    with rasterio.open(next((folder / "enmap_potsdam_block_s/images").glob("*.tif"))) as lender:
        tags = [lender.tags(i) for i in lender.indexes]
    with rasterio.open(image, "r+") as raster:
        raster.scales = [1e-4] * raster.count
        for i, tag in enumerate(tags, start=1):
            raster.update_tags(i, wavelength=tag["wavelength"], fwhm=tag["fwhm"])
    return copy
