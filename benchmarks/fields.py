"""Speed of fusion: a 20 km field in memory with every model, and all of Algeria-5 by `fuse_field`.

    python -m benchmarks.fields models [--write]   2,100 x 2,100 px, every model
    python -m benchmarks.fields algeria [--write]  7,530 x 7,530 px, synthetic, default model

`models` times from arrays in memory to arrays in memory, with the preparation of the scene and the
fit of the model. Fusformer is timed on 8 tiles and scaled: in the layout of Cristille et al. (2024)
(tiles of 150 px with a margin of 20 px, 256 tiles for the field; they report 161 s on hardware that
they do not name), and in tiles of 60 px without overlap.
"""

import tempfile
import time
from pathlib import Path

import dask.array as da
import numpy as np
import torch
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

from benchmarks.document import command_parser, machine, markdown, put
from satfuse import checkpoint, models
from satfuse.arrays import FloatArray
from satfuse.catalog.fields import load_field
from satfuse.geometry.grids import coarse_geobox
from satfuse.infer import FuseConfig, fuse_field, write_scene
from satfuse.memory import PeakMemory
from satfuse.models import FusionModel
from satfuse.models.blocks import PAPER, Cut, fuse_whole
from satfuse.models.prepare import prepare_scene
from satfuse.sensors.bands import RATIO, S2_NAMES, S3_NAMES
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA, degrade, psf_radius
from satfuse.simulate.archive.measurements import truth
from satfuse.simulate.surface import Surface

DOCUMENT = "performance.md"
FIELD = "algeria-5"
SIZE = 2100  # side of the field in memory, px
THREADS = 2
REPEATS = 3  # the fastest counts: the others were disturbed
BLOCK_PX = 900  # as `satfuse.fuse`

PAPER_TILES = 256  # of the layout of Cristille et al. (2024) for a field of `SIZE`
SMALL_PX = 60  # side of the small tiles of Fusformer
TIMED_TILES = 8  # of Fusformer

SURFACE = Surface(seed=11, biome="desert")
STRIP_ROWS = 25  # coarse rows that are simulated at once
CHUNK_PX = 600  # of the synthetic scene

Row = tuple[str, float, float, str]  # model, seconds, peak memory in GiB, conditions


def main() -> None:
    """Time what is named, print the table."""
    parser = command_parser(__doc__, DOCUMENT)
    parser.add_argument("run", choices=["models", "algeria"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        text = time_models() if options.run == "models" else time_algeria(Path(work))
    print(text)
    if options.write:
        put(text, DOCUMENT, options.run)


def time_models() -> str:
    """All models on one field: a Markdown table."""
    torch.set_num_threads(THREADS)
    geobox = load_field(FIELD).geobox[:SIZE, :SIZE]
    guide = truth(SURFACE, geobox, platform="S2A", names=S2_NAMES)
    coarse = degrade(truth(SURFACE, geobox, platform="S3A", names=S3_NAMES), RATIO)
    rows: list[Row] = []
    for name in ("bicubic", "regression", "spectral", "bayesian"):
        with PeakMemory() as memory:
            seconds = min(_time_field(name, guide, coarse) for _ in range(REPEATS))
        rows.append((name, seconds, memory.gib, f"best of {REPEATS}"))
    for size_px, tiles in ((PAPER[0], PAPER_TILES), (SMALL_PX, (SIZE // SMALL_PX) ** 2)):
        with PeakMemory() as memory:
            seconds = _time_fusformer(guide, coarse, size_px) * tiles
        layout = f"{TIMED_TILES} of {tiles} tiles of {size_px} px, scaled"
        rows.append(("fusformer", seconds, memory.gib, layout))
    conditions = (
        f"*{SIZE} x {SIZE} px, ratio {RATIO}, float32, {THREADS} threads; "
        "with the uncertainty of bayesian.*"
    )
    return f"{_models_table(rows)}\n\n{conditions} {machine()}"


def _models_table(rows: list[Row]) -> str:
    bayesian_s = next(seconds for name, seconds, *_ in rows if name == "bayesian")
    lines = []
    for name, seconds, gib, conditions in rows:
        megapixels_per_s = SIZE**2 / seconds / 1e6
        numbers = [f"{seconds:.2f}", f"{megapixels_per_s:.4f}", f"{seconds / bayesian_s:.1f}"]
        lines.append([name, *numbers, f"{gib:.2f}", conditions])
    titles = ("model", "s", "Mpx/s", "times bayesian", "peak GiB", "conditions")
    return markdown(titles, lines)


def _model(name: str) -> FusionModel:
    """A model with its weights of the package, or as it is before any training: as fast."""
    if name == "bayesian":
        model, _ = checkpoint.resolve(
            name, guide_bands=S2_NAMES, coarse_bands=S3_NAMES, ratio=RATIO
        )
        return model
    model = models.create(name, guide_bands=S2_NAMES, coarse_bands=S3_NAMES, ratio=RATIO)
    return model.eval()


def _time_field(name: str, guide: FloatArray, coarse: FloatArray) -> float:
    """Seconds of preparation, fit and fusion of the whole field."""
    model = _model(name)
    start = time.perf_counter()
    scene = prepare_scene(guide, coarse, ratio=RATIO, registered=False)
    with torch.inference_mode():
        state = model.fit(scene.summary)
    cut = Cut.of(model, scene.inputs.guide_valid.shape, RATIO, block_px=BLOCK_PX)
    fuse_whole(model, state, scene.inputs, cut)
    return time.perf_counter() - start


def _time_fusformer(guide: FloatArray, coarse: FloatArray, size_px: int) -> float:
    """Mean seconds of one tile, over `TIMED_TILES` tiles of `size_px` one after the other."""
    model = _model("fusformer")
    small = size_px // RATIO
    coarse_tile = torch.from_numpy(coarse[None, :, :small, :small].copy())
    seconds = []
    with torch.inference_mode():
        # the first tile comes twice: its first pass warms up and is not counted
        for x in [0, *range(0, TIMED_TILES * size_px, size_px)]:
            guide_tile = torch.from_numpy(guide[None, :, :size_px, x : x + size_px].copy())
            start = time.perf_counter()
            model(guide_tile, coarse_tile)
            seconds.append(time.perf_counter() - start)
    return sum(seconds[1:]) / TIMED_TILES


def time_algeria(folder: Path) -> str:
    """One run of `fuse_field` over the whole of Algeria-5: a Markdown table."""
    path = folder / "scene.zarr"
    scene = write_scene(_synthetic_scene(), path, field=FIELD, time="2024-06-01T10:42:00Z")
    store = folder / "store"
    with PeakMemory() as memory:
        start = time.perf_counter()
        fuse_field(scene, "bayesian", store, config=FuseConfig(workers=2))
        seconds = time.perf_counter() - start
    gib = sum(file.stat().st_size for file in store.rglob("*") if file.is_file()) / 2**30
    numbers = [f"{seconds:.0f}", f"{memory.gib:.2f}", f"{gib:.2f}"]
    titles = ("run", "s", "peak GiB, all processes", "product on disk, GiB")
    table = markdown(titles, [["fuse_field, bayesian, 2 workers of 1 thread", *numbers]])
    conditions = (
        "*7,530 x 7,530 px, 21 bands, from a Zarr scene on local disk to the published product, "
        "overviews included.*"
    )
    return f"{table}\n\n{conditions} {machine()}"


def _synthetic_scene() -> xr.Dataset:
    """Algeria-5 as desert without noise: a lazy guide, and the coarse image degraded in strips."""
    geobox = load_field(FIELD).geobox
    shape = tuple(geobox.shape)
    coarse_shape = tuple(coarse_geobox(geobox, RATIO).shape)
    chunks = da.core.normalize_chunks(CHUNK_PX, shape)
    plane = ("y", "x")
    coarse_plane = ("y_coarse", "x_coarse")
    variables = {
        "guide": (("guide_band", *plane), _lazy_guide(geobox, chunks)),
        "guide_valid": (plane, da.ones(shape, chunks=chunks, dtype=bool)),
        "guide_quality": (plane, da.zeros(shape, chunks=chunks, dtype="uint16")),
        "coarse": (("coarse_band", *coarse_plane), _coarse_image(geobox, coarse_shape[0])),
        "coarse_valid": (coarse_plane, np.ones(coarse_shape, bool)),
        "coarse_quality": (coarse_plane, np.zeros(coarse_shape, "uint16")),
    }
    attrs = {
        "psf_sigma": DEFAULT_PSF_SIGMA,
        "shift_m": (0.0, 0.0),
        "shift_trusted": True,
        "gap_s": 0.0,
    }
    names = {"guide_band": list(S2_NAMES), "coarse_band": list(S3_NAMES)}
    return xr.Dataset(variables, {**names, **xr_coords(geobox)}, attrs)


def _lazy_guide(geobox: GeoBox, chunks: tuple[tuple[int, ...], ...]) -> da.Array:
    def block(_: FloatArray, block_info: dict) -> FloatArray:
        rows, columns = block_info[None]["array-location"][1:]
        part = geobox[slice(*rows), slice(*columns)]
        return truth(SURFACE, part, platform="S2A", names=S2_NAMES)

    bands = len(S2_NAMES)
    empty = da.zeros((bands, *geobox.shape), chunks=((bands,), *chunks))
    return da.map_blocks(block, empty, dtype="float32")


def _coarse_image(geobox: GeoBox, rows: int) -> FloatArray:
    starts = range(0, rows, STRIP_ROWS)
    strips = [_coarse_strip(geobox, row, min(row + STRIP_ROWS, rows)) for row in starts]
    return np.concatenate(strips, axis=1)


def _coarse_strip(geobox: GeoBox, first: int, last: int) -> FloatArray:
    """Coarse rows `first` to `last`, degraded with the context that the PSF needs."""
    context = psf_radius()  # coarse rows
    top = max(first - context, 0)
    bottom = min(last + context, geobox.shape[0] // RATIO)
    image = truth(SURFACE, geobox[top * RATIO : bottom * RATIO, :], platform="S3A", names=S3_NAMES)
    return degrade(image, RATIO)[:, first - top : last - top].astype("float32")


if __name__ == "__main__":
    main()
