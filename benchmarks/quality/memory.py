"""Memory of one fusion, each method in a new process whose allocator returns memory at once."""

import logging
import multiprocessing
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Self

import psutil

from benchmarks.quality.methods import Budget, one_thread, run
from benchmarks.quality.scenes import Case, make_scene
from satfuse.errors import SatfuseError

log = logging.getLogger(__name__)

CASE = Case(place="crop", ratio=30, protocol="realistic", seed=0)
FINE_PX = 360
WARM_UP_PX = 120
EVERY_S = 0.002  # between two looks at the memory
# of glibc, read when a process starts; other allocators ignore them
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


def memory_mb(
    names: Sequence[str], work: Path, budget: Budget, *, jobs: int | None = 1
) -> dict[str, float]:
    """Largest growth of the resident memory while a scene of 360 x 360 pixels is fused, in MB.

    Methods that refuse the scene are missing from the result.
    """
    grow = partial(_growth_mb, work=work, budget=budget)
    context = multiprocessing.get_context("spawn")
    with _environment(ALLOCATOR), context.Pool(jobs, one_thread, maxtasksperchild=1) as pool:
        growths = pool.map(grow, names, chunksize=1)
        pool.close()
        pool.join()
    return {name: mb for name, mb in zip(names, growths, strict=True) if mb is not None}


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables within a block, for the processes that it starts."""
    before = {key: os.environ.get(key) for key in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def _growth_mb(name: str, work: Path, budget: Budget) -> float | None:
    small = make_scene(CASE, WARM_UP_PX)
    scene = make_scene(CASE, FINE_PX)
    try:
        run(name, small, work, budget)  # loads libraries and weights
        with MemoryGrowth() as growth:
            run(name, scene, work, budget)
    except SatfuseError as error:
        log.error("%s: memory not measured: %s", name, error)
        return None
    return round(growth.mb, 1)


class MemoryGrowth:
    """The growth of this process's memory within a `with` block; `mb` is its maximum."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._before = self._process.memory_info().rss
        self._peak = self._before
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def mb(self) -> float:
        """Growth in MB of a million bytes."""
        return (self._peak - self._before) / 1e6

    def _sample(self) -> None:
        while not self._over.wait(EVERY_S):
            self._peak = max(self._peak, self._process.memory_info().rss)
