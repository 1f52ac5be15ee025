"""What runs for one VM at a time, whatever leads to it: one look and one glance, each in a task of its own.

What comes too late for whoever waits for it goes on meanwhile, and is there for the next.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from dynmem.manager.step.facts import VmFacts
from dynmem.manager.sweep.life import Life
from dynmem.manager.sweep.measuring import Measuring

# A VM that does not reply to a glance within this is left to the next look.
GLANCE_PATIENCE_S: Final = 0.05


class Looks:
    """The looks at the VM *name*; *was_late* says whether it is slow, after a look that came too late.

    Attributes:
        is_slow: Whether it has kept a sweep waiting and has not replied since.
    """

    def __init__(self, name: str, threads: Measuring, *, was_late: Callable[[], bool]) -> None:
        self.is_slow: bool = False
        self._name = name
        self._threads = threads
        self._was_late = was_late
        self._look: asyncio.Task[VmFacts] | None = None
        self._glance: asyncio.Task[VmFacts | None] | None = None
        self._measuring: asyncio.Task[None] | None = None

    @property
    def is_looking(self) -> bool:
        """Whether there is a look that no sweep has had the result of."""
        return self._look is not None

    def drop_late(self) -> None:
        """Drop a look for an earlier sweep that has ended.

        What it found is too old to be used, but it shows whether the VM replies again.
        """
        self.take()

    def begin(self, look: Coroutine[Any, Any, VmFacts]) -> None:
        """Begin a look."""
        self._look = asyncio.create_task(look, name=f"look at {self._name}")

    @property
    def awaited(self) -> asyncio.Future[VmFacts] | None:
        """The look, if a sweep is to wait for it."""
        return None if self.is_slow else self._look

    def take(self) -> VmFacts | None:
        """Return what the look has found, to one sweep; None if it has not ended, or there is none."""
        if self._look is None or not self._look.done():
            return None
        look, self._look = self._look, None
        self.is_slow = self.is_slow and self._was_late()
        return look.result()

    async def glance(self, begun: Callable[[], Coroutine[Any, Any, VmFacts | None] | None]) -> VmFacts | None:
        """Return what a glance finds; None if it takes longer than a moment, or none may be made now.

        One that is under way is waited for again. Otherwise, while no look is and the VM is not slow, *begun*
        returns a new one, or None.
        """
        if self._glance is not None and self._glance.done():
            self._glance = None  # for an earlier call: what it found is known by now
        if self._glance is None:
            task = None if self.is_looking or self.is_slow else begun()
            if task is None:
                return None
            self._glance = asyncio.create_task(task, name=f"glance at {self._name}")
        glance = self._glance
        await asyncio.wait((glance,), timeout=GLANCE_PATIENCE_S)
        if not glance.done() or glance.cancelled():
            return None
        self._glance = None
        return glance.result()

    async def let_glance_end(self) -> None:
        """Wait until no glance is under way."""
        if self._glance is not None:
            await asyncio.wait((self._glance,))

    def measure(self, life: Life) -> None:
        """Measure what it holds, without waiting: what takes long is for the next sweep to find."""
        if life.meter is not None and life.meter.is_quick:
            life.resident = life.meter.measure(life.blocks)
        elif life.meter is not None and (self._measuring is None or self._measuring.done()):
            self._measuring = asyncio.create_task(life.measure(self._threads))

    async def close(self) -> None:
        """End what is under way."""
        for task in (self._look, self._glance, self._measuring):
            if task is not None:
                task.cancel()
                await asyncio.wait((task,))
        self._look = self._glance = self._measuring = None
