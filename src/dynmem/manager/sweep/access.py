"""How a monitor is reached: one that is the manager's own, and the seam for one that another program owns.

own        connected once, and for as long as the VM lives
borrowed   visited: connect, ask, leave (see `borrowed`)
"""

from collections.abc import Container
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Final, Literal, Protocol

from dynmem.qmp.client import QmpClient
from dynmem.sockets import listener

#: What a monitor is used for: all that a sweep asks, size and report alone between two sweeps, a target.
Use = Literal["look", "glance", "target"]


class Access(Protocol):
    """The way to one monitor. What is done there is done within `turn`."""

    @property
    def stays(self) -> bool:
        """Whether the connection is kept when a turn is over."""

    def is_due(self, use: Use) -> bool:
        """Return whether a turn of this use may begin now; a target always may."""

    def is_recent(self, period_s: float) -> bool:
        """Return whether the last turn was so short a time ago that what it found still counts."""

    def turn(self, use: Use) -> AbstractAsyncContextManager[None]:
        """Use the monitor. TakenError: another program used it all the time; DeadlineError."""

    async def connect(self, events: Container[str]) -> QmpClient:
        """Connect, within a turn. Raises as QmpClient.connect."""

    def listener(self) -> int:
        """Return the process that listens, for a monitor that does not reply; 0: not known. OSError."""


class Own:
    """A monitor for the manager alone."""

    stays: Final = True

    def __init__(self, path: Path) -> None:
        self._path = path

    def is_due(self, use: Use) -> bool:
        """Return True: nobody is disturbed."""
        del use
        return True

    def is_recent(self, period_s: float) -> bool:
        """Return False: a connection that was lost was lost for a reason."""
        del period_s
        return False

    def turn(self, use: Use) -> AbstractAsyncContextManager[None]:
        """Return at once: nobody else is connected."""
        del use
        return nullcontext()

    async def connect(self, events: Container[str]) -> QmpClient:
        """Connect. Raises as QmpClient.connect."""
        return await QmpClient.connect(self._path, events=events)

    def listener(self) -> int:
        """Return the process that listens; 0: not known. OSError if no descriptor is left."""
        return listener(self._path)
