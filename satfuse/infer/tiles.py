"""One tile: a pure function of the run's plan and the tile's number. Doing it again gives the same bytes."""

import numpy as np

from satfuse.arrays import BoolArray, IntArray
from satfuse.geometry.tiling import Tile
from satfuse.infer.plan import Context, Plan, open_context, plan_path
from satfuse.models.blocks import Inputs, fuse_blocks
from satfuse.models.prepare import fill_guide
from satfuse.product.layout import Layout
from satfuse.product.publish import group_path
from satfuse.product.store import Store
from satfuse.product.write import encode_uncertainty, write_tile
from satfuse.sensors.encoding import FILL, encode
from satfuse.sensors.quality import GUIDE_INVALID, Quality, out_of_range

PROCESS_BYTES = 600 * 2**20  # interpreter, torch and raster libraries


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
    guide, valid, guide_quality = context.source.read_guide(tile.halo)
    valid &= np.isfinite(guide).all(0)
    inputs = Inputs(
        window=tile.halo,
        guide=fill_guide(guide, valid, np.array(plan.guide_fill)),
        guide_valid=valid,
        coarse=context.coarse.image,
        coarse_valid=context.coarse.valid,
    )
    rows, columns = tile.core.slices(origin=tile.halo)
    valid = valid[rows, columns]
    quality = _input_quality(context, tile, valid, guide_quality[rows, columns])
    number = np.empty((len(plan.coarse_bands), *tile.core.shape), "int16")
    uncertainty = np.empty_like(number) if plan.layout.uncertain_bands else None
    blocks = fuse_blocks(context.model, context.state, inputs, tile.core, plan.cut, plan.device)
    for window, image, sigma in blocks:
        rows, columns = window.slices(origin=tile.core)
        image[context.coarse.absent] = np.nan
        image[:, ~valid[rows, columns]] = np.nan
        quality[rows, columns] |= np.where(
            out_of_range(image), np.uint16(Quality.OUT_OF_RANGE), np.uint16(0)
        )
        number[:, rows, columns] = encode(image)
        if uncertainty is not None:
            # one band at a time stays in the cache of the processor
            parts = zip(uncertainty[:, rows, columns], number[:, rows, columns], sigma, strict=True)
            for out, values, band in parts:
                out[...] = np.where(values != FILL, encode_uncertainty(band), FILL)
    return number, quality, uncertainty


def _input_quality(
    context: Context, tile: Tile, valid: BoolArray, guide_quality: IntArray
) -> IntArray:
    """Flags of a tile's core (y, x) from guide and coarse image, before anything is fused."""
    ratio = context.plan.cut.ratio
    quality = guide_quality.copy()
    unexplained = ~valid & ((quality & np.uint16(GUIDE_INVALID)) == 0)
    quality[unexplained] |= np.uint16(Quality.GUIDE_MISSING)
    coarse_quality = context.coarse_quality[tile.core.slices(step=ratio)]
    return quality | coarse_quality.repeat(ratio, 0).repeat(ratio, 1)


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
