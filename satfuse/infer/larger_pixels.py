"""Make a product once more with larger pixels: the same weights, the same coarse image, the guide averaged."""

from functools import reduce
from itertools import product
from operator import or_
from pathlib import Path

import numpy as np
import xarray as xr
from odc.geo.geobox import zoom_out
from odc.geo.xr import xr_coords

from satfuse.errors import GridError
from satfuse.geometry.resample import block_mean
from satfuse.infer.reopen import load_run, run_plan
from satfuse.infer.run import fuse_field
from satfuse.infer.source import write_scene


def fuse_larger(
    item: str, pixel_m: float, folder: str | Path, *, scheduler: str | None = None
) -> str:
    """Fuse the scene of a product with its own model at a larger pixel size.

    Parameters
    ----------
    item : address of the product's STAC item.
    pixel_m : wanted pixel size in metres: a multiple of the product's that divides the coarse pixel.
    folder : for the scene and the store of the new product.
    scheduler : see `satfuse.infer.fuse_field`.

    Returns
    -------
    Address of the new product's item; the product is the same run if it is there already.

    Raises
    ------
    GridError
        Pixels that do not nest.
    CheckpointError
        The model allows only the ratio that it was made for.
    """
    _, scene = load_run(item)
    ratio = scene.sizes["y"] // scene.sizes["y_coarse"]
    here_m = abs(scene.odc.geobox.resolution.x)
    factor = round(pixel_m / here_m)
    if factor < 2 or not np.isclose(factor * here_m, pixel_m) or ratio % factor or ratio == factor:
        allowed = ", ".join(f"{here_m * k:g}" for k in range(2, ratio) if ratio % k == 0)
        raise GridError(
            f"{pixel_m:g} m do not nest between {here_m:g} m and the coarse pixel; allowed: {allowed}"
        )
    plan = run_plan(item)
    larger = average_scene(scene, factor)
    path = write_scene(
        larger, Path(folder) / "scene.zarr", field=plan.provenance["field"], time=plan.layout.time
    )
    return fuse_field(
        path, plan.model, Path(folder) / "store", ratio=ratio // factor, scheduler=scheduler
    )


def average_scene(scene: xr.Dataset, factor: int) -> xr.Dataset:
    """Average the guide of a scene over blocks of `factor` x `factor` pixels.

    A block with an unusable pixel is not valid, and has the flags of all its pixels.
    """
    guide = scene["guide"].where(scene["guide_valid"]).transpose("guide_band", "y", "x")
    mean = block_mean(guide.data, factor)
    quality = scene["guide_quality"].data
    corners = product(range(factor), repeat=2)
    flags = reduce(or_, (quality[i::factor, j::factor] for i, j in corners))
    attrs = {"grid_mapping": "spatial_ref"}
    layers = {
        "guide": (("guide_band", "y", "x"), mean, attrs),
        "guide_valid": (("y", "x"), np.isfinite(mean).all(0), attrs),
        "guide_quality": (("y", "x"), flags, attrs),
    }
    coarse = scene[["coarse", "coarse_valid", "coarse_quality"]]
    larger = coarse.drop_vars(["y", "x", "spatial_ref"], errors="ignore").assign(layers)
    run_attrs = {key: value for key, value in scene.attrs.items() if key != "tile_edges"}
    return (
        larger.assign_coords(guide_band=scene["guide_band"].values)
        .assign_coords(xr_coords(zoom_out(scene.odc.geobox, factor)))
        .assign_attrs(run_attrs)
    )
