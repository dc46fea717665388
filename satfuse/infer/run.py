"""`fuse_field`: from a pair to a published product, on any Dask cluster, resumable at any point."""

import json
import logging
import os
import socket
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import islice
from urllib.parse import urlsplit

from satfuse import checkpoint
from satfuse.errors import (
    ConfigError,
    MissingExtraError,
    ProductError,
    SatfuseError,
    SchedulerError,
)
from satfuse.geometry.tiling import SHARD_PX
from satfuse.infer.config import FuseConfig
from satfuse.infer.plan import Plan, make_plan, plan_path, run_key
from satfuse.infer.source import as_source
from satfuse.infer.tiles import PROCESS_BYTES, done_path, fuse_tile, tile_bytes
from satfuse.models.blocks import Cut
from satfuse.product.layout import create
from satfuse.product.publish import group_path, item_path, publish
from satfuse.product.store import Store
from satfuse.product.write import missing_shards
from satfuse.sensors.bands import RATIO

log = logging.getLogger(__name__)

TILES_PER_THREAD = 2  # in flight: one at work, one waiting
CONNECT_TIMEOUT = "10s"


def fuse_field(
    source,
    model="bayesian",
    store=None,
    *,
    scheduler=None,
    ratio=RATIO,
    config=None,
    overwrite=False,
    progress=None,
) -> str:
    """Fuse one pair over its field and publish the product.

    The run's key follows from pair, model and settings, so the same call after a kill continues where it stopped,
    and after success returns at once. Several guide tiles are mosaicked by the reader: the first that is usable wins.

    Parameters
    ----------
    source : a `Pair`, or the path of a scene that `write_scene` wrote.
    model : folder of a checkpoint, or the name of a model that needs no weights.
    store : folder or `s3://` address of the product store.
    scheduler : address of a Dask scheduler, such as "tcp://host:8786"; a local cluster by default.
    ratio : fine pixels per coarse pixel.
    config : a `FuseConfig`.
    overwrite : make the product anew under a new key, even if it exists; the new one replaces it when complete.
    progress : called with the number of finished tiles and of all, at the start and after each tile.

    Returns
    -------
    Address of the product's STAC item.

    Raises
    ------
    SchedulerError
        The scheduler cannot be reached, or its workers die.
    ConfigError
        A tile does not fit into a worker's memory.
    StoreError, CheckpointError, ReadError, ProductError
        The store cannot be written; the model does not fit the scene; an input is damaged (the tile is named); the
        finished run fails a check.
    """
    config, store = config or FuseConfig(), Store(store)
    source = as_source(source, missing=config.missing)
    network, card = checkpoint.resolve(
        model, guide_bands=source.guide_bands, coarse_bands=source.coarse_bands, ratio=ratio
    )
    run = run_key(source, card.sha256, str(model), ratio, config)
    if overwrite:
        run = f"{run}-{uuid.uuid4().hex[:6]}"
    path = plan_path(source.product_id, run)
    plan = _planned(store, path, source)
    if _is_published(store, source.product_id, run):
        log.info("%s: run %s is published already", source.product_id, run)
        return store.uri(item_path(source.product_id))
    store.check_writable()
    with connect(scheduler, config) as client:
        cut = (
            plan.cut
            if plan
            else Cut.of(network, source.geobox.shape, ratio, block_px=config.block_px)
        )
        check_memory(client, source, cut, network, config)
        started = datetime.now(UTC)
        if plan:
            log.info("%s: run %s continues", source.product_id, run)
        else:
            plan = make_plan(store, run, source, network, card, str(model), ratio, config)
        create(
            store,
            group_path(plan.product_id, run),
            plan.layout,
            {"satfuse": {"run": run, **plan.provenance}},
        )
        counts = run_tiles(client, store, plan, progress)
    uri = publish(
        store, plan.product_id, run, plan.layout,
        cores=[t.core for t in plan.tiles()], counts=counts, provenance=plan.provenance,
    )  # fmt: skip
    record = {
        "started": started,
        "finished": datetime.now(UTC),
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    store.write_json(
        f"data/{plan.product_id}/{run}.run.json",
        record | {"tiles": len(counts), "scheduler": scheduler},
    )
    return uri


@contextmanager
def connect(scheduler: str | None, config: FuseConfig) -> Iterator:
    """A Dask client: of the scheduler at an address, or of a local cluster of processes that ends with the block.

    Raises
    ------
    SchedulerError
        Nothing answers at the address.
    """
    from distributed import Client, LocalCluster

    if scheduler:
        _check_address(scheduler)
        try:
            client = Client(scheduler, timeout=CONNECT_TIMEOUT, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise SchedulerError(
                f"no Dask scheduler answers at {scheduler} ({type(error).__name__}); check the address, or leave "
                "--scheduler away for a local cluster"
            ) from error
        with client:
            log.info("Dask dashboard: %s", client.dashboard_link)
            yield client
        return
    # not the process's default client: other runs and the caller's own dask work go on beside it
    options = {
        "n_workers": config.workers,
        "threads_per_worker": 1,
        "memory_limit": config.memory_limit,
    }
    with (
        LocalCluster(**options, host="127.0.0.1", dashboard_address="127.0.0.1:8787") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        print(f"Dask dashboard: {client.dashboard_link}", file=sys.stderr, flush=True)
        yield client


def _check_address(scheduler):
    """Before a `Client` is made of it: one that fails on its address prints a traceback when it is dropped."""
    parts = urlsplit(scheduler if "://" in scheduler else f"tcp://{scheduler}")
    try:
        complete = parts.scheme not in ("tcp", "tls") or (parts.hostname and parts.port)
    except ValueError:  # the port is no number below 65536
        complete = False
    if not complete:
        raise SchedulerError(
            f"{scheduler!r} is not the address of a Dask scheduler; write tcp://host:port"
        )


def check_memory(client, source, cut: Cut, network, config: FuseConfig) -> None:
    """Refuse before the first read what would not fit into a worker.

    Raises
    ------
    ConfigError
        The estimate and the limit, and what to change.
    """
    shard = min(config.shard_px or SHARD_PX, max(source.geobox.shape))
    bands = len(source.guide_bands), len(source.coarse_bands)
    tile = tile_bytes(
        shard, cut.halo_px, cut.block_px, *bands, uncertainty=network.gives_uncertainty
    )
    for address, worker in client.scheduler_info(n_workers=-1)["workers"].items():
        need = PROCESS_BYTES + worker["nthreads"] * tile
        if 0 < (worker["memory_limit"] or 0) < need:
            raise ConfigError(
                f"worker {address} may use {worker['memory_limit'] / 2**20:.0f} MiB, but {worker['nthreads']} tiles of "
                f"{shard} px at once need about {need / 2**20:.0f} MiB; give it more memory or fewer threads, or lower "
                "shard_px or block_px"
            )
    log.info("memory plan: about %.0f MiB per tile", tile / 2**20)


def run_tiles(client, store: Store, plan: Plan, progress=None) -> list[dict]:
    """Run the tiles that are not done yet, a bounded number at a time; the counts of all of them.

    A tile is done when it has left its marker and its shards are still there.

    Raises
    ------
    SatfuseError
        A tile failed twice; the error names it.
    """
    from distributed import as_completed
    from rich.console import Console
    from rich.progress import Progress

    tiles, path = plan.tiles(), plan_path(plan.product_id, plan.run)
    marked = {int(name.removesuffix(".json")) for name in store.names(f"{path}/done")}
    group = group_path(plan.product_id, plan.run)
    left = [
        t
        for t in tiles
        if t.index not in marked or missing_shards(store, group, plan.layout, [t.core])
    ]
    todo, finished = iter(left), len(tiles) - len(left)
    threads = max(sum(client.nthreads().values()), 1)

    def submit(tile):
        key = f"fuse-{plan.run}-{tile.index}-{uuid.uuid4().hex[:6]}"
        future = client.submit(fuse_tile, store, path, tile.index, key=key, retries=1, pure=False)
        future.tile = tile
        return future

    flying = as_completed(
        [submit(t) for t in islice(todo, TILES_PER_THREAD * threads)], loop=client.loop
    )
    bar = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    with bar:
        task = bar.add_task("tiles", total=len(tiles), completed=finished)
        if progress:
            progress(finished, len(tiles))
        for future in flying:
            if future.status != "finished":
                flying.clear()
                raise _tile_error(future, plan)
            finished += 1
            bar.advance(task)
            if progress:
                progress(finished, len(tiles))
            for tile in islice(todo, 1):
                flying.add(submit(tile))
    return [_counts(store, plan, t.index) for t in tiles]


def _counts(store, plan, index) -> dict:
    return json.loads(store.read(done_path(plan, index)))


def _tile_error(future, plan: Plan) -> SatfuseError:
    from distributed import KilledWorker

    core = future.tile.core
    where = f"tile {future.tile.index} (rows {core.y0} to {core.y1}, columns {core.x0} to {core.x1}) of {plan.product_id}"
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


def _planned(store: Store, path: str, source) -> Plan | None:
    """The plan of a run that was begun, with its inputs where they are served now; None where there is none."""
    if not store.exists(f"{path}/plan.json"):
        return None
    plan, record = (
        Plan.from_json(store.read(f"{path}/plan.json")),
        json.loads(json.dumps(source.record)),
    )
    if plan.source != record:
        plan = replace(plan, source=record)
        store.write_json(f"{path}/plan.json", asdict(plan))
    return plan


def _is_published(store: Store, product_id: str, run: str) -> bool:
    """Whether the visible product is of this run, or of one that `overwrite` made in its place, and is there."""
    path = item_path(product_id)
    if not store.exists(path):
        return False
    visible = json.loads(store.read(path))["properties"].get("satfuse:run", "")
    return visible.partition("-")[0] == run and store.exists(
        f"{group_path(product_id, visible)}/zarr.json"
    )
