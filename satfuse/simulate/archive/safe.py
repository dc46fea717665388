"""Writes Sentinel-2 L2A products as SAFE folders.

A folder has the JP2 images, MTD_MSIL2A.xml, MTD_TL.xml and manifest.safe.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp

from satfuse.arrays import FloatArray, IntArray
from satfuse.errors import GridError
from satfuse.sensors.bands import S2_GSD_M
from satfuse.simulate.archive import safe_metadata
from satfuse.simulate.archive.footprint import crs_of
from satfuse.simulate.archive.safe_acquisition import S2Acquisition

NATIVE_20M = ("B05", "B06", "B07", "B8A", "B11", "B12")
# the images that ESA ships at each pixel size, in the order of MTD_MSIL2A.xml
IMAGES = {
    10: ("B02", "B03", "B04", "B08", "TCI", "AOT", "WVP"),
    20: ("B01", "B02", "B03", "B04", *NATIVE_20M, "TCI", "AOT", "WVP", "SCL"),
    60: (
        "B01", "B02", "B03", "B04", "B05", "B06", "B07", "B8A", "B09", "B11", "B12",
        "TCI", "AOT", "WVP", "SCL",
    ),
}  # fmt: skip
JP2_BLOCK = {10: 1024, 20: 640, 60: 192}  # pixels
# a clear atmosphere, the same everywhere
AOT = 0.12  # optical thickness
WATER_VAPOUR_CM = 1.5
RED_GREEN_BLUE = ("B04", "B03", "B02")
TCI_WHITE = 3550  # digital number that is white in the true colour image


def write_safe(
    folder: Path,
    bands: dict[str, FloatArray],
    scl: IntArray,
    geobox: GeoBox,
    acquisition: S2Acquisition,
) -> Path:
    """Write one L2A product.

    Parameters
    ----------
    folder : parent of the new `.SAFE` folder.
    bands : the 12 band names -> reflectance (y, x) at native pixel size, float, NaN = no data.
    scl : scene classification (y, x) at 20 m, uint8.
    geobox : 10 m grid of the tile; its sides are multiples of 60 m.

    Returns
    -------
    Path of the `.SAFE` folder. Digital numbers are uint16 (reflectance * 10000 - offset, rounded,
    1..65535; 0 is nodata), lossless JPEG 2000.

    Raises
    ------
    GridError
        A tile that is not whole at 60 m, or an array that does not have its band's native size.
    """
    _check_sizes(bands, scl, geobox)
    safe = Path(folder) / f"{acquisition.name}.SAFE"
    for gsd_m in IMAGES:
        (safe / acquisition.image("", gsd_m)).parent.mkdir(parents=True, exist_ok=True)
    jobs = [(name, gsd_m) for gsd_m, names in IMAGES.items() for name in names]
    numbers = {name: digital_numbers(values, acquisition.offset) for name, values in bands.items()}

    def write(job: tuple[str, int]) -> str:
        name, gsd_m = job
        path = acquisition.image(name, gsd_m)
        grid = geobox.zoom_out(gsd_m // 10)
        _write_jp2(safe / f"{path}.jp2", _image(name, gsd_m, numbers, scl), grid)
        return path

    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(write, jobs))
    shares = class_percentages(scl)
    safe_metadata.write_product(safe / "MTD_MSIL2A.xml", acquisition, paths, geobox, shares)
    tile = safe / "GRANULE" / acquisition.granule / "MTD_TL.xml"
    safe_metadata.write_tile(tile, acquisition, geobox, shares)
    _write_manifest(safe)
    return safe


def digital_numbers(reflectance: FloatArray, offset: int) -> IntArray:
    """Reflectance as uint16 digital numbers: 0 where it is NaN, else 1..65535."""
    numbers = np.clip(np.rint(np.asarray(reflectance, "float64") * 10000) - offset, 1, 65535)
    return np.where(np.isfinite(reflectance), numbers, 0).astype("uint16")


def class_percentages(scl: IntArray) -> dict[int, float]:
    """Percentage per scene class, of the pixels with data; that of class 0 (nodata) is of all."""
    counts = np.bincount(scl.ravel(), minlength=12)[:12]
    return {
        value: 100 * n / max(scl.size if value == 0 else scl.size - counts[0], 1)
        for value, n in enumerate(counts)
    }


def _check_sizes(bands: dict[str, FloatArray], scl: IntArray, geobox: GeoBox) -> None:
    if any(side % 6 for side in geobox.shape):
        raise GridError(
            f"a tile of {geobox.shape} px of 10 m is not whole at 60 m; use multiples of 6 px"
        )
    for name, values in {**bands, "SCL": scl}.items():
        expected = tuple(side * 10 // S2_GSD_M.get(name, 20) for side in geobox.shape)
        if values.shape != expected:
            raise GridError(
                f"{name} has shape {values.shape}; "
                f"on a tile of {geobox.shape} at 10 m it must be {expected}"
            )
    if missing := set(S2_GSD_M) - set(bands):
        raise GridError(f"bands missing from the tile: {', '.join(sorted(missing))}")


def _image(name: str, gsd_m: int, numbers: dict[str, IntArray], scl: IntArray) -> IntArray:
    """Array of one image (uint8 or uint16), (y, x) or (band, y, x)."""
    if name == "SCL":
        step = gsd_m // 20  # classes have no mean: take the middle pixel of each block
        return scl[step // 2 :: step, step // 2 :: step].astype("uint8")
    if name in ("AOT", "WVP"):
        shape = tuple(side * 20 // gsd_m for side in scl.shape)
        return np.full(shape, 1000 * (AOT if name == "AOT" else WATER_VAPOUR_CM), "uint16")
    if name == "TCI":
        rgb = np.stack([_resample(numbers[b], gsd_m / 10) for b in RED_GREEN_BLUE])
        rgb = rgb.astype("float32")
        return np.where(rgb > 0, np.clip(rgb / TCI_WHITE * 255, 1, 255), 0).astype("uint8")
    return _resample(numbers[name], gsd_m / S2_GSD_M[name])


def _resample(numbers: IntArray, factor: float) -> IntArray:
    """Mean of whole blocks, 0 where any pixel is nodata; or copies where the factor is below 1."""
    if factor <= 1:
        copies = round(1 / factor)
        return numbers.repeat(copies, 0).repeat(copies, 1)
    step = round(factor)
    blocks = numbers.reshape(numbers.shape[0] // step, step, numbers.shape[1] // step, step)
    means = np.rint(blocks.mean((1, 3), dtype="float32"))
    return np.where(blocks.min((1, 3)) > 0, means, 0).astype("uint16")


def _write_jp2(path: Path, values: IntArray, geobox: GeoBox) -> None:
    values = values if values.ndim == 3 else values[None]
    block = JP2_BLOCK[round(geobox.affine.a)]
    profile = {
        "driver": "JP2OpenJPEG", "count": len(values), "dtype": values.dtype.name,
        "width": geobox.shape[1], "height": geobox.shape[0],
        "crs": crs_of(geobox).to_wkt(), "transform": geobox.affine,
        "QUALITY": "100", "REVERSIBLE": "YES", "BLOCKXSIZE": block, "BLOCKYSIZE": block,
    }  # fmt: skip
    if len(values) == 1:
        with rasterio.open(path, "w", **profile) as image:
            image.write(values)
        return
    with rasterio.open(path, "w", photometric="RGB", **profile) as image:
        image.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
        image.write(values)


def _write_manifest(safe: Path) -> None:
    files = sorted(p for p in safe.rglob("*") if p.is_file() and p.name != "manifest.safe")
    objects = [
        (str(p.relative_to(safe)), p.stat().st_size, hashlib.sha3_256(p.read_bytes()).hexdigest())
        for p in files
    ]
    safe_metadata.write_manifest(safe / "manifest.safe", objects)
