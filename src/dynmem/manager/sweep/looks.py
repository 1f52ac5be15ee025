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
# A sweep's patience with one VM, in parts.
_PATIENCE_TICKS: Final = 20


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
        if self._look is not None and self._look.done():
            self.is_slow, self._look = self._was_late(), None

    def begin(self, look: Coroutine[Any, Any, VmFacts]) -> None:
        """Begin a look."""
        self._look = asyncio.create_task(look, name=f"look at {self._name}")

    async def wait(self, patience_s: float) -> VmFacts | None:
        """Return what the look finds; None if it takes longer than *patience_s*.

        It is waited for in ticks, and one that comes late counts once: the loop serves all VMs, and one that
        makes it late must not use up the patience with the others.
        """
        assert self._look is not None
        look = self._look
        for _ in range(_PATIENCE_TICKS):
            done, _ = await asyncio.wait((look,), timeout=patience_s / _PATIENCE_TICKS)
            if done or not patience_s:
                break
        if not look.done():
            return None
        self._look = None
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
