"""What the host asked of its guest, operation by operation: asked, posted, answered, and how it ended."""

from collections import deque
from typing import Final

import msgspec

from dynmem.limits import DM_JOURNAL_OPERATIONS

UNDER_WAY: Final = "under way"


class OperationRecord(msgspec.Struct):
    """What became of one operation. Pages are as the messages name them.

    Attributes:
        kind: balloon, unballoon, hot add or hot remove.
        asked: Pages that were wanted when it began.
        began_ns: When, by the virtual machine's clock.
        requests: Messages that went into the ring.
        posted: Pages in them.
        answers: Messages that came back.
        answered: Pages that the guest took, or gave and were new.
        ended_ns: When it ended; None while it is under way.
        outcome: How it ended.

    """

    kind: str
    asked: int
    began_ns: int
    requests: int = 0
    posted: int = 0
    answers: int = 0
    answered: int = 0
    ended_ns: int | None = None
    outcome: str = UNDER_WAY


class OperationJournal:
    """The last operations, oldest first. A machine that was stuck for a while shows as a long operation."""

    def __init__(self) -> None:
        self._kept: deque[OperationRecord] = deque(maxlen=DM_JOURNAL_OPERATIONS)
        self._current: OperationRecord | None = None

    @property
    def operations(self) -> tuple[OperationRecord, ...]:
        """The records that are kept."""
        return tuple(self._kept)

    def begin(self, kind: str, asked: int, now: int) -> None:
        """Record that an operation begins; there is one at a time."""
        self._current = OperationRecord(kind, asked, now)
        self._kept.append(self._current)

    def posted(self, pages: int) -> None:
        """Record that one message of the operation is in the ring."""
        if self._current is not None:
            self._current.requests += 1
            self._current.posted += pages

    def answered(self, pages: int) -> None:
        """Record that one answer came."""
        if self._current is not None:
            self._current.answers += 1
            self._current.answered += pages

    def end(self, outcome: str, now: int) -> None:
        """End the current operation, if there is one."""
        if self._current is not None:
            self._current.outcome = outcome
            self._current.ended_ns = now
            self._current = None
