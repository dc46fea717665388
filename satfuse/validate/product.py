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
from satfuse.validate.land_cover.classes import load_legend, read_land_cover
from satfuse.validate.report import validate_product

IN_MEMORY_BYTES = 2**29  # a guide of up to 3300 x 3300 px is read once


def validate_item(
    item: str,
    out,
    *,
    truth: xr.DataArray | None = None,
    land_cover=None,
    legend: str = "worldcover",
) -> Path:
    """Measure a product against the very inputs that it was made from.

    Parameters
    ----------
    item : address of the product's STAC item, `<store>/items/<id>.json`.
    out : folder; the report goes into a folder named like the product.
    truth : (band, y, x) true reflectance on the product's grid, where it is known.
    land_cover : path of a land-cover map, see `satfuse.validate.land_cover.read_land_cover`.
    legend : of the map, see `satfuse.validate.land_cover.load_legend`.

    Returns
    -------
    Folder with `metrics.json`, `metrics.md`, figures, `quicklook.png` and `index.html`.

    Raises
    ------
    ProductError
        The address is not that of a product's item.
    ReadError
        An input is no longer where it was, or the map cannot be read.
    ConfigError, GridError
        The legend does not fit the map; the map does not touch the product.
    """
    wanted = load_legend(legend) if land_cover is not None else None
    fused, scene = load_run(item)
    cover = read_land_cover(land_cover, scene, wanted) if wanted else None
    folder = Path(out) / fused.attrs["id"]
    run, edges = fused.attrs["satfuse"]["run"], scene.attrs["tile_edges"]
    validate_product(fused, scene, folder, truth=truth, land_cover=cover, tile_edges=edges, run=run)
    return folder


def load_run(item: str) -> tuple[xr.Dataset, xr.Dataset]:
    """`open_run` with the scene in memory where its guide is small: else every band decodes all files anew."""
    fused, scene = open_run(item)
    return fused, scene.load() if scene["guide"].nbytes <= IN_MEMORY_BYTES else scene


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
    store, plan = _store_and_plan(item)
    group = store.zarr(group_path(plan.product_id, plan.run))
    fused = xr.open_zarr(group, consolidated=False, decode_coords="all")
    return fused.assign_attrs(id=plan.product_id), _scene(store, plan)


def run_plan(item: str) -> Plan:
    """The plan of the run that made a product; see `open_run`."""
    return _store_and_plan(item)[1]


def _store_and_plan(item):
    root, separator, name = str(item).rpartition("/items/")
    if not separator or not name.endswith(".json"):
        raise ProductError(f"{item} is not the item of a product; give <store>/items/<id>.json")
    store = Store(root)
    record = json.loads(store.read(f"items/{name}"))
    path = plan_path(record["id"], record["properties"]["satfuse:run"])
    return store, Plan.from_json(store.read(f"{path}/plan.json"))


def _scene(store: Store, plan: Plan) -> xr.Dataset:
    """Guide lazy from its source, coarse as it was registered for the run."""
    with np.load(
        io.BytesIO(store.read(f"{plan_path(plan.product_id, plan.run)}/scene.npz"))
    ) as kept:
        coarse, valid, quality, absent = (
            kept[k] for k in ("coarse", "coarse_valid", "coarse_quality", "absent")
        )
    coarse[absent] = np.nan
    layout, ratio = plan.layout, plan.cut.ratio
    if "scene" in plan.source:
        guide = xr.open_zarr(plan.source["scene"], consolidated=False, decode_coords="all")
        guide = guide[["guide", "guide_valid", "guide_quality"]]
    else:
        items = [pystac.Item.from_dict(i) for i in plan.source["guide"]]
        spec = CatalogSpec.from_dict(plan.source["guide_catalog"])
        guide = sentinel2.open_sentinel2(
            items, layout.geobox, spec=spec, missing=plan.source["missing"]
        )
        guide = guide[["reflectance", "valid", "quality"]].rename(
            reflectance="guide", valid="guide_valid", quality="guide_quality", band="guide_band"
        )
    x, y = (np.asarray(guide[d]).reshape(-1, ratio).mean(1) for d in ("x", "y"))
    dims = ("y_coarse", "x_coarse")
    kept = ("shift_m", "shift_trusted", "psf_sigma", "gap_s", "gap_clock")
    return (
        guide.assign(
            coarse=(("coarse_band", *dims), np.where(valid, coarse, np.nan)),
            coarse_valid=(dims, valid),
            coarse_quality=(dims, quality),
        )
        .assign_coords(coarse_band=list(plan.coarse_bands), y_coarse=y, x_coarse=x)
        .assign_attrs({key: plan.provenance[key] for key in kept if key in plan.provenance})
        .assign_attrs(
            tile_edges=tuple(
                plan.cut.edges(n, layout.shard_px) for n in (layout.height, layout.width)
            )
        )
    )
