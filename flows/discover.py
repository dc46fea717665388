"""Search both sensors over a field and pair them by true time."""

from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.retries import network_task, service_tags
from satfuse import pipeline
from satfuse.pairing import read_pairs, table

find = network_task("search-and-pair")(pipeline.discover)


@flow(name="discover")
def discover(
    field: str, start: str, end: str, catalog: str, out: str, rules: dict[str, Any] | None = None
) -> str:
    """Path of the table of pairs; the table is an artifact of the run too."""
    path = find.with_options(tags=service_tags(catalog))(field, start, end, catalog, out, rules)
    description = f"Pairs over {field}, {start} to {end}"
    create_table_artifact(table(read_pairs(path)), key="pairs", description=description)
    return path
