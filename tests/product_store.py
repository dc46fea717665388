"""Publishes products of one value, for the tests of store and opening."""

import numpy as np

from satfuse.geometry.tiling import plan_tiles
from satfuse.product.layout import Layout, create_group
from satfuse.product.publish import group_path, publish
from satfuse.product.write import encode_uncertainty, write_tile
from satfuse.sensors.bands import S3_NAMES
from satfuse.sensors.encoding import FILL, encode


def cores(box):
    return [t.core for t in plan_tiles(box.shape, tile_px=600, halo_px=0, ratio=30, chunk_px=300)]


def publish_flat(
    store,
    product_id,
    box,
    *,
    value=0.1,
    uncertainty=None,
    time="2024-06-01T10:00:00+00:00",
    provenance=None,
    run="r1",
):
    """Publish a product with one value, and one uncertainty, everywhere; gives the item's address.

    The last band, S6N, has no uncertainty.
    """
    options = {
        "band_source": ["regression"] * 21,
        "uncertain_bands": S3_NAMES[:-1] if uncertainty else (),
    }
    layout = Layout.of(box, bands=S3_NAMES, time=time, shard_px=600, **options)
    path = group_path(product_id, run)
    create_group(store, path, layout, {"satfuse": {"run": run}})
    for core in cores(box):
        quality = np.zeros(core.shape, "uint16")
        spread = None
        if uncertainty:
            spread = encode_uncertainty(np.full((21, *core.shape), uncertainty))
            spread[-1] = FILL
        write_tile(
            store, path, layout, core, encode(np.full((21, *core.shape), value)), quality, spread
        )
    counts = [{"pixels": 1, "finite": 1, "inconsistent": 0}] * len(cores(box))
    return publish(
        store, product_id, run, layout, cores=cores(box), counts=counts, provenance=provenance or {}
    )
