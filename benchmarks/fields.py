"""Speed of fusing: a 20 km field with every model in memory, and the whole of Algeria-5 through `fuse_field`.

    python benchmarks/fields.py models [--write]      2,100 x 2,100 px, every model; Fusformer on 8 tiles, scaled
    python benchmarks/fields.py algeria [--write]     7,530 x 7,530 px from a synthetic scene, default model

`models` times from arrays in memory to arrays in memory, what is fitted on the scene included. Fusformer runs in the
layout of Cristille et al. (2024), 150 px tiles with a margin of 20 px, 256 tiles for the field (they report 161 s on
hardware that is not named), and in 60 px tiles side by side.
"""

import argparse
import tempfile
import time
from pathlib import Path

import dask.array as da
import numpy as np
import torch
import xarray as xr
from odc.geo.xr import xr_coords

from benchmarks.document import machine, markdown, put
from satfuse import checkpoint, models
from satfuse.catalog.fields import load_field
from satfuse.geometry.grids import coarse_geobox
from satfuse.geometry.tiling import Window
from satfuse.infer import FuseConfig, fuse_field, write_scene
from satfuse.memory import PeakMemory
from satfuse.models.blocks import PAPER, Cut, Inputs, fuse_blocks
from satfuse.models.summary import summarise
from satfuse.sensors.bands import S2_NAMES, S3_NAMES
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA, degrade
from satfuse.simulate.archive.measurements import truth
from satfuse.simulate.surface import Surface

SIZE, RATIO, THREADS = 2100, 30, 2
PAPER_TILES, TIMED_TILES, SMALL = 256, 8, 60
SEED = 11


def time_models() -> str:
    """Markdown table of all models on one field."""
    torch.set_num_threads(THREADS)
    geobox = load_field("algeria-5").geobox[:SIZE, :SIZE]
    surface = Surface(seed=SEED, biome="desert")
    guide = truth(surface, geobox, platform="S2A", names=S2_NAMES)
    coarse = degrade(truth(surface, geobox, platform="S3A", names=S3_NAMES), RATIO)
    valid = np.ones(guide.shape[1:], bool)
    inputs = Inputs(
        window=Window(0, SIZE, 0, SIZE),
        guide=guide,
        guide_valid=valid,
        coarse=coarse,
        coarse_valid=np.ones(coarse.shape[1:], bool),
    )
    rows = []
    for name in ("bicubic", "regression", "spectral", "bayesian"):
        with PeakMemory() as memory:
            seconds = min(_time_field(name, inputs) for _ in range(3))
        rows.append((name, seconds, memory.gib, "best of 3"))
    ours = rows[-1][1]
    for size, tiles in ((PAPER[0], PAPER_TILES), (SMALL, (SIZE // SMALL) ** 2)):
        with PeakMemory() as memory:
            seconds = _time_fusformer(inputs, size) * tiles
        rows.append(
            (
                "fusformer",
                seconds,
                memory.gib,
                f"{TIMED_TILES} of {tiles} tiles of {size} px, scaled",
            )
        )
    table = [
        (
            name,
            f"{seconds:.2f}",
            f"{SIZE**2 / seconds / 1e6:.4f}",
            f"{seconds / ours:.1f}",
            f"{gib:.2f}",
            how,
        )
        for name, seconds, gib, how in rows
    ]
    head = ("model", "s", "Mpx/s", "times bayesian", "peak GiB", "conditions")
    conditions = f"*{SIZE} x {SIZE} px, ratio {RATIO}, float32, {THREADS} threads; with the uncertainty of bayesian.*"
    return "\n".join([markdown(head, table), "", f"{conditions} {machine()}"])


def _time_field(name, inputs) -> float:
    bands = {"guide_bands": S2_NAMES, "coarse_bands": S3_NAMES, "ratio": RATIO}
    model = (
        checkpoint.resolve(name, **bands)[0]
        if name == "bayesian"
        else models.create(name, **bands).eval()
    )
    start = time.perf_counter()
    with torch.inference_mode():
        summary = summarise(
            inputs.guide, inputs.coarse, inputs.coarse_valid, ratio=RATIO, registered=False
        )
        state = model.fit(summary)
    cut = Cut.of(model, inputs.guide_valid.shape, RATIO, block_px=900)
    out = [np.empty((len(S3_NAMES), SIZE, SIZE), "float32") for _ in range(2)]  # image, uncertainty
    for window, *parts in fuse_blocks(model, state, inputs, inputs.window, cut):
        for whole, part in zip(out, parts, strict=True):
            if part is not None:
                whole[:, *window.slices()] = part
    return time.perf_counter() - start


def _time_fusformer(inputs, size) -> float:
    """Seconds per tile of `size` px, of `TIMED_TILES` one by one."""
    model = models.create(
        "fusformer", guide_bands=S2_NAMES, coarse_bands=S3_NAMES, ratio=RATIO
    ).eval()
    coarse = torch.from_numpy(inputs.coarse[None, :, : size // RATIO, : size // RATIO].copy())
    seconds = 0.0
    with torch.inference_mode():
        for number, x in enumerate([0, *range(0, TIMED_TILES * size, size)]):
            guide = torch.from_numpy(inputs.guide[None, :, :size, x : x + size].copy())
            begin = time.perf_counter()
            model(guide, coarse)
            seconds += (time.perf_counter() - begin) * (number > 0)  # the first one warms up
    return seconds / TIMED_TILES


def time_algeria(folder: Path) -> str:
    """Markdown table of one whole Algeria-5 run of `fuse_field`."""
    scene = write_scene(
        _synthetic_scene(), folder / "scene.zarr", field="algeria-5", time="2024-06-01T10:42:00Z"
    )
    with PeakMemory() as memory:
        start = time.perf_counter()
        item = fuse_field(scene, "bayesian", folder / "store", config=FuseConfig(workers=2))
        seconds, gib = time.perf_counter() - start, memory.gib
    size = sum(f.stat().st_size for f in (folder / "store").rglob("*") if f.is_file()) / 2**30
    assert Path(item).is_file()
    line = [
        "fuse_field, bayesian, 2 workers of 1 thread",
        f"{seconds:.0f}",
        f"{gib:.2f}",
        f"{size:.2f}",
    ]
    table = markdown(["run", "s", "peak GiB, all processes", "product on disk, GiB"], [line])
    conditions = "*7,530 x 7,530 px, 21 bands, from a Zarr scene on local disk to the published product, overviews included.*"
    return f"{table}\n\n{conditions} {machine()}"


def _synthetic_scene() -> xr.Dataset:
    """Algeria-5 as desert without noise: the guide in lazy blocks, the coarse image degraded strip by strip."""
    geobox = load_field("algeria-5").geobox
    small = coarse_geobox(geobox, RATIO)
    surface = Surface(seed=SEED, biome="desert")
    height, width = geobox.shape

    def block(band, block_info=None):
        (rows, columns) = block_info[None]["array-location"][1:]
        return truth(surface, geobox[slice(*rows), slice(*columns)], platform="S2A", names=S2_NAMES)

    chunks = tuple(_chunks(n, 600) for n in (height, width))
    guide = da.map_blocks(
        block, da.zeros((12, height, width), chunks=((12,), *chunks)), dtype="float32"
    )
    coarse = np.concatenate(
        [
            _coarse_strip(surface, geobox, row, min(row + 25, small.shape[0]))
            for row in range(0, small.shape[0], 25)
        ],
        axis=1,
    )
    flags = {
        "guide_quality": (("y", "x"), da.zeros((height, width), chunks=chunks, dtype="uint16"))
    }
    return xr.Dataset(
        {
            "guide": (("guide_band", "y", "x"), guide),
            "guide_valid": (("y", "x"), da.ones((height, width), chunks=chunks, dtype=bool)),
            **flags,
            "coarse": (("coarse_band", "y_coarse", "x_coarse"), coarse),
            "coarse_valid": (("y_coarse", "x_coarse"), np.ones(small.shape, bool)),
            "coarse_quality": (("y_coarse", "x_coarse"), np.zeros(small.shape, "uint16")),
        },
        coords={"guide_band": list(S2_NAMES), "coarse_band": list(S3_NAMES), **xr_coords(geobox)},
        attrs={
            "psf_sigma": DEFAULT_PSF_SIGMA,
            "shift_m": (0.0, 0.0),
            "shift_trusted": True,
            "gap_s": 0.0,
        },
    )


def _coarse_strip(surface, geobox, first, last):
    """Coarse rows first to last, seen through the PSF with two coarse rows of context."""
    top, bottom = max(first - 2, 0), min(last + 2, geobox.shape[0] // RATIO)
    image = truth(surface, geobox[top * RATIO : bottom * RATIO, :], platform="S3A", names=S3_NAMES)
    return degrade(image, RATIO)[:, first - top : last - top].astype("float32")


def _chunks(length, size):
    return (size,) * (length // size) + ((length % size,) if length % size else ())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["models", "algeria"])
    parser.add_argument(
        "--write", action="store_true", help="put the table into docs/performance.md"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        text = time_models() if arguments.what == "models" else time_algeria(Path(work))
    print(text)
    if arguments.write:
        put(text, "performance.md", arguments.what)
