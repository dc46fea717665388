"""Validate a published product by its STAC item: its inputs are found again through the plan of its run."""

import io
import json
from pathlib import Path

import numpy as np
import pystac
import xarray as xr

from satfuse.catalog.specs import CatalogSpec
from satfuse.errors import ProductError
from satfuse.infer.plan import Plan, plan_path
from satfuse.product.publish import group_path
from satfuse.product.store import Store
from satfuse.readers import sentinel2
from satfuse.validate.report import validate_product

IN_MEMORY_BYTES = 2**29  # a guide of up to 3300 x 3300 px is read once


def validate_item(item: str, out, *, truth: xr.DataArray | None = None) -> Path:
    """Measure a product against the very inputs that it was made from.

    Parameters
    ----------
    item : address of the product's STAC item, `<store>/items/<id>.json`.
    out : folder; the report goes into a folder named like the product.
    truth : (band, y, x) true reflectance on the product's grid, where it is known.

    Returns
    -------
    Folder with `metrics.json`, `metrics.md`, figures, `quicklook.png` and `index.html`.

    Raises
    ------
    ProductError
        The address is not that of a product's item.
    ReadError
        An input is no longer where it was.
    """
    fused, scene = open_run(item)
    if scene["guide"].nbytes <= IN_MEMORY_BYTES:  # else every band that is looked at decodes all files anew
        scene = scene.load()
    folder = Path(out) / fused.attrs["id"]
    run = fused.attrs["satfuse"]["run"]
    validate_product(fused, scene, folder, truth=truth, tile_edges=scene.attrs["tile_edges"], run=run)
    return folder


def reported(item: str, out) -> Path | None:
    """Folder of the report that `validate_item` has already written of the product's visible run, or None."""
    root, name = str(item).rsplit("/items/", 1)
    record = json.loads(Store(root).read(f"items/{name}"))
    folder = Path(out) / record["id"]
    try:
        found = json.loads((folder / "metrics.json").read_text())
    except (OSError, ValueError):
        return None
    return folder if found.get("run") == record["properties"]["satfuse:run"] else None


def open_run(item: str) -> tuple[xr.Dataset, xr.Dataset]:
    """A product and the scene that it was fused from, both lazy.

    Parameters
    ----------
    item : address of the product's STAC item.

    Returns
    -------
    fused : Dataset with `reflectance (time, band, y, x)` and `quality (time, y, x)`.
    scene : see `satfuse.scene.make_scene`; `attrs["tile_edges"]` are those of the run.
    """
    root, separator, name = str(item).rpartition("/items/")
    if not separator or not name.endswith(".json"):
        raise ProductError(f"{item} is not the item of a product; give <store>/items/<id>.json")
    store = Store(root)
    record = json.loads(store.read(f"items/{name}"))
    product_id, run = record["id"], record["properties"]["satfuse:run"]
    fused = xr.open_zarr(store.zarr(group_path(product_id, run)), consolidated=False, decode_coords="all")
    plan = Plan.from_json(store.read(f"{plan_path(product_id, run)}/plan.json"))
    return fused.assign_attrs(id=product_id), _scene(store, plan)


def _scene(store: Store, plan: Plan) -> xr.Dataset:
    """Guide lazy from its source, coarse as it was registered for the run."""
    with np.load(io.BytesIO(store.read(f"{plan_path(plan.product_id, plan.run)}/scene.npz"))) as kept:
        coarse, valid, quality = (kept[k] for k in ("coarse", "coarse_valid", "coarse_quality"))
    layout, ratio = plan.layout, plan.cut.ratio
    if "scene" in plan.source:
        guide = xr.open_zarr(plan.source["scene"], consolidated=False, decode_coords="all")
        guide = guide[["guide", "guide_valid", "guide_quality"]]
    else:
        items = [pystac.Item.from_dict(i) for i in plan.source["guide"]]
        spec = CatalogSpec.from_dict(plan.source["guide_catalog"])
        guide = sentinel2.open_sentinel2(items, layout.geobox, spec=spec, missing=plan.source["missing"])
        guide = guide[["reflectance", "valid", "quality"]].rename(
            reflectance="guide", valid="guide_valid", quality="guide_quality", band="guide_band"
        )
    x, y = (np.asarray(guide[d]).reshape(-1, ratio).mean(1) for d in ("x", "y"))
    dims = ("y_coarse", "x_coarse")
    return (
        guide.assign(
            coarse=(("coarse_band", *dims), np.where(valid, coarse, np.nan)),
            coarse_valid=(dims, valid),
            coarse_quality=(dims, quality),
        )
        .assign_coords(coarse_band=list(plan.coarse_bands), y_coarse=y, x_coarse=x)
        .assign_attrs({k: v for k, v in plan.provenance.items() if k in ("shift_m", "psf_sigma", "gap_s", "gap_clock")})
        .assign_attrs(tile_edges=tuple(plan.cut.edges(n, layout.shard_px) for n in (layout.height, layout.width)))
    )
