"""Peak memory of this process and all its children, sampled."""

import threading
import time

import psutil

EVERY_S = 0.1


class PeakMemory:
    """`with PeakMemory() as memory: ...`, then `memory.gib`: largest sum of resident memory, GiB."""

    def __enter__(self):
        self.gib, self._on = 0.0, True
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._on = False
        self._thread.join()

    def _sample(self):
        me = psutil.Process()
        while self._on:
            total = 0
            for process in (me, *me.children(recursive=True)):
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.gib = max(self.gib, total / 2**30)
            time.sleep(EVERY_S)
