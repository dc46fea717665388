"""Figures of a report and the quicklook. North is up, axes are kilometres of the map projection."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter

from satfuse import metrics
from satfuse.arrays import FloatArray
from satfuse.sensors.bands import wavelengths_nm
from satfuse.validate.checks import GUIDE_NIR, GUIDE_RED, SHARPNESS_PAIR, Scores, guide_ndvi
from satfuse.validate.drawing import (
    COLOURS,
    FALSE_NM,
    RGB_NM,
    TITLES,
    FieldMap,
    finish_plot,
    nearest_bands,
    show_image,
    stretch,
    to_rgb,
)
from satfuse.validate.fourier import radial_coherence
from satfuse.validate.spectra import Spectrum
from satfuse.validate.views import Views, all_finite

TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # cycles per fine pixel
MARKED_RANKS = (0.05, 0.5, 0.95)  # of the pixels whose spectra the quicklook shows, by NDVI

Curve = tuple[str, str, FloatArray]  # title, colour, band (y, x) in reflectance


def quicklook(field: FieldMap) -> Figure:
    """Three composites at 665, 560, 490 nm under one stretch; spectra of three marked pixels."""
    figure = Figure(figsize=(14, 8.6), layout="constrained")
    axes = figure.subplots(2, 3, height_ratios=(1.6, 1), sharey="row")
    pixels = _pick_pixels(field)
    _draw_composites(axes[0], field, RGB_NM, pixels)
    axes[0, 0].set_ylabel(field.northing_label)
    for k, axis in enumerate(axes[1]):
        if k >= len(pixels):
            axis.set_axis_off()
            continue
        _draw_pixel(axis, field, *pixels[k])
        axis.set_title(f"pixel {k + 1}")
    axes[1, 0].set_ylabel("reflectance")
    axes[1, 0].legend(frameon=False)
    return figure


def _select_bands(field: FieldMap, target_nm: Sequence[float]) -> dict[str, FloatArray]:
    """Bands (3, y, x) nearest to three wavelengths: "guide", "coarse", "fused"."""
    guide = nearest_bands(field.guide_bands, target_nm)
    fused = nearest_bands(field.bands, target_nm)
    return {
        "guide": field.guide[guide],
        "coarse": field.coarse[fused],
        "fused": field.fused[fused],
    }


def _draw_composites(
    axes: Sequence[Axes],
    field: FieldMap,
    target_nm: Sequence[float],
    pixels: Sequence[tuple[int, int]],
) -> None:
    """Draw guide, coarse input and product with their pixel sizes, and number the pixels."""
    composites = _select_bands(field, target_nm)
    low, high = stretch(composites["guide"], composites["coarse"])  # of an input, not the product
    for axis, (key, composite) in zip(axes, composites.items(), strict=True):
        pixel_m = field.pixel_m * (field.ratio if key == "coarse" else 1)
        show_image(axis, to_rgb(composite, low, high), field, f"{TITLES[key]}, {pixel_m:g} m")
        for number, (i, j) in enumerate(pixels, 1):
            x, y = field.position_km(i, j)
            axis.plot(x, y, "o", markersize=12, markerfacecolor="white", markeredgecolor="black")
            axis.annotate(str(number), (x, y), ha="center", va="center", fontsize=8)


def _draw_pixel(axis: Axes, field: FieldMap, i: int, j: int) -> None:
    """Draw the spectra of a sample pixel, and of the coarse pixel around it."""
    coarse = field.coarse[:, field.rows[i] // field.ratio, field.columns[j] // field.ratio]
    for key, names, values, style in (
        ("guide", field.guide_bands, field.guide[:, i, j], "s"),
        ("coarse", field.bands, coarse, "o--"),
        ("fused", field.bands, field.fused[:, i, j], ".-"),
    ):
        (line,) = axis.plot(wavelengths_nm(names), values, style, markersize=5, lw=1.3)
        line.set(color=COLOURS[key], label=TITLES[key])
    axis.set_xlabel("wavelength, nm")
    axis.grid(alpha=0.3)


def composites(field: FieldMap) -> Figure:
    """Guide, coarse input and product in true colour and in false colour (865, 665, 560 nm)."""
    figure = Figure(figsize=field.figure_size(3, 2), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True, sharey=True)
    for row, target_nm in zip(axes, (RGB_NM, FALSE_NM), strict=True):
        images = _select_bands(field, target_nm)
        low, high = stretch(images["guide"], images["coarse"])
        for axis, (key, image) in zip(row, images.items(), strict=True):
            show_image(axis, to_rgb(image, low, high), field, TITLES[key])
        row[0].set_ylabel(f"{', '.join(map(str, target_nm))} nm\n{field.northing_label}")
    for above, below in axes.T:
        above.set_xlabel("")
        below.set_title("")
    return figure


def consistency_bars(coarse: dict[str, Scores], guide: dict[str, Scores]) -> Figure:
    """RMSE per band of every image, against the coarse input and against the guide.

    Each on its own grid; the scores of `checks.coarse_consistency` and `checks.guide_consistency`.
    """
    figure = Figure(figsize=(12, 7.5), layout="constrained")
    above, below = figure.subplots(2, 1)
    _draw_bars(above, coarse, "degraded to the coarse grid, against the coarse input")
    _draw_bars(below, guide, "mixed to the guide's bands, against the guide")
    return figure


def _draw_bars(axis: Axes, table: dict[str, Scores], title: str) -> None:
    names = list(table["fused"]["bands"])
    width = 0.8 / len(table)
    for k, (key, scores) in enumerate(table.items()):
        values = [scores["bands"][n]["rmse"] for n in names]
        # groups of bars, centred on the tick of their band
        place = np.arange(len(names)) + (k - (len(table) - 1) / 2) * width
        axis.bar(place, values, width, color=COLOURS[key], label=TITLES[key])
    axis.set_xticks(range(len(names)), names)
    axis.set(title=title, ylabel="RMSE, reflectance", xlim=(-0.6, len(names) - 0.4))
    axis.grid(axis="y", alpha=0.3)
    axis.legend(frameon=False)


def spectra(mean: dict[str, Spectrum]) -> Figure:
    """Mean spectra with one standard deviation."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    axis = figure.subplots()
    for key, style in (("guide", "s--"), ("coarse", "o-"), ("fused", ".-")):
        with_deviation(axis, mean[key], style, COLOURS[key], TITLES[key])
    title = "mean spectra, dotted: one standard deviation"
    axis.set(xlabel="wavelength, nm", ylabel="reflectance", title=title)
    finish_plot(axis)
    return figure


def with_deviation(axis: Axes, spectrum: Spectrum, style: str, colour: str, label: str) -> None:
    """Draw a mean spectrum, with dotted lines one standard deviation away."""
    for edge in (spectrum.mean - spectrum.std, spectrum.mean + spectrum.std):
        axis.plot(spectrum.wavelength_nm, edge, ":", color=colour, lw=1.2)
    axis.plot(spectrum.wavelength_nm, spectrum.mean, style, color=colour, label=label, markersize=5)


def ndvi(maps: dict[str, FloatArray], agreement: dict[str, Scores], field: FieldMap) -> Figure:
    """NDVI of guide and product as maps, and their Jaccard index over the threshold."""
    figure = Figure(figsize=(14, 5), layout="constrained")
    *map_axes, plot = figure.subplots(1, 3)
    for axis, key in zip(map_axes, ("guide", "fused"), strict=True):
        title = f"NDVI, {TITLES[key]}"
        drawn = show_image(axis, maps[key], field, title, cmap="RdYlGn", vmin=-0.2, vmax=0.9)
    figure.colorbar(drawn, ax=map_axes, shrink=0.8, label="NDVI")
    map_axes[0].set_ylabel(field.northing_label)
    for key, row in agreement.items():
        thresholds = [float(t) for t in row["jaccard"]]
        values = list(row["jaccard"].values())
        plot.plot(thresholds, values, ".-", color=COLOURS[key], label=TITLES[key])
    plot.set(xlabel="NDVI threshold", ylabel="Jaccard index", ylim=(0, 1.02))
    plot.set_title("vegetated area against Sentinel-2")
    finish_plot(plot)
    return figure


def power(views: Views) -> Figure:
    """Fourier spectra at 665 nm in the window: the guide, the product and the baselines."""
    band, guide_band = SHARPNESS_PAIR
    guide = views.guide.window[views.guide_bands.index(guide_band)]
    curves = [(f"{TITLES['guide']} {guide_band}", COLOURS["guide"], guide)]
    index = views.bands.index(band)
    for key, view in views.images.items():
        curves.append((f"{TITLES[key]} {band}", COLOURS[key], view.window[index]))
    return fourier(curves, views.ratio)


def fourier(curves: Sequence[Curve], ratio: int) -> Figure:
    """Fourier spectra of bands of one size.

    Above: power in two dimensions; below: radially averaged power, and the coherence with the first
    band.

    Parameters
    ----------
    curves : (title, colour, (y, x) reflectance) of each band.
    ratio : fine pixels per coarse pixel, for the mark at the coarse Nyquist frequency.
    """
    figure = Figure(figsize=(14, 8.6), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(1, 1.15))[:, 0]
    _draw_planes(above, curves, 0.5 / ratio)
    left, right = below.subplots(1, 2)
    _draw_power(left, curves)
    _draw_coherence(right, curves)
    for axis in (left, right):
        _mark_frequencies(axis, 0.5 / ratio, min(curves[0][2].shape))
    return figure


def _draw_planes(figure: SubFigure, curves: Sequence[Curve], nyquist: float) -> None:
    """Draw log power in two dimensions, with a square at the coarse Nyquist frequency."""
    planes = [_log_power(band) for _, _, band in curves]
    low, high = np.percentile(planes[0], (2, 99.98))  # the centre is a few very bright pixels
    axes = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for axis, plane, (title, _, _) in zip(axes, planes, curves, strict=True):
        drawn = axis.imshow(plane, extent=(-0.5, 0.5, -0.5, 0.5), origin="lower", cmap="magma")
        drawn.set_clim(low, high)  # all panels share the limits of the first
        corner = (-nyquist, -nyquist)
        axis.add_patch(Rectangle(corner, 2 * nyquist, 2 * nyquist, fill=False, ec="white", lw=0.8))
        axis.set(title=title, xlabel="cycles per fine pixel, x")
    axes[0].set_ylabel("cycles per fine pixel, y")
    figure.colorbar(drawn, ax=axes, shrink=0.85, label="log10 of power")


def _log_power(band: FloatArray) -> FloatArray:
    """Log10 of power (y, x), frequency 0 in the middle."""
    # 1e-12: a baseline without detail has no power in places
    return np.log10(np.fft.fftshift(np.abs(metrics.windowed_fft(band)) ** 2) + 1e-12)


def _draw_power(axis: Axes, curves: Sequence[Curve]) -> None:
    for title, colour, band in curves:
        axis.loglog(*metrics.radial_power(band), color=colour, label=title, lw=1.3)
    _, power = metrics.radial_power(curves[0][2])
    axis.set(ylabel="power", title="radially averaged power")
    # the range of the first band: baselines without detail would fall far below it
    axis.set_ylim(power.min() / 30, power.max() * 3)


def _draw_coherence(axis: Axes, curves: Sequence[Curve]) -> None:
    reference_title, _, reference = curves[0]
    for title, colour, band in curves[1:]:
        axis.semilogx(*radial_coherence(band, reference), color=colour, label=title, lw=1.3)
    axis.set(ylabel="coherence", title=f"coherence with {reference_title}", ylim=(0, 1.02))


def _mark_frequencies(axis: Axes, nyquist: float, size: int) -> None:
    """Label the frequencies that an image of `size` pixels has; mark the coarse Nyquist one."""
    axis.axvline(nyquist, color="black", ls=":", lw=1)
    at_bottom = axis.get_xaxis_transform()  # x in data, y as a fraction of the axes
    axis.text(nyquist, 0.03, " coarse Nyquist", fontsize=8, va="bottom", transform=at_bottom)
    axis.set_xlabel("cycles per fine pixel")
    # the lowest frequency of an image is 1 / size
    axis.set_xticks([f for f in TICKS if f >= 0.8 / size], minor=False)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.3, which="both")
    axis.legend(frameon=False)


def _pick_pixels(field: FieldMap) -> list[tuple[int, int]]:
    """Sample indices of up to three valid pixels, of low, median and high NDVI.

    By brightness where the guide has no NDVI.
    """
    order = _pixel_order(field)
    candidates = np.flatnonzero(np.isfinite(order))
    if not candidates.size:
        return []
    ranked = candidates[np.argsort(order.ravel()[candidates], kind="stable")]
    ranks = [int(share * (len(ranked) - 1)) for share in MARKED_RANKS]
    chosen = dict.fromkeys(ranked[ranks].tolist())  # without repetition, in order
    width = order.shape[1]
    return [divmod(k, width) for k in chosen]


def _pixel_order(field: FieldMap) -> FloatArray:
    """NDVI or brightness (y, x) of the guide, NaN where an image is invalid and at the rim."""
    if {GUIDE_RED, GUIDE_NIR} <= set(field.guide_bands):
        order = guide_ndvi(field.guide, field.guide_bands)
    else:
        order = field.guide.mean(axis=0)
    coarse_pixels = np.ix_(field.rows // field.ratio, field.columns // field.ratio)
    valid = all_finite(field.coarse)[coarse_pixels]
    valid &= all_finite(field.fused) & all_finite(field.guide)
    rim = min(order.shape) // 16  # a marker at the rim would be cut
    inner = np.zeros_like(valid)
    inner[rim : -rim or None, rim : -rim or None] = True
    return np.where(valid & inner, order, np.nan)
