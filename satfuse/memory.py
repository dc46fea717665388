"""Peak memory of this process and all its children, sampled."""

import threading
import time
from types import TracebackType
from typing import Self

import psutil

INTERVAL_S = 0.1


class PeakMemory:
    """Sample memory while a block runs: `with PeakMemory() as memory: ...`, then `memory.gib`.

    Attributes
    ----------
    gib : largest sum of the resident memory of this process and its children so far, GiB.
    """

    def __init__(self) -> None:
        self.gib = 0.0
        self._running = False
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._running = True
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._running = False
        self._thread.join()

    def _sample(self) -> None:
        parent = psutil.Process()
        while self._running:
            processes = (parent, *parent.children(recursive=True))
            self.gib = max(self.gib, sum(map(_resident_bytes, processes)) / 2**30)
            time.sleep(INTERVAL_S)


def _resident_bytes(process: psutil.Process) -> int:
    """Resident memory, 0 of a process that has just ended."""
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0
