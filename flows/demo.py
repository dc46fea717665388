"""`make demo`: the demo through the very flow that production runs."""

import logging
import os
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")

from flows.pipeline import pipeline
from satfuse.demo import run_demo
from satfuse.pipeline import Job, JobResult


def run_flow(job: Job) -> JobResult:
    """Run a job through the Prefect flow instead of the plain function."""
    return JobResult(**pipeline(**asdict(job)))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    run_demo(Path("demo-out"), job=run_flow)
