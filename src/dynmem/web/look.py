"""The manager as the page sees it: asked once a second at most, for all who look, and by nobody else."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from dynmem.errors import DynmemError

#: How long a status is shown to those who ask for one.
FRESH_S: Final = 0.9
#: Of the manager's own process: what differs in each reply while nothing happens.
_RESTLESS: Final = ("at", "uptime_s", "swept_ago_s")


class Seen(msgspec.Struct, frozen=True):
    """A reply of the manager.

    Attributes:
        status: Its status.
        data: The same as JSON, on one line.
    """

    status: dict[str, Any]
    data: bytes

    def is_as(self, other: "Seen | Trouble | None") -> bool:
        """Return whether nothing has changed since another reply."""
        return isinstance(other, Seen) and _calm(self.status) == _calm(other.status)


class Trouble(msgspec.Struct, frozen=True):
    """There was no reply.

    Attributes:
        error: Why, and what to do, as a sentence.
    """

    error: str

    @property
    def data(self) -> bytes:
        """The sentence as JSON, on one line."""
        return msgspec.json.encode({"error": self.error})

    def is_as(self, other: "Seen | Trouble | None") -> bool:
        """Return whether nothing has changed since another look."""
        return self == other


class Look:
    """Looks for all: while one look is under way, the others wait for the same one.

    *status* asks the manager.
    """

    def __init__(
        self, status: Callable[[], Awaitable[dict[str, Any]]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._status = status
        self._clock = clock
        self._looking: asyncio.Task[Seen | Trouble] | None = None
        self._looked_s = 0.0

    async def now(self) -> Seen | Trouble:
        """Return the status of this moment, or of the one before."""
        looking = self._looking
        if looking is None or (looking.done() and self._clock() - self._looked_s > FRESH_S):
            looking = asyncio.create_task(self._look())
            self._looking = looking
        return await asyncio.shield(looking)  # one who leaves does not end it for the others

    async def _look(self) -> Seen | Trouble:
        try:
            status = await self._status()
            # Encoded again: what came may have line breaks, which end an event of the live stream.
            return Seen(status, msgspec.json.encode(status))
        except DynmemError as error:
            return Trouble(str(error))
        except (ValueError, OverflowError, RecursionError) as error:
            return Trouble(f"the reply is not a status that can be shown ({error}): restart `dynmem run`")
        finally:
            self._looked_s = self._clock()


def _calm(status: dict[str, Any]) -> dict[str, Any]:
    manager = status.get("manager")
    if not isinstance(manager, dict):
        return status
    return status | {"manager": {each: manager[each] for each in manager if each not in _RESTLESS}}
