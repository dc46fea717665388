"""Figures of a report and the quicklook. North is up, axes are kilometres of the product's projection."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import odc.geo.xr  # noqa: F401  registers the .odc accessor
import xarray as xr
from matplotlib.figure import Figure

from satfuse import metrics
from satfuse.sensors.bands import wavelengths_nm
from satfuse.validate.checks import GUIDE_NIR, GUIDE_RED, SHARPNESS_PAIR
from satfuse.validate.spectra import Spectrum
from satfuse.validate.views import Views

COLOURS = {"guide": "#1f6fb4", "coarse": "#e08214", "fused": "#b2182b", "bicubic": "#8c8c8c", "regression": "#4d9221"}
TITLES = {
    "guide": "Sentinel-2",
    "coarse": "Sentinel-3",
    "fused": "fused",
    "bicubic": "bicubic S3",
    "regression": "S2 mixed",
}
RGB_NM = (665, 560, 490)


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
        **_geography(scene),
    )


def quicklook(look: Look) -> Figure:
    """Three composites at 665, 560 and 490 nm under one stretch, and the spectra of three marked pixels."""
    images = {"guide": look.guide, "coarse": look.coarse, "fused": look.fused}
    names = {"guide": look.guide_bands, "coarse": look.bands, "fused": look.bands}
    composites = {key: image[_nearest_bands(names[key], RGB_NM)] for key, image in images.items()}
    low, high = _stretch(composites["guide"], composites["coarse"])
    figure = Figure(figsize=(14, 8.6), layout="constrained")
    axes = figure.subplots(2, 3, height_ratios=(1.6, 1), sharey="row")
    pixels = _pick_pixels(look)
    for axis, (key, composite) in zip(axes[0], composites.items(), strict=True):
        pixel_m = look.pixel_m * (look.ratio if key == "coarse" else 1)
        _show(axis, _to_rgb(composite, low, high), look, f"{TITLES[key]}, {pixel_m:g} m")
        for number, (i, j) in enumerate(pixels, 1):
            x, y = _position_km(look, i, j)
            axis.plot(x, y, "o", markersize=12, markerfacecolor="white", markeredgecolor="black")
            axis.annotate(str(number), (x, y), ha="center", va="center", fontsize=8)
    axes[0, 0].set_ylabel(f"northing, km ({look.crs})")
    for axis, number in zip(axes[1], range(1, 4), strict=True):
        if number > len(pixels):
            axis.set_axis_off()
            continue
        i, j = pixels[number - 1]
        coarse = look.coarse[:, look.rows[i] // look.ratio, look.columns[j] // look.ratio]
        _plot(axis, look.guide_bands, look.guide[:, i, j], "guide", "s")
        _plot(axis, look.bands, coarse, "coarse", "o--")
        _plot(axis, look.bands, look.fused[:, i, j], "fused", ".-")
        axis.set(title=f"pixel {number}", xlabel="wavelength, nm")
        axis.grid(alpha=0.3)
    axes[1, 0].set_ylabel("reflectance")
    axes[1, 0].legend(frameon=False)
    return figure


def consistency_bars(coarse: dict, guide: dict) -> Figure:
    """RMSE per band of every image, against the coarse input and against the guide, each on its own grid."""
    figure = Figure(figsize=(12, 7.5), layout="constrained")
    for axis, table, title in zip(
        figure.subplots(2, 1),
        (coarse, guide),
        ("degraded to the coarse grid, against the coarse input", "mixed to the guide's bands, against the guide"),
        strict=True,
    ):
        names = list(table["fused"]["bands"])
        width = 0.8 / len(table)
        for k, (key, rows) in enumerate(table.items()):
            values = [rows["bands"][n]["rmse"] for n in names]
            place = np.arange(len(names)) + (k - (len(table) - 1) / 2) * width
            axis.bar(place, values, width, color=COLOURS[key], label=TITLES[key])
        axis.set_xticks(range(len(names)), names)
        axis.set(title=title, ylabel="RMSE, reflectance", xlim=(-0.6, len(names) - 0.4))
        axis.grid(axis="y", alpha=0.3)
        axis.legend(frameon=False)
    return figure


def spectra(mean: dict[str, Spectrum]) -> Figure:
    """Mean spectra with one standard deviation."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    axis = figure.subplots()
    for key, style in (("guide", "s--"), ("coarse", "o-"), ("fused", ".-")):
        s = mean[key]
        for edge in (s.mean - s.std, s.mean + s.std):
            axis.plot(s.wavelength_nm, edge, ":", color=COLOURS[key], lw=1.2)
        axis.plot(s.wavelength_nm, s.mean, style, color=COLOURS[key], label=TITLES[key], markersize=5)
    axis.set(xlabel="wavelength, nm", ylabel="reflectance", title="mean spectra, dotted: one standard deviation")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    return figure


def ndvi(maps: dict[str, np.ndarray], agreement: dict, look: Look) -> Figure:
    """NDVI of guide and product as maps, and their Jaccard index over the threshold."""
    figure = Figure(figsize=(14, 5), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, key in zip(axes, ("guide", "fused"), strict=False):
        mesh = _show(axis, maps[key], look, f"NDVI, {TITLES[key]}", cmap="RdYlGn", vmin=-0.2, vmax=0.9)
    figure.colorbar(mesh, ax=axes[:2], shrink=0.8, label="NDVI")
    axes[0].set_ylabel(f"northing, km ({look.crs})")
    for key, row in agreement.items():
        thresholds = [float(t) for t in row["jaccard"]]
        axes[2].plot(thresholds, list(row["jaccard"].values()), ".-", color=COLOURS[key], label=TITLES[key])
    axes[2].set(
        xlabel="NDVI threshold", ylabel="Jaccard index", ylim=(0, 1.02), title="vegetated area against Sentinel-2"
    )
    axes[2].grid(alpha=0.3)
    axes[2].legend(frameon=False)
    return figure


def power(views: Views) -> Figure:
    """Radial power spectra at 665 nm in the window: the guide, the product and the yardsticks."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axis = figure.subplots()
    band, guide_band = SHARPNESS_PAIR
    axis.loglog(
        *metrics.radial_power(views.guide.window[views.guide_bands.index(guide_band)]),
        color=COLOURS["guide"],
        label=f"{TITLES['guide']} {guide_band}",
    )
    for key, view in views.images.items():
        line = metrics.radial_power(view.window[views.bands.index(band)])
        axis.loglog(*line, color=COLOURS[key], label=f"{TITLES[key]} {band}", lw=1.2)
    axis.axvline(0.5 / views.ratio, color="black", ls=":", lw=1)
    axis.annotate(
        " coarse Nyquist", (0.5 / views.ratio, 0.03), xycoords=("data", "axes fraction"), fontsize=8, va="bottom"
    )
    axis.set(xlabel="cycles per fine pixel", ylabel="power", title="radially averaged power at 665 nm")
    axis.grid(alpha=0.3, which="both")
    axis.legend(frameon=False)
    return figure


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG; the folder is made if absent."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def _coarse(scene, names):
    coarse = scene["coarse"].where(scene["coarse_valid"]).sel(coarse_band=list(names))
    return coarse.transpose("coarse_band", "y_coarse", "x_coarse").values


def _geography(scene):
    y, x = scene["y"].values, scene["x"].values
    half = abs(x[1] - x[0]) / 2
    extent = np.array([x.min() - half, x.max() + half, y.min() - half, y.max() + half]) / 1000
    crs = scene.odc.crs
    name = f"EPSG:{crs.epsg}" if crs and crs.epsg else "local projection"
    return {"extent_km": tuple(extent), "up": bool(y[0] > y[-1]), "crs": name, "pixel_m": 2 * half}


def _position_km(look, i, j):
    """Map position of sample pixel (i, j)."""
    left, right, bottom, top = look.extent_km
    height, width = (n * look.ratio for n in look.coarse.shape[1:])
    x = left + (look.columns[j] + 0.5) / width * (right - left)
    share = (look.rows[i] + 0.5) / height
    return x, top - share * (top - bottom) if look.up else bottom + share * (top - bottom)


def _show(axis, image, look, title, **style):
    mesh = axis.imshow(
        image, extent=look.extent_km, origin="upper" if look.up else "lower", interpolation="nearest", **style
    )
    axis.set(title=title, xlabel="easting, km")
    axis.ticklabel_format(useOffset=False)
    return mesh


def _nearest_bands(names, wanted_nm):
    centres = np.array(wavelengths_nm(names))
    return [int(np.abs(centres - nm).argmin()) for nm in wanted_nm]


def _stretch(*composites):
    """Limits that all panels share: 1 and 99 % of the values of the first composite that has any."""
    for composite in composites:
        values = composite[np.isfinite(composite)]
        if values.size:
            low, high = np.percentile(values, (1, 99))
            return low, max(high, low + 1e-3)
    return 0.0, 1.0


def _to_rgb(composite, low, high):
    """(y, x, 4) in 0 to 1, transparent where invalid."""
    valid = np.isfinite(composite).all(axis=0)
    rgb = np.clip((np.where(valid, composite, low) - low) / (high - low), 0, 1)
    return np.moveaxis(np.concatenate([rgb, valid[None]]), 0, -1)


def _plot(axis, names, values, key, style):
    axis.plot(wavelengths_nm(names), values, style, color=COLOURS[key], label=TITLES[key], markersize=5, lw=1.3)


def _pick_pixels(look):
    """Sample indices of up to three valid pixels: at 5, 50 and 95 % of the guide's NDVI, else of its brightness."""
    if {GUIDE_RED, GUIDE_NIR} <= set(look.guide_bands):
        order = metrics.ndvi(*(look.guide[look.guide_bands.index(b)] for b in (GUIDE_RED, GUIDE_NIR)))
    else:
        order = look.guide.mean(axis=0)
    coarse = np.isfinite(look.coarse).all(0)[np.ix_(look.rows // look.ratio, look.columns // look.ratio)]
    order = np.where(np.isfinite(look.fused).all(0) & np.isfinite(look.guide).all(0) & coarse, order, np.nan)
    rim = min(order.shape) // 16  # a marker at the rim would be cut
    inner = np.full_like(order, np.nan)
    inner[rim : -rim or None, rim : -rim or None] = order[rim : -rim or None, rim : -rim or None]
    order = inner
    candidates = np.flatnonzero(np.isfinite(order))
    if not candidates.size:
        return []
    ranked = candidates[np.argsort(order.ravel()[candidates], kind="stable")]
    chosen = dict.fromkeys(ranked[[int(q * (len(ranked) - 1)) for q in (0.05, 0.5, 0.95)]].tolist())
    return [np.unravel_index(k, order.shape) for k in chosen]
