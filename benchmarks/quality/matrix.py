"""Runs methods over scenes, in processes of one thread each, and keeps every result in one JSON file.

The file holds `memory_mb` (by method) and `rows`, one per method and case; rows of networks say how they were trained.
"""

import json
import logging
import multiprocessing
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks.quality.methods import LEARNED, METHODS, Budget, one_thread, run
from benchmarks.quality.scenes import POTSDAM, Case, Scene, make_scene
from benchmarks.quality.scores import score
from satfuse.errors import SatfuseError
from satfuse.sensors.bands import COARSE_M

log = logging.getLogger(__name__)

Rows = list[dict]
KEY = ("place", "ratio", "protocol", "seed", "method", "withheld")


def run_matrix(
    cases, names, work: Path, budget: Budget, *, full=False, withheld=True, jobs=2
) -> Iterator[Rows]:
    """Rows of one case after the other; a row is a method on a case, with its `scores` or how it `failed`."""
    job = partial(
        _of_case, names=tuple(names), work=work, budget=budget, full=full, withheld=withheld
    )
    if jobs == 1:
        yield from map(job, cases)
        return
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with context.Pool(jobs, one_thread) as pool:
        yield from pool.imap_unordered(job, cases)
        pool.close()
        pool.join()


def planned(names, case: Case, full: bool, withheld: bool = True) -> list[tuple[str, bool]]:
    """Which methods run on a case, and whether with the coarse image withheld.

    With `full` all do, and every learned one also withheld. By default the slow ones leave out biomes that are neither
    clean nor realistic, and networks are withheld on realistic scenes of the first seed only.
    """
    runs = []
    for name in names:
        method = METHODS[name]
        if (
            full
            or method.tile_px is None
            or case.place == POTSDAM
            or case.protocol in ("clean", "realistic")
        ):
            runs.append((name, False))
        always = method.weights in ("shipped", "library") or (
            case.protocol == "realistic" and case.seed == 0
        )
        if withheld and name in LEARNED and (full or always):
            runs.append((name, True))
    return runs


def read(path: Path) -> dict:
    """What a results file holds; nothing yet where there is none."""
    return json.loads(path.read_text()) if path.exists() else {"memory_mb": {}, "rows": []}


def merged(old: Rows, new: Rows) -> Rows:
    """Rows by case and method, new ones in place of old ones."""
    by_key = {tuple(row[k] for k in KEY): row for row in [*old, *new]}
    return [by_key[key] for key in sorted(by_key)]


def write(path: Path, results: dict) -> None:
    """All at once, so that a killed run leaves a whole file; a row is a line."""
    head = json.dumps({k: v for k, v in results.items() if k != "rows"})[:-1]
    rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in results["rows"])
    part = path.with_suffix(".part")
    part.write_text(f'{head}, "rows": [\n{rows}\n]}}\n')
    part.replace(path)


def _of_case(case: Case, names, work, budget, full, withheld) -> Rows:
    scene = make_scene(case)
    return [
        _row(name, blind, scene, work, budget)
        for name, blind in planned(names, case, full, withheld)
    ]


def _row(name, withheld, scene: Scene, work, budget) -> dict:
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
        row["shift_found"] = [
            round(v / COARSE_M, 4) for v in (east, -north)
        ]  # right, down, in coarse pixels
        row["shift_true"] = [round(float(s), 4) for s in scene.shift]
    return row | {"scores": score(outcome.image, outcome.uncertainty, scene, outcome.attrs)}
