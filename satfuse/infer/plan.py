"""The plan of a run: everything that a tile needs, in the store before the first tile starts.

`data/<id>/<run>.plan/`: `scene.npz` (coarse image at 300 m), `state.safetensors` (the model's state
that was fitted on it) and, written last, `plan.json`. A run that is resumed reads the plan and
continues with the same numbers.
"""

import hashlib
import io
import json
import logging
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import dask
import numpy as np
import safetensors.torch
import torch
import xarray as xr

from satfuse import __version__, checkpoint
from satfuse.arrays import BoolArray, FloatArray, IntArray
from satfuse.errors import CheckpointError, ProductError
from satfuse.geometry.grids import coarse_geobox
from satfuse.geometry.shift import ShiftEstimate
from satfuse.geometry.tiling import Tile, plan_tiles
from satfuse.infer.config import FuseConfig
from satfuse.infer.source import Source, from_record
from satfuse.models.blocks import Cut
from satfuse.models.interface import FusionModel, Observation, State
from satfuse.models.prepare import (
    Coarse,
    guide_fill,
    prepare_coarse,
    require_overlap,
    shift_verdict,
)
from satfuse.models.summary import Summary, summary_of_parts
from satfuse.product.layout import FORMAT, Layout
from satfuse.product.store import Store
from satfuse.scene import average_guide, sample_guide
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA
from satfuse.sensors.quality import Quality

log = logging.getLogger(__name__)

# Rules of `models.prepare` in the run key: raised when they change the values of products.
PREPARATION = 2


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Plan of one run, in plain values.

    Parameters
    ----------
    product_id, run : identifier of the product and key of the run; they name the data's folder.
    source : record of the scene, see `satfuse.infer.source.from_record`.
    layout, cut : of the product and of the blocks inside a tile.
    model, sha256 : name or folder of the checkpoint, and the hash of its weights.
    guide_bands, coarse_bands : of the scene.
    guide_fill : value of unusable pixels per guide band, see `models.prepare.guide_fill`.
    threads, device : of torch.
    provenance : for the product's attributes and item.
    """

    product_id: str
    run: str
    source: dict[str, Any]
    layout: Layout
    cut: Cut
    model: str
    sha256: str
    guide_bands: tuple[str, ...]
    coarse_bands: tuple[str, ...]
    guide_fill: tuple[float, ...]
    threads: int
    device: str
    provenance: dict[str, Any]

    def tiles(self) -> list[Tile]:
        """One tile per shard."""
        layout = self.layout
        return plan_tiles(
            (layout.height, layout.width),
            tile_px=layout.shard_px,
            halo_px=self.cut.halo_px,
            ratio=self.cut.ratio,
            chunk_px=layout.chunk_px,
        )

    @classmethod
    def from_json(cls, content: bytes) -> "Plan":
        """Read a plan back from the content of `plan.json`."""
        values: dict[str, Any] = json.loads(content)
        cut: dict[str, Any] = {  # JSON has lists for tuples
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values["cut"].items()
        }
        return cls(**values | {"layout": Layout(**values["layout"]), "cut": Cut(**cut)})


@dataclass(frozen=True)
class Context:
    """A plan with its source, model and arrays, opened once per worker process."""

    plan: Plan
    source: Source
    model: FusionModel
    state: State
    coarse: Coarse
    coarse_quality: IntArray


def plan_path(product_id: str, run: str) -> str:
    """Folder of a run's plan in its store."""
    return f"data/{product_id}/{run}.plan"


def run_key(source: Source, sha256: str, model: str, ratio: int, config: FuseConfig) -> str:
    """Name of a run: the same for the same scene, model and settings, whoever starts it."""
    content = [
        source.fingerprint(),
        sha256 or model,
        ratio,
        config.shaping(),
        __version__,
        FORMAT,
        PREPARATION,
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def make_plan(
    store: Store,
    run: str,
    source: Source,
    model: FusionModel,
    card: checkpoint.Card,
    reference: str,
    ratio: int,
    config: FuseConfig,
) -> Plan:
    """Open the scene, fit the model on it at 300 m, and write both as the run's plan.

    Parameters
    ----------
    run : key of the run, see `run_key`.
    model, card : as `checkpoint.resolve` returns them.
    reference : name or folder that the model was resolved from.
    ratio : fine pixels per coarse pixel.

    Raises
    ------
    ProductError
        The scene has no pixel where both images are usable.
    """
    scene, cells, patches = _read(source, ratio, config)
    coarse = prepare_coarse(scene.coarse.values, scene.coarse_valid.values.astype(bool))
    summary = _summarise(scene, cells, patches, coarse, ratio)
    _require_overlap(source, summary, coarse)
    torch.set_num_threads(config.threads)
    with torch.inference_mode():
        state = model.fit(summary)
    observation = model.observation(state)
    registration = _registration(scene)
    shift = shift_verdict(
        observation,
        registration,
        registered=registration.trusted,
        transform=coarse_geobox(source.geobox, ratio).affine,
        in_metres=source.geobox.crs is None or not source.geobox.crs.geographic,
    )
    if not shift.trusted:
        log.warning("%s: %s", source.product_id, shift.reason)
    plan = Plan(
        product_id=source.product_id,
        run=run,
        source=source.to_record(),
        layout=_layout(source, model, coarse.absent, config),
        cut=choose_cut(source, model, ratio, config),
        model=reference,
        sha256=card.sha256,
        guide_bands=source.guide_bands,
        coarse_bands=source.coarse_bands,
        guide_fill=tuple(guide_fill(summary).tolist()),
        threads=config.threads,
        device=config.device,
        provenance=source.provenance(scene)
        | _shift_record(shift)
        | {"registration": _shift_record(registration)}
        | {"model": model.name, "model_sha256": card.sha256, "versions": _versions()}
        | _observation_record(observation),
    )
    _write(store, plan, coarse, _coarse_quality(scene, coarse, shift), state)
    return plan


def choose_cut(source: Source, model: FusionModel, ratio: int, config: FuseConfig) -> Cut:
    """Blocks of the source's grid that fit the model and the settings."""
    rows, columns = source.geobox.shape
    return Cut.of(model, (rows, columns), ratio, block_px=config.block_px, mosaic=config.mosaic)


def _read(
    source: Source, ratio: int, config: FuseConfig
) -> tuple[xr.Dataset, FloatArray, FloatArray]:
    """The scene, and its guide as cell means and patches."""
    with dask.config.set(scheduler="threads", num_workers=config.workers):
        scene = source.open(ratio)
        if "guide_patches" in scene:
            return scene, scene.guide_cells.values, scene.guide_patches.values
        cells = average_guide(scene.guide, scene.guide_valid, ratio)
        return scene, cells, sample_guide(scene.guide, scene.guide_valid, ratio)


def _summarise(
    scene: xr.Dataset, cells: FloatArray, patches: FloatArray, coarse: Coarse, ratio: int
) -> Summary:
    return summary_of_parts(
        cells,
        patches,
        coarse.image,
        coarse.valid,
        ratio=ratio,
        psf_sigma=float(scene.attrs.get("psf_sigma", DEFAULT_PSF_SIGMA)),
        registered=bool(scene.attrs["shift_trusted"]),
    )


def _require_overlap(source: Source, summary: Summary, coarse: Coarse) -> None:
    """`require_overlap` with the product's name in the message."""
    try:
        require_overlap(summary, coarse.absent)
    except ProductError as error:
        raise ProductError(f"{source.product_id}: {error}; try another pair") from error


def _coarse_quality(scene: xr.Dataset, coarse: Coarse, shift: ShiftEstimate) -> IntArray:
    """Flags (h, w) uint16 of the coarse image as it was prepared, with the verdict on its shift."""
    quality = scene.coarse_quality.values.astype("uint16")
    lacks_band = scene.coarse_valid.values.astype(bool) & ~coarse.valid
    quality[lacks_band] |= np.uint16(Quality.COARSE_MISSING)
    quality &= ~np.uint16(Quality.SHIFT_UNTRUSTED)  # the verdict replaces the scene's own flag
    if not shift.trusted:
        quality |= np.uint16(Quality.SHIFT_UNTRUSTED)
    return quality


def _registration(scene: xr.Dataset) -> ShiftEstimate:
    """The registration that the scene states in its attributes."""
    attrs = scene.attrs
    dx_m, dy_m = map(float, attrs.get("shift_m", (0.0, 0.0)))
    return ShiftEstimate(
        dx_m=dx_m,
        dy_m=dy_m,
        sigma_m=float(attrs.get("shift_sigma_m", 0.0)),
        trusted=bool(attrs["shift_trusted"]),
        reason=str(attrs.get("shift_reason", "given")),
    )


def _shift_record(shift: ShiftEstimate) -> dict[str, Any]:
    """A verdict on the shift in JSON values."""
    return {
        "shift_m": [shift.dx_m, shift.dy_m],
        "shift_sigma_m": shift.sigma_m if np.isfinite(shift.sigma_m) else None,  # as JSON has it
        "shift_trusted": shift.trusted,
        "shift_reason": shift.reason,
    }


def _observation_record(observation: Observation | None) -> dict[str, Any]:
    """An observation in JSON values, under the key of the provenance; empty without one."""
    if observation is None:
        return {}
    record = {
        "shift": observation.shift.tolist(),
        "shift_sigma": observation.shift_sigma.tolist(),
        "psf_sigma": observation.psf_sigma.tolist(),
        "gain": observation.gain.tolist(),
        "doubt": observation.doubt,
        "units": "coarse pixels, x to the right and y down; gain 1 is exact",
    }
    return {"observation": record}


def open_context(store: Store, path: str) -> Context:
    """Open plan, model and arrays of a run.

    They are cached as long as the plan is the same, so a worker process loads them once.

    Parameters
    ----------
    path : folder of the plan in the store.

    Raises
    ------
    CheckpointError
        The weights are no longer those that the plan was made with.
    """
    return _context(store, path, store.read(f"{path}/plan.json"))


@lru_cache(maxsize=2)
def _context(store: Store, path: str, content: bytes) -> Context:
    plan = Plan.from_json(content)
    torch.set_num_threads(plan.threads)
    torch.backends.cudnn.allow_tf32 = False  # convolutions on a GPU would keep three digits
    model, card = checkpoint.resolve(
        plan.model,
        guide_bands=plan.guide_bands,
        coarse_bands=plan.coarse_bands,
        ratio=plan.cut.ratio,
    )
    if card.sha256 != plan.sha256:
        raise CheckpointError(
            f"{plan.model} has changed since the run was planned; start a new run"
        )
    state = safetensors.torch.load(store.read(f"{path}/state.safetensors"))
    coarse, quality = read_coarse(store, path)
    return Context(
        plan,
        from_record(plan.source),
        model.to(plan.device),
        {name: value.to(plan.device) for name, value in state.items()},
        coarse,
        quality,
    )


def read_coarse(store: Store, path: str) -> tuple[Coarse, IntArray]:
    """The coarse image of a run as it was prepared, and its quality (h, w).

    Parameters
    ----------
    path : folder of the plan in the store.
    """
    with np.load(io.BytesIO(store.read(f"{path}/scene.npz")), allow_pickle=False) as scene:
        coarse = Coarse(image=scene["coarse"], valid=scene["coarse_valid"], absent=scene["absent"])
        return coarse, scene["coarse_quality"]


def _layout(source: Source, model: FusionModel, absent: BoolArray, config: FuseConfig) -> Layout:
    """Layout of the product; bands that are `absent` (c,) have no source."""
    sources = [
        "none" if missing else name for name, missing in zip(model.band_source, absent, strict=True)
    ]
    of_model = [
        band for band, name in zip(source.coarse_bands, sources, strict=True) if name == model.name
    ]
    return Layout.of(
        source.geobox,
        bands=source.coarse_bands,
        band_source=sources,
        uncertain_bands=of_model if model.gives_uncertainty else (),
        time=source.time,
        shard_px=config.shard_px,
        chunk_px=config.chunk_px,
    )


def _versions() -> dict[str, str]:
    names = ("numpy", "torch", "xarray", "zarr", "odc-geo", "odc-stac")
    return {"satfuse": __version__, **{name: version(name) for name in names}}


def _write(store: Store, plan: Plan, coarse: Coarse, quality: IntArray, state: State) -> None:
    path = plan_path(plan.product_id, plan.run)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        coarse=coarse.image,
        coarse_valid=coarse.valid,
        coarse_quality=quality,
        absent=coarse.absent,
    )
    store.write(f"{path}/scene.npz", buffer.getvalue())
    tensors = {name: value.clone().contiguous() for name, value in state.items()}
    store.write(f"{path}/state.safetensors", safetensors.torch.save(tensors))
    # last: a plan that is there is whole
    store.write_json(f"{path}/plan.json", asdict(plan))
    log.info(
        "%s run %s: %d tiles, halo %d px",
        plan.product_id,
        plan.run,
        len(plan.tiles()),
        plan.cut.halo_px,
    )
