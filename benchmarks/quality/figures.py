"""The figures of docs/quality.md: angles by protocol, an example, calibrated uncertainty."""

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import halfnorm

from benchmarks.document import DOCS
from benchmarks.quality.matrix import Results, Rows
from benchmarks.quality.methods import BAYESIAN, METHODS, Budget, run, weights_of
from benchmarks.quality.scenes import POTSDAM, PROTOCOLS, Case, Scene, make_scene
from benchmarks.quality.scores import LEVELS
from benchmarks.quality.tables import SAM, mean_spread, shared, where
from satfuse.arrays import FloatArray
from satfuse.errors import SatfuseError
from satfuse.simulate.scenes.factory import BIOME_NAMES

log = logging.getLogger(__name__)

EXAMPLE = Case(place="city", ratio=10, protocol="realistic", seed=0)
EXAMPLE_METHODS = (
    "bicubic",
    "regression",
    "atprk",
    "cnmf",
    "library_regression",
    "fusformer",
    BAYESIAN,
)
EXAMPLE_PART = slice(60, 180)  # of rows and columns, fine pixels
COLOURS = ("Oa17", "Oa08", "Oa06")  # 865, 665, 560 nm
LARGEST_ERROR = 0.05  # reflectance, end of the colour scale
SPACING = 0.05  # between the methods of a protocol, in protocols


def write(results: Results, work: Path, budget: Budget) -> None:
    """Draw all figures that the results allow, as PNG into docs/img.

    The example fuses its scene with the weights in `work`.
    """
    figures = {
        "quality-protocols.png": by_protocol(results["rows"]),
        "quality-example.png": example(work, budget),
        "quality-uncertainty.png": calibration(results["rows"]),
    }
    for name, figure in figures.items():
        if figure is None:
            log.warning("%s: nothing to draw", name)
            continue
        figure.savefig(drawing := io.BytesIO(), dpi=80)
        # 128 colours make the files in the repository small
        Image.open(drawing).convert("RGB").quantize(128).save(DOCS / "img" / name, optimize=True)


def by_protocol(rows: Rows) -> Figure | None:
    """SAM over land of every method under every protocol: Potsdam on the left, biomes right."""
    rows = where(rows, withheld=False)
    if not rows:
        return None
    groups = {"Potsdam": where(rows, place=POTSDAM), "six biomes": where(rows, place=BIOME_NAMES)}
    figure = Figure(figsize=(13, 5), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (title, part) in zip(axes, groups.items(), strict=True):
        _draw_protocols(axis, part)
        axis.set_title(title)
    axes[0].set_ylabel("SAM over land, degrees")
    _legend(figure)
    return figure


def _draw_protocols(axis: Axes, rows: Rows) -> None:
    """Points with spreads by protocol, the methods side by side."""
    columns = {name: shared(where(rows, protocol=name)) for name in PROTOCOLS}
    columns = {name: column for name, column in columns.items() if column}
    for number, method in enumerate(METHODS):
        cells = [mean_spread(where(column, method=method), SAM) for column in columns.values()]
        if not any(np.isfinite(mean) for mean, _ in cells):
            continue
        position = np.arange(len(cells)) + (number - len(METHODS) / 2) * SPACING
        means, spreads = np.array(cells).T
        style = _marker(number, method)
        axis.errorbar(position, means, np.nan_to_num(spreads), ls="", label=method, **style)
    axis.set_yscale("log")
    axis.set_xticks(range(len(columns)), list(columns), rotation=35, ha="right")
    axis.grid(axis="y", which="both", alpha=0.3)


def _marker(number: int, method: str) -> dict[str, Any]:
    """Colour and shape of a method: a black star for the Bayesian model."""
    if method == BAYESIAN:
        return {"color": "k", "marker": "*", "ms": 11}
    # colours repeat after ten methods, with another shape
    shape = "os^v"[number // 10 + 2 * (number % 2)]
    return {"color": f"C{number % 10}", "ms": 5, "marker": shape}


def example(work: Path, budget: Budget) -> Figure:
    """One scene: the inputs, the truth, the fused images, and the rms of each pixel's error."""
    scene = make_scene(EXAMPLE)
    images = _fuse_example(scene, work, budget)
    colours = [scene.bands.index(band) for band in COLOURS]
    low, high = np.percentile(scene.target[colours], [1, 99], axis=(1, 2))[..., None, None]
    coarse = scene.coarse.values.repeat(EXAMPLE.ratio, 1).repeat(EXAMPLE.ratio, 2)

    def draw(axis: Axes, image: FloatArray, title: str) -> None:
        part = image[colours, EXAMPLE_PART, EXAMPLE_PART]
        stretched = np.clip((part - low) / (high - low), 0, 1)
        axis.imshow(np.moveaxis(stretched, 0, -1), interpolation="nearest")
        axis.set_title(title, fontsize=9)

    figure = Figure(figsize=(2.3 * (len(images) + 1), 4.9), layout="constrained")
    axes = figure.subplots(2, len(images) + 1)
    draw(axes[0, 0], scene.target, "truth: " + ", ".join(COLOURS))
    draw(axes[1, 0], coarse, "S3")
    for (top, bottom), (name, image) in zip(axes[:, 1:].T, images.items(), strict=True):
        draw(top, image, name)
        scale = _draw_error(bottom, image - scene.target)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.colorbar(scale, ax=axes[1], shrink=0.8, label="reflectance")
    return figure


def _fuse_example(scene: Scene, work: Path, budget: Budget) -> dict[str, FloatArray]:
    """The fused image of each method that is trained and does not refuse the scene."""
    images = {}
    for name in EXAMPLE_METHODS:
        folder = weights_of(name, scene.bands, work, budget)
        if folder is not None and not folder.is_dir():
            continue
        try:
            images[name] = run(name, scene, work, budget).image
        except SatfuseError as error:
            log.warning("%s is not in the example: %s", name, error)
    return images


def _draw_error(axis: Axes, error: FloatArray) -> Any:
    """Map of the error's rms over the bands."""
    rms = np.sqrt((error**2).mean(0))[EXAMPLE_PART, EXAMPLE_PART]
    axis.set_title(f"rms error {np.sqrt((rms**2).mean()):.4f}", fontsize=9)
    return axis.imshow(rms, vmin=0, vmax=LARGEST_ERROR, cmap="magma", interpolation="nearest")


def calibration(rows: Rows) -> Figure | None:
    """Quantiles of |error| / sigma against those of a normal distribution, by place."""
    rows = [row for row in where(rows, withheld=False) if "coverage" in row.get("scores", {})]
    if not rows:
        return None
    protocols = ("clean", "realistic")
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes: Sequence[Axes] = figure.subplots(1, 2, sharey=True)
    for axis, protocol in zip(axes, protocols, strict=True):
        axis.plot([0, 3], [0, 3], color="0.7", lw=1)
        for place in (POTSDAM, *BIOME_NAMES):
            part = where(rows, place=place, protocol=protocol)
            curves = [row["scores"]["coverage"]["quantiles"] for row in part]
            if curves:
                axis.plot(halfnorm.ppf(LEVELS), np.mean(curves, axis=0), marker=".", label=place)
        axis.set(title=protocol, xlabel="quantile of |error| / sigma, normal")
        axis.set(xlim=(0, 2.1), ylim=(0, 4))
    axes[0].set_ylabel("measured")
    _legend(figure)
    return figure


def _legend(figure: Figure) -> None:
    """The legend of the last axes, to the right of all."""
    handles = figure.axes[-1].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right upper", frameon=False)
