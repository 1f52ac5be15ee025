"""What the host asked of its guest, operation by operation: asked, posted, answered, and how it ended."""

from collections import deque
from typing import Final

import msgspec

from dynmem.limits import DM_JOURNAL_OPERATIONS

UNDER_WAY: Final = "under way"


class Operation(msgspec.Struct):
    """One operation. Pages are as the messages name them; times are of the virtual machine's clock."""

    kind: str  # balloon, unballoon, hot add, hot remove
    asked: int  # pages, when it began
    began_ns: int
    requests: int = 0  # messages that went into the ring
    posted: int = 0  # pages in them
    answers: int = 0
    answered: int = 0  # pages that the guest took, or gave and were new
    ended_ns: int | None = None
    outcome: str = UNDER_WAY


class Journal:
    """The last operations, oldest first. A machine that was stuck for a while shows as a long operation."""

    def __init__(self) -> None:
        self._kept: deque[Operation] = deque(maxlen=DM_JOURNAL_OPERATIONS)
        self._current: Operation | None = None

    @property
    def operations(self) -> tuple[Operation, ...]:
        """What is kept."""
        return tuple(self._kept)

    def begin(self, kind: str, asked: int, now: int) -> None:
        """An operation begins; there is one at a time."""
        self._current = Operation(kind, asked, now)
        self._kept.append(self._current)

    def posted(self, pages: int) -> None:
        """One message of the operation is in the ring."""
        if self._current is not None:
            self._current.requests += 1
            self._current.posted += pages

    def answered(self, pages: int) -> None:
        """One answer came."""
        if self._current is not None:
            self._current.answers += 1
            self._current.answered += pages

    def end(self, outcome: str, now: int) -> None:
        """The operation that goes on, if one does, is over."""
        if self._current is not None:
            self._current.outcome = outcome
            self._current.ended_ns = now
            self._current = None
