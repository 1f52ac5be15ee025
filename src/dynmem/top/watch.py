"""The thread that asks the manager for its status once a period, so that the screen never waits for it."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from dynmem.errors import DynmemError
from dynmem.top.table import Row, rows_of

if TYPE_CHECKING:
    from dynmem.manager.api.messages import StatusReply

# A look that is under way when the program ends is not waited for longer.
_END_S: Final = 0.5


class Seen(NamedTuple):
    """A status, and its rows.

    Attributes:
        status: The status.
        rows: A row for each VM.
    """

    status: "StatusReply"
    rows: list[Row]


class Lost(NamedTuple):
    """There was no reply.

    Attributes:
        why: The reason, as a sentence.
    """

    why: str


class Watch:
    """Looks again and again, in a thread of its own."""

    def __init__(
        self, look: "Callable[[], StatusReply]", period_s: float, report: Callable[[Seen | Lost], object]
    ) -> None:
        self._look = look
        self._period_s = period_s
        self._report = report
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="looks", daemon=True)

    def start(self) -> None:
        """Begin; the first look is a period from now."""
        self._thread.start()

    def end(self) -> None:
        """Look no more."""
        self._ended.set()
        self._thread.join(_END_S)

    def _run(self) -> None:
        while not self._ended.wait(self._period_s):
            found = looked(self._look)
            if not self._ended.is_set():
                self._report(found)


def looked(look: "Callable[[], StatusReply]") -> Seen | Lost:
    """Look once; an error is a result."""
    try:
        status = look()
        return Seen(status, rows_of(status))
    except (DynmemError, OSError) as error:
        return Lost(str(error))
    except (AttributeError, TypeError) as error:  # fields that are of no manager
        return Lost(f"the reply is not a status that this version can show ({error})")
