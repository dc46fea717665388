"""Measure a product against its own inputs."""

import base64
import json
from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_image_artifact, create_markdown_artifact

from satfuse import pipeline

measure = task(pipeline.validate, name="validate", timeout_seconds=3600)


@flow(name="validate-field")
def validate_field(item: str, out: str) -> str:
    """Folder of the report; its numbers and its quicklook are artifacts."""
    report = Path(measure(item, out))
    metrics = json.dumps(json.loads((report / "metrics.json").read_text()), indent=1)
    create_markdown_artifact(f"```json\n{metrics}\n```", key="validation-metrics")
    for picture in sorted(report.glob("quicklook*.png")):
        data = base64.b64encode(picture.read_bytes()).decode()
        create_image_artifact(f"data:image/png;base64,{data}", key="quicklook")
    return str(report)
