"""The chain of stages as plain functions; `flows/` and the command line wrap the same ones.

Each stage takes names, paths and URIs and returns a path or URI, so any scheduler can run it.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pystac

from satfuse.catalog.search import search
from satfuse.errors import ConfigError
from satfuse.geometry.grids import lonlat_bbox
from satfuse.job import (
    Job,
    catalog_of,
    check_cube,
    check_discovery,
    check_job,
    day_window,
    lonlat_box,
    train_config,
)
from satfuse.pairing import Pair, find_pairs, read_pairs, write_pairs
from satfuse.sensors.bands import RATIO

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "Job",
    "JobResult",
    "build_cube",
    "build_pair_cube",
    "discover",
    "find_items",
    "fuse",
    "run",
    "train",
    "validate",
]

log = logging.getLogger(__name__)

# Stages import torch inside their functions, because search and pairing work without it.

# a frame of an overpass may start this long before the satellite passes the field
COARSE_LEAD = timedelta(minutes=30)


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """Results of a job: paths in its work folder, and URIs of the products' items."""

    pairs: str
    cube: str | None
    checkpoint: str | None
    model: str
    products: tuple[str, ...]
    reports: tuple[str, ...]


def run(job: Job, progress: Callable[[float], None] | None = None) -> JobResult:
    """Check, search, pair, train if requested, fuse, publish, validate: a whole job in one process.

    Run again, it searches again; finished parts of cube, checkpoint, products and reports are kept.

    Parameters
    ----------
    progress : called with the share of the tiles that are fused, 0 to 1.

    Raises
    ------
    SatfuseError
        See the stages.
    """
    from satfuse.product.store import Store

    check_job(job)
    Store(job.store).check_writable()
    work = Path(job.work)
    pairs = discover(job.field, job.start, job.end, job.catalog, work / "pairs.parquet", job.rules)
    cube = None
    checkpoint = None
    model = job.model
    if job.train_on:
        start = job.train_start or job.start
        end = job.train_end or job.end
        cube = build_cube(start, end, job.train_on, work / "cube.zarr", job.scheduler)
        checkpoint = train(cube, work / "checkpoint", {"model": job.model, **job.train})
        model = trained_or_named(checkpoint, model)
    products = fuse(pairs, model, job.store, job.scheduler, progress)
    reports = [validate(item, work / "reports", again=False) for item in products]
    return JobResult(
        pairs=pairs,
        cube=cube,
        checkpoint=checkpoint,
        model=model,
        products=tuple(products),
        reports=tuple(reports),
    )


def trained_or_named(checkpoint: str, model: str) -> str:
    """The model that a job fuses with.

    Returns
    -------
    The checkpoint that the job trained where it is of the model that the job names, else that name.
    """
    from satfuse.checkpoint import read_card

    return checkpoint if read_card(checkpoint).model == model else model


def find_items(sensor: str, field: str, start: str, end: str, catalog: str) -> list[pystac.Item]:
    """Items of one sensor over a field; of "guide,coarse" the catalogue of the sensor is searched.

    Parameters
    ----------
    sensor : "sentinel2", "sentinel3_syn" or "enmap".
    field, start, end, catalog : see `Job`.
    """
    spec = catalog_of(sensor, catalog)
    first, last = day_window(start, end)
    return search(spec, sensor, bbox=lonlat_box(field), start=first, end=last)


def discover(
    field: str,
    start: str,
    end: str,
    catalog: str,
    out: str | Path,
    rules: dict[str, Any] | None = None,
    frames: int = 1,
) -> str:
    """Search both sensors over a field, pair them by true time, write the table of pairs.

    Parameters
    ----------
    field, start, end, catalog, rules : see `Job`.
    out : table to write.
    frames : coarse acquisitions per pair.

    Returns
    -------
    Path of the geoparquet table.

    Raises
    ------
    NoPairError
        No pair passes the rules; the message lists the nearest candidates.
    """
    area, settings, (guide_spec, coarse_spec) = check_discovery(field, start, end, catalog, rules)
    first, last = day_window(start, end)
    bbox = lonlat_bbox(area.geobox)
    gap_s = settings.maximum_gap_s if frames == 1 else settings.maximum_frame_gap_s
    # the coarse acquisition may be before the first or after the last guide acquisition
    margin = timedelta(seconds=gap_s) + COARSE_LEAD
    guides = search(guide_spec, "sentinel2", bbox=bbox, start=first, end=last)
    coarse = search(
        coarse_spec, "sentinel3_syn", bbox=bbox, start=first - margin, end=last + margin
    )
    log.info("%s: %d Sentinel-2 and %d Sentinel-3 items", area.name, len(guides), len(coarse))
    specs = {"guide_spec": guide_spec, "coarse_spec": coarse_spec}
    pairs = find_pairs(guides, coarse, area, rules=settings, frames=frames, **specs)
    write_pairs(pairs, out)
    return str(out)


def build_cube(
    start: str,
    end: str,
    catalog: str,
    out: str | Path,
    scheduler: str | None = None,
    field: str | None = None,
) -> str:
    """Build a training cube from the EnMAP scenes of a catalogue; scenes already in it are kept.

    Parameters
    ----------
    start, end, catalog, scheduler, field : see `Job`; without a field the whole world is searched.
    out : cube to write.

    Returns
    -------
    Path of the cube.
    """
    from satfuse.cube import build

    spec, bbox = check_cube(start, end, catalog, field)
    first, last = day_window(start, end)
    items = search(spec, "enmap", bbox=bbox, start=first, end=last)
    if not items:
        where = f" over {field}" if field else ""
        raise ConfigError(
            f"{spec.name} has no EnMAP scene{where} from {start} to {end}; "
            "widen the dates or the area"
        )
    build(items, out, spec=spec, scheduler=scheduler)
    return str(out)


def build_pair_cube(pairs: str | Path, out: str | Path, scheduler: str | None = None) -> str:
    """Build a training cube of co-registered scenes from a table of pairs.

    Returns
    -------
    Path of the cube.
    """
    from satfuse.cube.build import build_pairs

    scenes = {pair.id: _scene_of_frames(pair) for pair in read_pairs(pairs)}
    build_pairs(scenes, out, scheduler=scheduler)
    return str(out)


def _scene_of_frames(pair: Pair) -> "xr.Dataset":
    """A pair's scene; with further coarse frames, `coarse` and its validity have a `frame` axis.

    Each frame is registered to the guide by itself.
    """
    import xarray as xr

    from satfuse.scene import make_scene

    # a pair for each further frame, so that each becomes the first coarse image of a scene
    further = [
        replace(pair, coarse=f.items, coarse_platform=f.platform, coarse_time=f.time, gap_s=f.gap_s)
        for f in pair.extra_coarse
    ]
    scene, *others = (make_scene(p, pair.geobox, ratio=RATIO) for p in (pair, *further))
    if not others:
        return scene
    parts = [s[["coarse", "coarse_valid"]].reset_coords(drop=True) for s in (scene, *others)]
    return scene.assign(xr.concat(parts, "frame").data_vars)


def train(
    data: str | Path,
    out: str | Path,
    config: dict[str, Any] | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> str:
    """Train a model on a cube, or on the library of spectra where `data` is "spectra".

    Parameters
    ----------
    data : path of a cube, or "spectra".
    out : checkpoint folder to write.
    config : see `TrainConfig`; for spectra `SpectraConfig`.
    progress : see `train.fit` and `train.fit_spectra`.

    Returns
    -------
    Path of the checkpoint folder.
    """
    from satfuse.train import SpectraConfig, fit, fit_spectra

    settings = train_config(config or {}, data)
    if isinstance(settings, SpectraConfig):
        fit_spectra(settings, out, progress=progress)
    else:
        fit(data, settings, out, progress=progress)
    return str(out)


def fuse(
    pairs: str | Path,
    model: str,
    store: str,
    scheduler: str | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[str]:
    """Fuse and publish every pair of a table.

    Parameters
    ----------
    pairs : table of pairs.
    model, store, scheduler : see `Job`.
    progress : called with the finished share of the work, 0 to 1.

    Returns
    -------
    URIs of the products' STAC items.
    """
    from satfuse.infer import fuse_field

    table = read_pairs(pairs)
    items: list[str] = []

    def report_tiles(done: int, tiles: int) -> None:
        if progress:
            progress((len(items) + done / tiles) / len(table))

    for pair in table:
        items.append(fuse_field(pair, model, store, scheduler=scheduler, progress=report_tiles))
        report_tiles(0, 1)
    return items


def validate(item: str, out: str | Path, again: bool = True) -> str:
    """Measure a product against its inputs and write the report.

    Parameters
    ----------
    item : URI of the product's STAC item.
    out : folder of the reports.
    again : False = keep an existing report of the same run.

    Returns
    -------
    Folder of the report.
    """
    from satfuse.validate.product import reported, validate_item

    existing = None if again else reported(item, out)
    return str(existing or validate_item(item, out))
