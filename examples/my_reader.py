"""A reader of another sensor: Landsat 8/9 surface reflectance, one GeoTIFF per band.

Scale, fill value and the bits of QA_PIXEL are those of the Landsat 8-9 Collection 2 Level-2 Science
Product Guide (USGS, LSDS-1619).
"""

import os
from pathlib import Path

import numpy as np
import xarray as xr
from rasterio.errors import RasterioError

from satfuse.errors import ReadError
from satfuse.readers.ledger import Read, log_holes
from satfuse.sensors.quality import GUIDE_INVALID, Quality, flag_attrs

SCALE = 2.75e-5  # reflectance = digital number * SCALE + OFFSET
OFFSET = -0.2
FILL = 0
CHUNK = 1024
MASK = "QA_PIXEL"
# File name suffix -> the Sentinel-2 band nearest in wavelength, since models know bands by name.
BANDS = {
    "SR_B1": "B01",
    "SR_B2": "B02",
    "SR_B3": "B03",
    "SR_B4": "B04",
    "SR_B5": "B8A",
    "SR_B6": "B11",
    "SR_B7": "B12",
}
# Bit of QA_PIXEL -> quality flag; bit 1 is dilated cloud, bit 2 high-confidence cirrus.
FLAGS = {
    1: Quality.GUIDE_CLOUD,
    2: Quality.GUIDE_CLOUD,
    3: Quality.GUIDE_CLOUD,
    4: Quality.GUIDE_SHADOW,
    5: Quality.SNOW,
}


def open_landsat(folder: str | os.PathLike[str], *, missing: str = "raise") -> xr.Dataset:
    """Open one product on its own grid, lazily.

    Parameters
    ----------
    folder : holds `<anything>_SR_B1.TIF` ... `<anything>_QA_PIXEL.TIF`.
    missing : "raise", or "flag" to continue without files that cannot be read: their reflectance is
        NaN, and every pixel has `Quality.ASSET_MISSING`.

    Returns
    -------
    Dataset with `reflectance (band, y, x)` float32, NaN where missing; `valid (y, x)` bool, True =
    usable; `quality (y, x)` uint16; `spatial_ref`; `attrs["ledger"]`, a list of `Read`.

    Raises
    ------
    ReadError
        A file is missing or damaged.
    """
    folder = Path(folder)
    ledger: list[Read] = []
    layers: dict[str, xr.DataArray] = {}
    for asset in (*BANDS, MASK):
        try:
            layers[asset] = _open_layer(folder, asset)
            ledger.append(Read(item=folder.name, asset=asset, status="read"))
        except ReadError as error:
            if missing == "raise":
                raise
            cause = str(error)
            ledger.append(Read(item=folder.name, asset=asset, status="missing", cause=cause))
    if not layers:
        raise ReadError(f"{folder} holds no Landsat product; give the folder of its .TIF files")
    log_holes(ledger)
    return _dataset(layers).assign_attrs(ledger=ledger)


def _open_layer(folder: Path, asset: str) -> xr.DataArray:
    """(y, x) digital numbers, lazy."""
    files = sorted(folder.glob(f"*_{asset}.TIF"))
    if len(files) != 1:
        raise ReadError(f"{folder.name}: {len(files)} files end with _{asset}.TIF, one is needed")
    try:
        # engine of rioxarray; False: the digital numbers as they are
        raster = xr.open_dataarray(files[0], engine="rasterio", chunks=CHUNK, mask_and_scale=False)
        raster[0, -1, -1].compute()  # a truncated file lacks its last pixel
    except (RasterioError, OSError) as error:
        raise ReadError(f"{folder.name}: asset {asset} is damaged: {error}") from error
    return raster.squeeze("band", drop=True)


def _dataset(layers: dict[str, xr.DataArray]) -> xr.Dataset:
    """Digital numbers by file name suffix -> the Dataset that every reader returns."""
    nothing = xr.full_like(next(iter(layers.values())), FILL)
    bands = [layers.get(asset, nothing).assign_coords(band=BANDS[asset]) for asset in BANDS]
    numbers = xr.concat(bands, "band")
    reflectance = (numbers * SCALE + OFFSET).where(numbers != FILL).astype(np.float32)
    quality = xr.zeros_like(nothing, np.uint16)
    for bit, flag in FLAGS.items():
        is_set = (layers.get(MASK, nothing) >> bit) & 1 == 1
        quality |= is_set * np.uint16(flag)
    quality |= reflectance.isnull().any("band") * np.uint16(Quality.GUIDE_MISSING)
    if len(layers) < len(BANDS) + 1:
        quality |= np.uint16(Quality.ASSET_MISSING)
    return xr.Dataset(
        {
            "reflectance": reflectance.assign_attrs(units="1"),
            "valid": (quality & np.uint16(GUIDE_INVALID)) == 0,
            "quality": quality.assign_attrs(flag_attrs()),
        }
    )
