"""Putting encoded products of one overpass onto one grid, without reading a pixel."""

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords, xr_reproject

from satfuse.product.layout import FILL
from satfuse.sensors.quality import Quality

_MISSING = {"reflectance": FILL, "uncertainty": FILL, "quality": int(Quality.GUIDE_MISSING)}
OUTSIDE = np.uint16(65535)


def on_grid(data: xr.Dataset, grid: GeoBox) -> xr.Dataset:
    """An encoded product on `grid`: padded where its pixels lie on the grid, else resampled.

    Reflectance is averaged where the new pixels are larger and interpolated bilinearly otherwise, fill values left
    out; so is the uncertainty, as if neighbours erred alike; quality takes the nearest pixel. Outside the product the
    guide is flagged missing.
    """
    own = data.odc.geobox
    if own == grid:
        return data
    padding = _padding(own, grid)
    if padding is not None:
        return _pad(data, grid, *padding)
    return _resample(data, own, grid)


def merge_time(products: list[xr.Dataset]) -> xr.Dataset:
    """One Dataset from products of one overpass on one grid; the first that has a value wins, pixel by pixel."""
    out = products[0]
    for other in products[1:]:
        mine = (out.reflectance != FILL).any("band").isel(time=0, drop=True)
        other = other.assign_coords(time=out.time)
        merged = {
            name: xr.where(mine, out[name], other[name], keep_attrs=True) for name in out.data_vars
        }
        out = out.assign({name: v.transpose(*out[name].dims) for name, v in merged.items()})
    return out


def _padding(own: GeoBox, grid: GeoBox):
    """Pixels to add ((above, below), (left, right)), or None where `own` does not lie on `grid`."""
    if own.crs != grid.crs or own.affine.a != grid.affine.a or own.affine.e != grid.affine.e:
        return None
    left, above = (
        (own.affine.c - grid.affine.c) / grid.affine.a,
        (own.affine.f - grid.affine.f) / grid.affine.e,
    )
    if abs(left - round(left)) > 1e-6 or abs(above - round(above)) > 1e-6:
        return None
    left, above = round(left), round(above)
    below, right = grid.shape[0] - own.shape[0] - above, grid.shape[1] - own.shape[1] - left
    if min(left, above, below, right) < 0:
        return None
    return (above, below), (left, right)


def _pad(data: xr.Dataset, grid: GeoBox, rows, columns) -> xr.Dataset:
    missing = {name: _MISSING[name] for name in data.data_vars}
    plain = data.drop_vars(["x", "y"]).pad(y=rows, x=columns, constant_values=missing)
    return plain.assign_coords(_coords(grid)).assign_attrs(data.attrs)


def _resample(data: xr.Dataset, own: GeoBox, grid: GeoBox) -> xr.Dataset:
    larger = abs(grid.affine.a) > 1.5 * abs(own.to_crs(grid.crs).affine.a)
    method = "average" if larger else "bilinear"
    out = {}
    for name in (n for n in data.data_vars if n != "quality"):
        number = xr.where(data[name] != FILL, data[name], np.float32(np.nan)).astype("float32")
        number = xr_reproject(number, grid, resampling=method, dst_nodata=np.nan)
        out[name] = xr.where(np.isfinite(number), number.round(), FILL).astype("int16")
    # newer zarr gives the fill value, a flag, as an attribute: it is no nodata
    # outside: a value that is no combination of flags; with 0 GDAL from 3.11 on would move perfect
    # pixels to 1
    quality = data.quality.drop_attrs(deep=False)
    quality = xr_reproject(quality, grid, resampling="nearest", dst_nodata=OUTSIDE)
    out["quality"] = xr.where(quality == OUTSIDE, _MISSING["quality"], quality).astype("uint16")
    coords = {
        name: data[name] for name in ("time", "band", "wavelength_nm", "fwhm_nm", "band_source")
    }
    arrays = {name: (data[name].dims, value.data, data[name].attrs) for name, value in out.items()}
    return xr.Dataset(arrays, coords={**_coords(grid), **coords}, attrs=data.attrs)


def _coords(grid: GeoBox) -> dict:
    return xr_coords(grid, dims=("y", "x"))
