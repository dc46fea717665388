"""The real samples as inputs of satfuse, opened for `benchmarks.samples` and for tests/samples.

`folder` is the folder of the samples, `work` an empty one for products that must be unpacked or
given another header.
"""

import shutil
import zipfile
from collections.abc import Mapping, Sequence
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

from satfuse.arrays import FloatArray, IntArray
from satfuse.catalog.specs import CatalogSpec, local_catalog
from satfuse.geometry.grids import lonlat_bbox
from satfuse.geometry.resample import block_mean
from satfuse.geometry.shift import ShiftEstimate, estimate_shift
from satfuse.geometry.swath import rectify
from satfuse.readers.sentinel3_syn import open_syn, sen3_item
from satfuse.sensors.bands import S2_NAMES
from satfuse.sensors.degradation import degrade
from satfuse.sensors.encoding import SCALE

SENEGAL_BANDS = ("Oa04", "Oa06", "Oa08", "Oa17")  # the others of the 21 are not in the sample
T28PDC = GeoBox((366, 366), Affine(300, 0, 399_960, 0, -300, 1_800_000), "EPSG:32628")
# the grid of the tile's preview; 343 of its pixels cover 5488 of the 5490 pixels of SCL
PREVIEW = GeoBox((343, 343), Affine(320, 0, 399_960, 0, -320, 1_800_000), "EPSG:32628")
PREVIEW_PX = 16  # pixels of SCL along each side of a preview pixel
SHADOW = 3  # classes of SCL
VEGETATION = 4
BARE = 5
CLEAR = (2, 4, 5, 6, 7)

# True upper left corner of the pixels of each size (m) in the Thailand cell of Major-TOM; its files
# state that of the 10 m bands for all of them.
Corners = Mapping[int, tuple[float, float]]
THAILAND: Corners = {10: (362610, 1987090), 20: (362620, 1987080), 60: (362640, 1987080)}
THAILAND_STORED: Corners = dict.fromkeys(THAILAND, THAILAND[10])


def catalogue(root: Path) -> CatalogSpec:
    """The catalogue of items whose files are under `root`; its address is never asked."""
    return local_catalog("http://127.0.0.1:7822", root)


def unpack(folder: Path, pattern: str, work: Path) -> Path:
    """Unpack the only zip that matches the pattern, return the product's folder."""
    (archive,) = folder.glob(pattern)
    with zipfile.ZipFile(archive) as file:
        file.extractall(work)
    return next(path for path in work.iterdir() if path.suffix in (".SAFE", ".SEN3"))


def senegal(folder: Path, work: Path) -> xr.Dataset:
    """SYN of 2023-09-12 around tile T28PDC.

    Its positions come from the tie points; flags and 17 bands are absent.
    """
    item = sen3_item(unpack(folder, "s3_syn_senegal/S3B*.zip", work))
    spec = catalogue(work)
    box = lonlat_bbox(T28PDC)
    swath = open_syn(item, spec=spec, bands=SENEGAL_BANDS, missing="flag", bbox=box)
    return swath.load()


def senegal_classes(folder: Path) -> IntArray:
    """Scene classification of T28PDC at 20 m, one day before."""
    (path,) = folder.glob("s3_syn_senegal/*SCL_20m.tif")
    with rasterio.open(path) as raster:
        return raster.read(1)


def senegal_preview(folder: Path, work: Path) -> FloatArray:
    """The preview image of T28PDC one day before: red, green, blue (8 bits) on `PREVIEW`."""
    safe = unpack(folder, "s3_syn_senegal/S2A*20230911*.SAFE.zip", work)
    with rasterio.open(next(safe.glob("GRANULE/*/QI_DATA/*PVI.jp2"))) as raster:
        if raster.transform != PREVIEW.affine:
            raise ValueError(f"the preview is on {raster.transform}, not on {PREVIEW.affine}")
        return raster.read().astype(float)


def senegal_shifts(
    swath: xr.Dataset,
    preview: FloatArray,
    classes: IntArray,
    phase_m: tuple[float, float] = (0.0, 0.0),
) -> dict[str, ShiftEstimate]:
    """Shift of SYN against two references that have nothing in common but the ground.

    Parameters
    ----------
    swath, preview, classes : of `senegal`, `senegal_preview` and `senegal_classes`.
    phase_m : by how much the grid is moved, east and north.

    Returns
    -------
    `preview` : against its colours.
    `SCL` : against the shares of shadow, vegetation and bare ground.
    """
    coarse = rectify(swath, PREVIEW, phase_m)["reflectance"].values
    side = PREVIEW.shape[0] * PREVIEW_PX
    classes = classes[:side, :side]
    clear = block_mean(np.isin(classes, CLEAR).astype(float), PREVIEW_PX) > 0.95
    covers = np.stack([classes == c for c in (SHADOW, VEGETATION, BARE)]).astype("float32")
    references = {
        "preview": ndimage.gaussian_filter(preview, (0, 0.5, 0.5)),
        "SCL": degrade(covers, PREVIEW_PX),
    }
    part = (..., slice(60, 320), slice(150, 343))  # where most of SYN is clear
    return {
        name: estimate_shift(np.where(clear, guide, np.nan)[part], coarse[part], pixel_m=320)
        for name, guide in references.items()
    }


def sweden(folder: Path) -> xr.Dataset:
    """OLCI of 2018-07-04, top of atmosphere, as a swath in the layout of `open_syn`."""
    (path,) = folder.glob("s3_olci_sweden/*.nc")
    with xr.open_dataset(path) as file:
        data = file.load().rename(y="row", x="column")
    plane = ("row", "column")
    shape = data["lat"].shape
    image = np.stack([data[name].values for name in ("rtoa_3", "rtoa_6", "rtoa_8")])
    start = np.datetime64("2018-07-04T09:21:55", "ns")
    line_time = np.timedelta64(44, "ms")  # of OLCI, from one row to the next
    return xr.Dataset(
        {
            "reflectance": (("band", *plane), image),
            "valid": (plane, np.ones(shape, bool)),
            "quality": (plane, np.zeros(shape, "uint16")),
            "latitude": (plane, data["lat"].values.astype(float)),
            "longitude": (plane, data["lon"].values.astype(float)),
            "time": ("row", start + np.arange(shape[0]) * line_time),
        },
        coords={"band": ["Oa03", "Oa06", "Oa08"]},
    )


def thailand(
    folder: Path,
    work: Path,
    *,
    corners: Corners = THAILAND,
    names: Sequence[str] = S2_NAMES,
) -> pystac.Item:
    """The Major-TOM cell of 2020-02-23 on grids with these corners.

    It has no SCL, so all of it is class 5.
    """
    (cell,) = folder.glob("s2_l2a_thailand/S2B*")
    return _cell_item(cell, work, corners, rasterio.CRS.from_epsg(32648), names)


def congo(folder: Path, work: Path) -> pystac.Item:
    """B02 (512 x 512 px) and B8A of the cell under cirrus, on their true grids; SCL is class 5."""
    (cell,) = folder.glob("s2_l2a_congo_cirrus/S2A*")
    left, top, crs = congo_corner(folder)
    corners = {10: (left, top), 20: (left - 10, top)}
    return _cell_item(cell, work, corners, crs, ("B02", "B8A"))


def congo_corner(folder: Path) -> tuple[float, float, rasterio.CRS]:
    """Upper left corner of the 10 m band, and its CRS."""
    with rasterio.open(next(folder.glob("s2_l2a_congo_cirrus/S2A*/B02_crop512.jp2"))) as image:
        return image.transform.c, image.transform.f, image.crs


def _cell_item(
    cell: Path, work: Path, corners: Corners, crs: rasterio.CRS, names: Sequence[str]
) -> pystac.Item:
    """An item for a Major-TOM cell: its bands on grids with these corners, an SCL of one class."""
    item = pystac.Item(cell.name, None, None, *_time_and_properties(cell))
    keys = catalogue(work).assets["sentinel2"]
    layers = {}
    for name in names:
        with rasterio.open(next(cell.glob(f"{name}*.jp2"))) as image:
            layers[name] = (image.read(1), int(image.transform.a))
    layers["SCL"] = (np.full((534, 534), BARE, "uint8"), 20)
    for name, (numbers, gsd_m) in layers.items():
        path = work / f"{name}.tif"
        profile = {
            "driver": "GTiff",
            "count": 1,
            "dtype": numbers.dtype,
            "height": numbers.shape[0],
            "width": numbers.shape[1],
            "nodata": 0,
            "crs": crs,
            "transform": from_origin(*corners[gsd_m], gsd_m, gsd_m),
        }
        with rasterio.open(path, "w", **profile) as image:
            image.write(numbers, 1)
        item.add_asset(keys[name], pystac.Asset(str(path)))
    return item


def _time_and_properties(cell: Path) -> tuple[datetime, dict[str, str]]:
    """Time, platform and baseline from the name, S2B_MSIL2A_20200223T032739_N9999_..."""
    platform, _, time, baseline, *_ = cell.name.split("_")
    properties = {
        "platform": f"sentinel-{platform[1:].lower()}",
        "s2:processing_baseline": f"{baseline[1:3]}.{baseline[3:]}",
    }
    return datetime.strptime(time, "%Y%m%dT%H%M%S").replace(tzinfo=UTC), properties


def coast_with_wavelengths(folder: Path, work: Path) -> Path:
    """A copy of the coast patch's folder with the band tags of the Potsdam scene.

    The patch has lost its own wavelengths.
    """
    (source,) = (folder / "enmap_coast_patch").iterdir()
    copy = work / source.name
    shutil.copytree(source, copy, copy_function=shutil.copyfile)
    (image,) = copy.glob("*-SPECTRAL_IMAGE.TIF")
    with rasterio.open(next((folder / "enmap_potsdam_block_s/images").glob("*.tif"))) as potsdam:
        tags = [potsdam.tags(i) for i in potsdam.indexes]
    with rasterio.open(image, "r+") as raster:
        raster.scales = [SCALE] * raster.count
        for i, tag in enumerate(tags, start=1):
            raster.update_tags(i, wavelength=tag["wavelength"], fwhm=tag["fwhm"])
    return copy
