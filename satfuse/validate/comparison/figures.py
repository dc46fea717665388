"""Figures of the report on several products, which go by letters."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from satfuse.arrays import FloatArray
from satfuse.validate.checks import SHARPNESS_PAIR
from satfuse.validate.comparison.difference import LIMIT, Difference
from satfuse.validate.drawing import (
    COLOURS,
    RGB_NM,
    TITLES,
    FieldMap,
    finish_plot,
    nearest_bands,
    show_image,
    stretch,
    to_rgb,
)
from satfuse.validate.figures import Curve, fourier, with_deviation
from satfuse.validate.spectra import Spectrum

# of the products, in order
PALETTE = ("#b2182b", "#762a83", "#1b7837", "#01665e", "#8c510a", "#c51b7d")
BAND, GUIDE_BAND = SHARPNESS_PAIR  # 665 nm

Panel = tuple[str, FieldMap, FloatArray]  # title, the field, composite (3, y, x)


def colour(letter: str) -> str:
    """Colour of a product."""
    return PALETTE[ord(letter) - ord("A")]


def gallery(fields: dict[str, FieldMap]) -> Figure:
    """True colour of the guide, the coarse input and every product under one stretch."""
    panels = _panels(fields)
    low, high = stretch(*(composite for _, _, composite in panels))  # the guide's, if it has any
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    first = fields["A"]
    figure = Figure(figsize=first.figure_size(columns, rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axis in axes.ravel()[len(panels) :]:
        axis.set_axis_off()
    for axis, (title, field, composite) in zip(axes.ravel(), panels, strict=False):
        show_image(axis, to_rgb(composite, low, high), field, title)
    for axis in axes[:, 0]:
        axis.set_ylabel(first.northing_label)
    return figure


def _panels(fields: dict[str, FieldMap]) -> list[Panel]:
    first = fields["A"]
    guide = first.guide[nearest_bands(first.guide_bands, RGB_NM)]
    coarse = first.coarse[nearest_bands(first.bands, RGB_NM)]
    panels = [
        (f"{TITLES['guide']}, {first.pixel_m:g} m", first, guide),
        (f"{TITLES['coarse']}, {first.pixel_m * first.ratio:g} m", first, coarse),
    ]
    for letter, field in fields.items():
        fused = field.fused[nearest_bands(field.bands, RGB_NM)]
        panels.append((f"{letter}: fused, {field.pixel_m:g} m", field, fused))
    return panels


def spectra(mean: dict[str, dict[str, Spectrum]]) -> Figure:
    """Mean spectra of both inputs and of every product, and the products' difference from S3.

    Parameters
    ----------
    mean : letter -> spectra of `satfuse.validate.spectra.mean_spectra`.
    """
    figure = Figure(figsize=(14, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for key, style in (("guide", "s--"), ("coarse", "o-")):
        with_deviation(left, mean["A"][key], style, COLOURS[key], TITLES[key])
    for letter, images in mean.items():
        fused = images["fused"]
        with_deviation(left, fused, ".-", colour(letter), letter)
        mean_bias = fused.mean - images["coarse"].mean
        # a product that is sharper than S3 varies more: its deviation is expected to be larger
        std_bias = fused.std - images["coarse"].std
        for values, style, name in ((mean_bias, ".-", "mean"), (std_bias, ".:", "deviation")):
            (line,) = right.plot(fused.wavelength_nm, values, style, color=colour(letter))
            line.set_label(f"{letter}, {name}")
    right.axhline(0, color=COLOURS["coarse"], lw=1)
    left.set(ylabel="reflectance", title="mean spectra, dotted: one standard deviation")
    right.set(ylabel="reflectance", title="minus Sentinel-3")
    for axis in (left, right):
        axis.set_xlabel("wavelength, nm")
    finish_plot(left, right)
    return figure


def differences(
    deviation: Difference, regions: Sequence[Mapping[str, Any]], field: FieldMap, letters: str
) -> Figure:
    """Where two products differ, and where the inputs do not support each of them."""
    figure = Figure(figsize=field.figure_size(3), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    a, b = tuple(letters)
    for axis, image, title in (
        (axes[0], deviation.between, f"{b} against {a}"),
        (axes[1], deviation.first, f"{a}: not supported"),
        (axes[2], deviation.other, f"{b}: not supported"),
    ):
        drawn = show_image(axis, image, field, title, cmap="inferno", vmin=0, vmax=2 * LIMIT)
    _number_regions(axes[0], regions)
    axes[0].set_ylabel(field.northing_label)
    unit = f"deviation in scene residuals, limit {LIMIT:g}"
    figure.colorbar(drawn, ax=axes, shrink=0.85, label=unit, extend="max")
    return figure


def _number_regions(axis: Axes, regions: Sequence[Mapping[str, Any]]) -> None:
    """Number regions in the order of the table, each next to its centroid."""
    for number, region in enumerate(regions, 1):
        axis.annotate(
            str(number),
            (region["easting_km"], region["northing_km"]),
            xytext=(11, 11),
            textcoords="offset points",
            fontsize=8,
            ha="center",
            va="center",
            bbox={"boxstyle": "circle,pad=0.15", "fc": "white", "ec": "black", "lw": 0.6},
            arrowprops={"arrowstyle": "-", "color": "white", "lw": 0.8},
        )


def power(bands: dict[str, FloatArray], ratio: int, letters: str) -> Figure:
    """Fourier spectra of the guide and of two products on one grid."""
    products = [(f"{letter} {BAND}", colour(letter), bands[letter]) for letter in letters]
    return fourier([_guide_curve(bands), *products], ratio)


def size_power(bands: dict[str, FloatArray], ratio: int, titles: dict[str, str]) -> Figure:
    """Fourier spectra on the larger pixels: the guide, the product made there, the averaged one."""
    large = titles["large"]
    small = titles["small"]
    products = [
        (f"{large}, {BAND}", colour(large[0]), bands["large"]),
        (f"{small} averaged, {BAND}", colour(small[0]), bands["averaged"]),
    ]
    return fourier([_guide_curve(bands), *products], ratio)


def _guide_curve(bands: dict[str, FloatArray]) -> Curve:
    return f"{TITLES['guide']} {GUIDE_BAND}", COLOURS["guide"], bands["guide"]


def sizes(mean: dict[str, Spectrum], scores: dict[str, Any], titles: dict[str, str]) -> Figure:
    """Mean spectra of one field at two pixel sizes, and their difference per band.

    Parameters
    ----------
    mean : "large" and "small" -> spectrum, of `size_spectra`.
    scores : of `size_scores`.
    titles : "large" and "small" -> letter and pixel size of the product.
    """
    figure = Figure(figsize=(14, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for key, style in (("large", "o-"), ("small", ".-")):
        with_deviation(left, mean[key], style, colour(titles[key][0]), titles[key])
    _draw_size_errors(right, scores)
    left.set(xlabel="wavelength, nm", ylabel="reflectance")
    left.set_title("mean spectra, dotted: one standard deviation")
    right.set(ylabel="reflectance", title=f"{titles['small']} averaged, minus {titles['large']}")
    finish_plot(left, right)
    return figure


def _draw_size_errors(axis: Axes, scores: dict[str, Any]) -> None:
    """RMSE and bias per band, with the RMSE of the guides as reference."""
    bands = scores["bands"]
    place = np.arange(len(bands))
    rmse = [row["rmse"] for row in bands.values()]
    bias = [row["bias"] for row in bands.values()]
    axis.bar(place, rmse, 0.7, color="#8c8c8c", label="RMSE")
    axis.plot(place, bias, "o", color="black", markersize=4, label="bias")
    axis.axhline(scores["guide_rmse"], color=COLOURS["guide"], ls=":", label="RMSE of the guides")
    axis.axhline(0, color="black", lw=0.6)
    axis.set_xticks(place, list(bands), rotation=60)
