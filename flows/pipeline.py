"""The whole chain as one deployable flow."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prefect import flow
from prefect.states import Completed

from flows.build_cube import build_cube
from flows.discover import discover
from flows.fuse_field import fuse_field
from flows.train import train as train_model
from flows.validate_field import validate_field
from satfuse.errors import NoPairError
from satfuse.pipeline import JobResult, trained_or_named


@flow(name="pipeline")
def pipeline(
    field: str,
    catalog: str,
    store: str,
    work: str,
    start: str | None = None,
    end: str | None = None,
    days: int = 10,
    model: str = "bayesian",
    train_on: str | None = None,
    train_start: str | None = None,
    train_end: str | None = None,
    scheduler: str | None = None,
    rules: dict | None = None,
    train: dict | None = None,
):
    """Search, pair, train if asked, fuse, publish, validate. Parameters are those of `satfuse.pipeline.Job`.

    Without `start` and `end` the last `days` days are searched, which is what a schedule wants. Days without a
    pair end as a completed run that says so.
    """
    today = datetime.now(UTC).date()
    start, end = start or str(today - timedelta(days=days)), end or str(today)
    folder = Path(work)
    try:
        pairs = discover(field, start, end, catalog, str(folder / "pairs.parquet"), rules)
    except NoPairError as error:
        return Completed(message=f"no pair between {start} and {end}: {error}")
    cube, checkpoint = None, None
    if train_on:
        cube = build_cube(
            train_start or start, train_end or end, train_on, str(folder / "cube.zarr"), scheduler
        )
        checkpoint = train_model(
            cube, str(folder / "checkpoint"), {"model": model, **(train or {})}
        )
        model = trained_or_named(checkpoint, model)
    products = fuse_field(pairs, model, store, scheduler)
    reports = [validate_field(item, str(folder / "reports"), again=False) for item in products]
    made = {
        "cube": cube,
        "checkpoint": checkpoint,
        "products": tuple(products),
        "reports": tuple(reports),
    }
    return asdict(JobResult(pairs=pairs, model=model, **made))
