"""Fuse and publish every pair of a table."""

from prefect import flow, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from flows.retries import NETWORK, is_transient, service_tags
from satfuse import pipeline
from satfuse.pairing import read_pairs


@task(name="fuse", retry_condition_fn=is_transient, **{**NETWORK, "timeout_seconds": 6 * 3600})
def fuse(pairs: str, model: str, store: str, scheduler: str | None = None) -> list[str]:
    """`satfuse.pipeline.fuse` with a progress artifact, which moves in steps of one percent."""
    artifact, shown = create_progress_artifact(0.0, key="tiles", description=f"Tiles of {pairs}"), 0

    def show(share: float) -> None:
        nonlocal shown
        if int(100 * share) > shown:
            shown = int(100 * share)
            update_progress_artifact(artifact, float(shown))

    return pipeline.fuse(pairs, model, store, scheduler, show)


@flow(name="fuse-field")
def fuse_field(pairs: str, model: str, store: str, scheduler: str | None = None) -> list[str]:
    """URIs of the products' items; a run that was killed goes on with the tiles it lacks."""
    catalogs = {
        c["name"] for pair in read_pairs(pairs) for c in (pair.guide_catalog, pair.coarse_catalog)
    }
    return fuse.with_options(tags=service_tags(",".join(sorted(catalogs))))(
        pairs, model, store, scheduler
    )
