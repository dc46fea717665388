"""Shared by all figures of a report: colours, names, the map extent, and how images are drawn."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import odc.geo.xr  # noqa: F401  registers the .odc accessor
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from satfuse.arrays import FloatArray, IntArray
from satfuse.sensors.bands import wavelengths_nm
from satfuse.validate.views import Views, all_finite

COLOURS = {
    "guide": "#1f6fb4",
    "coarse": "#e08214",
    "fused": "#b2182b",
    "bicubic": "#8c8c8c",
    "regression": "#4d9221",
}
TITLES = {
    "guide": "Sentinel-2",
    "coarse": "Sentinel-3",
    "fused": "fused",
    "bicubic": "bicubic S3",
    "regression": "S2 mixed",
}
RGB_NM = (665, 560, 490)  # true colour
FALSE_NM = (865, 665, 560)  # false colour: near infrared as red
WIDTH_IN = 14  # most inches that the maps of a figure take side by side
HEIGHT_IN = 8  # most inches that they take above each other


@dataclass(frozen=True, kw_only=True)
class FieldMap:
    """The images of a field that figures show, and its extent on the map.

    Parameters
    ----------
    bands, guide_bands : names of the fused and of the guide bands.
    guide, fused : (band, y, x) at the sampled fine pixels `rows`, `columns`.
    coarse : (band, h, w) the coarse input, all pixels.
    rows, columns : fine pixel indices of the sample along y and x.
    ratio : fine pixels per coarse pixel.
    extent_km : (left, right, bottom, top) of the whole field.
    north_up : True where the first row is the northernmost.
    crs : name of the map projection.
    pixel_m : size of a fine pixel in metres.
    """

    bands: tuple[str, ...]
    guide_bands: tuple[str, ...]
    guide: FloatArray
    coarse: FloatArray
    fused: FloatArray
    rows: IntArray
    columns: IntArray
    ratio: int
    extent_km: tuple[float, float, float, float]
    north_up: bool
    crs: str
    pixel_m: float

    @property
    def size_km(self) -> tuple[float, float]:
        """Width and height of the field."""
        left, right, bottom, top = self.extent_km
        return right - left, top - bottom

    @property
    def northing_label(self) -> str:
        """Label of the y axis of a map."""
        return f"northing, km ({self.crs})"

    def figure_size(self, columns: int, rows: int = 1) -> tuple[float, float]:
        """Width and height in inches of a figure with rows and columns of maps of the field."""
        width, height = self.size_km
        map_width = min(WIDTH_IN / columns, HEIGHT_IN / rows * width / height)
        map_height = map_width * height / width
        # room for the y labels (at least 7 inches, for titles), and for titles and x labels
        return max(columns * map_width + 1.6, 7), rows * (map_height + 0.7)

    def position_km(self, i: float, j: float) -> tuple[float, float]:
        """Map position (x, y) in km of the sample pixel (i, j), which may be fractional."""
        left, right, bottom, top = self.extent_km
        height, width = (n * self.ratio for n in self.coarse.shape[1:])
        row = np.interp(i, np.arange(len(self.rows)), self.rows)
        column = np.interp(j, np.arange(len(self.columns)), self.columns)
        x = left + (column + 0.5) / width * (right - left)
        from_first = (row + 0.5) / height * (top - bottom)
        return x, top - from_first if self.north_up else bottom + from_first


def make_field_map(views: Views, scene: xr.Dataset) -> FieldMap:
    """Images of views that have been read already, with the map extent of their scene."""
    y = scene["y"].values
    x = scene["x"].values
    half = abs(x[1] - x[0]) / 2  # coordinates are pixel centres
    extent = np.array([x.min() - half, x.max() + half, y.min() - half, y.max() + half]) / 1000
    crs = scene.odc.crs
    return FieldMap(
        bands=views.bands,
        guide_bands=views.guide_bands,
        guide=views.guide.sample,
        coarse=views.coarse,
        fused=views.images["fused"].sample,
        rows=views.rows,
        columns=views.columns,
        ratio=views.ratio,
        extent_km=tuple(extent),
        north_up=bool(y[0] > y[-1]),
        crs=f"EPSG:{crs.epsg}" if crs and crs.epsg else "local projection",
        pixel_m=2 * half,
    )


def show_image(
    axis: Axes,
    image: FloatArray,
    field: FieldMap,
    title: str,
    **style: Any,
) -> AxesImage:
    """Draw an image of the whole field, north up, on axes in kilometres."""
    drawn = axis.imshow(
        image,
        extent=field.extent_km,
        origin="upper" if field.north_up else "lower",
        interpolation="nearest",
        **style,
    )
    axis.set(title=title, xlabel="easting, km")
    axis.ticklabel_format(useOffset=False)
    axis.locator_params(axis="x", nbins=4)
    return drawn


def finish_plot(*axes: Axes) -> None:
    """Give plots of curves a faint grid and a legend without a frame."""
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)


def nearest_bands(names: Sequence[str], target_nm: Sequence[float]) -> list[int]:
    """Indices of the bands whose centres are nearest to the target wavelengths."""
    centres = np.array(wavelengths_nm(names))
    return [int(np.abs(centres - nm).argmin()) for nm in target_nm]


def stretch(*composites: FloatArray) -> tuple[float, float]:
    """Limits shared by all panels: 1 and 99 % of the values of the first composite with any."""
    for composite in composites:
        values = composite[np.isfinite(composite)]
        if values.size:
            low, high = np.percentile(values, (1, 99))
            return low, max(high, low + 1e-3)  # a flat image would divide by 0
    return 0.0, 1.0


def to_rgb(composite: FloatArray, low: float, high: float) -> FloatArray:
    """Scale (3, y, x) reflectance to (y, x, 4) in 0 to 1, transparent where invalid."""
    valid = all_finite(composite)
    rgb = np.clip((np.where(valid, composite, low) - low) / (high - low), 0, 1)
    return np.moveaxis(np.concatenate([rgb, valid[None]]), 0, -1)


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as PNG; the folder is made if absent."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path
