"""Turn EnMAP scenes into a training cube."""

from prefect import flow, task

from flows.retries import NETWORK, is_transient, service_tags
from satfuse import pipeline

build = task(pipeline.build_cube, name="build-cube", retry_condition_fn=is_transient, **NETWORK)


@flow(name="build-cube")
def build_cube(start: str, end: str, catalog: str, out: str, scheduler: str | None = None) -> str:
    """Path of the cube; scenes that are already in it are kept."""
    return build.with_options(tags=service_tags(catalog))(start, end, catalog, out, scheduler)
