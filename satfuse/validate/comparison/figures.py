"""Figures of the report on several products, which go by letters."""

import numpy as np
from matplotlib.figure import Figure

from satfuse.validate.comparison.difference import LIMIT, Difference
from satfuse.validate.figures import fourier, with_deviation
from satfuse.validate.look import (
    COLOURS,
    RGB_NM,
    TITLES,
    Look,
    nearest_bands,
    show,
    stretch,
    to_rgb,
)
from satfuse.validate.spectra import Spectrum

PALETTE = (
    "#b2182b",
    "#762a83",
    "#1b7837",
    "#01665e",
    "#8c510a",
    "#c51b7d",
)  # of the products, in order


def colour(letter: str) -> str:
    """Colour of a product."""
    return PALETTE[ord(letter) - ord("A")]


def gallery(looks: dict[str, Look]) -> Figure:
    """True colour of the guide, the coarse input and every product under one stretch."""
    first = looks["A"]
    panels = [
        (
            f"{TITLES['guide']}, {first.pixel_m:g} m",
            first,
            first.guide[nearest_bands(first.guide_bands, RGB_NM)],
        )
    ]
    coarse = first.coarse[nearest_bands(first.bands, RGB_NM)]
    panels.append((f"{TITLES['coarse']}, {first.pixel_m * first.ratio:g} m", first, coarse))
    panels += [
        (
            f"{letter}: fused, {look.pixel_m:g} m",
            look,
            look.fused[nearest_bands(look.bands, RGB_NM)],
        )
        for letter, look in looks.items()
    ]
    low, high = stretch(*(composite for _, _, composite in panels))
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=first.panels(columns, rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axis in axes.ravel()[len(panels) :]:
        axis.set_axis_off()
    for axis, (title, look, composite) in zip(axes.ravel(), panels, strict=False):
        show(axis, to_rgb(composite, low, high), look, title)
    for axis in axes[:, 0]:
        axis.set_ylabel(f"northing, km ({first.crs})")
    return figure


def spectra(mean: dict[str, dict[str, Spectrum]]) -> Figure:
    """Mean spectra of both inputs and of every product, and how far the products' mean and deviation lie from S3's."""
    figure = Figure(figsize=(14, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    inputs = mean["A"]
    for key, style in (("guide", "s--"), ("coarse", "o-")):
        with_deviation(left, inputs[key], style, COLOURS[key], TITLES[key])
    for letter, images in mean.items():
        s, coarse = images["fused"], images["coarse"]
        with_deviation(left, s, ".-", colour(letter), letter)
        right.plot(
            s.wavelength_nm,
            s.mean - coarse.mean,
            ".-",
            color=colour(letter),
            label=f"{letter}, mean",
        )
        right.plot(
            s.wavelength_nm,
            s.std - coarse.std,
            ".:",
            color=colour(letter),
            label=f"{letter}, deviation",
        )
    right.axhline(0, color=COLOURS["coarse"], lw=1)
    left.set(ylabel="reflectance", title="mean spectra, dotted: one standard deviation")
    right.set(ylabel="reflectance", title="minus Sentinel-3")
    for axis in (left, right):
        axis.set_xlabel("wavelength, nm")
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    return figure


def differences(found: Difference, regions: list[dict], look: Look, letters: str) -> Figure:
    """Where two products differ, and what in each the inputs do not support, in units of the scene's residual."""
    figure = Figure(figsize=look.panels(3), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    a, b = letters
    titles = {
        "between": f"{b} against {a}",
        "first": f"{a}: not supported",
        "other": f"{b}: not supported",
    }
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        mesh = show(axis, getattr(found, name), look, title, cmap="inferno", vmin=0, vmax=2 * LIMIT)
    for number, region in enumerate(regions, 1):
        place = (region["easting_km"], region["northing_km"])
        axes[0].annotate(
            str(number), place, fontsize=8, ha="center", va="center", xytext=(11, 11), textcoords="offset points",
            bbox={"boxstyle": "circle,pad=0.15", "fc": "white", "ec": "black", "lw": 0.6},
            arrowprops={"arrowstyle": "-", "color": "white", "lw": 0.8},
        )  # fmt: skip
    axes[0].set_ylabel(f"northing, km ({look.crs})")
    figure.colorbar(
        mesh,
        ax=axes,
        shrink=0.85,
        label=f"deviation in scene residuals, limit {LIMIT:g}",
        extend="max",
    )
    return figure


def power(bands: dict[str, np.ndarray], ratio: int, letters: str) -> Figure:
    """Fourier spectra of the guide and of two products on one grid."""
    curves = [(f"{TITLES['guide']} B04", COLOURS["guide"], bands["guide"])]
    curves += [(f"{letter} Oa08", colour(letter), bands[letter]) for letter in letters]
    return fourier(curves, ratio)


def size_power(bands: dict[str, np.ndarray], ratio: int, titles: dict[str, str]) -> Figure:
    """Fourier spectra on the larger pixels: the guide, the product made there, the averaged fine product."""
    curves = [(f"{TITLES['guide']} B04", COLOURS["guide"], bands["guide"])]
    for key, name in (("large", titles["large"]), ("averaged", f"{titles['small']} averaged")):
        curves.append((f"{name}, Oa08", colour(name[0]), bands[key]))
    return fourier(curves, ratio)


def sizes(mean: dict[str, Spectrum], scores: dict, titles: dict[str, str]) -> Figure:
    """Mean spectra of one field at two pixel sizes, and how far the averaged fine product lies from the other."""
    figure = Figure(figsize=(14, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for key, style in (("large", "o-"), ("small", ".-")):
        with_deviation(left, mean[key], style, colour(titles[key][0]), titles[key])
    bands = scores["bands"]
    place = np.arange(len(bands))
    right.bar(place, [row["rmse"] for row in bands.values()], 0.7, color="#8c8c8c", label="RMSE")
    right.plot(
        place,
        [row["bias"] for row in bands.values()],
        "o",
        color="black",
        markersize=4,
        label="bias",
    )
    right.axhline(scores["guide_rmse"], color=COLOURS["guide"], ls=":", label="RMSE of the guides")
    right.axhline(0, color="black", lw=0.6)
    right.set_xticks(place, list(bands), rotation=60)
    left.set(
        xlabel="wavelength, nm",
        ylabel="reflectance",
        title="mean spectra, dotted: one standard deviation",
    )
    right.set(ylabel="reflectance", title=f"{titles['small']} averaged, minus {titles['large']}")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    return figure
