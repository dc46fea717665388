"""Turn EnMAP scenes into a training cube."""

from prefect import flow

from flows.retries import network_task, service_tags
from satfuse import pipeline

build = network_task("build-cube")(pipeline.build_cube)


@flow(name="build-cube")
def build_cube(start: str, end: str, catalog: str, out: str, scheduler: str | None = None) -> str:
    """Path of the cube; scenes that are already in it are kept."""
    return build.with_options(tags=service_tags(catalog))(start, end, catalog, out, scheduler)
