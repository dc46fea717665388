"""Fuse and publish every pair of a table."""

from prefect import flow, task

from flows.retries import NETWORK, is_transient
from satfuse import pipeline

fuse = task(pipeline.fuse, name="fuse", retry_condition_fn=is_transient, **{**NETWORK, "timeout_seconds": 6 * 3600})


@flow(name="fuse-field")
def fuse_field(pairs: str, model: str, store: str, scheduler: str | None = None) -> list[str]:
    """URIs of the products' items; a run that was killed goes on with the tiles it lacks."""
    return fuse(pairs, model, store, scheduler)
