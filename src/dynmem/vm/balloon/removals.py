"""Hot removes that were asked for and have not ended: each of them is reported once, however it ends."""

from collections import deque
from collections.abc import Sequence

from dynmem.dm.events import HotRemoveFinished
from dynmem.dm.journal import OperationRecord
from dynmem.dm.operations import HotRemove


class Removals:
    """The pages asked for, oldest first. The protocol ends them in that order."""

    def __init__(self) -> None:
        self._asked: deque[int] = deque()

    def add(self, pages: int) -> None:
        """Record that the guest is to be asked for this number of pages."""
        self._asked.append(pages)

    def finished(self) -> None:
        """Record that the oldest has ended, and was reported."""
        self._asked.popleft()

    def lose(self, operations: Sequence[OperationRecord]) -> list[HotRemoveFinished]:
        """End all of them, as the guest will not answer, and return how they ended.

        `operations` are the protocol's; if the last is a hot remove, what the guest has removed counts.
        """
        got = sum(last.answered for last in operations[-1:] if _is_running(last))
        ended = []
        while self._asked:
            ended.append(HotRemoveFinished(self._asked.popleft(), got))
            got = 0  # the next one had not begun
        return ended


def _is_running(operation: OperationRecord) -> bool:
    return operation.kind == HotRemove.kind and operation.ended_ns is None
