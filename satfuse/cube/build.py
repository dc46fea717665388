"""Build cubes: one Dask task per scene, statistics merged at the end, the root written last."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import dask
import pystac
import xarray as xr
import zarr

from satfuse.catalog.specs import CatalogSpec
from satfuse.cluster import connect
from satfuse.cube.simulate import enmap_scene, pair_kind, pair_scene
from satfuse.cube.split import check_split, places, split_by_place
from satfuse.cube.statistics import merge_statistics
from satfuse.cube.store import FORMAT, Cube, CubeScene, finished, open_cube, write_cube_scene
from satfuse.errors import CubeError
from satfuse.sensors.bands import S2_NAMES, S3_ENMAP_NAMES, S3_NAMES, bands

log = logging.getLogger(__name__)

# The function that makes a scene in stored form, the scene's source, and further arguments.
Task = tuple[Any, ...]


def build(
    items: Iterable[pystac.Item] | Mapping[str, xr.Dataset],
    path: str | os.PathLike[str],
    *,
    spec: CatalogSpec | None = None,
    platforms: tuple[str, str] = ("S2A", "S3A"),
    target_bands: Sequence[str] = S3_ENMAP_NAMES,
    split: Mapping[str, str] | None = None,
    scheduler: str | None = None,
    missing: str = "raise",
) -> Cube:
    """Simulate Sentinel-2 and Sentinel-3 from EnMAP scenes and write them as a training cube.

    Scenes that an earlier build finished from the same inputs are kept; incomplete ones are written
    again.

    Parameters
    ----------
    items : STAC items of EnMAP scenes, or a mapping of scene id to an opened Dataset
        (`readers.enmap.open_enmap`).
    path : store to write, path or URI.
    spec : catalogue of the items.
    platforms : guide and target platform, whose spectral responses are integrated.
    target_bands : SYN bands of the target. EnMAP covers the default 19, spectra that start below
        400 nm all 21.
    split : mapping of scene id to "train", "val" or "test"; by place (`split.split_by_place`) if
        None.
    scheduler : address of a Dask scheduler; if None, the scheduler that Dask is configured to use
        (threads by default).
    missing : "raise", or "flag" to ignore quality layers that cannot be read (see `open_enmap`).

    Raises
    ------
    CubeError
        No items, a band that a scene's spectrum does not cover, a split that omits a scene, an
        unwritable store.
    SchedulerError
        No scheduler at the address.
    """
    target_bands = tuple(target_bands)
    bands(target_bands)  # refuse unknown names before anything is read
    sources: dict[str, xr.Dataset | pystac.Item]
    sources = dict(items) if isinstance(items, Mapping) else {item.id: item for item in items}
    root = _root("enmap", S2_NAMES, target_bands, platforms=tuple(platforms), ratio=1)
    options = (spec, missing, tuple(platforms), target_bands)
    tasks: dict[str, Task] = {
        name: (enmap_scene, source, *options) for name, source in sources.items()
    }
    return _build(tasks, path, root, split, scheduler)


def build_pairs(
    scenes: Mapping[str, xr.Dataset],
    path: str | os.PathLike[str],
    *,
    split: Mapping[str, str] | None = None,
    scheduler: str | None = None,
) -> Cube:
    """Write real, co-registered scenes (`scene.make_scene`) as a cube: guide and coarse frames.

    Parameters
    ----------
    scenes : scene id to Dataset with `guide`, `guide_valid`, `coarse`, `coarse_valid`; `coarse` and
        `coarse_valid` may have a leading `frame` dimension. All have the same bands and ratio.
    path, split, scheduler : see `build`.

    Raises
    ------
    CubeError
        No scenes, or scenes of different bands or ratio.
    """
    kinds = {pair_kind(ds) for ds in scenes.values()}
    if len(kinds) > 1:
        raise CubeError(
            f"scenes differ in guide bands, coarse bands or ratio: {sorted(kinds)}; "
            "build a cube of each"
        )
    guide_bands, coarse_bands, ratio = next(iter(kinds), ((), (), 1))
    root = _root("pairs", guide_bands, coarse_bands, platforms=(), ratio=ratio)
    tasks: dict[str, Task] = {name: (pair_scene, ds) for name, ds in scenes.items()}
    return _build(tasks, path, root, split, scheduler)


def _root(
    kind: str,
    guide_bands: tuple[str, ...],
    coarse_bands: tuple[str, ...],
    *,
    platforms: tuple[str, ...],
    ratio: int,
) -> dict[str, Any]:
    """Attributes of the root that are known before any scene is written."""
    return {
        "kind": kind,
        "guide_bands": guide_bands,
        "coarse_bands": coarse_bands,
        "missing_bands": tuple(b for b in S3_NAMES if b not in coarse_bands),
        "platforms": platforms,
        "ratio": ratio,
    }


def _build(
    tasks: Mapping[str, Task],
    path: str | os.PathLike[str],
    root: dict[str, Any],
    split: Mapping[str, str] | None,
    scheduler: str | None,
) -> Cube:
    if not tasks:
        raise CubeError("no scenes to build a cube from; search other dates or another area")
    path = str(path)
    if split:
        split = check_split(split, tasks)
    records = _write_scenes(tasks, path, root, scheduler)
    place = places({name: tuple(record["bbox"]) for name, record in records.items()})
    split = split or split_by_place(place)
    scenes = [
        CubeScene(
            id=name,
            split=split[name],
            place=place[name],
            bbox=tuple(record["bbox"]),
            height=record["height"],
            width=record["width"],
        )
        for name, record in sorted(records.items())
    ]
    parts = [r["statistics"] for name, r in records.items() if split[name] == "train"]
    if not parts:
        raise CubeError("no scene is in the train split; its statistics normalise the models")
    statistics = {variable: merge_statistics([p[variable] for p in parts]) for variable in parts[0]}
    listed = {"scenes": [asdict(s) for s in scenes], "statistics": statistics}
    _mark(path, {**root, **listed, "format": FORMAT})
    return open_cube(path)


def _write_scenes(
    tasks: Mapping[str, Task], path: str, root: dict[str, Any], scheduler: str | None
) -> dict[str, dict[str, Any]]:
    """Write the scenes that are not finished; returns the record of every scene, in task order."""
    fingerprints = {name: _fingerprint(task[1], root) for name, task in tasks.items()}
    records = {name: finished(path, name, fingerprints[name]) for name in tasks}
    todo = [name for name, record in records.items() if record is None]
    done = len(tasks) - len(todo)
    log.info("cube %s: %d scenes, %d of them already written", path, len(tasks), done)
    if todo:
        _mark(path, {"format": "unfinished cube"})
        with _dask_on(scheduler):
            # partial: dask would compute a lazy scene that it finds among the arguments
            jobs: list[Callable[[], dict[str, Any]]] = [
                partial(write_cube_scene, path, name, fingerprints[name], *tasks[name])
                for name in todo
            ]
            written = dask.compute(*[dask.delayed(job)() for job in jobs])
        records |= dict(zip(todo, written, strict=True))
    return {name: record for name, record in records.items() if record is not None}


def _mark(path: str, attrs: dict[str, Any]) -> None:
    """Update the root's attributes in one write."""
    try:
        zarr.open_group(path, mode="a").attrs.update(attrs)
    except OSError as error:
        raise CubeError(
            f"cannot write a cube at {path}: {error}; choose a writable place"
        ) from error


def _fingerprint(source: xr.Dataset | pystac.Item, root: dict[str, Any]) -> str:
    """Hash of a scene's inputs; a finished scene is kept as long as it stays the same."""
    content: Any
    if isinstance(source, xr.Dataset):
        content = dask.base.tokenize(source)
    else:  # without queries: those of signed links change with time
        hrefs = sorted((key, asset.href.split("?")[0]) for key, asset in source.assets.items())
        content = [source.id, hrefs]
    return hashlib.sha256(json.dumps([FORMAT, root, content], sort_keys=True).encode()).hexdigest()


@contextmanager
def _dask_on(scheduler: str | None) -> Iterator[None]:
    """Compute on the cluster of a scheduler inside the block; as Dask is configured if None."""
    if scheduler is None:
        yield
        return
    with connect(scheduler) as client, dask.config.set(scheduler=client):
        yield
