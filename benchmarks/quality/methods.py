"""Every method as a line of a table: its model, its weights, and how to run it on a scene."""

import logging
import multiprocessing
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

import satfuse
from benchmarks.quality import training
from benchmarks.quality.scenes import RATIOS, Scene
from benchmarks.quality.training import Budget, Scenes
from satfuse import checkpoint
from satfuse.arrays import FloatArray
from satfuse.geometry.tiling import mosaic_spans
from satfuse.models.blocks import Cut, fuse_whole
from satfuse.models.interface import Fused, FusionModel
from satfuse.models.prepare import prepare_scene
from satfuse.sensors.bands import S2_NAMES, S3_ENMAP_NAMES, S3_NAMES
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA, degrade

log = logging.getLogger(__name__)

BAYESIAN = "bayesian"
STRIDE_PX = {10: 50, 15: 45, 30: 60}  # of tiles of 60 px, by ratio: edges are on coarse pixels
BLOCK_PX = 900  # as `satfuse.fuse`; scenes are smaller


@dataclass(frozen=True, kw_only=True)
class Method:
    """A model and the origin of its weights.

    Parameters
    ----------
    model : name in `satfuse.models`.
    weights : "none"; "library" (closed form of library spectra); "factory" or "other" (trained here
        on Earth observation or on indoor-like scenes); "shipped" (in the package).
    tile_px : size of the tiles that it runs on, where that must be the size of its training
        patches; None = whole scenes. Methods with tiles are slow: by default they run on Potsdam
        and on clean and realistic scenes only.
    """

    model: str
    weights: str = "none"
    tile_px: int | None = None


METHODS = {
    "bicubic": Method(model="bicubic"),
    "regression": Method(model="regression"),
    "atprk": Method(model="atprk"),
    "gsa": Method(model="gsa"),
    "mtf_glp": Method(model="mtf_glp"),
    "mtf_glp_hpm": Method(model="mtf_glp_hpm"),
    "cnmf": Method(model="cnmf"),
    "spectralift": Method(model="spectralift"),
    "library_regression": Method(model="library_regression", weights="library"),
    "ssrnet": Method(model="ssrnet", weights="factory"),
    "spectral": Method(model="spectral", weights="factory"),
    "fusformer": Method(model="fusformer", weights="factory", tile_px=60),
    "fusformer-other": Method(model="fusformer", weights="other", tile_px=60),
    BAYESIAN: Method(model=BAYESIAN, weights="shipped"),
}
LEARNED = tuple(name for name, method in METHODS.items() if method.weights != "none")
# networks are trained for each set of coarse bands, at the ratios of its scenes
BAND_SETS = {S3_NAMES: RATIOS, S3_ENMAP_NAMES: (10,)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """The result of one fusion.

    Parameters
    ----------
    image : (band, y, x) reflectance, NaN where the guide is missing.
    uncertainty : its standard deviation, where the method gives one.
    seconds : that the fusion took.
    attrs : of the Dataset of `satfuse.fuse`.
    """

    image: FloatArray
    uncertainty: FloatArray | None
    seconds: float
    attrs: Mapping[str, Any]


def prepare(
    names: Iterable[str],
    work: Path,
    budget: Budget,
    *,
    band_sets: Sequence[tuple[str, ...]] = tuple(BAND_SETS),
    jobs: int | None = 1,
) -> None:
    """Train the methods whose weights are not in the folder `work`.

    It takes `jobs` processes of one thread each; None = one per core.
    """
    pairs = [(name, bands) for bands in band_sets for name in names]
    missing = [
        (name, bands)
        for name, bands in pairs
        if (folder := weights_of(name, bands, work, budget)) and not folder.is_dir()
    ]
    if missing:
        with multiprocessing.get_context("spawn").Pool(jobs, one_thread) as pool:
            pool.starmap(partial(_train, work=work, budget=budget), missing, chunksize=1)
            pool.close()
            pool.join()


def one_thread() -> None:
    """Make a worker process use one core, because the processes share them; set up its log."""
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("satfuse").setLevel(logging.ERROR)


def _train(name: str, bands: tuple[str, ...], work: Path, budget: Budget) -> None:
    out = weights_of(name, bands, work, budget)
    assert out is not None, f"{name} is not trained here"
    method = METHODS[name]
    if method.weights == "library":
        training.train_library(out, bands)
        return
    scenes = training.of_bands(_scenes(method.weights, budget), len(bands), BAND_SETS[bands])
    log.info("training %s with %d bands for %.0f s", name, len(bands), budget.seconds)
    training.train_network(method.model, scenes, out, bands, budget)


@cache
def _scenes(kind: str, budget: Budget) -> Scenes:
    """The training scenes for weights of this kind, at all ratios and with all bands."""
    make = {"factory": training.factory_scenes, "other": training.other_scenes}[kind]
    return make(RATIOS, S3_NAMES, budget)


def weights_of(name: str, bands: Sequence[str], work: Path, budget: Budget) -> Path | None:
    """Folder of the weights of a method; None for methods that are not trained here."""
    kind = METHODS[name].weights
    if kind in ("none", "shipped"):
        return None
    suffix = "" if kind == "library" else f"-{budget.seconds:.0f}s-{budget.device}"
    return Path(work) / f"{name}-{len(bands)}{suffix}"


def run(name: str, scene: Scene, work: Path, budget: Budget, *, withheld: bool = False) -> Outcome:
    """Fuse a scene by `satfuse.fuse`, which registers the coarse image first for every method.

    Parameters
    ----------
    work, budget : where `prepare` put the weights, and with which budget it trained them.
    withheld : True = nothing of the coarse image reaches the method. For the Bayesian model no
        coarse pixel is valid. The other methods need a coarse image: they get the one that the
        library regression predicts from the guide, degraded with the nominal PSF.
    """
    model = _open_model(name, scene.bands, scene.case.ratio, work, budget)
    if withheld and METHODS[name].weights == "shipped":
        return _fuse_guide_only(METHODS[name].model, scene)
    coarse = _predicted_coarse(scene, work, budget) if withheld else scene.coarse
    start = time.perf_counter()
    fused = satfuse.fuse(scene.guide, coarse, model=model)
    seconds = time.perf_counter() - start
    return Outcome(
        image=fused["reflectance"].values,
        uncertainty=fused["uncertainty"].values if "uncertainty" in fused else None,
        seconds=seconds,
        attrs=fused.attrs,
    )


@cache
def _open_model(
    name: str, bands: tuple[str, ...], ratio: int, work: Path, budget: Budget
) -> str | FusionModel:
    """The `model` for `satfuse.fuse`: a name, or a model with weights that were trained here."""
    method = METHODS[name]
    folder = weights_of(name, bands, work, budget)
    if folder is None:
        return method.model
    model, _ = checkpoint.load(folder)
    return Tiled(model, method.tile_px, STRIDE_PX[ratio], ratio) if method.tile_px else model


def _predicted_coarse(scene: Scene, work: Path, budget: Budget) -> xr.DataArray:
    """The coarse image that the library regression predicts from the guide alone."""
    folder = weights_of("library_regression", scene.bands, work, budget)
    assert folder is not None, "the library regression is trained here"
    parameters = checkpoint.load(folder)[0].state_dict()
    weight = parameters["weight"].numpy()
    bias = parameters["bias"].numpy()
    guide = scene.guide.values
    valid = np.isfinite(guide).all(0)
    fine = np.einsum("kc,cyx->kyx", weight, np.where(valid, guide, 0)) + bias[:, None, None]
    coarse = degrade(fine.astype(np.float32), scene.case.ratio, DEFAULT_PSF_SIGMA, valid=valid)
    return scene.coarse.copy(data=coarse).assign_attrs(shift_m=(0.0, 0.0))


def _fuse_guide_only(model_name: str, scene: Scene) -> Outcome:
    """Fuse with no valid coarse pixel, which `satfuse.fuse` refuses; the coarse values are 0."""
    ratio = scene.case.ratio
    nothing = np.zeros(scene.coarse.shape, np.float32)
    start = time.perf_counter()
    model, _ = checkpoint.resolve(
        model_name, guide_bands=S2_NAMES, coarse_bands=scene.bands, ratio=ratio
    )
    prepared = prepare_scene(
        scene.guide.values,
        nothing,
        ratio=ratio,
        registered=True,
        coarse_valid=np.zeros(nothing.shape[1:], bool),
    )
    inputs = prepared.inputs
    with torch.inference_mode():
        state = model.fit(prepared.summary)
    cut = Cut.of(model, inputs.guide_valid.shape, ratio, block_px=BLOCK_PX)
    image, sigma = fuse_whole(model, state, inputs, cut)
    seconds = time.perf_counter() - start
    for part in (image, sigma):
        if part is not None:
            part[:, ~inputs.guide_valid] = np.nan
    return Outcome(image=image, uncertainty=sigma, seconds=seconds, attrs={})


class Tiled(FusionModel):
    """A model whose pixels depend on their whole tile, on overlapping tiles of its training size.

    The scene must be one block of `satfuse.fuse`, up to 900 x 900 pixels.

    Parameters
    ----------
    model : the model that is run.
    size_px, stride_px : of the tiles, in fine pixels, whole coarse pixels.
    ratio : fine pixels per coarse pixel.
    """

    name = "tiled"

    def __init__(self, model: FusionModel, size_px: int, stride_px: int, ratio: int) -> None:
        super().__init__(
            guide_bands=model.guide_bands, coarse_bands=model.coarse_bands, ratio=ratio
        )
        self.model = model
        self.size_px = size_px
        self.stride_px = stride_px

    def reach(self, ratio: int) -> int:  # noqa: ARG002  of the interface
        return 0

    def forward(self, guide: torch.Tensor, coarse: torch.Tensor, **_: object) -> Fused:
        """See `FusionModel.forward`; state and validity are not used."""
        ratio = guide.shape[-1] // coarse.shape[-1]
        size = guide.shape[-2:]
        out = guide.new_empty(len(guide), len(self.coarse_bands), *size)
        spans = [mosaic_spans(length, self.size_px, self.stride_px) for length in size]
        for (y0, y1, top, bottom), (x0, x1, left, right) in product(*spans):
            tile = coarse[..., y0 // ratio : y1 // ratio, x0 // ratio : x1 // ratio]
            image = self.model(guide[..., y0:y1, x0:x1], tile).image
            core = image[..., top - y0 : bottom - y0, left - x0 : right - x0]
            out[..., top:bottom, left:right] = core
        return Fused(out)
