"""One tile: a pure function of the run's plan and the tile's number. Doing it again gives the same bytes."""

import numpy as np

from satfuse.geometry.tiling import Tile
from satfuse.infer.plan import Context, Plan, open_context, plan_path
from satfuse.infer.source import read_guide
from satfuse.models.blocks import Inputs, fuse_blocks
from satfuse.product.layout import FILL, Layout
from satfuse.product.publish import group_path
from satfuse.product.store import Store
from satfuse.product.write import encode, encode_uncertainty, write_tile
from satfuse.sensors.quality import GUIDE_INVALID, Quality

PROCESS_BYTES = 600 * 2**20  # interpreter, torch and raster libraries
HIGHEST = 1.6  # reflectance above which a value is flagged


def done_path(plan: Plan, index: int) -> str:
    """Path of the marker that a finished tile leaves; it holds the tile's counts."""
    return f"{plan_path(plan.product_id, plan.run)}/done/{index}.json"


def fuse_tile(store: Store, path: str, index: int) -> dict:
    """Read, fuse and write one tile, then leave its marker.

    Parameters
    ----------
    path : folder of the plan in the store.
    index : of the tile.

    Returns
    -------
    Counts of the tile: `pixels`, `finite`, `inconsistent`; see `satfuse.product.publish.publish`.
    """
    context = open_context(store, path)
    plan = context.plan
    tile = plan.tiles()[index]
    arrays = compute_tile(context, tile)
    write_tile(store, group_path(plan.product_id, plan.run), plan.layout, tile.core, *arrays)
    counts = count(plan.layout, *arrays)
    store.write_json(done_path(plan, index), counts)
    return counts


def count(layout: Layout, number, quality, uncertainty) -> dict:
    """Counts of a tile from what `compute_tile` gives.

    A pixel is inconsistent where its value and quality contradict each other, or where a band has a value without an
    uncertainty or the reverse; bands that are not the layout's `uncertain_bands` must have none.
    """
    finite = (number != FILL).any(0)
    wrong = finite == ((quality & np.uint16(GUIDE_INVALID)) != 0)
    if uncertainty is not None:
        for band, values, sigma in zip(layout.bands, number, uncertainty, strict=True):
            differs = sigma != FILL
            if band in layout.uncertain_bands:
                differs ^= values != FILL
            wrong |= differs
    return {"pixels": finite.size, "finite": int(finite.sum()), "inconsistent": int(wrong.sum())}


def compute_tile(context: Context, tile: Tile) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """What a tile holds.

    Returns
    -------
    Digital numbers (band, y, x) int16, quality (y, x) uint16 and, where the plan's layout has uncertain bands, digital
    numbers of the uncertainty (band, y, x) int16.
    """
    plan = context.plan
    guide, valid, guide_quality = read_guide(plan.source, plan.layout.geobox, tile.halo)
    valid &= np.isfinite(guide).all(0)
    fill = np.array(plan.guide_fill, "float32")
    for band, value in zip(guide, fill, strict=True):
        band[~np.isfinite(band)] = value
    inputs = Inputs(
        window=tile.halo,
        guide=guide.astype("float32", copy=False),
        guide_valid=valid,
        coarse=context.coarse,
        coarse_valid=context.coarse_valid,
    )
    rows, columns = tile.core.slices(origin=tile.halo)
    valid, quality = valid[rows, columns], guide_quality[rows, columns].copy()
    quality[~valid & ((quality & np.uint16(GUIDE_INVALID)) == 0)] |= np.uint16(
        Quality.GUIDE_MISSING
    )
    coarse_quality = context.coarse_quality[tile.core.slices(step=plan.cut.ratio)]
    quality |= coarse_quality.repeat(plan.cut.ratio, 0).repeat(plan.cut.ratio, 1)
    number = np.empty((len(plan.coarse_bands), *tile.core.shape), "int16")
    uncertainty = np.empty_like(number) if plan.layout.uncertain_bands else None
    for window, image, sigma in fuse_blocks(
        context.model, context.state, inputs, tile.core, plan.cut, plan.device
    ):
        rows, columns = window.slices(origin=tile.core)
        image[context.absent] = np.nan
        outside = ((image < 0) | (image > HIGHEST)).any(0)
        quality[rows, columns] |= np.where(outside, np.uint16(Quality.OUT_OF_RANGE), np.uint16(0))
        image[:, ~valid[rows, columns]] = np.nan
        number[:, rows, columns] = encode(image)
        if uncertainty is not None:
            places = zip(
                uncertainty[:, rows, columns], number[:, rows, columns], sigma, strict=True
            )
            for out, values, band in places:  # one band at a time stays in the cache
                out[...] = np.where(values != FILL, encode_uncertainty(band), FILL)
    return number, quality, uncertainty


def tile_bytes(
    shard_px: int,
    halo_px: int,
    block_px: int,
    guide_bands: int,
    coarse_bands: int,
    *,
    uncertainty: bool,
) -> int:
    """Estimated peak memory of one tile in a worker that already has its libraries and the model.

    The guide as it is read (twice, while it is put together), the product's numbers, with or without uncertainty, and
    a compressed shard of them, and for one block the inputs, the output and three arrays of the output's size inside
    the model.
    """
    read = (shard_px + 2 * halo_px) ** 2 * (2 * guide_bands * 4 + 8)
    written = shard_px**2 * coarse_bands * 2 * (2 + uncertainty)
    forward = (
        (min(block_px, shard_px) + 2 * halo_px) ** 2 * (2 * guide_bands + 4 * coarse_bands) * 4
    )
    return read + written + forward
