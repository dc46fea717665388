"""The store of a cube: `<cube>/scenes/<id>` groups and a root that lists them.

A scene counts only when its group says `done`, the cube only when its root lists the scenes; both are single small
writes that come last. Reflectance is int16, scale 1e-4, fill -32768; `valid` is True where every band is usable.
Chunks hold all bands of 128 x 128 pixels. One task writes one scene, so no shard has two writers.
"""

import logging
import math
from dataclasses import dataclass

import xarray as xr
import zarr
from zarr.codecs import BloscCodec

from satfuse.cube.statistics import scene_statistics
from satfuse.errors import CubeError

log = logging.getLogger(__name__)

FORMAT = "satfuse-cube/1"
SCALE, FILL = 1e-4, -32768
CHUNK, SHARD = 128, 1024
VALID_OF = {"guide": "valid", "target": "valid", "coarse": "coarse_valid"}


@dataclass(frozen=True, kw_only=True)
class CubeScene:
    """One scene of a cube: `bbox` is lon/lat, `place` is shared by all scenes that touch each other."""

    id: str
    split: str
    place: str
    bbox: tuple[float, ...]
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Cube:
    """What a cube holds.

    `kind` is "enmap" (guide and target on one grid, `ratio` 1) or "pairs" (guide, and coarse frames of `ratio` times
    larger pixels). `missing_bands` are SYN bands that it does not have. `statistics[variable]` has `count`, `mean`
    and `std` per band over the train split, in reflectance.
    """

    path: str
    kind: str
    guide_bands: tuple[str, ...]
    coarse_bands: tuple[str, ...]
    missing_bands: tuple[str, ...]
    platforms: tuple[str, ...]
    ratio: int
    scenes: tuple[CubeScene, ...]
    statistics: dict

    def of_split(self, split: str) -> tuple[CubeScene, ...]:
        """Scenes of "train", "val" or "test"."""
        return tuple(s for s in self.scenes if s.split == split)

    def open_scene(self, scene_id: str, *, decode: bool = False, chunks=None) -> xr.Dataset:
        """One scene, lazily: stored int16 values, or with `decode` reflectance with NaN."""
        # xarray would keep every array that was once read whole
        options = {"engine": "zarr", "consolidated": False, "cache": False}
        return xr.open_dataset(
            self.path, group=f"scenes/{scene_id}", mask_and_scale=decode, chunks=chunks, **options
        )


def open_cube(path) -> Cube:
    """Describe a finished cube from its root alone; nothing else is read.

    Raises
    ------
    CubeError
        No cube there, or one whose build has not finished.
    """
    try:
        attrs = dict(zarr.open_group(str(path), mode="r").attrs)
    except (OSError, ValueError) as error:
        raise CubeError(f"no cube at {path}: {error}; build one with: satfuse cube") from error
    if attrs.get("format") != FORMAT:
        found = attrs.get("format", "another Zarr group")
        raise CubeError(
            f"{path} is no finished cube of format {FORMAT} but {found}; run its build again"
        )
    scenes = tuple(CubeScene(**s | {"bbox": tuple(s["bbox"])}) for s in attrs["scenes"])
    lists = {
        k: tuple(attrs[k]) for k in ("guide_bands", "coarse_bands", "missing_bands", "platforms")
    }
    rest = {k: attrs[k] for k in ("kind", "ratio", "statistics")}
    return Cube(path=str(path), scenes=scenes, **lists, **rest)


def write_scene(path: str, name: str, fingerprint: str, make, *args) -> dict:
    """Write one scene, `done` last; the one task that touches its group.

    Parameters
    ----------
    path, name : cube and scene id.
    fingerprint : of the inputs, kept as the `done` mark.
    make : called with `name` and `args`, gives the scene in stored form (`cube.simulate`).

    Returns
    -------
    The scene's record: bbox, height, width, statistics.
    """
    scene = make(name, *args)
    group = f"scenes/{name}"
    encoding = {v: _encoding(scene[v]) for v in scene.data_vars}
    lazy = scene.chunk({d: _shard(d, n) for d, n in scene.sizes.items()})
    to_disk = lazy.to_zarr(
        path, group=group, mode="w", encoding=encoding, consolidated=False, compute=False
    )
    to_disk.compute(scheduler="synchronous")
    stored = xr.open_zarr(path, group=group, consolidated=False, mask_and_scale=False, chunks=None)
    parts = {v: (stored[v].variable, stored[VALID_OF[v]].variable) for v in VALID_OF if v in stored}
    record = {
        "bbox": scene.attrs["bbox"],
        "height": scene.sizes["y"],
        "width": scene.sizes["x"],
        "statistics": {v: scene_statistics(*images, SCALE) for v, images in parts.items()},
    }
    zarr.open_group(path, path=group, mode="r+").attrs.update(
        {"done": fingerprint, "record": record}
    )
    log.info("cube scene %s: %d x %d pixels", name, record["height"], record["width"])
    return record


def finished(path: str, name: str, fingerprint: str) -> dict | None:
    """The record of a scene that was finished from the same inputs; None otherwise."""
    try:
        attrs = dict(zarr.open_group(path, path=f"scenes/{name}", mode="r").attrs)
    except FileNotFoundError:
        return None
    return attrs["record"] if attrs.get("done") == fingerprint else None


def _shard(dim: str, size: int) -> int:
    """Whole chunks, at most 1024 pixels, equal parts of the axis; all of any axis but y and x."""
    if dim not in {"y", "x"}:
        return size
    parts = math.ceil(size / SHARD)
    return math.ceil(size / parts / CHUNK) * CHUNK


def _encoding(variable):
    shards = tuple(_shard(d, n) for d, n in variable.sizes.items())
    chunks = tuple(
        CHUNK if d in {"y", "x"} else n for d, n in zip(variable.dims, shards, strict=True)
    )
    codec = BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle")
    fill = False if variable.dtype == bool else FILL
    return {"chunks": chunks, "shards": shards, "compressors": (codec,), "fill_value": fill}
