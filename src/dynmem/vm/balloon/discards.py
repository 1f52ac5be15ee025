"""Batches of pages on their way back to the host, in a worker thread beside the protocol.

Returning a gigabyte to the host takes 100 ms, and the protocol does not wait for it. What a late discard
could destroy waits until none is in flight: see `accounts`.
"""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from dynmem.memory.backend import Backend
from dynmem.memory.discard import Discarder, DiscardError
from dynmem.vm.balloon.accounts import Batch, Memory
from dynmem.vm.faults import Faults

# Starts the discard of packed ranges of one backend; the future's result is the bytes discarded.
StartDiscard = Callable[[bytes], "asyncio.Future[int]"]


class DiscardThread:
    """The thread of a machine in which the system calls run, one discard after another."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "discard")

    def starter(self, backend: Backend) -> StartDiscard:
        """Return what starts the discards of one backend."""
        discard = Discarder(backend).discard
        return lambda ranges: asyncio.get_running_loop().run_in_executor(self._executor, discard, ranges)

    def close(self) -> None:
        """Wait for the current discard and end the thread."""
        self._executor.shutdown()


class BatchesInFlight:
    """The batches whose discard has begun and is not recorded yet; `wake` is called when one ends."""

    def __init__(
        self, starter: Callable[[Backend], StartDiscard], *, wake: Callable[[], None], faults: Faults
    ) -> None:
        self._starter = starter
        self._wake = wake
        self._faults = faults
        self._start: dict[Memory, StartDiscard] = {}
        self._running: dict[asyncio.Future[int], Batch] = {}

    def serve(self, memory: Memory, backend: Backend) -> None:
        """Take batches of a memory from now on."""
        self._start[memory] = self._starter(backend)

    def release(self, memory: Memory) -> None:
        """Take no more batches of a memory; none of it may be in flight."""
        del self._start[memory]

    def begin(self, batches: Iterable[Batch]) -> None:
        """Start the discards of some batches."""
        for batch in batches:
            future = self._start[batch.memory](batch.ranges)
            self._running[future] = batch
            future.add_done_callback(lambda _: self._wake())

    def collect(self) -> None:
        """Record the discards that have ended. A refusal by the system leaves the pages in the balloon."""
        for future in [future for future in self._running if future.done()]:
            batch = self._running.pop(future)
            error = future.exception()
            if error is not None and not isinstance(error, DiscardError):
                raise error
            if error is not None:
                self._faults.note("discard failed", str(error))
            batch.memory.done(batch, failed=error is not None)

    async def settled(self) -> None:
        """Wait until none is in flight, and record all."""
        self.collect()
        while self._running:
            await asyncio.wait(self._running)
            self.collect()

    async def discard(self, memory: Memory, ranges: bytes) -> int:
        """Discard pages of a memory that no guest uses, wait for it, and return how many bytes that were."""
        if not ranges:
            return 0
        try:
            return await self._start[memory](ranges)
        except DiscardError as error:
            self._faults.note("discard failed", str(error))
            return error.discarded
