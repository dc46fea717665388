"""Figures of the real samples: bands as colours, images next to each other, spectra."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from satfuse.arrays import BoolArray, FloatArray
from satfuse.sensors.bands import wavelengths_nm


def rgb(image: FloatArray) -> FloatArray:
    """(y, x, 3) colours of three bands (3, y, x), each stretched from its 2nd to 98th percentile.

    Pixels without data are white.
    """
    low, high = (np.nanpercentile(image, q, axis=(1, 2), keepdims=True) for q in (2, 98))
    stretched = np.clip((image - low) / (high - low), 0, 1)
    return np.moveaxis(np.nan_to_num(stretched, nan=1.0), 0, -1)


def panels(images: dict[str, FloatArray], extra: int = 0) -> Figure:
    """Images in a row, by title, and room for `extra` graphs after them.

    Parameters
    ----------
    images : (y, x, 3) colours, or (y, x) values, which get a colour bar.
    """
    count = len(images) + extra
    figure = Figure(figsize=(5.2 * count, 5.4), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    for axis, (title, image) in zip(axes, images.items(), strict=False):
        drawn = axis.imshow(image, interpolation="nearest")
        axis.set_title(title)
        if image.ndim == 2:
            figure.colorbar(drawn, ax=axis, shrink=0.8)
    return figure


def draw_spectra(
    axis: Axes, wavelength: FloatArray, usable: BoolArray, east: xr.Dataset, block: xr.DataArray
) -> None:
    """Mean spectra of the eastern scene: EnMAP's usable bands, and both sensors from the cube.

    Parameters
    ----------
    wavelength : (band,) of EnMAP in nm, not in order where its detectors overlap.
    usable : (band,) bool of EnMAP.
    east : the scene of the cube.
    block : reflectance (band, y, x) of EnMAP; it covers the scene.
    """
    mean = block.sel(x=east.x, y=east.y).mean(("y", "x")).values
    order = np.argsort(wavelength)
    order = order[usable[order]]
    axis.plot(wavelength[order], mean[order], ".", ms=3, label="EnMAP")
    for name, dim, marker in (("guide", "guide_band", "s"), ("target", "band", "x")):
        means = east[name].mean(("y", "x"))
        centres = wavelengths_nm(map(str, means[dim].values))
        axis.plot(centres, means.values, marker, label=f"{name} of the cube")
    axis.set(xlabel="nm", ylabel="reflectance", title="mean of the eastern rectangle")
    axis.legend(frameon=False)
