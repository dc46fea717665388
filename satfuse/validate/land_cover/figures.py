"""Figures that compare a product with a land-cover map."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from satfuse.arrays import BoolArray, FloatArray, IntArray
from satfuse.validate.drawing import COLOURS, TITLES, FieldMap, finish_plot, show_image
from satfuse.validate.land_cover.classes import LandCover, Legend
from satfuse.validate.spectra import Spectrum
from satfuse.validate.views import all_finite

# of the classes, in the order of the legend
GREENS = ("#b8e186", "#1b7837", "#7fbc41", "#4d9221", "#a6dba0", "#276419", "#d9f0a3", "#5aae61")
OTHERS = ("#d6604d", "#969696", "#dfc27d", "#4393c3", "#762a83", "#01665e", "#fee090", "#35978f")
AGREEMENT = {"both": "#1a9850", "NDVI only": "#fdae61", "map only": "#7b3294", "neither": "#e6e6e6"}

Category = tuple[str, str, BoolArray]  # name, colour, pixels (y, x)


def vegetation_figure(
    ndvi: FloatArray, agreement: dict[str, Any], land_cover: LandCover, field: FieldMap
) -> Figure:
    """The map, the agreement of NDVI with its vegetation, and the Jaccard index by threshold.

    Parameters
    ----------
    ndvi : (y, x) of the product at the sampled pixels.
    agreement : of `vegetation_agreement`.
    """
    figure = Figure(figsize=(15, 5.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    codes = land_cover.codes[np.ix_(field.rows, field.columns)]
    classes = _class_categories(codes, land_cover.legend)
    _draw_categories(left, classes, field, "land-cover map (* vegetation)")
    left.set_ylabel(field.northing_label)
    threshold = agreement["threshold"]
    valid = (codes > 0) & all_finite(field.fused) & all_finite(field.guide)
    vegetated = np.isin(codes, land_cover.legend.vegetation)
    sets = _agreement_categories(ndvi > threshold, vegetated, valid)
    _draw_categories(middle, sets, field, f"fused NDVI > {threshold} against the map")
    _draw_jaccard(right, agreement)
    return figure


def _class_categories(codes: IntArray, legend: Legend) -> list[Category]:
    """The classes that the codes (y, x) show; vegetation in greens and with an asterisk."""
    greens = iter(GREENS)
    others = iter(OTHERS)
    categories = []
    for code, name in legend.classes.items():
        mask = codes == code
        if mask.any():
            vegetated = code in legend.vegetation
            colour = next(greens if vegetated else others, "#000000")
            categories.append((name + "*" * vegetated, colour, mask))
    return categories


def _agreement_categories(
    green: BoolArray, vegetated: BoolArray, valid: BoolArray
) -> list[Category]:
    """Pixels (y, x) that are vegetation by NDVI, by the map, by both or by neither."""
    sets = (green & vegetated, green & ~vegetated, ~green & vegetated, ~green & ~vegetated)
    return [
        (name, colour, valid & mask)
        for (name, colour), mask in zip(AGREEMENT.items(), sets, strict=True)
    ]


def _draw_jaccard(axis: Axes, agreement: dict[str, Any]) -> None:
    """Jaccard index of every image over the threshold, with 95 % bars at the one that is used."""
    for k, (name, row) in enumerate(agreement["images"].items()):
        thresholds = [float(t) for t in row["curve"]]
        values = np.array(list(row["curve"].values()), float)  # None becomes NaN
        axis.plot(thresholds, values, ".-", color=COLOURS[name], label=TITLES[name], lw=1.3)
        if None not in row["interval"]:
            place = agreement["threshold"] + 0.012 * (k - 1.5)  # so that bars do not overlap
            axis.plot([place, place], row["interval"], color=COLOURS[name], lw=2.5, alpha=0.6)
    share = agreement["vegetated"]
    axis.axhline(share, color="black", ls=":", lw=1)
    axis.annotate("all called vegetation", (0.1, share - 0.01), fontsize=8, va="top")
    axis.set(xlabel="NDVI threshold", ylabel="Jaccard index", ylim=(0, 1.02))
    axis.set_title("vegetation of the map found by NDVI")
    finish_plot(axis)


def class_figure(spectra: dict[str, dict[str, Spectrum]]) -> Figure:
    """Mean spectra of every class, of `class_spectra`, with one standard deviation."""
    columns = min(len(spectra), 3)
    rows = -(-len(spectra) // columns)
    figure = Figure(figsize=(4.8 * columns, 3.4 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, squeeze=False)
    for axis in axes.ravel()[len(spectra) :]:
        axis.set_axis_off()
    for axis, (name, images) in zip(axes.ravel(), spectra.items(), strict=False):
        _draw_class(axis, images)
        axis.set_title(name)
    for axis in axes[:, 0]:
        axis.set_ylabel("reflectance")
    for axis in axes[-1]:
        axis.set_xlabel("wavelength, nm")
    return figure


def _draw_class(axis: Axes, images: dict[str, Spectrum]) -> None:
    for key, style in (("guide", "s--"), ("coarse", "o-"), ("fused", ".-")):
        if key not in images:
            continue
        s = images[key]
        for edge in (s.mean - s.std, s.mean + s.std):
            axis.plot(s.wavelength_nm, edge, ":", color=COLOURS[key], lw=1)
        (line,) = axis.plot(s.wavelength_nm, s.mean, style, color=COLOURS[key], markersize=4)
        line.set_label(TITLES[key])
    axis.set_ylim(0, None)
    axis.tick_params(labelbottom=True)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8)


def _draw_categories(axis: Axes, categories: list[Category], field: FieldMap, title: str) -> None:
    """Draw masks (y, x) in one colour each, with a legend below."""
    names, colours, masks = zip(*categories, strict=True)
    image = np.full(masks[0].shape, np.nan)
    for k, mask in enumerate(masks):
        image[mask] = k
    colourmap = ListedColormap(colours)
    show_image(axis, image, field, title, cmap=colourmap, vmin=-0.5, vmax=len(masks) - 0.5)
    patches = [Patch(color=c, label=n) for c, n in zip(colours, names, strict=True)]
    legend = axis.legend(handles=patches, loc="upper center", ncols=3, frameon=False, fontsize=8)
    legend.set_bbox_to_anchor((0.5, -0.14), axis.transAxes)  # below the x axis
