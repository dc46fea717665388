"""Run methods on scenes, in processes of one thread each; keep every result in one JSON file.

The file contains `memory_mb` (by method) and `rows`, one per method and case; rows of networks say
how these were trained.
"""

import json
import logging
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.quality.methods import LEARNED, METHODS, Budget, one_thread, run
from benchmarks.quality.scenes import POTSDAM, Case, Scene, make_scene
from benchmarks.quality.scores import score
from satfuse.errors import SatfuseError
from satfuse.files import replacing
from satfuse.sensors.bands import COARSE_M

log = logging.getLogger(__name__)

Row = dict[str, Any]  # a case, `method`, `withheld`, and `scores` or the reason why it `failed`
Rows = list[Row]
Results = dict[str, Any]  # contents of the results file
KEY = ("place", "ratio", "protocol", "seed", "method", "withheld")


def run_matrix(
    cases: Iterable[Case],
    names: Iterable[str],
    work: Path,
    budget: Budget,
    *,
    full: bool = False,
    withheld: bool = True,
    jobs: int | None = 2,
) -> Iterator[Rows]:
    """Rows of one case after the other, in the order in which they are ready.

    Parameters
    ----------
    names, full, withheld : methods, and which of them run on a case, see `planned`.
    work, budget : see `methods.run`.
    jobs : processes; None = one per core.
    """
    job = partial(
        _run_case, names=tuple(names), work=work, budget=budget, full=full, withheld=withheld
    )
    if jobs == 1:
        yield from map(job, cases)
        return
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with context.Pool(jobs, one_thread) as pool:
        yield from pool.imap_unordered(job, cases)
        pool.close()
        pool.join()


def planned(
    names: Iterable[str], case: Case, full: bool, withheld: bool = True
) -> list[tuple[str, bool]]:
    """Methods that run on a case, and whether with the coarse image withheld.

    Parameters
    ----------
    full : True = all methods, and every learned one also withheld. False = slow methods run on
        Potsdam and on clean and realistic biomes only, and networks are withheld on realistic
        scenes of the first seed only.
    withheld : False = nothing is run with the coarse image withheld.
    """
    runs = []
    for name in names:
        method = METHODS[name]
        slow = method.tile_px is not None
        main_case = case.place == POTSDAM or case.protocol in ("clean", "realistic")
        if full or main_case or not slow:
            runs.append((name, False))
        network = method.weights in ("factory", "other")
        chosen = case.protocol == "realistic" and case.seed == 0
        if withheld and name in LEARNED and (full or chosen or not network):
            runs.append((name, True))
    return runs


def read(path: Path) -> Results:
    """Contents of a results file; without rows where there is none."""
    return json.loads(path.read_text()) if path.exists() else {"memory_mb": {}, "rows": []}


def merged(old: Rows, new: Rows) -> Rows:
    """Rows by case and method; new rows replace old ones."""
    by_key = {tuple(row[k] for k in KEY): row for row in [*old, *new]}
    return [by_key[key] for key in sorted(by_key)]


def write(path: Path, results: Results) -> None:
    """Write a results file, one row per line."""
    head = json.dumps({k: v for k, v in results.items() if k != "rows"})[:-1]
    rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in results["rows"])
    with replacing(path) as draft:
        draft.write_text(f'{head}, "rows": [\n{rows}\n]}}\n')


def _run_case(
    case: Case, names: Sequence[str], work: Path, budget: Budget, full: bool, withheld: bool
) -> Rows:
    scene = make_scene(case)
    runs = planned(names, case, full, withheld)
    return [_run_method(name, without_coarse, scene, work, budget) for name, without_coarse in runs]


def _run_method(name: str, withheld: bool, scene: Scene, work: Path, budget: Budget) -> Row:
    row = asdict(scene.case) | {"method": name, "withheld": withheld}
    if METHODS[name].weights in ("factory", "other"):
        row["training"] = f"{budget.seconds:.0f} s ({budget.device})"
    try:
        outcome = run(name, scene, work, budget, withheld=withheld)
    except SatfuseError as error:
        return row | {"failed": f"{type(error).__name__}: {error}"}
    row["seconds"] = round(outcome.seconds, 4)
    if "shift_m" in outcome.attrs:
        east, north = outcome.attrs["shift_m"]
        # right and down, in coarse pixels
        row["shift_found"] = [round(v / COARSE_M, 4) for v in (east, -north)]
        row["shift_true"] = [round(float(s), 4) for s in scene.shift]
    return row | {"scores": score(outcome.image, outcome.uncertainty, scene, outcome.attrs)}
