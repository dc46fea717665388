"""`fuse_field`: from a pair to a published product, on any Dask cluster, resumable at any point."""

import json
import logging
import os
import socket
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from satfuse import checkpoint
from satfuse.cluster import connect, local_cluster
from satfuse.errors import (
    ConfigError,
    MissingExtraError,
    ProductError,
    SatfuseError,
    SchedulerError,
)
from satfuse.geometry.tiling import SHARD_PX, Tile
from satfuse.infer.config import FuseConfig
from satfuse.infer.plan import Plan, choose_cut, make_plan, plan_path, run_key
from satfuse.infer.source import Source, as_source
from satfuse.infer.tiles import PROCESS_BYTES, done_path, fuse_tile, tile_bytes
from satfuse.models import FusionModel
from satfuse.models.blocks import Cut
from satfuse.pairing import Pair
from satfuse.product.layout import create_group
from satfuse.product.publish import group_path, item_path, publish
from satfuse.product.store import Store
from satfuse.product.write import missing_shards
from satfuse.sensors.bands import RATIO

if TYPE_CHECKING:  # distributed takes half a second to import
    from distributed import Client, Future

log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]

TILES_PER_THREAD = 2  # submitted at a time: one running, one waiting


def fuse_field(
    source: Pair | str | Path,
    model: str | Path = "bayesian",
    store: str | Path | None = None,
    *,
    scheduler: str | None = None,
    ratio: int = RATIO,
    config: FuseConfig | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> str:
    """Fuse one pair over its field and publish the product.

    The run's key follows from pair, model and settings, so the same call after an interruption
    resumes, and after success returns at once. Several guide tiles are mosaicked by the reader: the
    first that is usable wins.

    Parameters
    ----------
    source : a `Pair`, or the path of a scene that `write_scene` wrote.
    model : folder of a checkpoint, or the name of a model that needs no weights.
    store : folder or `s3://` address of the product store.
    scheduler : address of a Dask scheduler, such as "tcp://host:8786"; a local cluster by default.
    ratio : fine pixels per coarse pixel.
    config : settings; see `FuseConfig`.
    overwrite : True = make the product again under a new key, even if it exists; the new one
        replaces it when complete.
    progress : called with the number of finished tiles and of all, at the start and after each
        tile.

    Returns
    -------
    Address of the product's STAC item.

    Raises
    ------
    SchedulerError
        The scheduler cannot be reached, or its workers die.
    ConfigError
        No store is given, or a tile does not fit into a worker's memory.
    StoreError, CheckpointError, ReadError, ProductError
        The store cannot be written; the model does not fit the scene; an input is damaged (the tile
        is named); the finished run fails a check.
    """
    if store is None:
        raise ConfigError("no store is given; give a folder or an s3:// address")
    config = config or FuseConfig()
    products = Store(store)
    scene = as_source(source, missing=config.missing)
    network, card = checkpoint.resolve(
        model, guide_bands=scene.guide_bands, coarse_bands=scene.coarse_bands, ratio=ratio
    )
    run = run_key(scene, card.sha256, str(model), ratio, config)
    if overwrite:
        run = f"{run}-{uuid.uuid4().hex[:6]}"
    plan = _planned(products, plan_path(scene.product_id, run), scene)
    if _is_published(products, scene.product_id, run):
        log.info("%s: run %s is published already", scene.product_id, run)
        return products.uri(item_path(scene.product_id))
    products.check_writable()
    started = datetime.now(UTC)
    with _client(scheduler, config) as client:
        cut = plan.cut if plan else choose_cut(scene, network, ratio, config)
        check_memory(client, scene, cut, network, config)
        if plan:
            log.info("%s: run %s continues", scene.product_id, run)
        else:
            plan = make_plan(products, run, scene, network, card, str(model), ratio, config)
        group = group_path(plan.product_id, run)
        create_group(products, group, plan.layout, {"satfuse": {"run": run, **plan.provenance}})
        counts = run_tiles(client, products, plan, progress)
    uri = publish(
        products,
        plan.product_id,
        run,
        plan.layout,
        cores=[tile.core for tile in plan.tiles()],
        counts=counts,
        provenance=plan.provenance,
    )
    _record(products, plan, started, scheduler)
    return uri


def _client(scheduler: str | None, config: FuseConfig) -> AbstractContextManager["Client"]:
    if scheduler:
        return connect(scheduler)
    return local_cluster(config.workers, config.memory_limit)


def _record(store: Store, plan: Plan, started: datetime, scheduler: str | None) -> None:
    """Write next to the run which process made it, and when."""
    store.write_json(
        f"data/{plan.product_id}/{plan.run}.run.json",
        {
            "started": started,
            "finished": datetime.now(UTC),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "tiles": len(plan.tiles()),
            "scheduler": scheduler,
        },
    )


def check_memory(
    client: "Client", source: Source, cut: Cut, network: FusionModel, config: FuseConfig
) -> None:
    """Refuse, before the first read, tiles that would not fit into a worker's memory.

    Raises
    ------
    ConfigError
        A worker has too little memory: the estimate, the limit, and the settings to change.
    """
    shard = min(config.shard_px or SHARD_PX, max(source.geobox.shape))
    tile = tile_bytes(
        shard,
        cut.halo_px,
        cut.block_px,
        len(source.guide_bands),
        len(source.coarse_bands),
        uncertainty=network.gives_uncertainty,
    )
    for address, worker in client.scheduler_info(n_workers=-1)["workers"].items():
        need = PROCESS_BYTES + worker["nthreads"] * tile
        if 0 < (worker["memory_limit"] or 0) < need:
            raise ConfigError(
                f"worker {address} may use {worker['memory_limit'] / 2**20:.0f} MiB, but "
                f"{worker['nthreads']} tiles of {shard} px at once need about "
                f"{need / 2**20:.0f} MiB; give it more memory or fewer threads, or lower shard_px "
                "or block_px"
            )
    log.info("memory plan: about %.0f MiB per tile", tile / 2**20)


def run_tiles(
    client: "Client", store: Store, plan: Plan, progress: Progress | None = None
) -> list[dict[str, int]]:
    """Run the tiles that are not done yet, a bounded number at a time.

    Returns
    -------
    Counts of all tiles, see `satfuse.infer.tiles.count`.

    Raises
    ------
    SatfuseError
        A tile failed twice; the error names it.
    """
    from distributed import as_completed

    tiles = plan.tiles()
    path = plan_path(plan.product_id, plan.run)
    waiting = _unfinished(store, plan)
    finished = len(tiles) - len(waiting)
    queue = iter(waiting)
    tile_of: dict[Future, Tile] = {}

    def submit(tile: Tile) -> "Future":
        key = f"fuse-{plan.run}-{tile.index}-{uuid.uuid4().hex[:6]}"
        future = client.submit(fuse_tile, store, path, tile.index, key=key, retries=1, pure=False)
        tile_of[future] = tile
        return future

    if progress:
        progress(finished, len(tiles))
    threads = max(sum(client.nthreads().values()), 1)
    first = [submit(tile) for tile in islice(queue, TILES_PER_THREAD * threads)]
    running = as_completed(first, loop=client.loop)
    for future in running:
        tile = tile_of.pop(future)
        if future.status != "finished":
            running.clear()
            raise _tile_error(future, tile, plan)
        finished += 1
        if progress:
            progress(finished, len(tiles))
        for following in islice(queue, 1):
            running.add(submit(following))
    return [json.loads(store.read(done_path(plan, tile.index))) for tile in tiles]


def _unfinished(store: Store, plan: Plan) -> list[Tile]:
    """Tiles without a marker, or of which a shard is no longer there."""
    markers = store.names(f"{plan_path(plan.product_id, plan.run)}/done")
    marked = {int(name.removesuffix(".json")) for name in markers}
    group = group_path(plan.product_id, plan.run)
    return [
        tile
        for tile in plan.tiles()
        if tile.index not in marked or missing_shards(store, group, plan.layout, [tile.core])
    ]


def _tile_error(future: "Future", tile: Tile, plan: Plan) -> SatfuseError:
    from distributed import KilledWorker

    core = tile.core
    where = (
        f"tile {tile.index} (rows {core.y0} to {core.y1}, columns {core.x0} to {core.x1}) of "
        f"{plan.product_id}"
    )
    cause = future.exception()
    if isinstance(cause, KilledWorker):
        return SchedulerError(
            f"{where} killed every worker that tried it, most likely for memory; lower shard_px"
        )
    if isinstance(cause, SatfuseError) and not isinstance(cause, MissingExtraError):
        return type(cause)(f"{where}: {cause}")
    error = ProductError(
        f"{where} failed: {type(cause).__name__}: {cause}; run the same command again to retry"
    )
    error.__cause__ = cause
    return error


def _planned(store: Store, path: str, source: Source) -> Plan | None:
    """Plan of a run that was begun, or None.

    The source is replaced by the current one: its items may be served from another place now.
    """
    if not store.exists(f"{path}/plan.json"):
        return None
    plan = Plan.from_json(store.read(f"{path}/plan.json"))
    record = json.loads(json.dumps(source.to_record()))
    if plan.source != record:
        plan = replace(plan, source=record)
        store.write_json(f"{path}/plan.json", asdict(plan))
    return plan


def _is_published(store: Store, product_id: str, run: str) -> bool:
    """True = the visible product is of this run, or of one that `overwrite` made instead of it."""
    path = item_path(product_id)
    if not store.exists(path):
        return False
    visible = json.loads(store.read(path))["properties"].get("satfuse:run", "")
    complete = store.exists(f"{group_path(product_id, visible)}/zarr.json")
    return visible.partition("-")[0] == run and complete
