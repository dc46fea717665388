"""Writing one tile of a product: whole shards, the same bytes whenever it is done again."""

import numpy as np

from satfuse.geometry.tiling import Window
from satfuse.product.layout import FILL, SCALE, Layout
from satfuse.product.store import Store

# of an uncertainty: within 3 %; more would be noise that takes half as many bytes again
SIGNIFICANT_BITS = 5
MOST = 31 << 10  # the largest number of so few bits in an int16


def encode(reflectance: np.ndarray) -> np.ndarray:
    """Reflectance to int16 digital numbers of 1e-4; what is not finite becomes the fill value."""
    finite = np.isfinite(reflectance)
    number = np.rint(np.where(finite, reflectance, 0) / SCALE["reflectance"]).clip(FILL + 1, 32767)
    return np.where(finite, number, FILL).astype("int16")


def encode_uncertainty(sigma: np.ndarray) -> np.ndarray:
    """Standard deviation to int16 digital numbers of 2e-5, from 1 to 31744, rounded to five significant bits.

    The smallest is less than what rounding adds to the error of reflectance; the largest, 0.63, means that or more.
    What is not finite becomes the fill value.
    """
    number = np.divide(sigma, SCALE["uncertainty"], dtype="float32")
    np.clip(number, 1, MOST, out=number)  # in place: in a worker every new array is new pages
    mantissa, dropped = (
        number.view("int32"),
        24 - SIGNIFICANT_BITS,
    )  # 24 bits: the leading one is not stored
    mantissa += 1 << dropped - 1
    mantissa &= -1 << dropped
    np.rint(number, out=number)
    np.copyto(number, FILL, where=~np.isfinite(sigma))
    return number.astype("int16")


def write_tile(
    store: Store, path: str, layout: Layout, core: Window, reflectance, quality, uncertainty=None
) -> None:
    """Write one tile, its quality and its part of every overview.

    Parameters
    ----------
    path : of the product's group in the store.
    core : one shard of the layout.
    reflectance : (band, y, x) int16 from `encode`.
    quality : (y, x) uint16.
    uncertainty : (band, y, x) int16 from `encode_uncertainty`, where the layout has it.

    Raises
    ------
    StoreError
        The store is full or refuses.
    """
    import zarr

    # an all-fill chunk is written too: a missing one shows that a tile was never done
    keep_empty = zarr.config.set({"array.write_empty_chunks": True})
    with store.guard(f"write tile y {core.y0} x {core.x0} of {path}"), keep_empty:
        group = zarr.open_group(
            store.zarr(path, read_only=False), mode="r+", use_consolidated=False
        )
        rows, columns = core.slices()
        group["reflectance"][0, :, rows, columns] = reflectance
        group["quality"][0, rows, columns] = quality
        if uncertainty is not None:
            group["uncertainty"][0, :, rows, columns] = uncertainty
        for factor in layout.overviews:
            small = block_mean(reflectance, factor)
            y, x = core.y0 // factor, core.x0 // factor
            group[f"overview_{factor}/reflectance"][
                0, :, y : y + small.shape[1], x : x + small.shape[2]
            ] = small


def block_mean(number: np.ndarray, factor: int) -> np.ndarray:
    """Mean of the valid digital numbers in blocks of `factor` x `factor` pixels; (band, y, x) int16 in and out."""
    _, height, width = number.shape
    padding = (0, -height % factor), (0, -width % factor)
    out = []
    for band in number:
        band = np.pad(band, padding, constant_values=FILL)
        valid = band != FILL
        count, total = (_block_sum(part, factor) for part in (valid, np.where(valid, band, 0)))
        out.append(np.where(count > 0, np.rint(total / np.maximum(count, 1)), FILL).astype("int16"))
    return np.stack(out)


def _block_sum(image, factor):
    """Sums of (y, x) over blocks, of rows first: they lie together in memory."""
    rows = image.reshape(-1, factor, image.shape[1]).sum(1, dtype="int32")
    return sum(rows[:, k::factor] for k in range(factor))


def missing_shards(store: Store, path: str, layout: Layout, cores: list[Window]) -> list[str]:
    """Names of the shards that a complete product has and this one lacks."""
    shard, wanted = layout.shard_px, []
    arrays = [*(f"{name}/c/0/0" for name in layout.variables), "quality/c/0"]
    arrays += [f"overview_{f}/reflectance/c/0/0" for f in layout.overviews]
    for array in arrays:
        columns = {
            row: set(store.names(f"{path}/{array}/{row}")) for row in {c.y0 // shard for c in cores}
        }
        for core in cores:
            row, column = core.y0 // shard, core.x0 // shard
            if str(column) not in columns[row]:
                wanted.append(f"{array}/{row}/{column}")
    return wanted
