"""Figures of a report and the quicklook. North is up, axes are kilometres of the product's projection."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter

from satfuse import metrics
from satfuse.sensors.bands import wavelengths_nm
from satfuse.validate.checks import GUIDE_NIR, GUIDE_RED, SHARPNESS_PAIR
from satfuse.validate.fourier import radial_coherence
from satfuse.validate.look import (
    COLOURS,
    FALSE_NM,
    RGB_NM,
    TITLES,
    Look,
    nearest_bands,
    position_km,
    show,
    stretch,
    to_rgb,
)  # fmt: skip
from satfuse.validate.spectra import Spectrum
from satfuse.validate.views import Views

TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # of frequency


def quicklook(look: Look) -> Figure:
    """Three composites at 665, 560 and 490 nm under one stretch, and the spectra of three marked pixels."""
    images = {"guide": look.guide, "coarse": look.coarse, "fused": look.fused}
    names = {"guide": look.guide_bands, "coarse": look.bands, "fused": look.bands}
    composites = {key: image[nearest_bands(names[key], RGB_NM)] for key, image in images.items()}
    low, high = stretch(composites["guide"], composites["coarse"])
    figure = Figure(figsize=(14, 8.6), layout="constrained")
    axes = figure.subplots(2, 3, height_ratios=(1.6, 1), sharey="row")
    pixels = _pick_pixels(look)
    for axis, (key, composite) in zip(axes[0], composites.items(), strict=True):
        pixel_m = look.pixel_m * (look.ratio if key == "coarse" else 1)
        show(axis, to_rgb(composite, low, high), look, f"{TITLES[key]}, {pixel_m:g} m")
        for number, (i, j) in enumerate(pixels, 1):
            x, y = position_km(look, i, j)
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


def composites(look: Look) -> Figure:
    """Guide, coarse input and product in true colour (665, 560, 490 nm) and in false colour (865, 665, 560 nm)."""
    images = {"guide": look.guide, "coarse": look.coarse, "fused": look.fused}
    names = {"guide": look.guide_bands, "coarse": look.bands, "fused": look.bands}
    figure = Figure(figsize=look.panels(3, 2), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True, sharey=True)
    for row, wanted_nm in zip(axes, (RGB_NM, FALSE_NM), strict=True):
        chosen = {key: image[nearest_bands(names[key], wanted_nm)] for key, image in images.items()}
        low, high = stretch(chosen["guide"], chosen["coarse"])
        for axis, (key, composite) in zip(row, chosen.items(), strict=True):
            show(axis, to_rgb(composite, low, high), look, TITLES[key])
        row[0].set_ylabel(f"{', '.join(map(str, wanted_nm))} nm\nnorthing, km ({look.crs})")
    for above, below in axes.T:
        above.set_xlabel("")
        below.set_title("")
    return figure


def consistency_bars(coarse: dict, guide: dict) -> Figure:
    """RMSE per band of every image, against the coarse input and against the guide, each on its own grid."""
    figure = Figure(figsize=(12, 7.5), layout="constrained")
    for axis, table, title in zip(
        figure.subplots(2, 1),
        (coarse, guide),
        (
            "degraded to the coarse grid, against the coarse input",
            "mixed to the guide's bands, against the guide",
        ),
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
        with_deviation(axis, mean[key], style, COLOURS[key], TITLES[key])
    axis.set(
        xlabel="wavelength, nm",
        ylabel="reflectance",
        title="mean spectra, dotted: one standard deviation",
    )
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    return figure


def with_deviation(axis, spectrum: Spectrum, style: str, colour: str, label: str) -> None:
    """Draw a mean spectrum, with dotted lines one standard deviation away."""
    for edge in (spectrum.mean - spectrum.std, spectrum.mean + spectrum.std):
        axis.plot(spectrum.wavelength_nm, edge, ":", color=colour, lw=1.2)
    axis.plot(spectrum.wavelength_nm, spectrum.mean, style, color=colour, label=label, markersize=5)


def ndvi(maps: dict[str, np.ndarray], agreement: dict, look: Look) -> Figure:
    """NDVI of guide and product as maps, and their Jaccard index over the threshold."""
    figure = Figure(figsize=(14, 5), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, key in zip(axes, ("guide", "fused"), strict=False):
        mesh = show(
            axis, maps[key], look, f"NDVI, {TITLES[key]}", cmap="RdYlGn", vmin=-0.2, vmax=0.9
        )
    figure.colorbar(mesh, ax=axes[:2], shrink=0.8, label="NDVI")
    axes[0].set_ylabel(f"northing, km ({look.crs})")
    for key, row in agreement.items():
        thresholds = [float(t) for t in row["jaccard"]]
        axes[2].plot(
            thresholds, list(row["jaccard"].values()), ".-", color=COLOURS[key], label=TITLES[key]
        )
    axes[2].set(
        xlabel="NDVI threshold",
        ylabel="Jaccard index",
        ylim=(0, 1.02),
        title="vegetated area against Sentinel-2",
    )
    axes[2].grid(alpha=0.3)
    axes[2].legend(frameon=False)
    return figure


def power(views: Views) -> Figure:
    """Fourier spectra at 665 nm in the window: the guide, the product and the yardsticks."""
    band, guide_band = SHARPNESS_PAIR
    guide = views.guide.window[views.guide_bands.index(guide_band)]
    bands = [(f"{TITLES['guide']} {guide_band}", COLOURS["guide"], guide)]
    index = views.bands.index(band)
    bands += [
        (f"{TITLES[key]} {band}", COLOURS[key], view.window[index])
        for key, view in views.images.items()
    ]
    return fourier(bands, views.ratio)


def fourier(bands: list[tuple[str, str, np.ndarray]], ratio: int) -> Figure:
    """Fourier spectra of bands of one size: 2-D power above; below it radially averaged, and the coherence.

    Parameters
    ----------
    bands : (title, colour, (y, x) reflectance); coherence is that with the first one.
    ratio : fine pixels per coarse pixel, for the mark at the coarse Nyquist frequency.
    """
    figure = Figure(figsize=(14, 8.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.15))
    planes = [
        np.log10(np.fft.fftshift(np.abs(metrics.windowed_fft(b)) ** 2) + 1e-12) for _, _, b in bands
    ]
    low, high = np.percentile(planes[0], (2, 99.98))
    nyquist = 0.5 / ratio
    axes = above.subplots(1, len(bands), sharey=True, squeeze=False)[0]
    for axis, plane, (title, _, _) in zip(axes, planes, bands, strict=True):
        mesh = axis.imshow(
            plane, cmap="magma", vmin=low, vmax=high, extent=(-0.5, 0.5, -0.5, 0.5), origin="lower"
        )
        axis.add_patch(
            Rectangle(
                (-nyquist, -nyquist), 2 * nyquist, 2 * nyquist, fill=False, ec="white", lw=0.8
            )
        )
        axis.set(title=title, xlabel="cycles per fine pixel, x")
    axes[0].set_ylabel("cycles per fine pixel, y")
    above.colorbar(mesh, ax=axes, shrink=0.85, label="log10 of power")
    left, right = below.subplots(1, 2)
    for title, colour, band in bands:
        left.loglog(*metrics.radial_power(band), color=colour, label=title, lw=1.3)
        if band is not bands[0][2]:
            right.semilogx(*radial_coherence(band, bands[0][2]), color=colour, label=title, lw=1.3)
    expected = metrics.radial_power(bands[0][2])[1]
    left.set(
        ylabel="power",
        title="radially averaged power",
        ylim=(expected.min() / 30, expected.max() * 3),
    )
    right.set(ylabel="coherence", title=f"coherence with {bands[0][0]}", ylim=(0, 1.02))
    for axis in (left, right):
        axis.axvline(nyquist, color="black", ls=":", lw=1)
        axis.annotate(
            " coarse Nyquist",
            (nyquist, 0.03),
            xycoords=("data", "axes fraction"),
            fontsize=8,
            va="bottom",
        )
        axis.set_xlabel("cycles per fine pixel")
        axis.set_xticks([f for f in TICKS if f >= 0.8 / min(bands[0][2].shape)], minor=False)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3, which="both")
        axis.legend(frameon=False)
    return figure


def _plot(axis, names, values, key, style):
    axis.plot(
        wavelengths_nm(names),
        values,
        style,
        color=COLOURS[key],
        label=TITLES[key],
        markersize=5,
        lw=1.3,
    )


def _pick_pixels(look):
    """Sample indices of up to three valid pixels: at 5, 50 and 95 % of the guide's NDVI, else of its brightness."""
    if {GUIDE_RED, GUIDE_NIR} <= set(look.guide_bands):
        order = metrics.ndvi(
            *(look.guide[look.guide_bands.index(b)] for b in (GUIDE_RED, GUIDE_NIR))
        )
    else:
        order = look.guide.mean(axis=0)
    coarse = np.isfinite(look.coarse).all(0)[
        np.ix_(look.rows // look.ratio, look.columns // look.ratio)
    ]
    order = np.where(
        np.isfinite(look.fused).all(0) & np.isfinite(look.guide).all(0) & coarse, order, np.nan
    )
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
