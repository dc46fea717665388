"""Measure a product against its own inputs."""

import base64
import io
import json
from pathlib import Path

from PIL import Image
from prefect import flow, task
from prefect.artifacts import create_image_artifact, create_markdown_artifact

from satfuse import pipeline

measure = task(name="validate", timeout_seconds=3600)(pipeline.validate)


@flow(name="validate-field")
def validate_field(item: str, out: str, again: bool = True) -> str:
    """Folder of the report; its numbers and its quicklook are artifacts."""
    report = Path(measure(item, out, again))
    metrics = json.dumps(json.loads((report / "metrics.json").read_text()), indent=1)
    create_markdown_artifact(f"```json\n{metrics}\n```", key="validation-metrics")
    create_image_artifact(_thumbnail(report / "quicklook.png"), key="quicklook")
    return str(report)


def _thumbnail(path: Path, width: int = 700) -> str:
    """The image as a data URL.

    Small enough for Prefect's events, which refuse more than about 1 MB.
    """
    buffer = io.BytesIO()
    with Image.open(path) as image:
        height = image.height * width // image.width
        small = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    small.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
