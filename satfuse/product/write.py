"""Write one tile of a product: whole shards, the same bytes whenever it is done again."""

from typing import TYPE_CHECKING, Any

import numpy as np

from satfuse.arrays import BoolArray, FloatArray, IntArray
from satfuse.geometry.tiling import Window
from satfuse.product.layout import SCALES, Layout
from satfuse.product.store import Store
from satfuse.sensors.encoding import FILL

if TYPE_CHECKING:
    import zarr

# Of an uncertainty: within 3 %. More bits would be noise that takes half as many bytes again.
SIGNIFICANT_BITS = 5
LARGEST = 31 << 10  # largest number of so few bits in an int16
FLOAT32_MANTISSA_BITS = 24  # with the leading one, which is not stored


def encode_uncertainty(sigma: FloatArray) -> IntArray:
    """Encode a standard deviation as int16 digital numbers of 2e-5 with five significant bits.

    The numbers go from 1 to 31744. The smallest is less than what rounding adds to the error of
    reflectance; the largest, 0.63, means that or more. The fill value replaces what is not finite.
    """
    number = np.divide(sigma, SCALES["uncertainty"], dtype="float32")
    np.clip(number, 1, LARGEST, out=number)  # in place: in a worker every new array is new pages
    # round the mantissa to the nearest number of five bits: add half of the last bit, cut the rest
    mantissa = number.view("int32")
    dropped_bits = FLOAT32_MANTISSA_BITS - SIGNIFICANT_BITS
    mantissa += 1 << dropped_bits - 1
    mantissa &= -1 << dropped_bits
    np.rint(number, out=number)
    np.copyto(number, FILL, where=~np.isfinite(sigma))
    return number.astype("int16")


def write_tile(
    store: Store,
    path: str,
    layout: Layout,
    core: Window,
    reflectance: IntArray,
    quality: IntArray,
    uncertainty: IntArray | None = None,
) -> None:
    """Write one tile, its quality and its part of every overview.

    Parameters
    ----------
    path : of the product's group in the store.
    core : one shard of the layout.
    reflectance : (band, y, x) int16 from `satfuse.sensors.encoding.encode`.
    quality : (y, x) uint16.
    uncertainty : (band, y, x) int16 from `encode_uncertainty`, where the layout has it.

    Raises
    ------
    StoreError
        The store is full or refuses.
    """
    import zarr

    # a chunk of fill values is written too: a missing one shows that a tile was never done
    keep_empty = zarr.config.set({"array.write_empty_chunks": True})
    with store.guard(f"write tile y {core.y0} x {core.x0} of {path}"), keep_empty:
        location = store.zarr(path, read_only=False)
        group = zarr.open_group(location, mode="r+", use_consolidated=False)
        rows, columns = core.slices()
        _array(group, "reflectance")[0, :, rows, columns] = reflectance
        _array(group, "quality")[0, rows, columns] = quality
        if uncertainty is not None:
            _array(group, "uncertainty")[0, :, rows, columns] = uncertainty
        for factor in layout.overviews:
            coarse = coarsen_numbers(reflectance, factor)
            y = slice(core.y0 // factor, core.y0 // factor + coarse.shape[1])
            x = slice(core.x0 // factor, core.x0 // factor + coarse.shape[2])
            _array(group, f"overview_{factor}/reflectance")[0, :, y, x] = coarse


def _array(group: "zarr.Group", name: str) -> "zarr.Array[Any]":
    """The array `name`, which `layout.create_group` has made."""
    import zarr

    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def coarsen_numbers(number: IntArray, factor: int) -> IntArray:
    """Average the valid digital numbers in blocks of `factor` x `factor` pixels.

    Parameters
    ----------
    number : (band, y, x) int16; edges that are no whole block are padded with the fill value.

    Returns
    -------
    (band, ceil(y / factor), ceil(x / factor)) int16; the fill value where no pixel is valid.
    """
    _, height, width = number.shape
    padding = ((0, -height % factor), (0, -width % factor))
    coarse = []
    for band in number:
        padded = np.pad(band, padding, constant_values=FILL)
        valid = padded != FILL
        count = _block_sum(valid, factor)
        total = _block_sum(np.where(valid, padded, 0), factor)
        mean = np.rint(total / np.maximum(count, 1))
        coarse.append(np.where(count > 0, mean, FILL).astype("int16"))
    return np.stack(coarse)


def _block_sum(image: IntArray | BoolArray, factor: int) -> IntArray:
    """Sums of (y, x) over blocks, of rows first: they are contiguous in memory."""
    rows = image.reshape(-1, factor, image.shape[1]).sum(1, dtype="int32")
    total = rows[:, ::factor].copy()
    for column in range(1, factor):
        total += rows[:, column::factor]
    return total


def missing_shards(store: Store, path: str, layout: Layout, cores: list[Window]) -> list[str]:
    """Names of the shards that a complete product has and this one lacks."""
    arrays = [
        *(f"{name}/c/0/0" for name in layout.variables),
        "quality/c/0",
        *(f"overview_{factor}/reflectance/c/0/0" for factor in layout.overviews),
    ]
    shards = [(core.y0 // layout.shard_px, core.x0 // layout.shard_px) for core in cores]
    missing = []
    for array in arrays:
        # one listing per row of shards, not one request per shard
        columns = {row: set(store.names(f"{path}/{array}/{row}")) for row in {r for r, _ in shards}}
        missing += [f"{array}/{r}/{c}" for r, c in shards if str(c) not in columns[r]]
    return missing
