"""Sources of a scene to fuse: a pair in its catalogues, or a scene that was written to disk.

Both kinds have one interface. A run keeps `to_record()` in its plan, and its workers make the
source again with `from_record`.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, is_dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import xarray as xr
import zarr
from odc.geo.geobox import GeoBox

from satfuse.arrays import BoolArray, FloatArray, IntArray
from satfuse.catalog.specs import CatalogSpec
from satfuse.errors import ProductError, ReadError
from satfuse.geometry.tiling import Window
from satfuse.pairing import Pair
from satfuse.product.publish import without_query
from satfuse.readers import sentinel2
from satfuse.scene import make_scene
from satfuse.sensors.bands import S2_NAMES, S3_NAMES

# attributes of a scene that its product repeats
_SCENE_FACTS = (
    "gap_s",
    "gap_clock",
    "shift_m",
    "shift_sigma_m",
    "shift_trusted",
    "shift_reason",
    "psf_sigma",
    "baselines",
    "item_ids",
)


class Source(ABC):
    """A scene to fuse; its guide can be read in parts."""

    @property
    @abstractmethod
    def guide_bands(self) -> tuple[str, ...]:
        """Names of the guide's bands."""

    @property
    @abstractmethod
    def coarse_bands(self) -> tuple[str, ...]:
        """Names of the coarse bands."""

    @property
    @abstractmethod
    def product_id(self) -> str:
        """Identifier of the product that is made from the scene."""

    @property
    @abstractmethod
    def field(self) -> str:
        """Name of the place."""

    @property
    @abstractmethod
    def time(self) -> str:
        """ISO time of the guide, UTC."""

    @property
    @abstractmethod
    def geobox(self) -> GeoBox:
        """Grid of the guide."""

    @abstractmethod
    def open(self, ratio: int) -> xr.Dataset:
        """The scene: guide lazy, coarse in memory; see `satfuse.scene.make_scene`."""

    @abstractmethod
    def open_guide(self, window: Window | None = None) -> xr.Dataset:
        """The guide alone, lazy: `guide (guide_band, y, x)`, `guide_valid`, `guide_quality (y, x)`.

        Parameters
        ----------
        window : part of the grid; None = all of it.
        """

    @abstractmethod
    def to_record(self) -> dict[str, Any]:
        """The source in values that JSON can hold; see `from_record`."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Facts that tell this scene from others, wherever it is served from, in JSON values."""

    def provenance(self, scene: xr.Dataset) -> dict[str, Any]:
        """Origin of the inputs, without credentials, in JSON values.

        Parameters
        ----------
        scene : as `open` returns it.
        """
        facts = {key: scene.attrs[key] for key in _SCENE_FACTS if key in scene.attrs}
        return _plain({"field": self.field, **facts})

    def read_guide(self, window: Window) -> tuple[FloatArray, BoolArray, IntArray]:
        """The guide inside a window.

        Returns
        -------
        reflectance : (band, y, x) float32, NaN where missing.
        valid : (y, x) bool, True = usable.
        quality : (y, x) uint16.
        """
        part = self.open_guide(window).load(scheduler="synchronous")
        return part.guide.values, part.guide_valid.values, part.guide_quality.values

    def fingerprint(self) -> str:
        """SHA-256 of the scene's identity."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class PairSource(Source):
    """A pair, read from its catalogues; `missing` is "raise" or "flag", see the readers."""

    pair: Pair
    missing: str

    guide_bands = S2_NAMES
    coarse_bands = S3_NAMES

    @property
    def product_id(self) -> str:
        return self.pair.id

    @property
    def field(self) -> str:
        return self.pair.field

    @property
    def time(self) -> str:
        return self.pair.guide_time.isoformat()

    @property
    def geobox(self) -> GeoBox:
        return self.pair.geobox

    def open(self, ratio: int) -> xr.Dataset:
        return make_scene(self.pair, self.geobox, ratio=ratio, missing=self.missing)

    def open_guide(self, window: Window | None = None) -> xr.Dataset:
        guide = sentinel2.open_sentinel2(
            self.pair.guide_items,
            self.geobox[window.slices()] if window else self.geobox,
            spec=self.pair.guide_spec,
            missing=self.missing,
        )
        return guide[["reflectance", "valid", "quality"]].rename(
            reflectance="guide", valid="guide_valid", quality="guide_quality", band="guide_band"
        )

    def to_record(self) -> dict[str, Any]:
        pair = self.pair.to_dict()
        # workers read the guide alone; signatures in other addresses stay out of the plan
        pair["coarse"] = [_unsigned(item) for item in self.pair.coarse]
        pair["extra_coarse"] = []
        return {"pair": pair, "missing": self.missing}

    def identity(self) -> dict[str, Any]:
        return {
            "guide": _identity(self.pair.guide, self.pair.guide_spec, "sentinel2"),
            "coarse": _identity(self.pair.coarse, self.pair.coarse_spec, "sentinel3_syn"),
            "grid": [str(self.geobox.crs), *self.geobox.affine[:6], *self.geobox.shape],
            "missing": self.missing,
        }

    def provenance(self, scene: xr.Dataset) -> dict[str, Any]:
        pair = self.pair
        guide_items = [
            _reference(item) | {"baseline": baseline}
            for item, baseline in zip(pair.guide, scene.attrs["baselines"], strict=True)
        ]
        return super().provenance(scene) | {
            "gap_s": pair.gap_s,
            "gap_clock": pair.gap_clock,
            "item_gap_s": pair.item_gap_s,
            "item_gap_clock": pair.item_gap_clock,
            "time_approximate": pair.approximate,
            "guide_time": pair.guide_time.isoformat(),
            "coarse_time": pair.coarse_time.isoformat(),
            "guide_platform": pair.guide_platform,
            "coarse_platform": pair.coarse_platform,
            "guide_angles": asdict(pair.guide_angles),
            "coarse_angles": asdict(pair.coarse_angles),
            "guide_items": guide_items,
            "coarse_items": [_reference(item) for item in pair.coarse],
        }


@dataclass(frozen=True)
class ZarrSource(Source):
    """A scene that `write_scene` wrote to `path`."""

    path: str

    @cached_property
    def _scene(self) -> xr.Dataset:
        return _open_zarr(self.path)

    @property
    def product_id(self) -> str:
        return self._scene.attrs["id"]

    @property
    def field(self) -> str:
        return self._scene.attrs["field"]

    @property
    def time(self) -> str:
        return self._scene.attrs["time"]

    @property
    def geobox(self) -> GeoBox:
        return self._scene.guide.odc.geobox

    @property
    def guide_bands(self) -> tuple[str, ...]:
        return tuple(map(str, self._scene.guide_band.values))

    @property
    def coarse_bands(self) -> tuple[str, ...]:
        return tuple(map(str, self._scene.coarse_band.values))

    def open(self, ratio: int) -> xr.Dataset:  # noqa: ARG002 - its coarse image is written already
        return self._scene

    def open_guide(self, window: Window | None = None) -> xr.Dataset:
        guide = self._scene[["guide", "guide_valid", "guide_quality"]]
        if window is None:
            return guide
        rows, columns = window.slices()
        return guide.isel(y=rows, x=columns)

    def to_record(self) -> dict[str, Any]:
        return {"scene": self.path, "sha256": self._scene.attrs["sha256"]}

    def identity(self) -> dict[str, Any]:
        return self.to_record()


def as_source(source: Pair | str | Path, *, missing: str) -> Source:
    """Make a source from a pair, or from the path of a scene that `write_scene` wrote.

    Parameters
    ----------
    missing : "raise" or "flag": treatment of an asset of the pair that cannot be read.

    Raises
    ------
    ReadError
        No scene at the path.
    """
    if isinstance(source, Pair):
        return PairSource(source, missing)
    path = str(Path(source).absolute())
    _open_zarr(path)
    return ZarrSource(path)


def from_record(record: dict[str, Any]) -> Source:
    """Make the source again that a record describes.

    Raises
    ------
    ReadError
        A written scene no longer exists, or another one has been written to its path.
    ProductError
        The record is of an older version of satfuse.
    """
    if "pair" in record:
        return PairSource(Pair.from_dict(record["pair"]), record["missing"])
    if "scene" not in record:
        raise ProductError(
            "the run was planned by an older version of satfuse, so its inputs cannot be opened; "
            "fuse the field again"
        )
    source = ZarrSource(record["scene"])
    if source.to_record() != record:
        raise ReadError(f"{source.path} has changed since the run was planned; start a new run")
    return source


def write_scene(
    scene: xr.Dataset, path: str | Path, *, field: str, time: str, chunk_px: int = 600
) -> str:
    """Write a scene to disk, so that `fuse_field` can take its path in place of a pair.

    Parameters
    ----------
    scene : as from `make_scene`.
    field : name of the place; with `time` it makes the product's id.
    time : ISO time of the guide, UTC.

    Returns
    -------
    The path.
    """
    stamp = np.datetime_as_string(np.datetime64(time[:19]), unit="s")
    attrs = _plain(scene.attrs) | {
        "id": f"{field}_{stamp.replace('-', '').replace(':', '')}",
        "field": field,
        "time": time,
    }
    # the hash comes last: a scene that was not written completely has none and is refused
    attrs.pop("sha256", None)
    scene = scene.assign_attrs(attrs).chunk(y=chunk_px, x=chunk_px).drop_encoding()
    for name in ("guide_band", "coarse_band"):
        scene[name] = scene[name].astype(object)
    scene.to_zarr(path, mode="w", consolidated=False, zarr_format=3)
    zarr.open_group(path, mode="a").attrs["sha256"] = _digest(Path(path))
    return str(path)


def _digest(folder: Path) -> str:
    """SHA-256 of a folder's files: the whole scene, without computing a lazy guide again."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(str(file.relative_to(folder)).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _identity(
    items: tuple[dict[str, Any], ...], spec: CatalogSpec, sensor: str
) -> list[dict[str, Any]]:
    """Content of items and the way they are read; the same for one scene on any server."""
    assets = spec.assets[sensor]
    rules = {"assets": assets, "radiometry": spec.radiometry.get(sensor)}
    return [
        {
            "id": item["id"],
            "collection": item.get("collection"),
            "baseline": sentinel2.item_baseline(pystac.Item.from_dict(item)),
            "files": {
                key: {name: asset[name] for name in ("file:checksum", "file:size") if name in asset}
                for key, asset in item["assets"].items()
                if key in assets.values()
            },
            **rules,
        }
        for item in items
    ]


def _unsigned(item: dict[str, Any]) -> dict[str, Any]:
    """The item with the addresses of its assets, without the queries of signed ones."""
    assets = {
        key: asset | {"href": without_query(asset["href"])} for key, asset in item["assets"].items()
    }
    return item | {"assets": assets}


def _reference(item: dict[str, Any]) -> dict[str, str]:
    """Identity and address of an item, without the query of a signed address."""
    links = [link["href"] for link in item.get("links", []) if link.get("rel") == "self"]
    collection = item.get("collection") or "unknown"
    href = without_query(links[0]) if links else f"urn:stac:{collection}:{item['id']}"
    return {"id": item["id"], "collection": collection, "href": href}


def _open_zarr(path: str) -> xr.Dataset:
    """A scene that `write_scene` wrote; opened once as long as its metadata are the same."""
    root = Path(path) / "zarr.json"
    try:
        return _opened(path, root.read_bytes())
    except (OSError, ValueError) as error:
        raise ReadError(
            f"no scene at {path}: {error}; give a pair, or a path that write_scene made"
        ) from error


@lru_cache(maxsize=4)
def _opened(path: str, metadata: bytes) -> xr.Dataset:  # noqa: ARG001 - part of the cache's key
    scene = xr.open_zarr(path, consolidated=False, chunks={}, decode_coords="all")
    if absent := [k for k in ("id", "field", "time", "sha256") if k not in scene.attrs]:
        raise ProductError(
            f"{path} is not a scene of write_scene: it lacks the attributes {', '.join(absent)}"
        )
    return scene


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """The value as JSON returns it; arrays and dataclasses become lists and dictionaries."""
    plain: dict[str, Any] = json.loads(json.dumps(value, default=_to_json))
    return plain


def _to_json(value: object) -> object:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return str(value)
