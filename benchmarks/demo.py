"""Stage times and peak memory of the demo.

    python -m benchmarks.demo [--write]     prints the table, and puts it into docs/performance.md

It runs the demo's own job from an empty folder, stage by stage in one process. `make demo` takes
about 10 s more, because it starts Prefect.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from benchmarks.document import command_parser, machine, markdown, put
from satfuse import pipeline
from satfuse.demo import compare, job_for
from satfuse.memory import PeakMemory
from satfuse.simulate.archive import Archive, ArchiveRecipe, make_archive
from satfuse.simulate.archive.server import serve

DOCUMENT = "performance.md"
Stage = tuple[str, float, float]  # title, seconds, peak memory of all processes in GiB
P = ParamSpec("P")
T = TypeVar("T")


def main() -> None:
    """Run the demo in a temporary folder, print the table."""
    options = command_parser(__doc__, DOCUMENT).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = table(run(Path(folder)))
    print(text)
    if options.write:
        put(text, DOCUMENT, "demo")


class Stages:
    """Runs the stages one after the other and keeps a row of each: see `Stage`."""

    def __init__(self) -> None:
        self.rows: list[Stage] = []

    def run(
        self, title: str, function: Callable[P, T], *arguments: P.args, **options: P.kwargs
    ) -> T:
        """Call the function, note its time and memory, return its result."""
        with PeakMemory() as memory:
            start = time.perf_counter()
            result = function(*arguments, **options)
            seconds = time.perf_counter() - start
        self.rows.append((title, seconds, memory.gib))
        return result


def run(out: Path) -> list[Stage]:
    """Run and measure all stages of the demo in the folder `out`."""
    stages = Stages()
    recipe = ArchiveRecipe()
    archive = stages.run("make the archive", make_archive, out / "archive", recipe)
    with serve(archive.root) as url:
        _run_job(stages, job_for(out, url, recipe), archive)
    return stages.rows


def _run_job(stages: Stages, job: pipeline.Job, archive: Archive) -> None:
    work = Path(job.work)
    search = (job.field, job.start, job.end, job.catalog)
    assert job.train_on, "the demo trains a network"
    training = (job.train_start or job.start, job.train_end or job.end, job.train_on)
    pairs = stages.run("search and pair", pipeline.discover, *search, work / "pairs.parquet")
    cube = stages.run("build the cube", pipeline.build_cube, *training, work / "cube.zarr")
    checkpoint = stages.run("train", pipeline.train, cube, work / "checkpoint", job.train)
    inputs = (pairs, job.model, job.store)
    products = stages.run("co-register, fuse, publish", pipeline.fuse, *inputs)
    report = stages.run("validate", pipeline.validate, products[0], work / "reports")
    result = pipeline.JobResult(
        pairs=pairs,
        cube=cube,
        checkpoint=checkpoint,
        model=job.model,
        products=tuple(products),
        reports=(report,),
    )
    stages.run("compare with the truth", compare, result, archive.truth)


def table(stages: list[Stage]) -> str:
    """The stages and their sum in Markdown, with the conditions."""
    lines = [[title, f"{seconds:.1f}", f"{gib:.2f}"] for title, seconds, gib in stages]
    total = sum(seconds for _, seconds, _ in stages)
    peak = max(gib for *_, gib in stages)
    lines.append(["**all**", f"**{total:.1f}**", f"**{peak:.2f}**"])
    return f"{markdown(['stage', 's', 'peak GiB, all processes'], lines)}\n\n{machine()}"


if __name__ == "__main__":
    main()
