"""Search both sensors over a field and pair them by true time."""

from prefect import flow, task
from prefect.artifacts import create_table_artifact

from flows.retries import NETWORK, is_transient, service_tags
from satfuse import pipeline
from satfuse.pairing import read_pairs, table

find = task(pipeline.discover, name="search-and-pair", retry_condition_fn=is_transient, **NETWORK)


@flow(name="discover")
def discover(
    field: str, start: str, end: str, catalog: str, out: str, rules: dict | None = None
) -> str:
    """Path of the table of pairs; the table is an artifact of the run too."""
    path = find.with_options(tags=service_tags(catalog))(field, start, end, catalog, out, rules)
    create_table_artifact(
        table(read_pairs(path)), key="pairs", description=f"Pairs over {field}, {start} to {end}"
    )
    return path
