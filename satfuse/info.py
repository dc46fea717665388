"""Describe a path: a product, an item, a store, a cube, a checkpoint or a table of pairs."""

import json
from collections.abc import Mapping
from typing import Any

from satfuse.errors import ConfigError
from satfuse.product.publish import read_items
from satfuse.product.store import Store
from satfuse.product.superseded import superseded

# Attributes of a product and its data that say what it was made from, and how.
PROVENANCE = (
    "model",
    "model_sha256",
    "gap_s",
    "gap_clock",
    "item_gap_s",
    "shift_m",
    "shift_sigma_m",
    "shift_trusted",
    "baselines",
    "item_ids",
    "run",
)

Facts = dict[str, Any]


def describe(path: str) -> Facts:
    """Describe any artefact of satfuse by its kind and its main facts.

    Parameters
    ----------
    path : path or `s3://` address of a product (Zarr), its STAC item, a product store or a cube;
        path of a checkpoint folder or of a table of pairs.

    Returns
    -------
    Names and values; `kind` says what the path is.

    Raises
    ------
    ConfigError
        Nothing is there, or nothing that satfuse made.
    CheckpointError, CubeError, StoreError
        The artefact is damaged or cannot be read.
    """
    root, _, name = Store(path).url.rpartition("/")
    parent = Store(root)
    if not parent.exists(name):
        raise ConfigError(f"there is nothing at {path}")
    if name.endswith(".parquet"):
        from satfuse.pairing import read_pairs, table

        return {"kind": "table of pairs", "pairs": table(read_pairs(path))}
    if name.endswith(".json"):
        return _item(parent, name, path)
    if parent.exists(f"{name}/card.json"):
        return _checkpoint(path)
    if parent.exists(f"{name}/zarr.json"):
        return _group(parent, name, path)
    if parent.exists(f"{name}/collection.json") or parent.exists(f"{name}/items"):
        return _store(path)
    raise ConfigError(f"{path} is no product, store, cube, checkpoint or table of pairs of satfuse")


def _item(parent: Store, name: str, path: str) -> Facts:
    try:
        item = json.loads(parent.read(name))
        facts = item["properties"]
        height, width = facts["proj:shape"]
        return {
            "kind": "product",
            "id": item["id"],
            "title": facts["title"],
            "time": facts["datetime"],
            "bbox": _box(item),
            "grid": f"{height} x {width} pixels of {facts['gsd']:g} m in {facts['proj:code']}",
            "variables": list(facts["cube:variables"]),
            "bands": facts["cube:dimensions"]["band"]["values"],
            "share with a value": facts["satfuse:finite_share"],
            **_provenance({k.removeprefix("satfuse:"): v for k, v in facts.items()}),
            "data": item["assets"]["data"]["href"],
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not the STAC item of a product ({error!r})") from error


def _provenance(facts: Mapping[str, Any]) -> Facts:
    """The facts of `PROVENANCE` that are known."""
    return {key: facts[key] for key in PROVENANCE if facts.get(key) not in (None, "")}


def _checkpoint(path: str) -> Facts:
    from satfuse.checkpoint import read_card

    card = read_card(path)
    return {
        "kind": "checkpoint",
        "model": card.model,
        "options": card.options,
        "parameters": card.parameters,
        "guide_bands": card.guide_bands,
        "coarse_bands": card.coarse_bands,
        "ratio": card.ratio,
        "reach": card.reach,
        "metrics": card.metrics,
        "data": card.data,
        "versions": card.versions,
        "sha256": card.sha256,
    }


def _group(parent: Store, name: str, path: str) -> Facts:
    import zarr

    with parent.guard(f"open {name}"):
        group = zarr.open_group(parent.zarr(name), mode="r")
        attrs: dict[str, Any] = dict(group.attrs)
        arrays = {name: f"{array.dtype} {array.shape}" for name, array in group.arrays()}
    if "cube" in str(attrs.get("format")):
        return _cube(path)
    if "satfuse" not in attrs:
        raise ConfigError(f"{path} is a Zarr group that satfuse did not make")
    return {"kind": "data of a product", **_provenance(attrs["satfuse"]), **arrays}


def _cube(path: str) -> Facts:
    from satfuse.cube import open_cube

    cube = open_cube(path)
    return {
        "kind": f"training cube ({cube.kind})",
        "guide_bands": cube.guide_bands,
        "coarse_bands": cube.coarse_bands,
        "missing_bands": cube.missing_bands,
        "platforms": cube.platforms,
        "ratio": cube.ratio,
        "scenes": [
            {"id": s.id, "split": s.split, "pixels": f"{s.height} x {s.width}"} for s in cube.scenes
        ],
    }


def _store(path: str) -> Facts:
    store = Store(path)
    items = read_items(store)
    rows = [{"id": i["id"], "time": i["properties"]["datetime"], "bbox": _box(i)} for i in items]
    facts = {"kind": "product store", "count": len(rows), "products": rows}
    if runs := superseded(store):
        facts["superseded runs"] = [run.to_dict() for run in runs]
        facts["to delete them"] = f"satfuse clean {path} --delete"
    return facts


def _box(item: Mapping[str, Any]) -> str:
    return ",".join(f"{value:.4f}" for value in item["bbox"])
