"""What every figure of a report shares: colours and names, the place, and how an image is drawn."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import odc.geo.xr  # noqa: F401  registers the .odc accessor
import xarray as xr
from matplotlib.figure import Figure

from satfuse.sensors.bands import wavelengths_nm
from satfuse.validate.views import Views

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
RGB_NM = (665, 560, 490)
FALSE_NM = (865, 665, 560)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a quicklook shows: guide and fused (band, y, x) at the fine pixels `rows`, `columns`; coarse whole.

    `extent_km` is (left, right, bottom, top) of the whole field, `up` is True where the first row is the northernmost,
    `pixel_m` the size of a fine pixel in metres.
    """

    bands: tuple[str, ...]
    guide_bands: tuple[str, ...]
    guide: np.ndarray
    coarse: np.ndarray
    fused: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    ratio: int
    extent_km: tuple[float, float, float, float]
    up: bool
    crs: str
    pixel_m: float

    @property
    def size_km(self) -> tuple[float, float]:
        """Width and height of the field."""
        left, right, bottom, top = self.extent_km
        return right - left, top - bottom

    def panels(self, columns: int, rows: int = 1) -> tuple[float, float]:
        """Size in inches of a figure with this many maps of the field side by side and above each other."""
        width, height = self.size_km
        wide = min(14 / columns, 8 / rows * width / height)
        return max(columns * wide + 1.6, 7), rows * (wide * height / width + 0.7)


def look_of(views: Views, scene: xr.Dataset) -> Look:
    """The Look of views that have been read already."""
    return Look(
        bands=views.bands,
        guide_bands=views.guide_bands,
        guide=views.guide.sample,
        coarse=views.coarse,
        fused=views.images["fused"].sample,
        rows=views.rows,
        columns=views.columns,
        ratio=views.ratio,
        **geography(scene),
    )


def geography(scene):
    """Fields of a Look that tell where a scene lies."""
    y, x = scene["y"].values, scene["x"].values
    half = abs(x[1] - x[0]) / 2
    extent = np.array([x.min() - half, x.max() + half, y.min() - half, y.max() + half]) / 1000
    crs = scene.odc.crs
    name = f"EPSG:{crs.epsg}" if crs and crs.epsg else "local projection"
    return {"extent_km": tuple(extent), "up": bool(y[0] > y[-1]), "crs": name, "pixel_m": 2 * half}


def position_km(look, i, j):
    """Map position (x, y) in km of the sample pixel (i, j), which may be fractional."""
    left, right, bottom, top = look.extent_km
    height, width = (n * look.ratio for n in look.coarse.shape[1:])
    row, column = (
        np.interp(k, np.arange(len(at)), at) for k, at in ((i, look.rows), (j, look.columns))
    )
    x = left + (column + 0.5) / width * (right - left)
    share = (row + 0.5) / height
    return x, top - share * (top - bottom) if look.up else bottom + share * (top - bottom)


def show(axis, image, look, title, **style):
    """Draw an image of the whole field, north up, on axes in kilometres."""
    mesh = axis.imshow(
        image,
        extent=look.extent_km,
        origin="upper" if look.up else "lower",
        interpolation="nearest",
        **style,
    )
    axis.set(title=title, xlabel="easting, km")
    axis.ticklabel_format(useOffset=False)
    axis.locator_params(axis="x", nbins=4)
    return mesh


def nearest_bands(names, wanted_nm):
    """Indices of the bands whose centres lie nearest to the wanted wavelengths."""
    centres = np.array(wavelengths_nm(names))
    return [int(np.abs(centres - nm).argmin()) for nm in wanted_nm]


def stretch(*composites):
    """Limits that all panels share: 1 and 99 % of the values of the first composite that has any."""
    for composite in composites:
        values = composite[np.isfinite(composite)]
        if values.size:
            low, high = np.percentile(values, (1, 99))
            return low, max(high, low + 1e-3)
    return 0.0, 1.0


def to_rgb(composite, low, high):
    """(y, x, 4) in 0 to 1, transparent where invalid."""
    valid = np.isfinite(composite).all(axis=0)
    rgb = np.clip((np.where(valid, composite, low) - low) / (high - low), 0, 1)
    return np.moveaxis(np.concatenate([rgb, valid[None]]), 0, -1)


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG; the folder is made if absent."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path
