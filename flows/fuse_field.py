"""Fuse and publish every pair of a table."""

from typing import cast
from uuid import UUID

from prefect import flow
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from flows.retries import network_task, service_tags
from satfuse import pipeline
from satfuse.pairing import read_pairs
from satfuse.terminal import progress_bar


@network_task("fuse", timeout_seconds=6 * 3600)
def fuse(pairs: str, model: str, store: str, scheduler: str | None = None) -> list[str]:
    """`satfuse.pipeline.fuse` with a progress artifact, which moves in steps of one percent.

    At a terminal a bar shows the same progress.
    """
    created = create_progress_artifact(0.0, key="tiles", description=f"Tiles of {pairs}")
    artifact = cast(UUID, created)  # a coroutine in asynchronous flows only
    shown_percent = 0
    with progress_bar("fusing") as bar:

        def report(share: float) -> None:
            nonlocal shown_percent
            bar(share, 1, "tiles")
            if int(100 * share) > shown_percent:
                shown_percent = int(100 * share)
                update_progress_artifact(artifact, float(shown_percent))

        return pipeline.fuse(pairs, model, store, scheduler, report)


@flow(name="fuse-field")
def fuse_field(pairs: str, model: str, store: str, scheduler: str | None = None) -> list[str]:
    """URIs of the products' items; an interrupted run resumes with the tiles that are missing."""
    catalogs = {
        c["name"] for pair in read_pairs(pairs) for c in (pair.guide_catalog, pair.coarse_catalog)
    }
    tags = service_tags(",".join(sorted(catalogs)))
    return fuse.with_options(tags=tags)(pairs, model, store, scheduler)
