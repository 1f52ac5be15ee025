"""Samples what every guest holds of the host's memory, twenty times a second in a thread of its own."""

import threading
import time
from collections.abc import Callable
from typing import Final

from bench.trial.measures import Held
from dynmem.errors import DynmemError
from dynmem.manager.sweep.process import Process
from dynmem.manager.sweep.resident import ResidentMeter

#: So that a busy machine still makes the ten a second that are promised.
INTERVAL_S: Final = 0.05


class ResidentSampler:
    """Measures as the manager does. Use as a context manager; `begin` starts the series.

    *sizes* returns the guests' sizes, which are recorded beside what they hold.
    """

    def __init__(self, guests: int, ram_bytes: int, sizes: Callable[[], tuple[int, ...]]) -> None:
        self._sizes = sizes
        self._ram_bytes = ram_bytes
        self._lock = threading.Lock()
        self._processes: dict[int, Process] = {}
        self._meters: dict[int, ResidentMeter] = {}
        self._latest: list[int] = [0] * guests
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="resident", daemon=True)
        self._begun_s: float | None = None
        self.held: list[Held] = []
        self.longest_gap_s: float = 0.0

    def __enter__(self) -> "ResidentSampler":
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self._stop.set()
        self._thread.join()
        for number in list(self._processes):
            self.forget(number)

    def begin(self, begun_s: float) -> None:
        """Record from now on; times count from *begun_s* on the monotonic clock."""
        self._begun_s = begun_s

    def watch(self, number: int, pid: int) -> None:
        """Include the process of a guest from now on."""
        process = Process.of(pid)
        if process is None:
            raise DynmemError(f"guest {number}: process {pid} ended before it could be watched")
        with self._lock:
            self._processes[number] = process
            self._meters[number] = ResidentMeter(process)

    def forget(self, number: int) -> None:
        """Leave a guest out: its process is being ended."""
        with self._lock:
            process = self._processes.pop(number, None)
            self._meters.pop(number, None)
            self._latest[number] = 0
        if process is not None:
            process.close()

    @property
    def latest(self) -> tuple[int, ...]:
        """The latest figure of each guest; 0 of one that is not there."""
        return tuple(self._latest)

    def _run(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(INTERVAL_S):
            with self._lock:
                for number, meter in self._meters.items():
                    self._latest[number] = meter.measure((self._ram_bytes,)).guest_bytes or 0
                latest = tuple(self._latest)
            now = time.monotonic()
            if self._begun_s is not None:
                self.held.append(Held(now - self._begun_s, latest, self._sizes()))
                self.longest_gap_s = max(self.longest_gap_s, now - last)
            last = now
