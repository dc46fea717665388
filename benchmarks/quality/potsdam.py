"""Train on real EnMAP spectra of western Potsdam, fuse and score the east.

    python -m benchmarks.quality.potsdam             prints the table
    python -m benchmarks.quality.potsdam --write     and puts it into docs/quality.md

The 12 real tiles (30 m) go through the reader, the spectral simulation and the cube. The four
western tiles (96_* and 128_*) train. The eastern rectangle (160_* and 192_*, 64 x 128 pixels) is
degraded to 300 m, fused with its simulated Sentinel-2 guide, and scored against its simulated
Sentinel-3 bands at 30 m. No eastern pixel is used in training.
"""

import logging
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr

import satfuse
from benchmarks.document import command_parser, machine, markdown, put
from satfuse import cube as cubes
from satfuse import models
from satfuse.batch import BatchConfig
from satfuse.catalog.specs import local_catalog
from satfuse.models.interface import FusionModel
from satfuse.readers.enmap import enmap_item, open_enmap
from satfuse.sensors.degradation import degrade
from satfuse.simulate.scenes.library import sample_folder
from satfuse.train import TrainConfig, fit
from satfuse.validate.checks import scores

DOCUMENT = "quality.md"
RATIO = 10
# the middle 120 x 60 pixels of the east: a whole number of coarse ones
ROWS = slice(4, 124)
COLUMNS = slice(2, 62)
FIRST_EASTERN = 160  # the first column of a tile, part of its file name, from which it is eastern
# epochs and side of the patches in fine pixels; otherwise the defaults of TrainConfig, BatchConfig
TRAININGS = {"spectral": (60, 60), "fusformer": (5, 30)}
COLUMN_TITLES = {
    "sam_land_deg": ("SAM land, deg", "{:.3f}"),
    "sam_deg": ("SAM all, deg", "{:.3f}"),
    "rmse": ("RMSE", "{:.5f}"),
    "psnr_db": ("PSNR, dB", "{:.2f}"),
    "ergas": ("ERGAS", "{:.3f}"),
    "ssim": ("SSIM", "{:.4f}"),
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """Scores of a method in the east, see `validate.checks.scores`, and its seconds of training."""

    method: str
    sam_deg: float
    sam_land_deg: float
    rmse: float
    psnr_db: float
    ergas: float
    ssim: float
    training_s: float


def main() -> None:
    """Train, fuse, print the table."""
    parser = command_parser(__doc__, DOCUMENT)
    samples = sample_folder()
    parser.add_argument("--samples", type=Path, default=samples, help="folder of the real samples")
    options = parser.parse_args()
    # no warnings: the reader reports for each tile that it has no quality layers
    logging.basicConfig(level=logging.ERROR)
    text = f"{table(run(options.samples))}\n\n{machine()}"
    print(text)
    if options.write:
        put(text, DOCUMENT, "potsdam")


def build_cube(folder: Path, path: Path, platforms: tuple[str, str] = ("S2A", "S3A")) -> cubes.Cube:
    """The cube of west and east from the tiles in `folder`.

    Training runs a fixed number of epochs: the place is too small to keep a part for choosing among
    them, so the cube's val scene is the western scene again.
    """
    spec = local_catalog("http://127.0.0.1", folder)
    halves: dict[str, list[xr.Dataset]] = {"west": [], "east": []}
    for tile in sorted((folder / "enmap_potsdam_block_s" / "images").glob("*.tif")):
        column = int(tile.stem.split("_")[-2])
        opened = open_enmap(enmap_item(tile), spec=spec, missing="flag")
        halves["west" if column < FIRST_EASTERN else "east"].append(opened)
    west = mosaic(halves["west"])
    scenes = {"west": west, "west-again": west, "east": mosaic(halves["east"])}
    split = {"west": "train", "west-again": "val", "east": "test"}
    return cubes.build(scenes, path, platforms=platforms, split=split)


def mosaic(tiles: list[xr.Dataset]) -> xr.Dataset:
    """Neighbouring tiles of one grid as one image; a band is usable where it is so in all tiles."""
    usable = np.all([tile["usable"].values for tile in tiles], axis=0)
    tiles = [tile.assign_coords(usable=("band", usable)) for tile in tiles]
    combined = xr.combine_by_coords(tiles, combine_attrs="override")
    assert isinstance(combined, xr.Dataset)  # as the tiles are
    return combined.sortby("y", ascending=False)


def east(cube: cubes.Cube) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Guide (30 m), coarse image (300 m, the degraded target) and target (30 m) of the east."""
    scene = cube.open_scene("east", decode=True).isel(y=ROWS, x=COLUMNS).load()
    target = scene["target"]
    centres = {d: scene[d].values.reshape(-1, RATIO).mean(axis=1) for d in ("y", "x")}
    coarse = xr.DataArray(
        degrade(target.values, RATIO, valid=scene["valid"].values),
        dims=target.dims,
        coords={"band": target["band"].values, **centres, "spatial_ref": scene["spatial_ref"]},
        attrs={"shift_m": (0.0, 0.0), "grid_mapping": "spatial_ref"},
    )
    return scene["guide"].rename(guide_band="band"), coarse, target


def run(folder: Path, trainings: Mapping[str, tuple[int, int]] = TRAININGS) -> list[Result]:
    """Train, then fuse and score the east with every model.

    Parameters
    ----------
    folder : of the real samples.
    trainings : epochs and side of the patches by model; models that need no training come first.
    """
    with tempfile.TemporaryDirectory() as work:
        cube = build_cube(folder, Path(work) / "cube.zarr")
        guide, coarse, target = east(cube)
        methods: dict[str, str | FusionModel] = {"bicubic": "bicubic", "regression": "regression"}
        seconds = {}
        for name, (epochs, patch) in trainings.items():
            checkpoint = Path(work) / name
            seconds[f"{name}, trained"] = train(cube, name, epochs, patch, checkpoint)
            methods[f"{name}, untrained"] = _untrained(name, cube)
            methods[f"{name}, trained"] = str(checkpoint)
        results = []
        for method, model in methods.items():
            fused = satfuse.fuse(guide, coarse, model=model)["reflectance"].values
            row = scores(fused, target.values, RATIO)
            results.append(Result(method=method, training_s=seconds.get(method, 0.0), **row))
    return results


def train(cube: cubes.Cube, name: str, epochs: int, patch: int, out: Path) -> float:
    """Train a model on the west, return the seconds it took.

    It uses one thread, because the patches are small.
    """
    batches = BatchConfig(ratio=RATIO, patch=patch, size=8, coverage=64, minimum_valid=0.9)
    config = TrainConfig(
        model=name, epochs=epochs, patience=epochs, tensorboard=False, threads=1, batches=batches
    )
    start = time.perf_counter()
    fit(cube.path, config, out)
    return time.perf_counter() - start


def _untrained(name: str, cube: cubes.Cube) -> FusionModel:
    """The network with its initial weights."""
    torch.manual_seed(0)
    model = models.create(
        name, guide_bands=cube.guide_bands, coarse_bands=cube.coarse_bands, ratio=RATIO
    )
    images = (cube.statistics["guide"], cube.statistics["target"])
    model.set_statistics(*(torch.tensor(image[k]) for image in images for k in ("mean", "std")))
    return model


def table(results: list[Result]) -> str:
    """The results in Markdown."""
    lines = []
    for result in results:
        cells = [form.format(getattr(result, key)) for key, (_, form) in COLUMN_TITLES.items()]
        lines.append([result.method, *cells, f"{result.training_s:.0f}"])
    titles = [title for title, _ in COLUMN_TITLES.values()]
    return markdown(["method", *titles, "training, s"], lines)


if __name__ == "__main__":
    main()
