"""Train a model on a cube."""

import json
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact

from satfuse import pipeline

fit = task(name="train", timeout_seconds=24 * 3600)(pipeline.train)


@flow(name="train")
def train(cube: str, out: str, config: dict[str, Any] | None = None) -> str:
    """Path of the checkpoint; an interrupted run resumes. The metrics are an artifact."""
    checkpoint = fit(cube, out, config)
    metrics = json.loads((Path(checkpoint) / "card.json").read_text())["metrics"]
    rows = [f"| {name} | {value} |" for name, value in metrics.items()]
    table = "\n".join(["| metric | value |", "|---|---|", *rows])
    create_markdown_artifact(table, key="training-metrics")
    return checkpoint
