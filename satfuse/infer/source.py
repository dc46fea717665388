"""Where a scene comes from: a pair in its catalogues, or a scene that was written to disk."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pystac
import xarray as xr
from odc.geo.geobox import GeoBox

from satfuse.catalog.specs import CatalogSpec
from satfuse.errors import ProductError, ReadError
from satfuse.geometry.tiling import Window
from satfuse.pairing import Pair
from satfuse.product.publish import without_query
from satfuse.readers import sentinel2
from satfuse.scene import make_scene
from satfuse.sensors.bands import S2_NAMES, S3_NAMES


@dataclass(frozen=True, kw_only=True)
class Source:
    """A scene to fuse. Frozen and plain: `record` goes into the plan, and from it a worker reads its guide.

    `identity` is what a pair is made of, whoever serves it (of a written scene, its path and hash); the run key rests
    on it.
    """

    product_id: str
    field: str
    time: str
    geobox: GeoBox
    guide_bands: tuple[str, ...]
    coarse_bands: tuple[str, ...]
    record: dict
    identity: dict
    pair: Pair | None = None

    def open(self, ratio: int) -> xr.Dataset:
        """The scene: guide lazy, coarse in memory; see `satfuse.scene.make_scene`."""
        if self.pair is None:
            return _open_zarr(self.record["scene"])
        return make_scene(self.pair, self.geobox, ratio=ratio, missing=self.record["missing"])

    def fingerprint(self) -> str:
        """SHA-256 over the scene's identity."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()


def as_source(source: "Pair | str | Path", *, missing: str) -> Source:
    """A source from a pair, or from the path of a scene that `write_scene` wrote.

    Raises
    ------
    ReadError
        No scene at the path.
    """
    if isinstance(source, Pair):
        geobox = source.geobox
        return Source(
            product_id=source.id,
            field=source.field,
            time=source.guide_time.isoformat(),
            geobox=geobox,
            guide_bands=S2_NAMES,
            coarse_bands=S3_NAMES,
            record={
                "guide": list(source.guide),
                "guide_catalog": source.guide_catalog,
                "missing": missing,
            },
            identity={
                "guide": _identity(source.guide, source.guide_spec, "sentinel2"),
                "coarse": _identity(source.coarse, source.coarse_spec, "sentinel3_syn"),
                "grid": [str(geobox.crs), *geobox.affine[:6], *geobox.shape],
                "missing": missing,
            },
            pair=source,
        )
    path = str(Path(source).absolute())
    scene = _open_zarr(path)
    record = {"scene": path, "sha256": scene.attrs["sha256"]}
    return Source(
        product_id=scene.attrs["id"],
        field=scene.attrs["field"],
        time=scene.attrs["time"],
        geobox=scene.guide.odc.geobox,
        guide_bands=tuple(map(str, scene.guide_band.values)),
        coarse_bands=tuple(map(str, scene.coarse_band.values)),
        record=record,
        identity=record,
    )


def _identity(items, spec: CatalogSpec, sensor: str) -> list:
    """What items are and how they are read, without where they lie: the same scene from another server is the same."""
    rules = {"assets": spec.assets[sensor], "radiometry": spec.radiometry.get(sensor)}
    return [
        {
            "id": item["id"],
            "collection": item.get("collection"),
            "baseline": sentinel2.item_baseline(pystac.Item.from_dict(item)),
            "files": {
                key: {name: asset[name] for name in ("file:checksum", "file:size") if name in asset}
                for key, asset in item["assets"].items()
                if key in rules["assets"].values()
            },
            **rules,
        }
        for item in items
    ]


def write_scene(scene: xr.Dataset, path, *, field: str, time: str, chunk_px: int = 600) -> str:
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
    digest = hashlib.sha256(np.ascontiguousarray(scene.coarse.values).tobytes())
    digest.update(repr((sorted(scene.attrs.items(), key=str), time, scene.guide.shape)).encode())
    stamp = (
        np.datetime_as_string(np.datetime64(time[:19]), unit="s").replace("-", "").replace(":", "")
    )
    attrs = json.loads(json.dumps(scene.attrs, default=_plain))
    attrs |= {"id": f"{field}_{stamp}", "field": field, "time": time, "sha256": digest.hexdigest()}
    scene = scene.assign_attrs(attrs).chunk(y=chunk_px, x=chunk_px).drop_encoding()
    for name in ("guide_band", "coarse_band"):
        scene[name] = scene[name].astype(object)
    scene.to_zarr(path, mode="w", consolidated=False, zarr_format=3)
    return str(path)


def read_guide(
    record: dict, geobox: GeoBox, window: Window
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The guide inside a window of a scene.

    Parameters
    ----------
    record : of the `Source`.
    geobox : of the whole scene.

    Returns
    -------
    reflectance : (band, y, x) float32, NaN where missing.
    valid : (y, x) bool, True = usable.
    quality : (y, x) uint16.
    """
    rows, columns = window.slices()
    if "scene" in record:
        scene = _open_zarr(record["scene"]).isel(y=rows, x=columns)
        part = scene[["guide", "guide_valid", "guide_quality"]].load(scheduler="synchronous")
        return part.guide.values, part.guide_valid.values, part.guide_quality.values
    guide = sentinel2.open_sentinel2(
        [pystac.Item.from_dict(item) for item in record["guide"]],
        geobox[rows, columns],
        spec=CatalogSpec.from_dict(record["guide_catalog"]),
        missing=record["missing"],
    )
    part = guide[["reflectance", "valid", "quality"]].load(scheduler="synchronous")
    return part.reflectance.values, part.valid.values, part.quality.values


def provenance(source: Source, scene: xr.Dataset) -> dict:
    """Where the inputs come from, without credentials: JSON values for the product's attributes and item."""
    keys = (
        "gap_s", "gap_clock", "shift_m", "shift_sigma_m", "shift_trusted", "shift_reason", "psf_sigma", "baselines",
        "item_ids",
    )  # fmt: skip
    out = {"field": source.field, **{k: scene.attrs[k] for k in keys if k in scene.attrs}}
    if source.pair is not None:
        pair = source.pair
        out |= {
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
            "guide_items": [
                _reference(i) | {"baseline": b}
                for i, b in zip(pair.guide, scene.attrs["baselines"], strict=True)
            ],
            "coarse_items": [_reference(i) for i in pair.coarse],
        }
    return json.loads(json.dumps(out, default=_plain))


def _reference(item: dict) -> dict:
    links = [link["href"] for link in item.get("links", []) if link.get("rel") == "self"]
    collection = item.get("collection") or "unknown"
    href = without_query(links[0]) if links else f"urn:stac:{collection}:{item['id']}"
    return {"id": item["id"], "collection": collection, "href": href}


@lru_cache(maxsize=4)
def _open_zarr(path: str) -> xr.Dataset:
    try:
        scene = xr.open_zarr(path, consolidated=False, chunks={}, decode_coords="all")
    except (OSError, ValueError) as error:
        raise ReadError(
            f"no scene at {path}: {error}; give a pair, or a path that write_scene made"
        ) from error
    if absent := [k for k in ("id", "field", "time", "sha256") if k not in scene.attrs]:
        raise ProductError(
            f"{path} is not a scene of write_scene: it lacks the attributes {', '.join(absent)}"
        )
    return scene


def _plain(value):
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return asdict(value) if hasattr(value, "__dataclass_fields__") else str(value)
