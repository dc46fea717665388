"""Fuse the scene of a product again with larger pixels.

Weights and coarse image are the same; the guide is averaged.
"""

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
from satfuse.infer.run import Progress, fuse_field
from satfuse.infer.source import write_scene


def fuse_larger(
    item: str,
    pixel_m: float,
    folder: str | Path,
    *,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> str:
    """Fuse the scene of a product with its own model at a larger pixel size.

    Parameters
    ----------
    item : address of the product's STAC item.
    pixel_m : pixel size in metres: a multiple of the product's that divides the coarse pixel.
    folder : for the scene and the store of the new product.
    scheduler, progress : see `satfuse.infer.fuse_field`.

    Returns
    -------
    Address of the new product's item. A second call finds the run of the first one.

    Raises
    ------
    GridError
        Pixels that do not nest.
    CheckpointError
        The model allows only the ratio that it was made for.
    """
    _, scene = load_run(item)
    ratio = scene.sizes["y"] // scene.sizes["y_coarse"]
    factor = _factor(abs(scene.odc.geobox.resolution.x), pixel_m, ratio)
    plan = run_plan(item)
    larger = average_scene(scene, factor)
    folder = Path(folder)
    path = write_scene(
        larger, folder / "scene.zarr", field=plan.provenance["field"], time=plan.layout.time
    )
    return fuse_field(
        path,
        plan.model,
        folder / "store",
        ratio=ratio // factor,
        scheduler=scheduler,
        progress=progress,
    )


def _factor(product_m: float, pixel_m: float, ratio: int) -> int:
    """Pixels of the product along a side of a larger pixel.

    Parameters
    ----------
    product_m, pixel_m : pixel size of the product and of the larger pixels, in metres.
    ratio : pixels of the product per coarse pixel.
    """
    factor = round(pixel_m / product_m)
    whole = np.isclose(factor * product_m, pixel_m)
    if not 1 < factor < ratio or ratio % factor or not whole:
        allowed = ", ".join(f"{product_m * k:g}" for k in range(2, ratio) if ratio % k == 0)
        raise GridError(
            f"{pixel_m:g} m do not nest between {product_m:g} m and the coarse pixel; "
            f"allowed: {allowed}"
        )
    return factor


def average_scene(scene: xr.Dataset, factor: int) -> xr.Dataset:
    """Average the guide of a scene over blocks of `factor` x `factor` pixels.

    A block with an unusable pixel is not valid, and has the flags of all its pixels.

    Parameters
    ----------
    scene : see `satfuse.scene.make_scene`; `factor` divides its ratio.

    Returns
    -------
    The scene on the grid of the larger pixels; its coarse image is unchanged.
    """
    guide = scene["guide"].where(scene["guide_valid"]).transpose("guide_band", "y", "x")
    mean = block_mean(guide.data.astype("float32"), factor)
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
