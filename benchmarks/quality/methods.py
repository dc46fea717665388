"""Every method as a line of a table: what it is, what it is trained on, how it is run with and without Sentinel-3."""

import logging
import multiprocessing
import time
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
import xarray as xr

import satfuse
from benchmarks.quality import training
from benchmarks.quality.scenes import RATIOS, Scene
from benchmarks.quality.training import Budget
from satfuse import checkpoint
from satfuse.geometry.tiling import mosaic_spans
from satfuse.models.interface import Fused, FusionModel
from satfuse.models.summary import summarise
from satfuse.sensors.bands import S3_ENMAP_NAMES, S3_NAMES
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA, degrade

log = logging.getLogger(__name__)

OURS = "bayesian"
STRIDE_PX = {10: 50, 15: 45, 30: 60}  # of tiles of 60 px, by ratio: edges lie on coarse pixels


@dataclass(frozen=True, kw_only=True)
class Method:
    """A model and where its weights come from.

    Parameters
    ----------
    model : name in `satfuse.models`.
    weights : "none"; "library" (closed form of library spectra); "factory" or "other" (trained here on Earth
        observation or on indoor-like scenes); "shipped" (in the package).
    tile_px : size of the tiles that it is run on, where that must be the size of its training patches. Such methods
        are slow: by default they run on Potsdam and on clean and realistic scenes only.
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
    OURS: Method(model=OURS, weights="shipped"),
}
LEARNED = tuple(name for name, method in METHODS.items() if method.weights != "none")
BAND_SETS = {
    S3_NAMES: RATIOS,
    S3_ENMAP_NAMES: (10,),
}  # networks of either, trained at the ratios they are used at


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """An image (band, y, x), its uncertainty of the same shape where the method gives one, and seconds."""

    image: np.ndarray
    uncertainty: np.ndarray | None
    seconds: float
    attrs: dict


def prepare(
    names, work: Path, budget: Budget, *, band_sets=tuple(BAND_SETS), jobs: int = 1
) -> None:
    """Train what is not yet in the work folder, in processes of one thread each."""
    todo = [
        (n, b)
        for b in band_sets
        for n in names
        if (out := weights_of(n, b, work, budget)) and not out.is_dir()
    ]
    if todo:
        with multiprocessing.get_context("spawn").Pool(jobs, one_thread) as pool:
            pool.starmap(partial(_train, work=work, budget=budget), todo, chunksize=1)
            pool.close()
            pool.join()


def one_thread() -> None:
    """Make a worker process use one core: the processes share them."""
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("satfuse").setLevel(logging.ERROR)


def _train(name, bands, work, budget):
    out = weights_of(name, bands, work, budget)
    if METHODS[name].weights == "library":
        training.train_library(out, bands)
        return
    chosen = training.of_bands(_scenes(METHODS[name].weights, budget), len(bands), BAND_SETS[bands])
    log.info("training %s with %d bands for %.0f s", name, len(bands), budget.seconds)
    training.train_network(METHODS[name].model, chosen, out, bands, budget)


@cache
def _scenes(kind, budget):
    make = {"factory": training.factory_scenes, "other": training.other_scenes}[kind]
    return make(RATIOS, S3_NAMES, budget)


def weights_of(name: str, bands, work: Path, budget: Budget) -> Path | None:
    """Where the weights of a method lie; None for methods that have none of their own here."""
    kind = METHODS[name].weights
    if kind in ("none", "shipped"):
        return None
    time_ = "" if kind == "library" else f"-{budget.seconds:.0f}s-{budget.device}"
    return Path(work) / f"{name}-{len(bands)}{time_}"


def run(name: str, scene: Scene, work: Path, budget: Budget, *, withheld: bool = False) -> Outcome:
    """Fuse a scene; every method through `satfuse.fuse`, which registers the coarse image first.

    Withheld means that nothing of the coarse image reaches the method. Our model is told that no coarse pixel is
    valid. The others cannot do without one and get what the library regression expects of the guide, degraded with the
    nominal PSF.
    """
    model = _opened(name, scene.bands, scene.case.ratio, work, budget)
    if withheld and METHODS[name].weights == "shipped":
        return _blind(name, scene)
    coarse = _expected(scene, work, budget) if withheld else scene.coarse
    start = time.perf_counter()
    fused = satfuse.fuse(scene.guide, coarse, model=model)
    seconds = time.perf_counter() - start
    uncertainty = fused["uncertainty"].values if "uncertainty" in fused else None
    return Outcome(
        image=fused["reflectance"].values,
        uncertainty=uncertainty,
        seconds=seconds,
        attrs=fused.attrs,
    )


@cache
def _opened(name, bands, ratio, work, budget):
    """What `satfuse.fuse` takes as a model."""
    method, folder = METHODS[name], weights_of(name, bands, work, budget)
    if folder is None:
        return method.model
    model, _ = checkpoint.load(folder)
    return Tiled(model, method.tile_px, STRIDE_PX[ratio], ratio) if method.tile_px else model


def _expected(scene, work, budget) -> xr.DataArray:
    """The coarse image that the library regression expects of the guide alone."""
    model, _ = checkpoint.load(weights_of("library_regression", scene.bands, work, budget))
    weight, bias = (p.detach().numpy() for p in (model.weight, model.bias))
    guide, valid = scene.guide.values, np.isfinite(scene.guide.values).all(0)
    fine = np.einsum("kc,cyx->kyx", weight, np.where(valid, guide, 0)) + bias[:, None, None]
    coarse = degrade(fine.astype(np.float32), scene.case.ratio, DEFAULT_PSF_SIGMA, valid=valid)
    return scene.coarse.copy(data=coarse).assign_attrs(shift_m=(0.0, 0.0))


def _blind(name, scene) -> Outcome:
    """Our model on a scene without a valid coarse pixel; the coarse values are zeros."""
    ratio, guide = scene.case.ratio, scene.guide.values
    bands = {"guide_bands": tuple(scene.guide["band"].values), "coarse_bands": scene.bands}
    valid, coarse = np.isfinite(guide).all(0), np.zeros(scene.coarse.shape, np.float32)
    nothing = np.zeros(coarse.shape[1:], bool)
    masked = np.where(valid, guide, np.float32(np.nan))
    filled = np.stack([np.where(valid, band, np.nanmedian(band)) for band in guide])
    start = time.perf_counter()
    model, _ = checkpoint.resolve(METHODS[name].model, **bands, ratio=ratio)
    inputs = [torch.from_numpy(a)[None] for a in (filled, coarse, valid[None], nothing[None])]
    with torch.inference_mode():
        state = model.fit(summarise(masked, coarse, nothing, ratio=ratio))
        fused = model(*inputs[:2], state=state, guide_valid=inputs[2], coarse_valid=inputs[3])
    seconds = time.perf_counter() - start
    image, sigma = (
        t if t is None else np.where(valid, t[0].numpy(), np.nan)
        for t in (fused.image, fused.sigma)
    )
    return Outcome(image=image, uncertainty=sigma, seconds=seconds, attrs={})


class Tiled(FusionModel):
    """A model whose pixels depend on their whole tile, run on overlapping tiles of the size of its training patches.

    The scene must be one block of `satfuse.fuse`, up to 900 x 900 pixels.
    """

    name = "tiled"

    def __init__(self, model: FusionModel, size_px: int, stride_px: int, ratio: int):
        super().__init__(
            guide_bands=model.guide_bands, coarse_bands=model.coarse_bands, ratio=ratio
        )
        self.model, self.size_px, self.stride_px = model, size_px, stride_px

    def reach(self, ratio):
        return 0

    def forward(self, guide, coarse, *, state=None, guide_valid=None, coarse_valid=None):
        ratio = guide.shape[-1] // coarse.shape[-1]
        out = guide.new_empty(len(guide), len(self.coarse_bands), *guide.shape[-2:])
        spans = [mosaic_spans(length, self.size_px, self.stride_px) for length in guide.shape[-2:]]
        for (y0, y1, top, bottom), (x0, x1, left, right) in product(*spans):
            small = coarse[..., y0 // ratio : y1 // ratio, x0 // ratio : x1 // ratio]
            image = self.model(guide[..., y0:y1, x0:x1], small).image
            out[..., top:bottom, left:right] = image[
                ..., top - y0 : bottom - y0, left - x0 : right - x0
            ]
        return Fused(out)
