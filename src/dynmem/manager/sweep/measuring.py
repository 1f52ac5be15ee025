"""Measurements that may hang, each in a thread: a process can make the kernel take long to look at it.

At most a few run at once, so that they leave the loop its time. One that hangs no longer counts as running:
it keeps its own VM waiting and no other. The threads serve one measurement after the other, and do not keep
the manager from ending.
"""

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final, TypeVar

from dynmem.threads import begin

T = TypeVar("T")

# Beyond this many, threads that compute only take the interpreter from the loop.
RUNNING_MAX: Final = 4
# A measurement of a VM of a terabyte takes a tenth of this.
HANGS_AFTER_S: Final = 2.0


class Measuring:
    """Runs measurements for one manager."""

    def __init__(self, *, running_max: int = RUNNING_MAX, hangs_after_s: float = HANGS_AFTER_S) -> None:
        self._turns = asyncio.Semaphore(running_max)
        self._hangs_after_s = hangs_after_s
        self._running_max = running_max
        self._idle: list[_Worker] = []

    async def run(self, measurement: Callable[[], T]) -> T:
        """Return what a measurement returns, when it is its turn and it has ended."""
        async with self._turns:
            worker = self._idle.pop() if self._idle else _Worker()
            running = worker.begin(measurement)
            running.add_done_callback(lambda _: self._rest(worker))
            await asyncio.wait((running,), timeout=self._hangs_after_s)
        return await running

    def _rest(self, worker: "_Worker") -> None:
        """Keep a worker for the next measurement, or end it: those that hung may come back all at once."""
        if len(self._idle) < self._running_max:
            self._idle.append(worker)
        else:
            worker.end()


class _Worker:
    """A thread that carries out calls: to start one for each takes longer than most of them."""

    def __init__(self) -> None:
        self._calls: Final[SimpleQueue[Callable[[], None] | None]] = SimpleQueue()
        threading.Thread(target=_serve, args=(self._calls,), daemon=True, name="measuring").start()

    def __del__(self) -> None:
        self.end()

    def begin(self, call: Callable[[], T]) -> asyncio.Future[T]:
        """Begin a call; return its future."""
        return begin(call, self._calls.put)

    def end(self) -> None:
        """End the thread once it has nothing left to do."""
        self._calls.put(None)


def _serve(calls: SimpleQueue[Callable[[], None] | None]) -> None:
    """Carry out calls until one is None."""
    while (call := calls.get()) is not None:
        call()
        del call  # or it would live until the next one
