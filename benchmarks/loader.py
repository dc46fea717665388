"""Patches per second of `BlockLoader` beside shuffled single-patch xbatcher over Dask, on one store.

    python -m benchmarks.loader [--size 2048] [--patch 96] [--seconds 20] [--write]

Prints a markdown table. Both give the same kind of batch (float32 guide and target, valid) before the degradation;
the last row adds it. Shuffle quality is the mean share of a batch's other patches that come from a patch's own block
of 1024 px (lower is better; a perfect shuffle has about 1 / blocks).
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

from benchmarks.document import machine, markdown, put
from satfuse import cube
from satfuse.batch import BatchConfig, BlockLoader, XbatcherPatches


def make_cube(folder: Path, scenes: int, size: int) -> cube.Cube:
    """A cube of random but smooth spectra: content does not matter for reading, compressibility does."""
    rng = np.random.default_rng(0)
    wavelength = np.linspace(418.0, 2445.0, 100)
    sources = {}
    for i in range(scenes):
        coarse = rng.random((3, size // 16, size // 16)).repeat(16, 1).repeat(16, 2)
        cover = (coarse + 0.05 * rng.random((3, size, size))).astype(np.float32)
        shapes = np.stack(
            [0.1 + 0.2 * np.sin(wavelength / (200 + 150 * k)) ** 2 for k in range(3)], 1
        ).astype(np.float32)
        image = xr.DataArray(cover, dims=("k", "y", "x")).chunk(y=256, x=256)
        spectra = xr.dot(xr.DataArray(shapes, dims=("band", "k")), image, dim="k").transpose(
            "band", "y", "x"
        )
        box = GeoBox(
            (size, size), Affine(30, 0, 300000 + 200000 * i, 0, -30, 5400000), "EPSG:32632"
        )
        per_band = {"wavelength_nm": ("band", wavelength), "usable": ("band", np.ones(100, bool))}
        valid = (("y", "x"), np.ones((size, size), bool))
        sources[f"s{i}"] = xr.Dataset(
            {"reflectance": spectra, "valid": valid}, {**per_band, **xr_coords(box)}
        )
    return cube.build(sources, folder / "cube.zarr", split=dict.fromkeys(sources, "train"))


def rate(batches, seconds: float) -> np.ndarray:
    """Patches per second and per second of CPU time, after the first batch (which waits for the first blocks)."""
    next(batches)
    count, begin, cpu = 0, time.perf_counter(), time.process_time()
    for batch in batches:
        count += len(batch["valid"])
        if time.perf_counter() - begin > seconds:
            break
    batches.close()
    return count / np.array([time.perf_counter() - begin, time.process_time() - cpu])


def epochs(make):
    """Batches of one epoch after the other."""
    number = 0
    while True:
        yield from make(number)
        number += 1


def same_block_share(blocks: np.ndarray, size: int) -> float:
    """Mean share of a batch's other patches that come from a patch's own block."""
    shares = []
    for start in range(0, len(blocks) - size + 1, size):
        _, counts = np.unique(blocks[start : start + size], return_counts=True)
        shares.append((counts * (counts - 1)).sum() / (size * (size - 1)))
    return float(np.mean(shares))


def main():
    """Build a store, measure three loaders, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=2)
    parser.add_argument("--size", type=int, default=2048, help="side of a scene, px")
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--ratio", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0, help="measured time per loader")
    parser.add_argument(
        "--write", action="store_true", help="put the table into docs/performance.md"
    )
    options = parser.parse_args()
    torch.set_num_threads(
        1
    )  # converting patches is bound by memory; more threads only wait for each other
    config = BatchConfig(patch=options.patch, ratio=options.ratio, size=16)
    with tempfile.TemporaryDirectory() as folder:
        made = make_cube(Path(folder), options.scenes, options.size)
        block, plain = BlockLoader(made, "train", config), XbatcherPatches(made, "train", config)
        shuffled = np.random.default_rng(0).permutation(block.plan(0)[:, 0])
        base = rate(epochs(plain.patches), options.seconds)
        rows = [
            (
                "xbatcher over dask, one patch at a time, shuffled",
                base,
                same_block_share(shuffled, config.size),
            ),
            ("BlockLoader", rate(epochs(block.patches), options.seconds), None),
            ("BlockLoader with degradation", rate(epochs(block.epoch), options.seconds), None),
        ]
        own = same_block_share(block.plan(0)[:, 0], config.size)
    titles = [
        "loader",
        "patches/s",
        "ratio",
        "patches per CPU second",
        "ratio",
        "same-block share of a batch",
    ]
    lines = []
    for name, value, share in rows:
        columns = [
            text for v, b in zip(value, base, strict=True) for text in (f"{v:.0f}", f"{v / b:.1f}")
        ]
        lines.append([name, *columns, f"{own if share is None else share:.2f}"])
    conditions = (
        f"*{options.scenes} scenes of {options.size} x {options.size} px, 12 + 19 bands int16, chunk 128, shard 1024, "
        f"local disk, warm cache; patch {options.patch} px, batch {config.size}, {len(block.blocks)} blocks, "
        f"{config.blocks_mixed} mixed, coverage {config.coverage:g}; {torch.get_num_threads()} torch thread.*"
    )
    text = f"{markdown(titles, lines)}\n\n{conditions} {machine()}"
    print(text)
    if options.write:
        put(text, "performance.md", "loader")


if __name__ == "__main__":
    main()
