"""The folder of all processes' values: what dead ones have counted is kept, and what they had in flight is not.

prometheus_client writes a file a process and a kind of metric (`counter_PID.db`, `histogram_PID.db`, `gauge_livesum_PID.db`)
and adds them up when asked. A process that ended would keep its file for ever, or share it with a later one of
its number; so its counts are moved into one file of all that have ended. Used by one process, and one thread at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

import psutil
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

_ENDED = "ended"
"""In the place of a process's number: counts of all that have ended."""


class ValuesFolder:
    """Collects the values of a folder; a collector of prometheus_client.

    Args:
        path: the folder; it exists.
    """

    def __init__(self, path: Path):
        self.path = path
        self._born: dict[int, float] = {}
        self._lock = threading.Lock()

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of all processes together, those that have ended included."""
        with self._lock:
            self._fold_ended()
            return list(MultiProcessCollector.merge([str(file) for file in self.path.glob("*.db")]))

    def take_counts(self) -> dict[str, bytes]:
        """Return what was counted, as `put_counts` takes it; every process has ended."""
        with self._lock:
            self._fold_ended()
            return {file.name: file.read_bytes() for file in self.path.glob(f"*_{_ENDED}.db")}

    def put_counts(self, counts: dict[str, bytes]) -> None:
        """Go on from what another folder has counted; this one is empty."""
        for name, content in counts.items():
            (self.path / name).write_bytes(content)

    def _fold_ended(self) -> None:
        files: dict[int, list[Path]] = {}
        for file in self.path.glob("*.db"):
            number = file.stem.rpartition("_")[2]
            if number != _ENDED:
                files.setdefault(int(number), []).append(file)
        for pid in files.keys() - self._running(files):
            for file in files[pid]:
                self._fold(file)

    def _running(self, pids: Iterable[int]) -> set[int]:
        """Those that run, and are no others of the same number than those that were seen first."""
        running = set()
        for pid in pids:
            try:
                process = psutil.Process(pid)
                is_known = self._born.setdefault(pid, process.create_time()) == process.create_time()
                is_running = is_known and process.status() != psutil.STATUS_ZOMBIE
            except psutil.NoSuchProcess:
                is_running = False
            if is_running:
                running.add(pid)
            else:
                self._born.pop(pid, None)
        return running

    def _fold(self, file: Path) -> None:
        """Add the counts of a file to those of the processes that have ended, and remove it."""
        kind = file.stem.partition("_")[0]
        if kind != "gauge":
            total = MmapedDict(str(self.path / f"{kind}_{_ENDED}.db"))
            for key, value, _, _ in MmapedDict.read_all_values_from_file(str(file)):
                total.write_value(key, total.read_value(key)[0] + value, 0.0)
            total.close()
        file.unlink()
