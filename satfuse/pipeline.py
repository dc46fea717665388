"""The chain of stages as plain functions; `flows/` and the command line wrap the same ones.

Each stage takes names, paths and URIs and gives a path or URI back, so any scheduler can run it.
"""

import logging
from collections import Counter
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pystac

from satfuse.catalog.search import search
from satfuse.catalog.specs import load_catalog
from satfuse.errors import ConfigError
from satfuse.geometry.grids import lonlat_bbox
from satfuse.job import (
    SPECTRA,
    Job,
    check,
    check_cube,
    check_discovery,
    day_window,
    lonlat_box,
    train_config,
)
from satfuse.pairing import find_pairs, read_pairs, write_pairs
from satfuse.sensors.bands import RATIO, S2_NAMES, S3_NAMES

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

LIBRARY_SPECTRA = 20_000  # random mixtures that the library regression learns from
CALIBRATION_PX = {10: 24, 15: 16, 30: 10}  # side of a scene in coarse pixels, by ratio
COARSE_LEAD = timedelta(
    minutes=30
)  # how long before the field is seen the frames of an overpass may start


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """What a job made: paths of what lies in the work folder, URIs of the products' items."""

    pairs: str
    cube: str | None
    checkpoint: str | None
    model: str
    products: tuple[str, ...]
    reports: tuple[str, ...]


def run(job: Job) -> JobResult:
    """Check, search, pair, train if asked, fuse, publish, validate: the whole job in this process.

    Run again, it searches again, and cube, checkpoint, products and reports are kept as far as they are done.

    Raises
    ------
    SatfuseError
        See the stages.
    """
    from satfuse.product.store import Store

    check(job)
    Store(job.store).check_writable()
    work = Path(job.work)
    pairs = discover(job.field, job.start, job.end, job.catalog, work / "pairs.parquet", job.rules)
    cube, checkpoint, model = None, None, job.model
    if job.train_on:
        cube = build_cube(
            job.train_start or job.start,
            job.train_end or job.end,
            job.train_on,
            work / "cube.zarr",
            job.scheduler,
        )
        checkpoint = train(cube, work / "checkpoint", {"model": job.model, **job.train})
        model = trained_or_named(checkpoint, model)
    products = fuse(pairs, model, job.store, job.scheduler)
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
    """What a job fuses with: the checkpoint it trained where that is of the model it names, else the model."""
    from satfuse.checkpoint import read_card

    return checkpoint if read_card(checkpoint).model == model else model


def find_items(sensor, field, start, end, catalog) -> list[pystac.Item]:
    """Items of one sensor over a field; of "guide,coarse" the catalogue that is for the sensor."""
    names = [name.strip() for name in catalog.split(",")]
    spec = load_catalog(names[-1 if sensor == "sentinel3_syn" else 0])
    first, last = day_window(start, end)
    return search(spec, sensor, bbox=lonlat_box(field), start=first, end=last)


def discover(field, start, end, catalog, out, rules=None, frames=1) -> str:
    """Search both sensors over a field, pair them by true time, write the table of pairs.

    Returns
    -------
    Path of the geoparquet table.

    Raises
    ------
    NoPairError
        Nothing passes the rules; the nearest candidates are in the message.
    """
    area, settings, (guide_spec, coarse_spec) = check_discovery(field, start, end, catalog, rules)
    first, last = day_window(start, end)
    bbox = lonlat_bbox(area.geobox)
    reach = (
        timedelta(seconds=settings.maximum_gap_s if frames == 1 else settings.maximum_frame_gap_s)
        + COARSE_LEAD
    )
    guides = search(guide_spec, "sentinel2", bbox=bbox, start=first, end=last)
    coarse = search(coarse_spec, "sentinel3_syn", bbox=bbox, start=first - reach, end=last + reach)
    log.info("%s: %d Sentinel-2 and %d Sentinel-3 items", area.name, len(guides), len(coarse))
    pairs = find_pairs(
        guides,
        coarse,
        area,
        guide_spec=guide_spec,
        coarse_spec=coarse_spec,
        rules=settings,
        frames=frames,
    )
    write_pairs(pairs, out)
    return str(out)


def build_cube(start, end, catalog, out, scheduler=None, field=None) -> str:
    """Turn the EnMAP scenes of a catalogue into a training cube; scenes already there are kept.

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
            f"{spec.name} has no EnMAP scene{where} from {start} to {end}; widen the dates or the area"
        )
    build(items, out, spec=spec, scheduler=scheduler)
    return str(out)


def build_pair_cube(pairs, out, scheduler=None) -> str:
    """Turn the pairs of a table into a training cube of co-registered scenes.

    Returns
    -------
    Path of the cube.
    """
    from satfuse.cube.build import build_pairs

    build_pairs(
        {pair.id: _scene_of_frames(pair) for pair in read_pairs(pairs)}, out, scheduler=scheduler
    )
    return str(out)


def _scene_of_frames(pair):
    """A pair's scene; further coarse frames of the pair lie behind it along `frame`, each registered by itself."""
    import xarray as xr

    from satfuse.scene import make_scene

    further = [
        replace(pair, coarse=f.items, coarse_platform=f.platform, coarse_time=f.time, gap_s=f.gap_s)
        for f in pair.extra_coarse
    ]
    scene, *others = (make_scene(p, pair.geobox, ratio=RATIO) for p in (pair, *further))
    if not others:
        return scene
    parts = [s[["coarse", "coarse_valid"]].reset_coords(drop=True) for s in (scene, *others)]
    return scene.assign(xr.concat(parts, "frame").data_vars)


def train(data, out, config=None, progress=None) -> str:
    """Train a model on a cube, or on the library of spectra where `data` is "spectra".

    Parameters
    ----------
    data : path of a cube, or "spectra": what is measured at $SATFUSE_SAMPLE_DATA, parametric where that is absent.
    config : see `TrainConfig`.
    progress : called after each step with epoch, batch and loss; of spectra with 0, scene and coverage.

    Returns
    -------
    Path of the checkpoint folder.
    """
    from satfuse.train import fit

    settings = train_config(config or {}, data)
    if str(data) == SPECTRA:
        _train_on_spectra(settings, out, progress)
    else:
        fit(data, settings, out, progress=progress)
    return str(out)


def _train_on_spectra(settings, out, progress):
    """Of the library only the training side is seen. The same seed gives the same weights on the same machine."""
    import numpy as np

    from satfuse import checkpoint
    from satfuse.models import create
    from satfuse.simulate.scenes import worldstrat
    from satfuse.simulate.scenes.library import (
        draw_places,
        draw_spectra,
        load_library,
        sample_folder,
    )
    from satfuse.train.library import fit_library
    from satfuse.train.spectral_prior import fit_prior
    from satfuse.train.uncertainty import calibrate

    empty = create(
        settings.model, guide_bands=S2_NAMES, coarse_bands=S3_NAMES, ratio=RATIO, **settings.options
    )
    library, rng = load_library(), np.random.default_rng(settings.seed)
    entries = Counter(f"{s}/{m}" for s, m in zip(library.source, library.material, strict=True))
    folder = sample_folder() if library.measured and worldstrat.revisits(sample_folder()) else None
    data = {
        "spectra": "measured" if library.measured else "parametric", "split": "train", "seed": settings.seed,
        "entries": dict(sorted(entries.items())), "attribution": list(library.attribution),
    }  # fmt: skip
    if settings.model == "library_regression":
        spectra = draw_spectra(library, rng, LIBRARY_SPECTRA)
        fit_library(library.wavelength_nm, spectra, out, data=data, **settings.options)
        return
    places, pixels, basis = empty.places.shape
    model = fit_prior(library.wavelength_nm, draw_places(library, rng, places, pixels), basis=basis)
    metrics = calibrate(
        model, _calibration_scenes(library, settings, folder), seed=settings.seed, progress=progress
    )
    data |= {"calibration_scenes": settings.scenes}
    if folder is not None:
        data["attribution"].append(worldstrat.ATTRIBUTION)
    checkpoint.save(model, out, {"data": data, "metrics": metrics})


def _calibration_scenes(library, settings, folder):
    """Scenes of all ratios: clean, noisy, clean, noisy, cloudy. Offsets are left out: nothing in a scene tells them."""
    from satfuse.simulate.scenes.factory import FactoryConfig, make_training_scene

    for number in range(settings.scenes):
        ratio, kind = (10, 15, 30)[number % 3], number // 3 % 5
        degraded = (
            {"noise": (0.0, 0.0), "gain": 0.0} if kind in (0, 2) else {"noise": (0.0002, 0.003)}
        )
        config = FactoryConfig(
            ratios=(ratio,), coarse_px=CALIBRATION_PX[ratio], offset=0.0, shift=0.4, equal_blur_share=0.4,
            cloud_share=float(kind == 4), **degraded,
        )  # fmt: skip
        yield make_training_scene(
            library, config, settings.seed * 1_000_000 + number, folder=folder
        )


def fuse(pairs, model, store, scheduler=None, progress=None) -> list[str]:
    """Fuse and publish every pair of a table; `progress` is called with the share of the work that is done, 0 to 1.

    Returns
    -------
    URIs of the products' STAC items.
    """
    from satfuse.infer import fuse_field

    table, items = read_pairs(pairs), []

    def tell(done, tiles):
        if progress:
            progress((len(items) + done / tiles) / len(table))

    for pair in table:
        items.append(fuse_field(pair, model, store, scheduler=scheduler, progress=tell))
        tell(0, 1)
    return items


def validate(item, out, again=True) -> str:
    """Measure a product against its inputs and write the report; with `again=False` only if there is none of its run.

    Returns
    -------
    Folder of the report.
    """
    from satfuse.validate.product import reported, validate_item

    folder = None if again else reported(item, out)
    return str(folder or validate_item(item, out))
