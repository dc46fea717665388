"""How much memory one fusion takes, each method in a fresh process whose allocator gives memory back at once."""

import logging
import multiprocessing
import os
import threading
from functools import partial
from pathlib import Path

import psutil

from benchmarks.quality.methods import Budget, one_thread, run
from benchmarks.quality.scenes import Case, make_scene
from satfuse.errors import SatfuseError

log = logging.getLogger(__name__)

CASE = Case(place="crop", ratio=30, protocol="realistic", seed=0)
FINE_PX = 360
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "0",
}  # of glibc; other ones ignore it


def memory_mb(names, work: Path, budget: Budget, *, jobs: int = 1) -> dict[str, float]:
    """By how much the resident memory grows at most while a scene of 360 x 360 pixels is fused, in MB."""
    before = {key: os.environ.get(key) for key in ALLOCATOR}
    os.environ.update(ALLOCATOR)
    try:
        with multiprocessing.get_context("spawn").Pool(
            jobs, one_thread, maxtasksperchild=1
        ) as pool:
            grown = pool.map(partial(_growth, work=work, budget=budget), names, chunksize=1)
            pool.close()
            pool.join()
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})
    return {name: mb for name, mb in zip(names, grown, strict=True) if mb is not None}


def _growth(name, work, budget):
    small, scene = (make_scene(CASE, fine_px) for fine_px in (120, FINE_PX))
    try:
        run(name, small, work, budget)  # loads libraries and weights
        with Watch() as watch:
            run(name, scene, work, budget)
    except SatfuseError as error:
        log.error("%s: memory not measured: %s", name, error)
        return None
    return round(watch.mb, 1)


class Watch:
    """The growth of this process's memory within a `with` block, looked at every 2 ms."""

    def __enter__(self):
        self._process, self._over = psutil.Process(), threading.Event()
        self._before = self._peak = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    @property
    def mb(self) -> float:
        """Growth in MB of a million bytes."""
        return (self._peak - self._before) / 1e6

    def _watch(self):
        while not self._over.wait(0.002):
            self._peak = max(self._peak, self._process.memory_info().rss)
