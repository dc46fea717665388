"""Patches per second: `BlockLoader` against shuffled single-patch xbatcher over Dask, one store.

    python -m benchmarks.loader [--size 2048] [--patch 96] [--seconds 20] [--write]

Prints a table. Both loaders give the same kind of batch before the degradation: guide and target
(float32) and validity; the last row adds the degradation. The quality of the shuffle is the mean
share of a batch's other patches that come from a patch's own block of 1024 px: lower is better, a
perfect shuffle has about 1 / blocks.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

from benchmarks.document import command_parser, machine, markdown, put
from satfuse import cube
from satfuse.arrays import FloatArray, IntArray
from satfuse.batch import Batch, BatchConfig, BlockLoader, XbatcherPatches

DOCUMENT = "performance.md"
TITLES = (
    "loader",
    "patches/s",
    "ratio",
    "patches per CPU second",
    "ratio",
    "same-block share of a batch",
)
Row = tuple[str, FloatArray, float]  # loader, (2,) rates of `rate`, share of `same_block_share`


def main() -> None:
    """Build a store, measure three loaders, print the table."""
    options = _parse()
    torch.set_num_threads(1)  # converting patches is bound by memory: threads would only wait
    config = BatchConfig(patch=options.patch, ratio=options.ratio, size=16)
    with tempfile.TemporaryDirectory() as folder:
        store = make_cube(Path(folder), options.scenes, options.size)
        block = BlockLoader(store, "train", config)
        rows = measure(store, block, config, options.seconds)
    conditions = _conditions(options.scenes, options.size, block)
    text = f"{table(rows)}\n\n{conditions} {machine()}"
    print(text)
    if options.write:
        put(text, DOCUMENT, "loader")


def _parse() -> argparse.Namespace:
    parser = command_parser(__doc__, DOCUMENT)
    parser.add_argument("--scenes", type=int, default=2)
    parser.add_argument("--size", type=int, default=2048, help="side of a scene, px")
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--ratio", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0, help="measured time per loader")
    return parser.parse_args()


def make_cube(folder: Path, scenes: int, size: int) -> cube.Cube:
    """A cube of random but smooth spectra: for reading only their compressibility matters."""
    rng = np.random.default_rng(0)
    wavelength = np.linspace(418.0, 2445.0, 100)
    shapes = [0.1 + 0.2 * np.sin(wavelength / (200 + 150 * k)) ** 2 for k in range(3)]
    spectra = xr.DataArray(np.stack(shapes, 1).astype(np.float32), dims=("band", "k"))
    per_band = {"wavelength_nm": ("band", wavelength), "usable": ("band", np.ones(100, bool))}
    sources = {}
    for i in range(scenes):
        coarse = rng.random((3, size // 16, size // 16)).repeat(16, 1).repeat(16, 2)
        cover = (coarse + 0.05 * rng.random((3, size, size))).astype(np.float32)
        abundance = xr.DataArray(cover, dims=("k", "y", "x")).chunk(y=256, x=256)
        image = xr.dot(spectra, abundance, dim="k").transpose("band", "y", "x")
        corner = Affine(30, 0, 300_000 + 200_000 * i, 0, -30, 5_400_000)
        box = GeoBox((size, size), corner, "EPSG:32632")
        valid = (("y", "x"), np.ones((size, size), bool))
        variables = {"reflectance": image, "valid": valid}
        sources[f"s{i}"] = xr.Dataset(variables, {**per_band, **xr_coords(box)})
    return cube.build(sources, folder / "cube.zarr", split=dict.fromkeys(sources, "train"))


def measure(store: cube.Cube, block: BlockLoader, config: BatchConfig, seconds: float) -> list[Row]:
    """Rates and shuffles of xbatcher, of the block loader, and of that with the degradation."""
    plain = XbatcherPatches(store, "train", config)
    blocks = block.plan(0)[:, 0]
    shuffled = np.random.default_rng(0).permutation(blocks)
    share = same_block_share(blocks, config.size)
    return [
        (
            "xbatcher over dask, one patch at a time, shuffled",
            rate(epochs(plain.patches), seconds),
            same_block_share(shuffled, config.size),
        ),
        ("BlockLoader", rate(epochs(block.patches), seconds), share),
        ("BlockLoader with degradation", rate(epochs(block.epoch), seconds), share),
    ]


def rate(batches: Generator[Batch, None, None], seconds: float) -> FloatArray:
    """(2,) patches per second and per second of CPU time.

    The first batch is left out: it waits for the first blocks.
    """
    next(batches)
    count = 0
    start = np.array([time.perf_counter(), time.process_time()])
    for batch in batches:
        count += len(batch["valid"])
        if time.perf_counter() - start[0] > seconds:
            break
    batches.close()
    return count / (np.array([time.perf_counter(), time.process_time()]) - start)


def epochs(epoch: Callable[[int], Iterator[Batch]]) -> Generator[Batch, None, None]:
    """Batches of one epoch after the other, without end."""
    number = 0
    while True:
        yield from epoch(number)
        number += 1


def same_block_share(blocks: IntArray, size: int) -> float:
    """Mean share of a batch's other patches that come from a patch's own block.

    Parameters
    ----------
    blocks : (patches,) the block of each patch of an epoch, in order.
    size : patches in a batch.
    """
    shares = []
    for start in range(0, len(blocks) - size + 1, size):
        _, counts = np.unique(blocks[start : start + size], return_counts=True)
        shares.append((counts * (counts - 1)).sum() / (size * (size - 1)))
    return float(np.mean(shares))


def table(rows: list[Row]) -> str:
    """The rates, and how many times those of the first row they are, in Markdown."""
    _, base, _ = rows[0]
    lines = []
    for name, rates, share in rows:
        pairs = zip(rates, base, strict=True)
        cells = [text for r, b in pairs for text in (f"{r:.0f}", f"{r / b:.1f}")]
        lines.append([name, *cells, f"{share:.2f}"])
    return markdown(TITLES, lines)


def _conditions(scenes: int, size: int, block: BlockLoader) -> str:
    config = block.config
    return (
        f"*{scenes} scenes of {size} x {size} px, 12 + 19 bands int16, chunk 128, shard 1024, "
        f"local disk, warm cache; patch {config.patch} px, batch {config.size}, "
        f"{len(block.blocks)} blocks, {config.blocks_mixed} mixed, coverage {config.coverage:g}; "
        f"{torch.get_num_threads()} torch thread.*"
    )


if __name__ == "__main__":
    main()
