"""Open published runs again, with the inputs that they were made from."""

import json
from typing import Any

import numpy as np
import xarray as xr

from satfuse.errors import ProductError
from satfuse.infer.plan import Plan, plan_path, read_coarse
from satfuse.infer.source import from_record
from satfuse.product.publish import group_path
from satfuse.product.store import Store

IN_MEMORY_BYTES = 2**29  # a guide of up to 3300 x 3300 px is read once
# facts of the run that the reopened scene repeats in its attributes
_SCENE_FACTS = ("psf_sigma", "gap_s", "gap_clock")


def load_run(item: str) -> tuple[xr.Dataset, xr.Dataset]:
    """Open a run, with the scene in memory where its guide is small; see `open_run`.

    A lazy guide decodes its files once more for every band that is read.
    """
    fused, scene = open_run(item)
    if scene["guide"].nbytes <= IN_MEMORY_BYTES:
        scene = scene.load()
    return fused, scene


def open_run(item: str) -> tuple[xr.Dataset, xr.Dataset]:
    """Open a product and the scene that it was fused from, both lazy.

    Parameters
    ----------
    item : address of the product's STAC item, `<store>/items/<id>.json`.

    Returns
    -------
    fused : Dataset with `reflectance (time, band, y, x)` and `quality (time, y, x)`.
    scene : see `satfuse.scene.make_scene`; `attrs["tile_edges"]` are those of the run.

    Raises
    ------
    ProductError
        The address is not that of a product's item.
    ReadError
        An input is no longer where it was.
    """
    store, plan = _store_and_plan(item)
    group = store.zarr(group_path(plan.product_id, plan.run))
    fused = xr.open_zarr(group, consolidated=False, decode_coords="all")
    return fused.assign_attrs(id=plan.product_id), _scene(store, plan)


def run_plan(item: str) -> Plan:
    """Plan of the run that made a product; see `open_run`."""
    return _store_and_plan(item)[1]


def visible_run(item: str) -> tuple[str, str]:
    """Identifier and run of the product that an item names.

    Raises
    ------
    ProductError
        The address is not that of a product's item.
    """
    record = _item_record(item)[1]
    return record["id"], record["properties"]["satfuse:run"]


def _item_record(item: str) -> tuple[Store, dict[str, Any]]:
    """Store and content of an item."""
    root, separator, name = str(item).rpartition("/items/")
    if not separator or not name.endswith(".json"):
        raise ProductError(f"{item} is not the item of a product; give <store>/items/<id>.json")
    store = Store(root)
    return store, json.loads(store.read(f"items/{name}"))


def _store_and_plan(item: str) -> tuple[Store, Plan]:
    store, record = _item_record(item)
    path = plan_path(record["id"], record["properties"]["satfuse:run"])
    return store, Plan.from_json(store.read(f"{path}/plan.json"))


def _scene(store: Store, plan: Plan) -> xr.Dataset:
    """Scene of a run: guide lazy from its source, coarse image as it was registered for the run."""
    coarse, quality = read_coarse(store, plan_path(plan.product_id, plan.run))
    values = np.where(coarse.valid, coarse.image, np.nan)
    values[coarse.absent] = np.nan
    layout = plan.layout
    ratio = plan.cut.ratio
    guide = from_record(plan.source).open_guide()
    x, y = (np.asarray(guide[axis]).reshape(-1, ratio).mean(1) for axis in ("x", "y"))
    dims = ("y_coarse", "x_coarse")
    edges = tuple(plan.cut.edges(n, layout.shard_px) for n in (layout.height, layout.width))
    facts = {key: plan.provenance[key] for key in _SCENE_FACTS if key in plan.provenance}
    # not the verdict on the shift, which includes what the model found: fused again, the scene must
    # be as registered as it was for the run
    registration = plan.provenance["registration"]
    facts |= {key: value for key, value in registration.items() if value is not None}
    return (
        guide.assign(
            coarse=(("coarse_band", *dims), values),
            coarse_valid=(dims, coarse.valid),
            coarse_quality=(dims, quality),
        )
        .assign_coords(coarse_band=list(plan.coarse_bands), y_coarse=y, x_coarse=x)
        .assign_attrs(facts | {"tile_edges": edges})
    )
