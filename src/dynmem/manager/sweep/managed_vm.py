"""What the loop and the acts ask of a VM, whatever leads to it: a QMP monitor, or libvirt."""

import asyncio
from typing import Protocol

from dynmem.manager.step.division import Parts
from dynmem.manager.step.facts import VmFacts


class ManagedVm(Protocol):
    """The manager's connection to one VM.

    Attributes:
        name: Its name.
        is_released: Whether it is left alone: what was changed of its settings is put back.
        is_paused: Whether nothing of it may be changed now, whatever the mode.
    """

    @property
    def name(self) -> str: ...

    is_released: bool
    is_paused: bool

    @property
    def incarnation(self) -> str:
        """The process that runs it; empty if there is none."""

    def configure(self, *, may_write: bool, period_s: float, may_ask: bool = False) -> None:
        """Put another mode and period in force."""

    def begin(self, now_ns: int) -> asyncio.Future[VmFacts] | None:
        """Begin a look; return what a sweep waits for: None if it need not, or has waited for long enough."""

    def found(self, now_ns: int) -> VmFacts:
        """Return what the look has found; if it has not ended, what is known without it. It never raises."""

    async def glance(self, now_ns: int, *, ask: bool = False) -> VmFacts | None:
        """Look briefly at a VM that replied to its last look; None if it cannot be looked at just now."""

    def resident_now(self) -> int | None:
        """Return what its guest holds now, by the host; None where that takes more than microseconds."""

    def was_busy(self) -> bool:
        """Return whether its process has run since the last call for more than an idle guest takes."""

    async def set_balloon(self, target_bytes: int, parts: Parts | None = None) -> None:
        """Set the target; *parts* is what each device has of it, where that is not the balloon alone.

        NotSentError and QmpCommandError mean that the VM does not have it; others, that it may.
        """

    async def close(self) -> None:
        """Disconnect; targets stay as they are."""
