"""The whole chain as one deployable flow."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.states import Completed, State

from flows.build_cube import build_cube
from flows.discover import discover
from flows.fuse_field import fuse_field
from flows.train import train as train_model
from flows.validate_field import validate_field
from satfuse.errors import NoPairError
from satfuse.model_names import DEFAULT
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
    model: str = DEFAULT,
    train_on: str | None = None,
    train_start: str | None = None,
    train_end: str | None = None,
    scheduler: str | None = None,
    rules: dict[str, Any] | None = None,
    train: dict[str, Any] | None = None,
) -> dict[str, Any] | State[Any]:
    """Search, pair, train if asked, fuse, publish, validate.

    Parameters are those of `satfuse.pipeline.Job`. Without `start` and `end` the last `days` days
    are searched, which suits a schedule. Days without a pair end as a completed run that says so.

    Returns
    -------
    Fields of `satfuse.pipeline.JobResult`, or the state of a run without a pair.
    """
    today = datetime.now(UTC).date()
    start = start or str(today - timedelta(days=days))
    end = end or str(today)
    folder = Path(work)
    try:
        pairs = discover(field, start, end, catalog, str(folder / "pairs.parquet"), rules)
    except NoPairError as error:
        return Completed(message=f"no pair between {start} and {end}: {error}")
    cube = None
    checkpoint = None
    if train_on:
        first = train_start or start
        cube = build_cube(first, train_end or end, train_on, str(folder / "cube.zarr"), scheduler)
        settings = {"model": model, **(train or {})}
        checkpoint = train_model(cube, str(folder / "checkpoint"), settings)
        model = trained_or_named(checkpoint, model)
    products = fuse_field(pairs, model, store, scheduler)
    reports = [validate_field(item, str(folder / "reports"), again=False) for item in products]
    result = JobResult(
        pairs=pairs,
        cube=cube,
        checkpoint=checkpoint,
        model=model,
        products=tuple(products),
        reports=tuple(reports),
    )
    return asdict(result)
