"""Build cubes: one Dask task per scene, statistics merged at the end, the root written last."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial

import dask
import xarray as xr
import zarr

from satfuse.cluster import connect
from satfuse.cube.simulate import enmap_scene, pair_kind, pair_scene
from satfuse.cube.split import check_split, places, split_by_place
from satfuse.cube.statistics import merge_statistics
from satfuse.cube.store import FORMAT, Cube, CubeScene, finished, open_cube, write_scene
from satfuse.errors import CubeError
from satfuse.sensors.bands import S2_NAMES, S3_ENMAP_NAMES, S3_NAMES, bands

log = logging.getLogger(__name__)


def build(
    items,
    path,
    *,
    spec=None,
    platforms=("S2A", "S3A"),
    target_bands=S3_ENMAP_NAMES,
    split=None,
    scheduler=None,
    missing="raise",
) -> Cube:
    """Simulate Sentinel-2 and Sentinel-3 from EnMAP scenes and write them as a training cube.

    Scenes that an earlier build finished from the same inputs are kept; half-written ones are written again.

    Parameters
    ----------
    items : STAC items of EnMAP scenes, or a mapping of scene id to an opened Dataset (`readers.enmap.open_enmap`).
    path : store to write, path or URI.
    spec : catalogue of the items.
    platforms : whose spectral responses to integrate, guide and target.
    target_bands : SYN bands of the target; EnMAP's 19 unless the spectra start below 400 nm.
    split : mapping of scene id to "train", "val" or "test"; by place (`split.split_by_place`) if None.
    scheduler : address of a Dask scheduler; if None, wherever Dask is set to run (threads by default).
    missing : "raise", or "flag" to do without quality layers that cannot be read (see `open_enmap`).

    Raises
    ------
    CubeError
        No items, a band that a scene's spectrum does not cover, a split that misses a scene, an unwritable store.
    SchedulerError
        No scheduler at the address.
    """
    target_bands = tuple(target_bands)
    bands(target_bands)
    sources = dict(items) if isinstance(items, Mapping) else {item.id: item for item in items}
    root = {
        "kind": "enmap",
        "guide_bands": S2_NAMES,
        "coarse_bands": target_bands,
        "missing_bands": tuple(b for b in S3_NAMES if b not in target_bands),
        "platforms": tuple(platforms),
        "ratio": 1,
    }
    rest = (spec, missing, tuple(platforms), target_bands)
    tasks = {name: (enmap_scene, source, *rest) for name, source in sources.items()}
    return _build(tasks, path, root, split, scheduler)


def build_pairs(scenes: Mapping[str, xr.Dataset], path, *, split=None, scheduler=None) -> Cube:
    """Write real, co-registered scenes (`scene.make_scene`) as a cube: guide and one or more coarse frames.

    Parameters
    ----------
    scenes : scene id to Dataset with `guide`, `guide_valid`, `coarse`, `coarse_valid`; `coarse` and `coarse_valid`
        may have a leading `frame` dimension. All have the same bands and ratio.
    path, split, scheduler : see `build`.

    Raises
    ------
    CubeError
        No scenes, or scenes of different bands or ratio.
    """
    kinds = {pair_kind(ds) for ds in scenes.values()}
    if len(kinds) > 1:
        raise CubeError(
            f"scenes differ in guide bands, coarse bands or ratio: {sorted(kinds)}; build a cube of each"
        )
    guide_bands, coarse_bands, ratio = next(iter(kinds), ((), (), 1))
    root = {
        "kind": "pairs",
        "guide_bands": guide_bands,
        "coarse_bands": coarse_bands,
        "missing_bands": tuple(b for b in S3_NAMES if b not in coarse_bands),
        "platforms": (),
        "ratio": ratio,
    }
    return _build(
        {name: (pair_scene, ds) for name, ds in scenes.items()}, path, root, split, scheduler
    )


def _build(tasks, path, root, split, scheduler) -> Cube:
    if not tasks:
        raise CubeError("no scenes to build a cube from; search other dates or another area")
    path, split = str(path), split and check_split(split, tasks)
    prints = {name: _fingerprint(task[1], root) for name, task in tasks.items()}
    records = {name: finished(path, name, prints[name]) for name in tasks}
    todo = [name for name in tasks if records[name] is None]
    log.info(
        "cube %s: %d scenes, %d of them already there", path, len(tasks), len(tasks) - len(todo)
    )
    if todo:
        _mark(path, {"format": "unfinished cube"})
        with _dask_on(scheduler):
            # partial: dask would compute a lazy scene that it finds among the arguments
            jobs = [partial(write_scene, path, n, prints[n], *tasks[n]) for n in todo]
            written = dask.compute(*[dask.delayed(job)() for job in jobs])
        records |= dict(zip(todo, written, strict=True))
    place = places({name: tuple(record["bbox"]) for name, record in records.items()})
    split = split or split_by_place(place)
    scenes = [
        CubeScene(
            id=n,
            split=split[n],
            place=place[n],
            bbox=tuple(r["bbox"]),
            height=r["height"],
            width=r["width"],
        )
        for n, r in sorted(records.items())
    ]
    parts = [r["statistics"] for n, r in records.items() if split[n] == "train"]
    if not parts:
        raise CubeError("no scene is in the train split; its statistics normalise the models")
    statistics = {variable: merge_statistics([p[variable] for p in parts]) for variable in parts[0]}
    _mark(
        path,
        {**root, "scenes": [asdict(s) for s in scenes], "statistics": statistics, "format": FORMAT},
    )
    return open_cube(path)


def _mark(path, attrs):
    """One write of the root's attributes."""
    try:
        zarr.open_group(path, mode="a").attrs.update(attrs)
    except OSError as error:
        raise CubeError(
            f"cannot write a cube at {path}: {error}; choose a writable place"
        ) from error


def _fingerprint(source, root) -> str:
    """Of a scene's inputs: what must stay the same for a finished scene to be kept."""
    if isinstance(source, xr.Dataset):
        content = dask.base.tokenize(source)
    else:  # without queries, where signed links carry their time
        content = [
            source.id,
            sorted((key, asset.href.split("?")[0]) for key, asset in source.assets.items()),
        ]
    return hashlib.sha256(json.dumps([FORMAT, root, content], sort_keys=True).encode()).hexdigest()


@contextmanager
def _dask_on(scheduler: str | None) -> Iterator[None]:
    """Dask computes on the scheduler's cluster inside the block, or as it is set where there is none."""
    if scheduler is None:
        yield
        return
    with connect(scheduler) as client, dask.config.set(scheduler=client):
        yield
