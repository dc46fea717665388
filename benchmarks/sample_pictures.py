"""Pictures of the real samples: bands as colours, images side by side, spectra."""

import numpy as np
from matplotlib.figure import Figure

from satfuse.sensors.bands import wavelengths_nm


def rgb(image):
    """Each band between its 2 and 98 %, (y, x, 3); white where there is no data."""
    low, high = (np.nanpercentile(image, q, axis=(1, 2), keepdims=True) for q in (2, 98))
    return np.moveaxis(np.nan_to_num(np.clip((image - low) / (high - low), 0, 1), nan=1.0), 0, -1)


def panels(images, extra=0):
    """Images side by side, and room for `extra` graphs."""
    count = len(images) + extra
    figure = Figure(figsize=(5.2 * count, 5.4), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    for axis, (title, image) in zip(axes, images.items(), strict=False):
        drawn = axis.imshow(image, interpolation="nearest")
        axis.set_title(title)
        if image.ndim == 2:
            figure.colorbar(drawn, ax=axis, shrink=0.8)
    return figure


def spectra(axis, wavelength, usable, east, block):
    """Mean spectra of the east: EnMAP's usable bands, and both sensors from the cube."""
    part = block.sel(x=east.x, y=east.y).mean(("y", "x")).values
    order = np.argsort(wavelength)[usable[np.argsort(wavelength)]]
    axis.plot(wavelength[order], part[order], ".", ms=3, label="EnMAP")
    for name, dim, mark in (("guide", "guide_band", "s"), ("target", "band", "x")):
        mean = east[name].mean(("y", "x"))
        axis.plot(
            wavelengths_nm(map(str, mean[dim].values)),
            mean.values,
            mark,
            label=f"{name} of the cube",
        )
    axis.set(xlabel="nm", ylabel="reflectance", title="mean of the eastern rectangle")
    axis.legend(frameon=False)
