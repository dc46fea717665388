"""Every method on the same scenes: docs/quality.md says what is measured.

    python -m benchmarks.quality                      the default subset: train, run, print the tables
    python -m benchmarks.quality --write              and put tables and figures into docs/
    python -m benchmarks.quality --full               the whole matrix
    python -m benchmarks.quality --from FILE --write  tables and figures of an earlier run

A part of it: --protocols clean,realistic --places potsdam,city --methods regression,bayesian --ratios 10 --seeds 1.
What is run replaces its rows in the results file; rows of other methods and scenes are kept.
"""

import argparse
import logging
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: processes share the cores

from benchmarks.document import ROOT
from benchmarks.quality import figures, matrix, pages
from benchmarks.quality.memory import memory_mb
from benchmarks.quality.methods import METHODS, Budget, prepare
from benchmarks.quality.scenes import (
    PLACES,
    PROTOCOLS,
    RATIOS,
    REGISTERED,
    all_cases,
    default_cases,
)

log = logging.getLogger("benchmarks.quality")


def main() -> None:
    """Parse, train, run, report."""
    arguments = parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for quiet in ("satfuse", "rasterio", "distributed"):
        logging.getLogger(quiet).setLevel(logging.ERROR)
    arguments.work.mkdir(parents=True, exist_ok=True)
    path = arguments.results or arguments.work / "results.json"
    budget = Budget(seconds=arguments.budget, device=arguments.device)
    results = matrix.read(arguments.source) if arguments.source else run(arguments, budget, path)
    if arguments.train:
        return
    print(pages.everything(results))
    if arguments.write:
        pages.write(results)
        figures.write(results, arguments.work, budget)


def run(arguments, budget: Budget, path: Path) -> dict:
    """Train what is missing, run the chosen cases, keep the rows after each case."""
    start = time.perf_counter()
    names = arguments.methods
    trained = dict.fromkeys(
        [*names, "library_regression"]
    )  # which makes what stands in for a coarse image
    prepare(trained, arguments.work, budget, jobs=arguments.jobs)
    log.info("weights ready after %.0f s", time.perf_counter() - start)
    results = matrix.read(path)
    if arguments.train:
        return results
    if arguments.memory:
        results["memory_mb"] |= memory_mb(names, arguments.work, budget, jobs=arguments.jobs)
        log.info("memory known after %.0f s", time.perf_counter() - start)
    cases = [
        case
        for case in (all_cases if arguments.full else default_cases)(arguments.seeds)
        if case.protocol in arguments.protocols
        and case.place in arguments.places
        and case.ratio in arguments.ratios
    ]
    options = {"full": arguments.full, "jobs": arguments.jobs}
    begin = time.perf_counter()
    for done, new in enumerate(
        matrix.run_matrix(cases, names, arguments.work, budget, **options), 1
    ):
        results["rows"] = matrix.merged(results["rows"], new)
        matrix.write(path, results)
        left = (time.perf_counter() - begin) / done * (len(cases) - done)
        log.info(
            "%d of %d scenes, %.0f s, about %.0f s left",
            done,
            len(cases),
            time.perf_counter() - start,
            left,
        )
    return results


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--full",
        action="store_true",
        help="every place, ratio and protocol; every learned method also withheld",
    )
    add("--write", action="store_true", help="put tables and figures into docs/")
    add("--train", action="store_true", help="train only")
    add(
        "--memory",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure the memory of each method",
    )
    add(
        "--from",
        dest="source",
        type=Path,
        metavar="FILE",
        help="results of an earlier run instead of a run",
    )
    add(
        "--work",
        type=Path,
        default=ROOT / "benchmarks/out/quality",
        help="folder of weights and results",
    )
    add("--results", type=Path, help="results file; WORK/results.json by default")
    add("--budget", type=float, default=120, help="seconds of training per network")
    add("--device", default="cpu", help="of the training; fusing is timed on the CPU")
    add("--jobs", type=int, default=os.cpu_count(), help="processes")
    add("--seeds", type=int, default=3, help="of every scene; cloudy ones get two more")
    for name, known in (
        ("methods", METHODS),
        ("protocols", [*PROTOCOLS, REGISTERED]),
        ("places", PLACES),
    ):
        listed = ", ".join(known).replace("%", "%%")
        add(f"--{name}", type=_some(tuple(known)), default=tuple(known), help=f"of {listed}")
    add("--ratios", type=_some(RATIOS), default=RATIOS)
    return parser.parse_args()


def _some(known):
    def pick(given: str):
        chosen = tuple(type(known[0])(part.strip()) for part in given.split(","))
        if unknown := [str(c) for c in chosen if c not in known]:
            raise argparse.ArgumentTypeError(
                f"unknown {', '.join(unknown)}; known: {', '.join(map(str, known))}"
            )
        return chosen

    return pick


if __name__ == "__main__":
    main()
