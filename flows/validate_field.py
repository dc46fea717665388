"""Measure a product against its own inputs."""

import base64
import io
import json
from pathlib import Path

from PIL import Image
from prefect import flow, task
from prefect.artifacts import create_image_artifact, create_markdown_artifact

from satfuse import pipeline

measure = task(pipeline.validate, name="validate", timeout_seconds=3600)


@flow(name="validate-field")
def validate_field(item: str, out: str, again: bool = True) -> str:
    """Folder of the report; its numbers and its quicklook are artifacts."""
    report = Path(measure(item, out, again))
    metrics = json.dumps(json.loads((report / "metrics.json").read_text()), indent=1)
    create_markdown_artifact(f"```json\n{metrics}\n```", key="validation-metrics")
    create_image_artifact(_thumbnail(report / "quicklook.png"), key="quicklook")
    return str(report)


def _thumbnail(path: Path, width: int = 700) -> str:
    """The picture as a data URL small enough for Prefect's events, which refuse more than about 1 MB."""
    buffer = io.BytesIO()
    with Image.open(path) as picture:
        small = picture.convert("RGB").resize(
            (width, picture.height * width // picture.width), Image.Resampling.LANCZOS
        )
    small.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
