"""The demo: a simulated archive behind a real STAC server, the job that production runs, scored against the truth."""

import json
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table

from satfuse.catalog.fields import catalogs_dir, load_field
from satfuse.geometry.grids import lonlat_bbox
from satfuse.memory import PeakMemory
from satfuse.pipeline import Job, JobResult, run

console = Console(highlight=False)
# one thread: batches of the per-pixel network are too small to share between two
TRAIN = {
    "model": "spectral",
    "epochs": 16,
    "threads": 1,
    "tensorboard": False,
    "batches": {"coverage": 4},
}
SCORED_PX = 900  # edge of the central window that is scored against the truth


def run_demo(out: Path, *, job: Callable[[Job], JobResult] = run) -> dict:
    """Make the archive, serve it, run the job, score the product, print the table.

    Parameters
    ----------
    out : folder for everything; run again, finished parts are kept.
    job : what runs the job: the plain chain, or a flow around it.

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
    _report(out, recipe, archive, result, scores, watch)
    return scores


def job_for(out: Path, url: str, recipe) -> Job:
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
    """Write a catalogue file for a STAC server on this machine: the shipped `local.toml` with its url and root."""
    text = (catalogs_dir() / "local.toml").read_text()
    for key, value in (("url", url), ("root", root)):
        text = re.sub(rf'(?m)^{key} = ".*"$', f'{key} = "{value}"', text)
    path.write_text(text)


def compare(result: JobResult, truth: Path) -> dict:
    """Score the product, the network that was trained, both without training, and bicubic against the truth.

    All in the middle of the field.

    Returns
    -------
    Row name -> scores of `satfuse.validate.checks.scores` over all 21 bands; of the product also those of
    `satfuse.validate.uncertainty.coverage`.
    """
    import torch

    from satfuse import models
    from satfuse.checkpoint import read_card
    from satfuse.fuse_arrays import fuse
    from satfuse.infer.reopen import open_run
    from satfuse.validate.checks import scores
    from satfuse.validate.uncertainty import coverage

    fused, scene = open_run(result.products[0])
    ratio = scene.sizes["y"] // scene.sizes["y_coarse"]
    window, coarse_window = _window(scene, ratio)
    target = xr.open_zarr(truth, consolidated=False)["reflectance"].isel(window).values
    product = fused["reflectance"].isel(window).squeeze("time").values
    kept = coverage(product - target, fused["uncertainty"].isel(window).squeeze("time").values)
    guide = scene["guide"].where(scene["guide_valid"]).isel(window).rename(guide_band="band")
    coarse = (
        scene["coarse"].isel(coarse_window).rename(coarse_band="band", y_coarse="y", x_coarse="x")
    )
    crs = {"crs": fused.spatial_ref.attrs["crs_wkt"], "shift_m": scene.attrs["shift_m"]}
    inputs = guide.compute().assign_attrs(crs), coarse.assign_attrs(crs)
    card = read_card(result.checkpoint)
    torch.manual_seed(0)
    untrained = models.create(
        card.model,
        guide_bands=card.guide_bands,
        coarse_bands=card.coarse_bands,
        ratio=ratio,
        **card.options,
    )
    valid = np.isfinite(product).all(0)
    rows = {f"product ({result.model})": kept | scores(product, target, ratio, valid)}
    for name, model in (
        ("regression", "regression"),
        (f"trained network ({card.model})", result.checkpoint),
        ("untrained network", models.complete(untrained, tuple(coarse.band.values), ratio)),
        ("bicubic S3", "bicubic"),
    ):
        image = fuse(*inputs, model=model)["reflectance"].values
        rows[name] = scores(image, target, ratio, valid)
    return rows


def _window(scene, ratio):
    """Central window, on whole coarse pixels, and the same on the coarse grid."""
    fine, coarse = {}, {}
    for axis in ("y", "x"):
        count = min(SCORED_PX // ratio, scene.sizes[f"{axis}_coarse"])
        start = (scene.sizes[f"{axis}_coarse"] - count) // 2
        coarse[f"{axis}_coarse"] = slice(start, start + count)
        fine[axis] = slice(start * ratio, (start + count) * ratio)
    return fine, coarse


def _report(out, recipe, archive, result, scores, watch) -> None:
    from satfuse.pairing import read_pairs

    pair = read_pairs(result.pairs)[0]
    west, south, east, north = lonlat_bbox(load_field(recipe.field).geobox)
    size = sum(f.stat().st_size for f in Path(out / "store").rglob("*") if f.is_file()) / 2**20
    facts = Table("what", title="The demo in one table")
    facts.add_column("found, made, measured", overflow="fold")
    counts = ", ".join(f"{len(items)} {name}" for name, items in archive.items.items())
    facts.add_row("archive", counts)
    facts.add_row(
        "pair",
        f"{pair.guide_platform} and {pair.coarse_platform}, {pair.guide_time:%Y-%m-%d %H:%M:%S} UTC",
    )
    facts.add_row(
        "gap at the field", f"{pair.gap_s:+.1f} s ({pair.gap_clock}); put in: {recipe.gap_s:+.1f} s"
    )
    facts.add_row("gap by item times", f"{pair.item_gap_s:+.0f} s ({pair.item_gap_clock})")
    facts.add_row("cloud S2, S3", f"{pair.guide_cloud:.1%}, {pair.coarse_cloud:.1%}")
    dx, dy = json.loads(Path(result.products[0]).read_text())["properties"]["satfuse:shift_m"]
    facts.add_row("shift", f"({dx:+.0f}, {dy:+.0f}) m found; put in: {recipe.shift_m} m")
    facts.add_row("product", f"{result.products[0]}\n{size:.0f} MB, 21 bands at 10 m")
    told = next(iter(scores.values()))
    facts.add_row(
        "uncertainty",
        "{within_1:.0%} of errors within one sigma, {within_2:.0%} within two".format(**told),
    )
    facts.add_row("quicklook", f"{result.reports[0]}/quicklook.png")
    facts.add_row("report", f"{result.reports[0]}/index.html")
    facts.add_row("peak memory", f"{watch.memory.gib:.2f} GiB over all processes")
    console.print(facts)
    table = Table(
        "method",
        "SAM (deg)",
        "RMSE",
        "PSNR (dB)",
        title="Against the truth at 10 m, which no method has seen",
    )
    for name, row in scores.items():
        table.add_row(name, f"{row['sam_deg']:.2f}", f"{row['rmse']:.4f}", f"{row['psnr_db']:.1f}")
    console.print(table)
    console.print("Open it:", style="bold")
    box = ", ".join(f"{v:.3f}" for v in (west + 0.01, south + 0.01, east - 0.01, north - 0.01))
    print(f'  satfuse.open_fused(({box}), "{recipe.day}", store="{out / "store"}")')


class _Watch:
    """Prints what is going on, with the time since the start, and samples the memory of all processes."""

    def __enter__(self):
        self.start, self.memory = time.monotonic(), PeakMemory()
        self.memory.__enter__()
        self._handler = _ConsoleHandler(self)
        logger = logging.getLogger("satfuse")
        logger.addHandler(self._handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False  # printed here, once
        import distributed  # noqa: F401  sets its own level when imported

        logging.getLogger("distributed").setLevel(logging.WARNING)
        return self

    def __exit__(self, *error):
        self.memory.__exit__(*error)
        logging.getLogger("satfuse").removeHandler(self._handler)
        logging.getLogger("satfuse").propagate = True

    def stage(self, title: str) -> None:
        """A heading."""
        console.rule(f"{self.clock()} {title}", align="left")

    def product(self, done: int, total: int, name: str) -> None:
        """Progress of the archive."""
        console.print(f"{self.clock()} {done}/{total} {name}")

    def clock(self) -> str:
        """Seconds since the start."""
        return f"[{time.monotonic() - self.start:6.1f} s]"


class _ConsoleHandler(logging.Handler):
    """Log lines of satfuse in the demo's style."""

    def __init__(self, watch):
        super().__init__(logging.INFO)
        self.watch = watch

    def emit(self, record):
        console.print(
            f"{self.watch.clock()} {record.getMessage()}", style="dim", soft_wrap=True, markup=False
        )
