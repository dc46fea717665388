"""Stage times and peak memory of the demo.

    python benchmarks/demo.py [--write]     prints the table, and puts it into docs/performance.md

The demo's own job, stage by stage in one process (`make demo` adds Prefect's start, about 10 s), from an empty folder.
"""

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.document import machine, markdown, put
from satfuse import pipeline
from satfuse.demo import compare, job_for
from satfuse.memory import PeakMemory
from satfuse.simulate.archive import ArchiveRecipe, make_archive
from satfuse.simulate.archive.server import serve


def run(out: Path) -> list[tuple[str, float, float]]:
    """(stage, seconds, peak memory of all processes in GiB) of every stage."""
    rows, recipe = [], ArchiveRecipe()

    def timed(title, function, *arguments):
        with PeakMemory() as memory:
            start = time.perf_counter()
            result = function(*arguments)
            rows.append((title, time.perf_counter() - start, memory.gib))
        return result

    archive = timed("make the archive", make_archive, out / "archive", recipe)
    with serve(archive.root) as url:
        job = job_for(out, url, recipe)
        work = Path(job.work)
        pairs = timed(
            "search and pair",
            pipeline.discover,
            job.field,
            job.start,
            job.end,
            job.catalog,
            work / "pairs.parquet",
        )
        cube = timed(
            "build the cube",
            pipeline.build_cube,
            job.train_start,
            job.train_end,
            job.train_on,
            work / "cube.zarr",
        )
        checkpoint = timed("train", pipeline.train, cube, work / "checkpoint", job.train)
        products = timed("co-register, fuse, publish", pipeline.fuse, pairs, job.model, job.store)
        reports = timed("validate", pipeline.validate, products[0], work / "reports")
        made = {"pairs": pairs, "cube": cube, "checkpoint": checkpoint, "model": job.model}
        result = pipeline.JobResult(**made, products=tuple(products), reports=(reports,))
        timed("compare with the truth", compare, result, archive.truth)
    return rows


def table(rows) -> str:
    """Markdown."""
    lines = [[title, f"{seconds:.1f}", f"{gib:.2f}"] for title, seconds, gib in rows]
    total, peak = sum(r[1] for r in rows), max(r[2] for r in rows)
    lines.append(["**all**", f"**{total:.1f}**", f"**{peak:.2f}**"])
    return f"{markdown(['stage', 's', 'peak GiB, all processes'], lines)}\n\n{machine()}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--write", action="store_true", help="put the table into docs/performance.md"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = table(run(Path(folder)))
    print(text)
    if arguments.write:
        put(text, "performance.md", "demo")
