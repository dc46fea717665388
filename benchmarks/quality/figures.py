"""The figures of docs/quality.md: angles by protocol, one scene with its errors, calibration of the uncertainty."""

import io
import logging
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import halfnorm

from benchmarks.document import DOCS
from benchmarks.quality.matrix import Rows
from benchmarks.quality.methods import METHODS, OURS, Budget, run, weights_of
from benchmarks.quality.scenes import POTSDAM, PROTOCOLS, Case, make_scene
from benchmarks.quality.tables import SAM, mean_spread, shared, where
from satfuse.errors import SatfuseError
from satfuse.simulate.scenes.factory import BIOME_NAMES

log = logging.getLogger(__name__)

EXAMPLE = Case(place="city", ratio=10, protocol="realistic", seed=0)
SHOWN = ("bicubic", "regression", "atprk", "cnmf", "library_regression", "fusformer", OURS)
PART = slice(60, 180)  # of rows and columns, fine pixels
WORST = 0.05  # reflectance, the end of the colours of errors
LEVELS = np.linspace(0.05, 0.95, 19)


def write(results: dict, work: Path, budget: Budget) -> None:
    """All figures that the results allow, as PNG into docs/img; the example fuses anew with the weights in `work`."""
    drawn = {
        "quality-protocols.png": by_protocol(results["rows"]),
        "quality-example.png": example(work, budget),
        "quality-uncertainty.png": calibration(results["rows"]),
    }
    for name, figure in drawn.items():
        if figure is None:
            log.warning("%s: nothing to draw", name)
            continue
        figure.savefig(drawing := io.BytesIO(), dpi=80)
        Image.open(drawing).convert("RGB").quantize(128).save(DOCS / "img" / name, optimize=True)


def by_protocol(rows: Rows) -> Figure | None:
    """SAM over land of every method under every protocol, Potsdam and biomes apart."""
    rows = where(rows, withheld=False)
    groups = {"Potsdam": where(rows, place=POTSDAM), "six biomes": where(rows, place=BIOME_NAMES)}
    if not rows:
        return None
    figure = Figure(figsize=(13, 5), layout="constrained")
    for axis, (title, part) in zip(figure.subplots(1, 2, sharey=True), groups.items(), strict=True):
        columns = {p: shared(where(part, protocol=p)) for p in PROTOCOLS}
        columns = {p: column for p, column in columns.items() if column}
        for number, method in enumerate(METHODS):
            cells = [mean_spread(where(column, method=method), SAM) for column in columns.values()]
            if not any(np.isfinite(mean) for mean, _ in cells):
                continue
            place = np.arange(len(cells)) + (number - len(METHODS) / 2) * 0.05
            ours = (
                {"color": "k", "marker": "*", "ms": 11}
                if method == OURS
                else {"color": f"C{number % 10}", "ms": 5}
            )
            marker = {"marker": "os^v"[number // 10 + 2 * (number % 2)]} if method != OURS else {}
            means, spreads = np.array(cells).T
            axis.errorbar(
                place, means, np.nan_to_num(spreads), ls="", label=method, **ours, **marker
            )
        axis.set_yscale("log")
        axis.set_xticks(range(len(columns)), columns, rotation=35, ha="right")
        axis.set_title(title)
        axis.grid(axis="y", which="both", alpha=0.3)
    figure.axes[0].set_ylabel("SAM over land, degrees")
    figure.legend(
        *figure.axes[-1].get_legend_handles_labels(), loc="outside right upper", frameon=False
    )
    return figure


def example(work: Path, budget: Budget) -> Figure | None:
    """One scene: the inputs, the truth and what methods make of them, with the rms of each pixel's error."""
    scene, images = make_scene(EXAMPLE), {}
    for name in SHOWN:
        folder = weights_of(name, scene.bands, work, budget)
        if folder is not None and not folder.is_dir():
            continue
        try:
            images[name] = run(name, scene, work, budget).image
        except SatfuseError as error:
            log.warning("%s is not in the example: %s", name, error)
    colours = [scene.bands.index(b) for b in ("Oa17", "Oa08", "Oa06")]
    low, high = np.percentile(scene.target[colours], [1, 99], axis=(1, 2))[..., None, None]
    coarse = scene.coarse.values.repeat(EXAMPLE.ratio, 1).repeat(EXAMPLE.ratio, 2)

    def rgb(image):
        return np.moveaxis(np.clip((image[colours, PART, PART] - low) / (high - low), 0, 1), 0, -1)

    figure = Figure(figsize=(2.3 * (len(images) + 1), 4.9), layout="constrained")
    axes = figure.subplots(2, len(images) + 1)
    axes[0, 0].imshow(rgb(scene.target), interpolation="nearest")
    axes[0, 0].set_title("truth: Oa17, Oa08, Oa06", fontsize=9)
    axes[1, 0].imshow(rgb(coarse), interpolation="nearest")
    axes[1, 0].set_title("S3", fontsize=9)
    for column, (name, image) in zip(axes[:, 1:].T, images.items(), strict=True):
        error = np.sqrt(((image - scene.target) ** 2).mean(0))
        column[0].imshow(rgb(image), interpolation="nearest")
        column[0].set_title(name, fontsize=9)
        shown = column[1].imshow(
            error[PART, PART], vmin=0, vmax=WORST, cmap="magma", interpolation="nearest"
        )
        column[1].set_title(f"rms error {np.sqrt((error[PART, PART] ** 2).mean()):.4f}", fontsize=9)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.colorbar(shown, ax=axes[1], shrink=0.8, label="reflectance")
    return figure


def calibration(rows: Rows) -> Figure | None:
    """Share of errors within k standard deviations against what a normal distribution has, by place."""
    rows = [row for row in where(rows, withheld=False) if "coverage" in row.get("scores", {})]
    if not rows:
        return None
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    for axis, protocol in zip(
        figure.subplots(1, 2, sharey=True), ("clean", "realistic"), strict=True
    ):
        axis.plot([0, 3], [0, 3], color="0.7", lw=1)
        for place in (POTSDAM, *BIOME_NAMES):
            curves = [
                r["scores"]["coverage"]["quantiles"]
                for r in where(rows, place=place, protocol=protocol)
            ]
            if curves:
                axis.plot(halfnorm.ppf(LEVELS), np.mean(curves, axis=0), marker=".", label=place)
        axis.set(
            title=protocol, xlabel="quantile of |error| / sigma, normal", xlim=(0, 2.1), ylim=(0, 4)
        )
    figure.axes[0].set_ylabel("measured")
    figure.legend(
        *figure.axes[-1].get_legend_handles_labels(), loc="outside right upper", frameon=False
    )
    return figure
