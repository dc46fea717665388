"""The demo: the production job on a simulated archive behind a real STAC server.

Its product is scored against the known truth.
"""

import json
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table

from satfuse.catalog.fields import catalogs_dir, load_field
from satfuse.geometry.grids import lonlat_bbox
from satfuse.memory import PeakMemory
from satfuse.pipeline import Job, JobResult, run
from satfuse.terminal import progress_bar

if TYPE_CHECKING:
    from satfuse.arrays import FloatArray
    from satfuse.simulate.archive import Archive, ArchiveRecipe

console = Console(highlight=False)
TRAIN = {
    "model": "spectral",
    "epochs": 16,
    # batches of the per-pixel network are too small to share between two threads
    "threads": 1,
    "tensorboard": False,
    "batches": {"coverage": 4},
}
SCORED_PX = 900  # edge of the central window that is scored against the truth

Scores = dict[str, dict[str, float]]  # row name -> {"sam_deg", "rmse", ...}


def _run(job: Job) -> JobResult:
    """Run the job in this process, with a progress bar."""
    with progress_bar("fusing") as bar:
        return run(job, progress=lambda share: bar(share, 1, "tiles"))


def run_demo(out: Path, *, job: Callable[[Job], JobResult] = _run) -> Scores:
    """Make the archive, serve it, run the job, score the product, print the table.

    Parameters
    ----------
    out : folder for everything; run again, finished parts are kept.
    job : function that runs the job: the plain chain, or a flow around it.

    Returns
    -------
    Scores against the truth: row name -> {"sam_deg", "rmse", ...}.
    """
    from satfuse.simulate.archive import ArchiveRecipe, make_archive
    from satfuse.simulate.archive.server import serve

    out = Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with _Watch() as watch:
        watch.stage("simulate an archive in the official formats")
        recipe = ArchiveRecipe()
        archive = make_archive(out / "archive", recipe, progress=watch.product)
        with serve(archive.root) as url:
            watch.stage(f"search, pair, train, fuse, publish, validate (STAC server at {url})")
            result = job(job_for(out, url, recipe))
        watch.stage("compare with the truth")
        scores = compare(result, archive.truth)
    _report(_Demo(out, recipe, archive, result, scores, watch.memory.gib))
    return scores


def job_for(out: Path, url: str, recipe: "ArchiveRecipe") -> Job:
    """The demo's job on an archive in `out` that is served at `url`."""
    catalog = out / "local.toml"
    write_catalog(catalog, url, out / "archive")
    return Job(
        field=recipe.field,
        start=str(recipe.day),
        end=str(recipe.cloudy_day),
        catalog=str(catalog),
        store=str(out / "store"),
        work=str(out / "work"),
        train_on=str(catalog),
        train_start="2024-01-01",
        train_end="2024-12-31",
        train=TRAIN,
    )


def write_catalog(path: Path, url: str, root: Path) -> None:
    """Write the catalogue file of a local STAC server: `local.toml` with its url and root."""
    text = (catalogs_dir() / "local.toml").read_text()
    for key, value in (("url", url), ("root", root)):
        text = re.sub(rf'(?m)^{key} = ".*"$', f'{key} = "{value}"', text)
    path.write_text(text)


def compare(result: JobResult, truth: Path) -> Scores:
    """Score product and other methods against the truth, in the middle of the field.

    The others are the network that was trained, the same network without training, the scene
    regression and bicubic interpolation.

    Returns
    -------
    Row name -> scores of `satfuse.validate.checks.scores` over all 21 bands; of the product also
    those of `satfuse.validate.uncertainty.coverage`.
    """
    from satfuse.fuse_arrays import fuse
    from satfuse.infer.reopen import open_run
    from satfuse.validate.checks import scores
    from satfuse.validate.uncertainty import coverage

    fused, scene = open_run(result.products[0])
    ratio = scene.sizes["y"] // scene.sizes["y_coarse"]
    window, coarse_window = _window(scene, ratio)
    target = xr.open_zarr(truth, consolidated=False)["reflectance"].isel(window).values
    product = fused["reflectance"].isel(window).squeeze("time").values
    sigma = fused["uncertainty"].isel(window).squeeze("time").values
    valid = np.isfinite(product).all(0)

    def score(image: "FloatArray") -> dict[str, float]:
        return scores(image, target, ratio, valid)

    covered = coverage(product - target, sigma)
    guide, coarse = _inputs(scene, fused.spatial_ref.attrs["crs_wkt"], window, coarse_window)
    methods = _other_methods(result, tuple(coarse.band.values), ratio)
    return {f"product ({result.model})": covered | score(product)} | {
        name: score(fuse(guide, coarse, model=model)["reflectance"].values)
        for name, model in methods.items()
    }


_Window = dict[str, slice]


def _inputs(
    scene: xr.Dataset, crs: str, window: _Window, coarse_window: _Window
) -> tuple[xr.DataArray, xr.DataArray]:
    """Guide and coarse image of the scored window, as `satfuse.fuse` takes them."""
    guide = scene["guide"].where(scene["guide_valid"]).isel(window).rename(guide_band="band")
    coarse = scene["coarse"].isel(coarse_window)
    coarse = coarse.rename(coarse_band="band", y_coarse="y", x_coarse="x")
    attrs = {"crs": crs, "shift_m": scene.attrs["shift_m"]}
    return guide.compute().assign_attrs(attrs), coarse.assign_attrs(attrs)


def _other_methods(result: JobResult, coarse_bands: tuple[str, ...], ratio: int) -> dict[str, Any]:
    """Row name -> model of the methods that the product is compared with."""
    import torch

    from satfuse import models
    from satfuse.checkpoint import read_card

    assert result.checkpoint is not None  # the demo's job trains
    card = read_card(result.checkpoint)
    torch.manual_seed(0)
    untrained = models.create(
        card.model,
        guide_bands=card.guide_bands,
        coarse_bands=card.coarse_bands,
        ratio=ratio,
        **card.options,
    )
    return {
        "regression": "regression",
        f"trained network ({card.model})": result.checkpoint,
        "untrained network": models.complete(untrained, coarse_bands, ratio),
        "bicubic S3": "bicubic",
    }


def _window(scene: xr.Dataset, ratio: int) -> tuple[_Window, _Window]:
    """Central window, on whole coarse pixels, and the same on the coarse grid."""
    fine: _Window = {}
    coarse: _Window = {}
    for axis in ("y", "x"):
        total = scene.sizes[f"{axis}_coarse"]
        count = min(SCORED_PX // ratio, total)
        start = (total - count) // 2
        coarse[f"{axis}_coarse"] = slice(start, start + count)
        fine[axis] = slice(start * ratio, (start + count) * ratio)
    return fine, coarse


@dataclass(frozen=True)
class _Demo:
    """All that the final tables show."""

    out: Path
    recipe: "ArchiveRecipe"
    archive: "Archive"
    result: JobResult
    scores: Scores
    peak_gib: float


def _report(demo: _Demo) -> None:
    """Print both tables, and the line that opens the product."""
    console.print(_facts_table(demo))
    console.print(_scores_table(demo.scores))
    console.print("Open it:", style="bold")
    west, south, east, north = lonlat_bbox(load_field(demo.recipe.field).geobox)
    box = ", ".join(f"{v:.3f}" for v in (west + 0.01, south + 0.01, east - 0.01, north - 0.01))
    line = f'  satfuse.open_fused(({box}), "{demo.recipe.day}", store="{demo.out / "store"}")'
    console.print(line, soft_wrap=True, markup=False)  # on one line, to be copied


def _facts_table(demo: _Demo) -> Table:
    """What was simulated and what the job made of it."""
    table = Table("what", title="The demo in one table")
    table.add_column("found, made, measured", overflow="fold")
    for name, fact in {**_pair_facts(demo), **_product_facts(demo)}.items():
        table.add_row(name, fact)
    return table


def _pair_facts(demo: _Demo) -> dict[str, str]:
    """Facts of the archive and of the pair that was found in it."""
    from satfuse.pairing import read_pairs

    pair = read_pairs(demo.result.pairs)[0]
    simulated_gap_s = demo.recipe.gap_s
    return {
        "archive": ", ".join(f"{len(items)} {s}" for s, items in demo.archive.items.items()),
        "pair": f"{pair.guide_platform} and {pair.coarse_platform}, "
        f"{pair.guide_time:%Y-%m-%d %H:%M:%S} UTC",
        "gap at the field": f"{pair.gap_s:+.1f} s ({pair.gap_clock}); "
        f"simulated: {simulated_gap_s:+.1f} s",
        "gap by item times": f"{pair.item_gap_s:+.0f} s ({pair.item_gap_clock})",
        "cloud S2, S3": f"{pair.guide_cloud:.1%}, {pair.coarse_cloud:.1%}",
    }


def _product_facts(demo: _Demo) -> dict[str, str]:
    """Facts of the product and of the run."""
    item = demo.result.products[0]
    report = demo.result.reports[0]
    dx, dy = json.loads(Path(item).read_text())["properties"]["satfuse:shift_m"]
    size = sum(f.stat().st_size for f in (demo.out / "store").rglob("*") if f.is_file())
    text = "{within_1:.0%} of errors within one sigma, {within_2:.0%} within two"
    return {
        "shift": f"({dx:+.0f}, {dy:+.0f}) m found; simulated: {demo.recipe.shift_m} m",
        "product": f"{item}\n{size / 2**20:.0f} MiB, 21 bands at 10 m",
        "uncertainty": text.format(**next(iter(demo.scores.values()))),
        "quicklook": f"{report}/quicklook.png",
        "report": f"{report}/index.html",
        "peak memory": f"{demo.peak_gib:.2f} GiB over all processes",
    }


def _scores_table(scores: Scores) -> Table:
    title = "Against the truth at 10 m, which no method has seen"
    table = Table("method", "SAM (deg)", "RMSE", "PSNR (dB)", title=title)
    for name, row in scores.items():
        table.add_row(name, f"{row['sam_deg']:.2f}", f"{row['rmse']:.4f}", f"{row['psnr_db']:.1f}")
    return table


class _Watch:
    """Prints the steps with the time since the start, and samples the memory of all processes."""

    def __enter__(self) -> "_Watch":
        self.start = time.monotonic()
        self.memory = PeakMemory()
        self.memory.__enter__()
        self._handler = _ConsoleHandler(self)
        logger = logging.getLogger("satfuse")
        logger.addHandler(self._handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False  # printed here, once
        import distributed  # noqa: F401  sets its own level when imported

        logging.getLogger("distributed").setLevel(logging.WARNING)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.memory.__exit__(kind, error, traceback)
        logging.getLogger("satfuse").removeHandler(self._handler)
        logging.getLogger("satfuse").propagate = True

    def stage(self, title: str) -> None:
        """Print a heading."""
        console.rule(f"{self.clock()} {title}", align="left")

    def product(self, done: int, total: int, name: str) -> None:
        """Print the progress of the archive."""
        console.print(f"{self.clock()} {done}/{total} {name}")

    def clock(self) -> str:
        """Seconds since the start."""
        return f"[{time.monotonic() - self.start:6.1f} s]"


class _ConsoleHandler(logging.Handler):
    """Prints log lines of satfuse in the demo's style."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__(logging.INFO)
        self.watch = watch

    def emit(self, record: logging.LogRecord) -> None:
        line = f"{self.watch.clock()} {record.getMessage()}"
        console.print(line, style="dim", soft_wrap=True, markup=False)
