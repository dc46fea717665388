"""Do networks catch up with ten times the training?

    python -m benchmarks.quality.longer --write      half an hour on two cores

Trains the per-pixel network `spectral` and Fusformer for 120 s and for 1200 s on one core.
"""

import logging
import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: processes share the cores

from benchmarks.document import ROOT, command_parser, machine, markdown, put
from benchmarks.quality import matrix
from benchmarks.quality.methods import BAYESIAN, Budget, prepare
from benchmarks.quality.scenes import Case
from benchmarks.quality.tables import MAIN_SCORES, mean_spread, text, where
from satfuse.sensors.bands import S3_NAMES
from satfuse.simulate.scenes.factory import BIOME_NAMES

DOCUMENT = "quality.md"
NETWORKS = ("spectral", "fusformer")
SECONDS = (120, 1200)
PROTOCOLS = ("clean", "realistic", "cloud 20 %")
CASES = [
    Case(place=place, ratio=10, protocol=p, seed=0) for place in BIOME_NAMES for p in PROTOCOLS
]
JOBS = 2


def main() -> None:
    """Train, run, print the table."""
    parser = command_parser(__doc__, DOCUMENT)
    work = ROOT / "benchmarks/out/quality"
    parser.add_argument("--work", type=Path, default=work, help="folder of the weights")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    content = f"{table(options.work)}\n\n{machine()}"
    print(content)
    if options.write:
        put(content, DOCUMENT, "longer")


def table(work: Path) -> str:
    """Train missing weights, fuse every case, compare with the Bayesian model: Markdown."""
    lines = []
    for seconds in SECONDS:
        lines += _lines(NETWORKS, f"{seconds} s", work, Budget(seconds=seconds))
    lines += _lines((BAYESIAN,), "weights of the package", work, Budget())
    titles = [f"{p}, {score}" for p in PROTOCOLS for score in ("SAM land, deg", "RMSE")]
    return markdown(["method", "training", *titles], lines, left=2)


def _lines(names: Sequence[str], training: str, work: Path, budget: Budget) -> list[list[str]]:
    """A line of each method with one budget."""
    prepare(names, work, budget, band_sets=(S3_NAMES,), jobs=JOBS)
    by_case = matrix.run_matrix(CASES, names, work, budget, withheld=False, jobs=JOBS)
    rows = list(chain.from_iterable(by_case))
    lines = []
    for name in names:
        cells = [
            text(*mean_spread(where(rows, method=name, protocol=p), path), digits)
            for p in PROTOCOLS
            for path, digits in MAIN_SCORES
        ]
        lines.append([name, training, *cells])
    return lines


if __name__ == "__main__":
    main()
