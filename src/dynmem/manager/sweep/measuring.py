"""Measurements that may hang, each in a thread: a process can make the kernel take long to look at it.

At most a few run at once, so that they leave the loop its time. One that hangs no longer counts as running:
it keeps its own VM waiting and no other. The threads do not keep the manager from ending either.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

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

    async def run(self, measurement: Callable[[], T]) -> T:
        """Return what a measurement returns, when it is its turn and it has ended."""
        async with self._turns:
            running = _started(measurement)
            await asyncio.wait((running,), timeout=self._hangs_after_s)
        return await running


def _started(call: Callable[[], T]) -> asyncio.Future[T]:
    """Run a call in a thread of its own; return its future."""
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()  # from here on it cannot be cancelled

    def run() -> None:
        try:
            done.set_result(call())
        except Exception as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True, name="measuring").start()
    return asyncio.wrap_future(done)
