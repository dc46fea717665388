"""What a path is and what is in it: product, item, store, cube, checkpoint, table of pairs."""

import json

from satfuse.errors import ConfigError
from satfuse.product.publish import read_items
from satfuse.product.store import Store
from satfuse.product.superseded import superseded


def describe(path: str) -> dict:
    """Explain any artefact of satfuse by its kind and its main facts.

    Parameters
    ----------
    path : path or `s3://` address of a product (Zarr), its STAC item, a product store or a cube; path of a checkpoint
        folder or of a table of pairs.

    Raises
    ------
    ConfigError
        Nothing there, or nothing that satfuse has made.
    CheckpointError, CubeError, StoreError
        What is there is damaged or cannot be read.
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


def _item(parent, name, path):
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


def _provenance(facts):
    keys = (
        "model",
        "model_sha256",
        "gap_s",
        "gap_clock",
        "item_gap_s",
        "shift_m",
        "shift_sigma_m",
        "shift_trusted",
    )
    return {
        key: facts[key]
        for key in (*keys, "baselines", "item_ids", "run")
        if facts.get(key) not in (None, "")
    }


def _checkpoint(path):
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


def _group(parent, name, path):
    import zarr

    with parent.guard(f"open {name}"):
        group = zarr.open_group(parent.zarr(name), mode="r")
        attrs, arrays = dict(group.attrs), {n: f"{a.dtype} {a.shape}" for n, a in group.arrays()}
    if "cube" in str(attrs.get("format")):
        return _cube(path)
    if "satfuse" not in attrs:
        raise ConfigError(f"{path} is a Zarr group that satfuse did not make")
    return {"kind": "data of a product", **_provenance(attrs["satfuse"]), **arrays}


def _cube(path):
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


def _store(path):
    store = Store(path)
    items, rest = read_items(store), superseded(store)
    rows = [{"id": i["id"], "time": i["properties"]["datetime"], "bbox": _box(i)} for i in items]
    facts = {"kind": "product store", "count": len(rows), "products": rows}
    if rest:
        facts["superseded runs"] = [
            {
                "id": r.product_id,
                "run": r.run,
                "MB": round(r.size / 1e6, 1),
                "changed": f"{r.changed:%Y-%m-%dT%H:%MZ}",
            }
            for r in rest
        ]
    return facts


def _box(item):
    return ",".join(f"{value:.4f}" for value in item["bbox"])
