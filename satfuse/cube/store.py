"""The store of a cube: groups `<cube>/scenes/<id>`, and a root that lists them.

A scene counts only when its group says `done`, the cube only when its root lists the scenes; both
are single small writes that come last. Reflectance is int16, scale 1e-4, fill -32768; `valid` is
True where every band is usable. Chunks contain all bands of 128 x 128 pixels. One task writes one
scene, so no shard has two writers.
"""

import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import xarray as xr
import zarr
from zarr.codecs import BloscCodec

from satfuse.cube.statistics import Statistics, scene_statistics
from satfuse.errors import CubeError
from satfuse.sensors.encoding import FILL, SCALE

log = logging.getLogger(__name__)

FORMAT = "satfuse-cube/1"
CHUNK = 128  # pixels; a training patch reads few chunks
SHARD = 1024  # pixels at most; a shard is one file
VALID_OF = {"guide": "valid", "target": "valid", "coarse": "coarse_valid"}


@dataclass(frozen=True, kw_only=True)
class CubeScene:
    """One scene of a cube.

    Attributes
    ----------
    id : unique in the cube.
    split : "train", "val" or "test".
    place : shared by all scenes that touch each other.
    bbox : (west, south, east, north) in degrees.
    height, width : of the guide in pixels.
    """

    id: str
    split: str
    place: str
    bbox: tuple[float, ...]
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Cube:
    """Contents of a cube.

    Attributes
    ----------
    path : path or URI of the store.
    kind : "enmap" (guide and target on one grid, `ratio` 1) or "pairs" (guide, and coarse frames of
        `ratio` times larger pixels).
    guide_bands, coarse_bands : names; those of the target count as coarse.
    missing_bands : SYN bands that the cube does not have.
    platforms : guide and target platform of a simulated cube.
    ratio : fine pixels per coarse pixel.
    scenes : sorted by id.
    statistics : per variable `count`, `mean` and `std` per band over the train split, in
        reflectance.
    """

    path: str
    kind: str
    guide_bands: tuple[str, ...]
    coarse_bands: tuple[str, ...]
    missing_bands: tuple[str, ...]
    platforms: tuple[str, ...]
    ratio: int
    scenes: tuple[CubeScene, ...]
    statistics: dict[str, Statistics]

    def of_split(self, split: str) -> tuple[CubeScene, ...]:
        """Scenes of "train", "val" or "test"."""
        return tuple(s for s in self.scenes if s.split == split)

    def open_scene(
        self,
        scene_id: str,
        *,
        decode: bool = False,
        chunks: int | dict[str, int] | None = None,
    ) -> xr.Dataset:
        """Open one scene lazily: stored int16 values, or with `decode` reflectance with NaN."""
        return xr.open_dataset(
            self.path,
            group=f"scenes/{scene_id}",
            mask_and_scale=decode,
            chunks=chunks,
            engine="zarr",
            consolidated=False,
            cache=False,  # else xarray keeps every array in memory that was once read whole
        )


def open_cube(path: str | os.PathLike[str]) -> Cube:
    """Describe a finished cube from its root alone; nothing else is read.

    Raises
    ------
    CubeError
        No cube there, or one whose build has not finished.
    """
    try:
        attrs: dict[str, Any] = dict(zarr.open_group(str(path), mode="r").attrs)
    except (OSError, ValueError) as error:
        raise CubeError(f"no cube at {path}: {error}; build one with: satfuse cube") from error
    if attrs.get("format") != FORMAT:
        actual = attrs.get("format", "another Zarr group")
        raise CubeError(
            f"{path} is not a finished cube of format {FORMAT} but {actual}; run its build again"
        )
    return Cube(
        path=str(path),
        kind=attrs["kind"],
        guide_bands=tuple(attrs["guide_bands"]),
        coarse_bands=tuple(attrs["coarse_bands"]),
        missing_bands=tuple(attrs["missing_bands"]),
        platforms=tuple(attrs["platforms"]),
        ratio=attrs["ratio"],
        scenes=tuple(CubeScene(**s | {"bbox": tuple(s["bbox"])}) for s in attrs["scenes"]),
        statistics=attrs["statistics"],
    )


def write_cube_scene(
    path: str,
    name: str,
    fingerprint: str,
    make: Callable[..., xr.Dataset],
    *args: object,
) -> dict[str, Any]:
    """Write one scene, `done` last; only one task writes to its group.

    Parameters
    ----------
    path : of the cube.
    name : scene id.
    fingerprint : of the inputs, kept as the `done` mark.
    make : called with `name` and `args`; returns the scene in stored form (`cube.simulate`).

    Returns
    -------
    The scene's record: bbox, height, width, statistics.
    """
    scene = make(name, *args)
    group = f"scenes/{name}"
    encoding = {v: _encoding(scene[v]) for v in scene.data_vars}
    lazy = scene.chunk({d: _shard(str(d), n) for d, n in scene.sizes.items()})
    to_disk = lazy.to_zarr(
        path, group=group, mode="w", encoding=encoding, consolidated=False, compute=False
    )
    to_disk.compute(scheduler="synchronous")  # scenes run in parallel, not the chunks of one
    record: dict[str, Any] = {
        "bbox": scene.attrs["bbox"],
        "height": scene.sizes["y"],
        "width": scene.sizes["x"],
        "statistics": _stored_statistics(path, group),
    }
    marked: dict[str, Any] = {"done": fingerprint, "record": record}
    zarr.open_group(path, path=group, mode="r+").attrs.update(marked)
    log.info("cube scene %s: %d x %d pixels", name, record["height"], record["width"])
    return record


def _stored_statistics(path: str, group: str) -> dict[str, Statistics]:
    """Statistics of each image of a written scene, read back strip by strip."""
    stored = xr.open_zarr(path, group=group, consolidated=False, mask_and_scale=False, chunks=None)
    images = {name: valid for name, valid in VALID_OF.items() if name in stored}
    return {
        name: scene_statistics(stored[name].variable, stored[valid].variable, SCALE)
        for name, valid in images.items()
    }


def finished(path: str, name: str, fingerprint: str) -> dict[str, Any] | None:
    """Return the record of a scene that was finished from the same inputs; None otherwise."""
    try:
        attrs: dict[str, Any] = dict(zarr.open_group(path, path=f"scenes/{name}", mode="r").attrs)
    except FileNotFoundError:
        return None
    return attrs["record"] if attrs.get("done") == fingerprint else None


def _shard(dim: str, size: int) -> int:
    """Shard size along an axis.

    Along y and x: whole chunks, at most 1024 pixels, equal parts of the axis. All of other axes.
    """
    if dim not in {"y", "x"}:
        return size
    parts = math.ceil(size / SHARD)
    return math.ceil(size / parts / CHUNK) * CHUNK


def _encoding(variable: xr.DataArray) -> dict[str, Any]:
    shards = tuple(_shard(str(d), n) for d, n in variable.sizes.items())
    chunks = tuple(
        CHUNK if d in {"y", "x"} else n for d, n in zip(variable.dims, shards, strict=True)
    )
    codec = BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle")
    fill = False if variable.dtype == bool else FILL
    return {"chunks": chunks, "shards": shards, "compressors": (codec,), "fill_value": fill}
