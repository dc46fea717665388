"""The main job on real EnMAP spectra: train in the west of Potsdam, fuse and score the east.

    python -m benchmarks.quality.potsdam             prints the table
    python -m benchmarks.quality.potsdam --write     and puts it into docs/quality.md

The 12 real tiles (30 m) go through the reader, the spectral simulation and the cube. The four western tiles (96_*
and 128_*) train; the eastern rectangle (160_* and 192_*, 64 x 128 pixels) is degraded to 300 m, fused with its
simulated Sentinel-2 guide, and scored against its simulated Sentinel-3 bands at 30 m. No eastern pixel is seen before.
"""

import argparse
import logging
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

import satfuse
from benchmarks.document import machine, markdown, put
from satfuse import cube as cubes
from satfuse import models
from satfuse.batch import BatchConfig
from satfuse.catalog.specs import local_catalog
from satfuse.readers.enmap import enmap_item, open_enmap
from satfuse.sensors.degradation import degrade
from satfuse.simulate.scenes.library import sample_folder
from satfuse.train import TrainConfig, fit
from satfuse.validate.checks import scores

RATIO = 10
ROWS, COLUMNS = (
    slice(4, 124),
    slice(2, 62),
)  # the middle 120 x 60 pixels: a whole number of coarse ones
# epochs and side of the patches in fine pixels; otherwise the defaults of TrainConfig and
# BatchConfig
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
    """Scores of one method on the east (see `validate.checks.scores`) and the seconds that its training took."""

    method: str
    sam_deg: float
    sam_land_deg: float
    rmse: float
    psnr_db: float
    ergas: float
    ssim: float
    training_s: float


def build_cube(folder: Path, path: Path, platforms=("S2A", "S3A")) -> cubes.Cube:
    """The cube of west and east from the tiles in `folder`.

    Training runs a fixed number of epochs: the place is too small to spare a part for choosing among them, so the
    cube's val scene is the western scene again.
    """
    tiles = sorted((folder / "enmap_potsdam_block_s" / "images").glob("*.tif"))
    spec = local_catalog("http://127.0.0.1", folder)
    halves = {"west": [], "east": []}
    for tile in tiles:
        column = int(tile.stem.split("_")[-2])
        opened = open_enmap(enmap_item(tile), spec=spec, missing="flag")
        halves["west" if column < 160 else "east"].append(opened)
    west, east = (mosaic(tiles) for tiles in halves.values())
    split = {"west": "train", "west-again": "val", "east": "test"}
    scenes = {"west": west, "west-again": west, "east": east}
    return cubes.build(scenes, path, platforms=platforms, split=split)


def mosaic(tiles: list[xr.Dataset]) -> xr.Dataset:
    """Tiles of one grid side by side; a band is usable where it is so in all of them."""
    usable = np.all([tile["usable"].values for tile in tiles], axis=0)
    tiles = [tile.assign_coords(usable=("band", usable)) for tile in tiles]
    return xr.combine_by_coords(tiles, combine_attrs="override").sortby("y", ascending=False)


def east(cube: cubes.Cube) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Guide (30 m), coarse (300 m, the degraded target) and target (30 m) of the held-out rectangle."""
    scene = cube.open_scene("east", decode=True).isel(y=ROWS, x=COLUMNS).load()
    guide, target = scene["guide"].rename(guide_band="band"), scene["target"]
    coords = {d: scene[d].values.reshape(-1, RATIO).mean(axis=1) for d in ("y", "x")}
    coarse = xr.DataArray(
        degrade(target.values, RATIO, valid=scene["valid"].values),
        dims=target.dims,
        coords={"band": target["band"].values, **coords, "spatial_ref": scene["spatial_ref"]},
        attrs={"shift_m": (0.0, 0.0), "grid_mapping": "spatial_ref"},
    )
    return guide, coarse, target


def train(cube: cubes.Cube, name: str, epochs: int, patch: int, out: Path) -> float:
    """Train a model on the west, on one thread (the patches are small); gives the seconds it took."""
    batches = BatchConfig(ratio=RATIO, patch=patch, size=8, coverage=64, minimum_valid=0.9)
    config = TrainConfig(
        model=name, epochs=epochs, patience=epochs, tensorboard=False, threads=1, batches=batches
    )
    start = time.perf_counter()
    fit(cube.path, config, out)
    return time.perf_counter() - start


def run(folder: Path, trainings: dict[str, tuple[int, int]] = TRAININGS) -> list[Result]:
    """Train, then fuse and score the east with every trained model and with those that need no training."""
    with tempfile.TemporaryDirectory() as work:
        cube = build_cube(folder, Path(work) / "cube.zarr")
        guide, coarse, target = east(cube)
        methods = {"bicubic": "bicubic", "regression": "regression"}
        seconds = {}
        for name, (epochs, patch) in trainings.items():
            checkpoint = Path(work) / name
            seconds[f"{name}, trained"] = train(cube, name, epochs, patch, checkpoint)
            methods |= {
                f"{name}, untrained": _untrained(name, cube),
                f"{name}, trained": checkpoint,
            }
        results = []
        for method, model in methods.items():
            fused = satfuse.fuse(guide, coarse, model=model)["reflectance"].values
            row = scores(fused, target.values, RATIO)
            results.append(Result(method=method, training_s=seconds.get(method, 0.0), **row))
    return results


def table(results: list[Result]) -> str:
    """Markdown."""
    lines = []
    for result in results:
        cells = [form.format(getattr(result, key)) for key, (_, form) in COLUMN_TITLES.items()]
        lines.append([result.method, *cells, f"{result.training_s:.0f}"])
    return markdown(
        ["method", *(title for title, _ in COLUMN_TITLES.values()), "training, s"], lines
    )


def _untrained(name, cube):
    """The network with the weights it starts from."""
    import torch

    torch.manual_seed(0)
    model = models.create(
        name, guide_bands=cube.guide_bands, coarse_bands=cube.coarse_bands, ratio=RATIO
    )
    images = cube.statistics["guide"], cube.statistics["target"]
    model.set_statistics(*(torch.tensor(image[k]) for image in images for k in ("mean", "std")))
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--samples", type=Path, default=sample_folder(), help="folder of the real samples"
    )
    parser.add_argument("--write", action="store_true", help="put the table into docs/quality.md")
    arguments = parser.parse_args()
    logging.basicConfig(
        level=logging.ERROR
    )  # the tiles have no quality layers, as the reader says of each
    text = f"{table(run(arguments.samples))}\n\n{machine()}"
    print(text)
    if arguments.write:
        put(text, "quality.md", "potsdam")
