"""What every guest holds of the host's memory, sample by sample, as the manager measures it."""

import time
from collections.abc import Callable, Mapping

from bench.trial.measures import Held
from dynmem.demo.sampler import ResidentSampler


class ResidentSeries:
    """Records what the guests hold, and their sizes beside it. Use as a context manager; `begin` starts it.

    *sizes* returns the guests' sizes.
    """

    def __init__(self, guests: int, ram_bytes: int, sizes: Callable[[], tuple[int, ...]]) -> None:
        self._guests = guests
        self._ram_bytes = ram_bytes
        self._sizes = sizes
        self._sampler = ResidentSampler(self._taken)
        self._begun_s: float | None = None
        self._last_s = 0.0
        self.held: list[Held] = []
        self.longest_gap_s: float = 0.0

    def __enter__(self) -> "ResidentSeries":
        """Start to sample."""
        self._sampler.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._sampler.__exit__()

    def begin(self, begun_s: float) -> None:
        """Record from now on; times count from *begun_s* on the monotonic clock."""
        self._begun_s = begun_s

    def watch(self, number: int, pid: int) -> None:
        """Include the process of a guest from now on."""
        self._sampler.watch(str(number), pid, self._ram_bytes)

    def forget(self, number: int) -> None:
        """Leave a guest out: its process is being ended."""
        self._sampler.forget(str(number))

    @property
    def latest(self) -> tuple[int, ...]:
        """The latest figure of each guest; 0 of one that is not there."""
        return tuple(self._sampler.resident_bytes(str(number)) for number in range(self._guests))

    def _taken(self, latest: Mapping[str, int]) -> None:
        now_s = time.monotonic()
        if self._begun_s is not None:
            held = tuple(latest.get(str(number), 0) for number in range(self._guests))
            self.held.append(Held(now_s - self._begun_s, held, self._sizes()))
            self.longest_gap_s = max(self.longest_gap_s, now_s - self._last_s)
        self._last_s = now_s
