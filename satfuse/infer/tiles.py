"""One tile: a pure function of the run's plan and the tile's number.

Computing it again gives the same bytes.
"""

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
    """Path of the marker of a finished tile, a file with the tile's counts."""
    return f"{plan_path(plan.product_id, plan.run)}/done/{index}.json"


def fuse_tile(store: Store, path: str, index: int) -> dict[str, int]:
    """Read, fuse and write one tile, then its marker.

    Parameters
    ----------
    path : folder of the plan in the store.
    index : number of the tile in the plan.

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


def count(
    layout: Layout, number: IntArray, quality: IntArray, uncertainty: IntArray | None
) -> dict[str, int]:
    """Count the pixels of a tile: all, those with a value, and inconsistent ones.

    A pixel is inconsistent where its value and quality contradict each other, or where a band has a
    value without an uncertainty or the reverse; bands that are not the layout's `uncertain_bands`
    must have none.

    Parameters
    ----------
    number, quality, uncertainty : as `compute_tile` returns them.

    Returns
    -------
    `pixels`, `finite` (with a value in some band), `inconsistent`.
    """
    finite = (number != FILL).any(0)
    inconsistent = finite == ((quality & np.uint16(GUIDE_INVALID)) != 0)
    if uncertainty is not None:
        for band, values, sigma in zip(layout.bands, number, uncertainty, strict=True):
            mismatch = sigma != FILL
            if band in layout.uncertain_bands:
                mismatch ^= values != FILL
            inconsistent |= mismatch
    return {
        "pixels": finite.size,
        "finite": int(finite.sum()),
        "inconsistent": int(inconsistent.sum()),
    }


def compute_tile(context: Context, tile: Tile) -> tuple[IntArray, IntArray, IntArray | None]:
    """Fuse a tile, in memory.

    Returns
    -------
    number : digital numbers of reflectance (band, y, x) int16.
    quality : flags (y, x) uint16.
    uncertainty : digital numbers (band, y, x) int16; None where the layout has no uncertain bands.
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
            assert sigma is not None  # only bands of models that give it are uncertain bands
            # one band at a time stays in the cache of the processor
            parts = zip(uncertainty[:, rows, columns], number[:, rows, columns], sigma, strict=True)
            for out, values, band_sigma in parts:
                out[...] = np.where(values != FILL, encode_uncertainty(band_sigma), FILL)
    return number, quality, uncertainty


def _input_quality(
    context: Context, tile: Tile, valid: BoolArray, guide_quality: IntArray
) -> IntArray:
    """Flags of a tile's core (y, x) from guide and coarse image, before anything is fused.

    Parameters
    ----------
    valid, guide_quality : (y, x) of the guide in the core.
    """
    ratio = context.plan.cut.ratio
    quality = guide_quality.copy()
    # such as pixels of which only some bands are missing
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
    """Estimate the peak memory of one tile in a worker that has its libraries and the model.

    It is the sum of the guide as it is read (twice, while it is put together), the product's
    numbers, with or without uncertainty, with a compressed shard of them, and for one block the
    inputs, the output and three arrays of the output's size inside the model.

    Parameters
    ----------
    shard_px, halo_px, block_px : edges of a tile's core and of a block's, and their context.
    guide_bands, coarse_bands : numbers of bands.
    uncertainty : True = the product has one.

    Returns
    -------
    Bytes.
    """
    read = (shard_px + 2 * halo_px) ** 2 * (2 * guide_bands * 4 + 8)  # float32
    written = shard_px**2 * coarse_bands * 2 * (2 + uncertainty)  # int16
    block = min(block_px, shard_px) + 2 * halo_px
    forward = block**2 * (2 * guide_bands + 4 * coarse_bands) * 4  # float32
    return read + written + forward
