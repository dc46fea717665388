"""Put encoded products of one overpass onto one grid, without reading a pixel."""

from collections.abc import Hashable

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords, xr_reproject

from satfuse.product.layout import crs_of
from satfuse.sensors.encoding import FILL
from satfuse.sensors.quality import Quality

_MISSING = {"reflectance": FILL, "uncertainty": FILL, "quality": int(Quality.GUIDE_MISSING)}
# Quality outside the product while it is resampled: a value that is no combination of flags.
# With 0, GDAL from 3.11 on would change pixels of quality 0 to 1.
OUTSIDE = 65535
# Above this ratio of pixel sizes reflectance is averaged, below it is interpolated.
AVERAGED_FROM = 1.5
LATTICE_TOLERANCE = 1e-6  # pixels

_Padding = tuple[tuple[int, int], tuple[int, int]]  # (above, below), (left, right) in pixels


def on_grid(data: xr.Dataset, grid: GeoBox) -> xr.Dataset:
    """Put an encoded product on `grid`: padded where the pixels coincide, else resampled.

    Reflectance is averaged where the new pixels are larger and interpolated bilinearly otherwise,
    without the fill values. Uncertainty is resampled like it, as if the errors of neighbours were
    equal; quality takes the nearest pixel. Outside the product the guide is flagged missing.
    """
    source = data.odc.geobox
    if source == grid:
        return data
    padding = _padding(source, grid)
    return _resample(data, source, grid) if padding is None else _pad(data, grid, padding)


def merge_time(products: list[xr.Dataset]) -> xr.Dataset:
    """Merge products of one overpass on one grid; per pixel the first that has a value wins."""
    merged = products[0]
    for product in products[1:]:
        has_value = (merged.reflectance != FILL).any("band").isel(time=0, drop=True)
        other = product.assign_coords(time=merged.time)
        values = {
            name: xr.where(has_value, merged[name], other[name], keep_attrs=True)
            for name in merged.data_vars
        }
        merged = merged.assign({n: v.transpose(*merged[n].dims) for n, v in values.items()})
    return merged


def same_lattice(a: GeoBox, b: GeoBox) -> bool:
    """True where the pixels of two grids coincide: the same CRS, pixel size and phase."""
    if a.crs != b.crs or a.affine.a != b.affine.a or a.affine.e != b.affine.e:
        return False
    return all(abs(p - round(p)) <= LATTICE_TOLERANCE for p in _offset(a, b))


def _offset(source: GeoBox, grid: GeoBox) -> tuple[float, float]:
    """Columns and rows from the corner of `grid` to that of `source`."""
    columns = (source.affine.c - grid.affine.c) / grid.affine.a
    rows = (source.affine.f - grid.affine.f) / grid.affine.e
    return columns, rows


def _padding(source: GeoBox, grid: GeoBox) -> _Padding | None:
    """Pixels to add; None where `source` is no part of `grid`."""
    if not same_lattice(source, grid):
        return None
    left, above = (round(offset) for offset in _offset(source, grid))
    below = grid.shape.y - source.shape.y - above
    right = grid.shape.x - source.shape.x - left
    if min(left, above, below, right) < 0:
        return None
    return (above, below), (left, right)


def _pad(data: xr.Dataset, grid: GeoBox, padding: _Padding) -> xr.Dataset:
    missing = {name: _MISSING[str(name)] for name in data.data_vars}
    rows, columns = padding
    padded = data.drop_vars(["x", "y"]).pad(y=rows, x=columns, constant_values=missing)
    return padded.assign_coords(_coords(grid)).assign_attrs(data.attrs)


def _resample(data: xr.Dataset, source: GeoBox, grid: GeoBox) -> xr.Dataset:
    source_pixel = abs(source.to_crs(crs_of(grid)).affine.a)
    method = "average" if abs(grid.affine.a) > AVERAGED_FROM * source_pixel else "bilinear"
    resampled = {
        name: _resample_numbers(data[name], grid, method)
        for name in data.data_vars
        if name != "quality"
    }
    resampled["quality"] = _resample_quality(data.quality, grid)
    coords = _coords(grid)
    for name in ("time", "band", "wavelength_nm", "fwhm_nm", "band_source"):
        coords[name] = data[name]
    arrays = {n: (data[n].dims, v.data, data[n].attrs) for n, v in resampled.items()}
    return xr.Dataset(arrays, coords=coords, attrs=data.attrs)


def _resample_numbers(number: xr.DataArray, grid: GeoBox, method: str) -> xr.DataArray:
    """Digital numbers on another grid; fill values take no part."""
    values = xr.where(number != FILL, number, np.float32(np.nan)).astype("float32")
    values = xr_reproject(values, grid, resampling=method, dst_nodata=np.nan)
    return xr.where(np.isfinite(values), values.round(), FILL).astype("int16")


def _resample_quality(quality: xr.DataArray, grid: GeoBox) -> xr.DataArray:
    """The nearest pixel's quality on another grid."""
    # newer zarr gives the fill value as an attribute; here 0 is a flag value and no nodata
    plain = quality.drop_attrs(deep=False)
    nearest = xr_reproject(plain, grid, resampling="nearest", dst_nodata=OUTSIDE)
    return xr.where(nearest == OUTSIDE, _MISSING["quality"], nearest).astype("uint16")


def _coords(grid: GeoBox) -> dict[Hashable, xr.DataArray]:
    return xr_coords(grid, dims=("y", "x"))
