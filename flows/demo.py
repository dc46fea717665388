"""`make demo`: the demo through the very flow that production runs."""

import logging
import os
from dataclasses import asdict
from pathlib import Path


def main() -> None:
    """Run the demo in ./demo-out.

    Imports are inside: every Dask worker imports this module, and needs none of them.
    """
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    from flows.pipeline import pipeline
    from satfuse.demo import run_demo
    from satfuse.pipeline import Job, JobResult

    def run_flow(job: Job) -> JobResult:
        return JobResult(**pipeline(**asdict(job)))

    logging.basicConfig(level=logging.WARNING)
    run_demo(Path("demo-out"), job=run_flow)


if __name__ == "__main__":
    main()
