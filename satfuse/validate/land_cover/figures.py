"""Figures that set a product beside a land-cover map."""

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from satfuse.validate.land_cover.classes import LandCover
from satfuse.validate.look import COLOURS, TITLES, Look, show
from satfuse.validate.spectra import Spectrum

GREENS = ("#b8e186", "#1b7837", "#7fbc41", "#4d9221", "#a6dba0", "#276419", "#d9f0a3", "#5aae61")
OTHERS = ("#d6604d", "#969696", "#dfc27d", "#4393c3", "#762a83", "#01665e", "#fee090", "#35978f")
AGREEMENT = {"both": "#1a9850", "NDVI only": "#fdae61", "map only": "#7b3294", "neither": "#e6e6e6"}


def vegetation_figure(
    ndvi: np.ndarray, agreement: dict, land_cover: LandCover, look: Look
) -> Figure:
    """The map, where NDVI of the product agrees with its vegetation, and the Jaccard index over the threshold."""
    figure = Figure(figsize=(15, 5.6), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    sampled = land_cover.codes[np.ix_(look.rows, look.columns)]
    present = [code for code in land_cover.legend.classes if (sampled == code).any()]
    greens, others = iter(GREENS), iter(OTHERS)
    palette = [
        next(greens if code in land_cover.legend.vegetation else others, "#000000")
        for code in present
    ]
    names = [
        land_cover.legend.classes[c] + ("*" if c in land_cover.legend.vegetation else "")
        for c in present
    ]
    _categories(
        axes[0],
        [sampled == code for code in present],
        palette,
        names,
        look,
        "land-cover map (* vegetation)",
    )
    green, wanted = ndvi > agreement["threshold"], np.isin(sampled, land_cover.legend.vegetation)
    known = (sampled > 0) & np.isfinite(look.fused).all(0) & np.isfinite(look.guide).all(0)
    masks = [
        known & m for m in (green & wanted, green & ~wanted, ~green & wanted, ~green & ~wanted)
    ]
    title = f"fused NDVI > {agreement['threshold']} against the map"
    _categories(axes[1], masks, list(AGREEMENT.values()), list(AGREEMENT), look, title)
    axes[0].set_ylabel(f"northing, km ({look.crs})")
    for k, (name, row) in enumerate(agreement["images"].items()):
        thresholds = [float(t) for t in row["curve"]]
        values = [np.nan if v is None else v for v in row["curve"].values()]
        axes[2].plot(thresholds, values, ".-", color=COLOURS[name], label=TITLES[name], lw=1.3)
        if None not in row["interval"]:
            low, high = row["interval"]
            place = agreement["threshold"] + 0.012 * (k - 1.5)  # beside each other
            axes[2].plot([place, place], [low, high], color=COLOURS[name], lw=2.5, alpha=0.6)
    axes[2].axhline(agreement["vegetated"], color="black", ls=":", lw=1)
    axes[2].annotate(
        "all called vegetation", (0.1, agreement["vegetated"] - 0.01), fontsize=8, va="top"
    )
    axes[2].set(
        xlabel="NDVI threshold",
        ylabel="Jaccard index",
        ylim=(0, 1.02),
        title="vegetation of the map found by NDVI",
    )
    axes[2].grid(alpha=0.3)
    axes[2].legend(frameon=False)
    return figure


def class_figure(spectra: dict[str, dict[str, Spectrum]]) -> Figure:
    """Mean spectra of every class with one standard deviation."""
    columns = min(len(spectra), 3)
    rows = -(-len(spectra) // columns)
    figure = Figure(figsize=(4.8 * columns, 3.4 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, squeeze=False)
    for axis in axes.ravel()[len(spectra) :]:
        axis.set_axis_off()
    for axis, (name, images) in zip(axes.ravel(), spectra.items(), strict=False):
        for key, style in (("guide", "s--"), ("coarse", "o-"), ("fused", ".-")):
            if key in images:
                s = images[key]
                for edge in (s.mean - s.std, s.mean + s.std):
                    axis.plot(s.wavelength_nm, edge, ":", color=COLOURS[key], lw=1)
                axis.plot(
                    s.wavelength_nm,
                    s.mean,
                    style,
                    color=COLOURS[key],
                    label=TITLES[key],
                    markersize=4,
                )
        axis.set(title=name, ylim=(0, None))
        axis.tick_params(labelbottom=True)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    for axis in axes[:, 0]:
        axis.set_ylabel("reflectance")
    for axis in axes[-1]:
        axis.set_xlabel("wavelength, nm")
    return figure


def _categories(axis, masks, colours, names, look, title):
    """Masks (y, x) in one colour each, with a legend below."""
    image = np.full(masks[0].shape, np.nan)
    for k, mask in enumerate(masks):
        image[mask] = k
    show(axis, image, look, title, cmap=ListedColormap(colours), vmin=-0.5, vmax=len(masks) - 0.5)
    patches = [Patch(color=c, label=n) for c, n in zip(colours, names, strict=True)]
    axis.legend(
        handles=patches,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.14),
        ncols=3,
        frameon=False,
        fontsize=8,
    )
