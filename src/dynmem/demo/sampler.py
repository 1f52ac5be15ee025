"""Samples resident memory many times per second in its own thread: the host's figure for the budget."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from dynmem.errors import DynmemError
from dynmem.manager.sweep.process import Process
from dynmem.manager.sweep.resident import ResidentMeter

# 25 samples per second, so that a busy machine still makes the ten that are promised.
INTERVAL_S: Final = 0.04


class ResidentSampler:
    """Sums the resident memory of processes and keeps the peaks. Use as a context manager.

    *taken* is called in the thread with what each holds, after each sample.
    """

    def __init__(self, taken: Callable[[Mapping[str, int]], None] = lambda _: None) -> None:
        self._taken = taken
        self._lock = threading.Lock()
        self._processes: dict[str, Process] = {}
        self._meters: dict[str, tuple[ResidentMeter, int]] = {}
        self._latest: dict[str, int] = {}
        self._peaks: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="resident", daemon=True)
        self.peak_bytes: int = 0
        self.samples: int = 0
        self.longest_gap_s: float = 0.0

    def __enter__(self) -> "ResidentSampler":
        """Start sampling."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop sampling."""
        self._stop.set()
        self._thread.join()
        for name in list(self._processes):
            self._processes.pop(name).close()

    def watch(self, name: str, pid: int, ram_bytes: int) -> None:
        """Include this process from now on."""
        process = Process.of(pid)
        if process is None:
            raise DynmemError(f"{name}: process {pid} ended before it could be watched")
        with self._lock:
            self._processes[name] = process
            self._meters[name] = (ResidentMeter(process), ram_bytes)

    def forget(self, name: str) -> None:
        """Leave a process out: it is being ended."""
        with self._lock:
            process = self._processes.pop(name, None)
            self._meters.pop(name, None)
        if process is not None:
            process.close()

    def resident_bytes(self, name: str) -> int:
        """Return the latest figure of one VM, or 0 before the first."""
        return self._latest.get(name, 0)

    def peak_of(self, name: str) -> int:
        """Return the peak of one VM."""
        return self._peaks.get(name, 0)

    def _run(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(INTERVAL_S):
            self._sample()
            now = time.monotonic()
            self.longest_gap_s = max(self.longest_gap_s, now - last)
            last = now

    def _sample(self) -> None:
        latest = {}
        with self._lock:  # nobody is forgotten in the middle of being measured
            for name, (meter, ram_bytes) in self._meters.items():
                latest[name] = meter.measure((ram_bytes,)).guest_bytes or 0
        for name, held in latest.items():
            self._peaks[name] = max(self._peaks.get(name, 0), held)
        self._latest = latest
        self.peak_bytes = max(self.peak_bytes, sum(latest.values()))
        self.samples += 1
        self._taken(latest)
