"""Export: a Cloud Optimized GeoTIFF for GIS programs."""

import os
from collections.abc import Iterable
from pathlib import Path

import rioxarray  # noqa: F401  registers the accessor .rio
import xarray as xr
from rasterio._err import CPLE_BaseError  # of GDAL; rasterio lets it through when it closes a file
from rasterio.errors import RasterioError

from satfuse.errors import BandError, ProductError, StoreError
from satfuse.product.layout import SCALES
from satfuse.product.write import encode_uncertainty
from satfuse.sensors.encoding import FILL, encode

ENCODERS = {"reflectance": encode, "uncertainty": encode_uncertainty}


def to_cog(
    product: xr.Dataset,
    path: str | os.PathLike[str],
    bands: Iterable[str] | None = None,
    *,
    variable: str = "reflectance",
) -> Path:
    """Write one date of a product as a Cloud Optimized GeoTIFF.

    It is int16 with scale and nodata, and has the band names inside.

    Parameters
    ----------
    product : Dataset as from `open_fused` or `fuse`; with several dates, select one first.
    path : of the new file.
    bands : names in the order requested; all by default.
    variable : "reflectance" or "uncertainty".

    Returns
    -------
    Path of the file.

    Raises
    ------
    BandError
        A band that the product lacks, or several dates.
    ProductError
        A variable that the product lacks.
    StoreError
        The file cannot be written.
    """
    available = [name for name in ENCODERS if name in product]
    if variable not in available:
        raise ProductError(
            f"no {variable!r} in the product, only {', '.join(available)}; "
            "not every model gives uncertainty"
        )
    values = _one_date(product)[variable]
    names = [str(b) for b in (values.band.values if bands is None else bands)]
    values = _select(values, names)
    number = values.copy(data=ENCODERS[variable](values.values))
    number.attrs = {"long_name": tuple(names), "scale_factor": SCALES[variable]}
    number.encoding = {}
    number = number.rio.write_crs(values.odc.crs).rio.write_nodata(FILL)
    options = {"compress": "ZSTD", "predictor": 2, "overview_resampling": "average"}
    try:
        number.rio.to_raster(path, driver="COG", **options)
    except (OSError, RasterioError, CPLE_BaseError) as error:
        raise StoreError(f"cannot write {path}: {error}") from error
    return Path(path)


def _one_date(product: xr.Dataset) -> xr.Dataset:
    if "time" not in product.dims:
        return product
    if product.sizes["time"] != 1:
        raise BandError(f"{product.sizes['time']} dates; select one first: product.isel(time=[0])")
    return product.isel(time=0)


def _select(image: xr.DataArray, bands: list[str]) -> xr.DataArray:
    if absent := [b for b in bands if b not in image.band.values]:
        raise BandError(
            f"no band {', '.join(absent)}; there are {', '.join(map(str, image.band.values))}"
        )
    return image.sel(band=bands).transpose("band", "y", "x")
