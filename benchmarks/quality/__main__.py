"""Every method on the same scenes; docs/quality.md says what is measured.

    python -m benchmarks.quality                      the default subset: train, run, print
    python -m benchmarks.quality --write              and put tables and figures into docs/
    python -m benchmarks.quality --full               the whole matrix
    python -m benchmarks.quality --from FILE --write  tables and figures of an earlier run

A part of it: --protocols clean,realistic --places potsdam,city --methods regression,bayesian
--ratios 10 --seeds 1. The rows of a run replace those in the results file; rows of other methods
and scenes are kept.
"""

import argparse
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: processes share the cores

from benchmarks.document import ROOT
from benchmarks.quality import figures, matrix, pages
from benchmarks.quality.memory import memory_mb
from benchmarks.quality.methods import METHODS, Budget, prepare
from benchmarks.quality.scenes import (
    ALL_PROTOCOLS,
    PLACES,
    RATIOS,
    Case,
    all_cases,
    default_cases,
)

log = logging.getLogger("benchmarks.quality")

Name = TypeVar("Name", str, int)
QUIET = ("satfuse", "rasterio", "distributed")  # loggers whose warnings are not of interest here


def main() -> None:
    """Train, run, report."""
    options = _parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
    options.work.mkdir(parents=True, exist_ok=True)
    budget = Budget(seconds=options.budget, device=options.device)
    if options.source is None:
        _train(options, budget)
        if options.train:
            return
        results = run(options, budget, options.results or options.work / "results.json")
    else:
        results = matrix.read(options.source)
    print(pages.everything(results))
    if options.write:
        pages.write(results)
        figures.write(results, options.work, budget)


def _train(options: argparse.Namespace, budget: Budget) -> None:
    start = time.perf_counter()
    # the library regression predicts the coarse image for methods that run without it
    names = dict.fromkeys([*options.methods, "library_regression"])
    prepare(names, options.work, budget, jobs=options.jobs)
    log.info("weights ready after %.0f s", time.perf_counter() - start)


def run(options: argparse.Namespace, budget: Budget, path: Path) -> matrix.Results:
    """Run the chosen cases, keep the rows in the file `path` after each case."""
    results = matrix.read(path)
    start = time.perf_counter()
    if options.memory:
        memory = memory_mb(options.methods, options.work, budget, jobs=options.jobs)
        results["memory_mb"] |= memory
        log.info("memory known after %.0f s", time.perf_counter() - start)
    cases = _chosen_cases(options)
    start = time.perf_counter()
    by_case = matrix.run_matrix(
        cases, options.methods, options.work, budget, full=options.full, jobs=options.jobs
    )
    for count, rows in enumerate(by_case, 1):
        results["rows"] = matrix.merged(results["rows"], rows)
        matrix.write(path, results)
        elapsed = time.perf_counter() - start
        remaining = elapsed / count * (len(cases) - count)
        progress = (count, len(cases), elapsed, remaining)
        log.info("%d of %d scenes, %.0f s, about %.0f s remaining", *progress)
    return results


def _chosen_cases(options: argparse.Namespace) -> list[Case]:
    every = all_cases(options.seeds) if options.full else default_cases(options.seeds)
    return [
        case
        for case in every
        if case.protocol in options.protocols
        and case.place in options.places
        and case.ratio in options.ratios
    ]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    text = "every place, ratio and protocol; every learned method also withheld"
    add("--full", action="store_true", help=text)
    add("--write", action="store_true", help="put tables and figures into docs/")
    add("--train", action="store_true", help="train only")
    text = "measure the memory of each method"
    add("--memory", action=argparse.BooleanOptionalAction, default=True, help=text)
    text = "results of an earlier run instead of a run"
    add("--from", dest="source", type=Path, metavar="FILE", help=text)
    work = ROOT / "benchmarks/out/quality"
    add("--work", type=Path, default=work, help="folder of weights and results")
    add("--results", type=Path, help="results file; WORK/results.json by default")
    add("--budget", type=float, default=120, help="seconds of training per network")
    add("--device", default="cpu", help="of the training; fusing is timed on the CPU")
    add("--jobs", type=int, default=os.cpu_count(), help="processes")
    add("--seeds", type=int, default=3, help="of every scene; cloudy ones get two more")
    choices: dict[str, Iterable[str]] = {
        "methods": METHODS,
        "protocols": ALL_PROTOCOLS,
        "places": PLACES,
    }
    for name, known in choices.items():
        text = f"of {', '.join(known)}".replace("%", "%%")
        add(f"--{name}", type=_names_of(tuple(known)), default=tuple(known), help=text)
    add("--ratios", type=_names_of(RATIOS), default=RATIOS)
    return parser.parse_args()


def _names_of(known: tuple[Name, ...]) -> Callable[[str], tuple[Name, ...]]:
    """A parser of comma-separated values, each of which is one of `known`."""

    def parse(listed: str) -> tuple[Name, ...]:
        convert = type(known[0])
        values = tuple(convert(part.strip()) for part in listed.split(","))
        if unknown := [str(value) for value in values if value not in known]:
            raise argparse.ArgumentTypeError(
                f"unknown {', '.join(unknown)}; known: {', '.join(map(str, known))}"
            )
        return values

    return parse


if __name__ == "__main__":
    main()
