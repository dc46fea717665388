"""Do networks catch up with ten times the training? Per-pixel `spectral` and Fusformer, 120 s and 1200 s on one core.

python -m benchmarks.quality.longer --write      half an hour on two cores
"""

import argparse
import logging
import os
from itertools import chain
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: processes share the cores

from benchmarks.document import ROOT, machine, markdown, put
from benchmarks.quality import matrix
from benchmarks.quality.methods import OURS, Budget, prepare
from benchmarks.quality.scenes import Case
from benchmarks.quality.tables import RMSE, SAM, mean_spread, text, where
from satfuse.sensors.bands import S3_NAMES
from satfuse.simulate.scenes.factory import BIOME_NAMES

NETWORKS, SECONDS, PROTOCOLS = (
    ("spectral", "fusformer"),
    (120, 1200),
    ("clean", "realistic", "cloud 20 %"),
)
JOBS = 2
CASES = [
    Case(place=place, ratio=10, protocol=p, seed=0) for place in BIOME_NAMES for p in PROTOCOLS
]


def table(work: Path) -> str:
    """Train what is missing, fuse every case, compare with our model."""
    lines = []
    for names, seconds in (*((NETWORKS, s) for s in SECONDS), ((OURS,), 0)):
        budget = Budget(seconds=seconds)
        prepare(names, work, budget, band_sets=(S3_NAMES,), jobs=JOBS)
        rows = [*chain(*matrix.run_matrix(CASES, names, work, budget, withheld=False, jobs=JOBS))]
        for name in names:
            parts = [where(rows, method=name, protocol=p) for p in PROTOCOLS]
            cells = [
                text(*mean_spread(part, path), d)
                for part in parts
                for path, d in ((SAM, 3), (RMSE, 5))
            ]
            lines.append([name, f"{seconds} s" if seconds else "weights of the package", *cells])
    titles = [f"{p}, {score}" for p in PROTOCOLS for score in ("SAM land, deg", "RMSE")]
    return markdown(["method", "training", *titles], lines, left=2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="put the table into docs/quality.md")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "benchmarks/out/quality", help="folder of the weights"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    found = f"{table(arguments.work)}\n\n{machine()}"
    print(found)
    if arguments.write:
        put(found, "quality.md", "longer")
