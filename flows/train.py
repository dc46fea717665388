"""Train a model on a cube."""

import json
from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact

from satfuse import pipeline

fit = task(pipeline.train, name="train", timeout_seconds=24 * 3600)


@flow(name="train")
def train(cube: str, out: str, config: dict | None = None) -> str:
    """Path of the checkpoint; a killed run goes on where it was. The metrics are an artifact."""
    checkpoint = fit(cube, out, config)
    metrics = json.loads((Path(checkpoint) / "card.json").read_text())["metrics"]
    lines = [f"| {name} | {value} |" for name, value in metrics.items()]
    create_markdown_artifact(
        "\n".join(["| metric | value |", "|---|---|", *lines]), key="training-metrics"
    )
    return checkpoint
