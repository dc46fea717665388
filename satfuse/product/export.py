"""Exports: a Cloud Optimized GeoTIFF for GIS programs, a PNG to look at."""

from pathlib import Path

import numpy as np
import rasterio
import rioxarray  # noqa: F401 the .rio accessor
import xarray as xr

from satfuse.errors import BandError, ProductError, StoreError
from satfuse.product.layout import FILL, SCALE
from satfuse.product.write import encode, encode_uncertainty

RGB_COARSE = ("Oa08", "Oa06", "Oa04")
RGB_GUIDE = ("B04", "B03", "B02")
QUICKLOOK_PX = 900


def to_cog(product: xr.Dataset, path, bands=None, *, variable: str = "reflectance") -> Path:
    """Write one date of a product as a Cloud Optimized GeoTIFF, int16 with scale and nodata, band names inside.

    Parameters
    ----------
    product : Dataset as from `open_fused` or `fuse`; with several dates, select one first.
    path : of the new file.
    bands : names in the order wanted; all by default.
    variable : "reflectance" or "uncertainty".

    Raises
    ------
    BandError
        A band that the product lacks, or several dates.
    ProductError
        A variable that the product does not hold.
    StoreError
        The file cannot be written.
    """
    encoders = {"reflectance": encode, "uncertainty": encode_uncertainty}
    if variable not in (held := [name for name in encoders if name in product]):
        raise ProductError(
            f"no {variable!r} in the product, only {', '.join(held)}; not every model gives uncertainty"
        )
    values = _one_date(product)[variable]
    bands = [str(b) for b in (values.band.values if bands is None else bands)]
    values = _select(values, bands)
    number = values.copy(data=encoders[variable](values.values))
    number.attrs = {"long_name": tuple(bands), "scale_factor": SCALE[variable]}
    number.encoding = {}
    number = number.rio.write_crs(values.odc.crs).rio.write_nodata(FILL)
    try:
        number.rio.to_raster(
            path, driver="COG", compress="ZSTD", predictor=2, overview_resampling="average"
        )
    except (OSError, rasterio.errors.RasterioError) as error:
        raise StoreError(f"cannot write {path}: {error}") from error
    return Path(path)


def quicklook_png(product: xr.Dataset, path, *, guide=None, coarse=None, points=()) -> Path:
    """Draw fused RGB, beside it guide and coarse RGB where given, and spectra where points are given.

    Parameters
    ----------
    product : as in `to_cog`; it is read at every n-th pixel, so that at most 900 px are drawn.
    path : of the new PNG.
    guide, coarse : (band, y, x) DataArrays of reflectance on the same extent.
    points : (x, y) places in the product's CRS whose spectra are drawn.

    Raises
    ------
    StoreError
        The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    reflectance = _one_date(product).reflectance
    images = [
        ("Sentinel-2", guide, RGB_GUIDE),
        ("Sentinel-3", coarse, RGB_COARSE),
        ("fused", reflectance, RGB_COARSE),
    ]
    images = [(title, _rgb(image, bands)) for title, image, bands in images if image is not None]
    panels = len(images) + bool(len(points))
    figure = Figure(figsize=(5 * panels, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    limits = np.nanpercentile(images[-1][1], [2, 98])
    box = reflectance.odc.geobox.boundingbox
    extent = (box.left, box.right, box.bottom, box.top)
    for axis, (title, rgb) in zip(axes, images, strict=False):
        axis.imshow(stretched(rgb, limits), extent=extent, interpolation="nearest")
        axis.set_title(title)
        axis.ticklabel_format(style="plain", useOffset=False)
        axis.tick_params(labelsize=7)
    for number, (x, y) in enumerate(points, start=1):
        spectrum = reflectance.sel(x=x, y=y, method="nearest")
        axes[-1].plot(reflectance.wavelength_nm, spectrum, marker=".", label=str(number))
        for axis in axes[: len(images)]:
            axis.plot(x, y, "+", color="red")
            axis.annotate(
                str(number), (x, y), color="red", xytext=(3, 3), textcoords="offset points"
            )
    if len(points):
        axes[-1].set(title="fused spectra", xlabel="wavelength, nm", ylabel="reflectance")
        axes[-1].legend()
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error}") from error
    return Path(path)


def stretched(rgb: np.ndarray, limits) -> np.ndarray:
    """(y, x, 3) reflectance to (y, x, 4) uint8 with one stretch for all bands; transparent where a band is missing."""
    low, high = limits
    missing = ~np.isfinite(rgb).all(-1)
    scaled = (
        np.nan_to_num((rgb - low) / max(high - low, 1e-6)).clip(0, 1) ** (1 / 1.4) * 255
    ).astype("uint8")
    return np.dstack([scaled, np.where(missing, 0, 255).astype("uint8")])


def _one_date(product: xr.Dataset) -> xr.Dataset:
    if "time" not in product.dims:
        return product
    if product.sizes["time"] != 1:
        raise BandError(f"{product.sizes['time']} dates; select one first: product.isel(time=[0])")
    return product.isel(time=0)


def _select(image: xr.DataArray, bands) -> xr.DataArray:
    if absent := [b for b in bands if b not in image.band.values]:
        raise BandError(
            f"no band {', '.join(absent)}; there are {', '.join(map(str, image.band.values))}"
        )
    return image.sel(band=list(bands)).transpose("band", "y", "x")


def _rgb(image: xr.DataArray, bands) -> np.ndarray:
    step = max(-(-max(image.sizes["y"], image.sizes["x"]) // QUICKLOOK_PX), 1)
    return _select(image, bands)[:, ::step, ::step].transpose("y", "x", "band").values
