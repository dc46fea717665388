"""The plan of a run: all that a tile needs, kept in the store beside the data before the first tile starts.

`data/<id>/<run>.plan/`: `scene.npz` (coarse image at 300 m), `state.safetensors` (what the model fitted on it) and,
written last, `plan.json`. A run that starts again finds the plan and continues with the very same numbers.
"""

import hashlib
import io
import json
import logging
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version

import dask
import numpy as np
import safetensors.torch
import torch

from satfuse import __version__, checkpoint
from satfuse.errors import CheckpointError, ProductError
from satfuse.geometry.tiling import Tile, plan_tiles
from satfuse.infer.config import FuseConfig
from satfuse.infer.source import Source, provenance
from satfuse.models.blocks import Cut, fill_holes
from satfuse.models.interface import FusionModel, State
from satfuse.models.summary import summary_of_parts
from satfuse.product.layout import FORMAT, Layout
from satfuse.product.store import Store
from satfuse.scene import average_guide, sample_guide
from satfuse.sensors.quality import Quality

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run, in plain values.

    Parameters
    ----------
    product_id, run : where the data goes.
    source : record of the scene, see `satfuse.infer.source`.
    layout, cut : of the product and of the blocks inside a tile.
    model, sha256 : name or folder of the checkpoint, and the hash of its weights.
    guide_bands, coarse_bands : of the scene.
    guide_fill : per guide band what stands in for missing pixels: the band's median over the scene at 300 m.
    threads, device : of torch.
    provenance : for the product's attributes and item.
    """

    product_id: str
    run: str
    source: dict
    layout: Layout
    cut: Cut
    model: str
    sha256: str
    guide_bands: tuple[str, ...]
    coarse_bands: tuple[str, ...]
    guide_fill: tuple[float, ...]
    threads: int
    device: str
    provenance: dict

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
        """Read a plan back."""
        values = json.loads(content)
        cut = {k: tuple(v) if isinstance(v, list) else v for k, v in values["cut"].items()}
        return cls(**values | {"layout": Layout(**values["layout"]), "cut": Cut(**cut)})


@dataclass(frozen=True)
class Context:
    """A plan with its model and arrays, opened once per worker process."""

    plan: Plan
    model: FusionModel
    state: State
    coarse: np.ndarray
    coarse_valid: np.ndarray
    coarse_quality: np.ndarray
    absent: np.ndarray


def plan_path(product_id: str, run: str) -> str:
    """Folder of a run's plan in its store."""
    return f"data/{product_id}/{run}.plan"


def run_key(source: Source, sha256: str, model: str, ratio: int, config: FuseConfig) -> str:
    """Name of a run: the same for the same scene, model and settings, whoever starts it."""
    told = [source.fingerprint(), sha256 or model, ratio, config.shaping(), __version__, FORMAT]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def make_plan(
    store: Store, run: str, source: Source, model: FusionModel, card, reference: str, ratio, config
) -> Plan:
    """Open the scene, fit the model on it at 300 m, and keep both as the run's plan.

    Parameters
    ----------
    model, card, reference : from `checkpoint.resolve`, and what it was asked for.

    Raises
    ------
    ProductError
        The scene has no pixel where both images are usable.
    """
    with dask.config.set(scheduler="threads", num_workers=config.workers):
        scene = source.open(ratio)
        cells = scene.guide_cells.values if "guide_cells" in scene else None
        if cells is None:
            cells = average_guide(scene.guide, scene.guide_valid, ratio)
        patches = sample_guide(scene.guide, scene.guide_valid, ratio)
    coarse, valid = scene.coarse.values.astype("float32"), scene.coarse_valid.values.astype(bool)
    absent = ~(np.isfinite(coarse) & valid).any((1, 2))
    quality = scene.coarse_quality.values.astype("uint16")
    partly = valid & ~np.isfinite(coarse[~absent]).all(0)
    valid, quality[partly] = valid & ~partly, quality[partly] | np.uint16(Quality.COARSE_MISSING)
    filled = fill_holes(coarse, valid)
    torch.set_num_threads(config.threads)
    with torch.inference_mode():
        known = {
            "psf_sigma": float(scene.attrs["psf_sigma"]),
            "registered": bool(scene.attrs["shift_trusted"]),
        }
        summary = summary_of_parts(cells, patches, filled, valid, ratio=ratio, **known)
        if not summary.valid.any():
            raise ProductError(
                f"{source.product_id}: guide and coarse image share no usable pixel; try another pair"
            )
        state = model.fit(summary)
    where_from = provenance(source, scene)
    if seen := model.observation(state):
        where_from["observation"] = {
            "shift": seen.shift.tolist(),
            "shift_sigma": seen.shift_sigma.tolist(),
            "psf_sigma": seen.psf_sigma.tolist(),
            "gain": seen.gain.tolist(),
            "doubt": seen.doubt,
            "units": "coarse pixels, x to the right and y down; gain 1 is exact",
        }
        if seen.doubt:
            log.warning("%s: %s", source.product_id, seen.doubt)
            quality |= np.uint16(Quality.SHIFT_UNTRUSTED)
    plan = Plan(
        product_id=source.product_id,
        run=run,
        source=source.record,
        layout=_layout(source, model, absent, config),
        cut=Cut.of(
            model, source.geobox.shape, ratio, block_px=config.block_px, mosaic=config.mosaic
        ),
        model=reference,
        sha256=card.sha256,
        guide_bands=source.guide_bands,
        coarse_bands=source.coarse_bands,
        guide_fill=tuple(float(v) for v in np.nanmedian(cells, (1, 2))),
        threads=config.threads,
        device=config.device,
        provenance=where_from
        | {"model": model.name, "model_sha256": card.sha256, "versions": _versions()},
    )
    _write(store, plan, filled, valid, quality, absent, state)
    return plan


def open_context(store: Store, path: str) -> Context:
    """Plan, model and arrays of a run; cached as long as the plan is the same, so a worker process loads them once.

    Raises
    ------
    CheckpointError
        The weights are no longer those that the plan was made with.
    """
    return _context(store, path, store.read(f"{path}/plan.json"))


@lru_cache(maxsize=2)
def _context(store, path, content) -> Context:
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
    with np.load(io.BytesIO(store.read(f"{path}/scene.npz")), allow_pickle=False) as scene:
        arrays = [scene[name] for name in ("coarse", "coarse_valid", "coarse_quality", "absent")]
    state = {name: value.to(plan.device) for name, value in state.items()}
    return Context(plan, model.to(plan.device), state, *arrays)


def _layout(source, model, absent, config) -> Layout:
    sources = [
        "none" if gone else name for name, gone in zip(model.band_source, absent, strict=True)
    ]
    own = [
        band for band, name in zip(source.coarse_bands, sources, strict=True) if name == model.name
    ]
    return Layout.of(
        source.geobox,
        bands=source.coarse_bands,
        band_source=sources,
        uncertain_bands=own if model.gives_uncertainty else (),
        time=source.time,
        shard_px=config.shard_px,
        chunk_px=config.chunk_px,
    )


def _versions() -> dict:
    names = ("numpy", "torch", "xarray", "zarr", "odc-geo", "odc-stac")
    return {"satfuse": __version__, **{name: version(name) for name in names}}


def _write(store, plan, coarse, coarse_valid, coarse_quality, absent, state) -> None:
    path = plan_path(plan.product_id, plan.run)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        coarse=coarse,
        coarse_valid=coarse_valid,
        coarse_quality=coarse_quality,
        absent=absent,
    )
    store.write(f"{path}/scene.npz", buffer.getvalue())
    state = {name: value.clone().contiguous() for name, value in state.items()}
    store.write(f"{path}/state.safetensors", safetensors.torch.save(state))
    store.write_json(f"{path}/plan.json", asdict(plan))
    log.info(
        "%s run %s: %d tiles, halo %d px",
        plan.product_id,
        plan.run,
        len(plan.tiles()),
        plan.cut.halo_px,
    )
