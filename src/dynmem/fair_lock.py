"""A lock that goes to whoever has waited longest.

A `threading.Lock` goes to whoever asks at the right moment, which is nearly always a thread that runs: the
one that has just released it, and asks again. A thread that must be woken first can wait for minutes while
others take the lock all the time, as the processors of a hostile guest may. Here it is handed over.
"""

import contextlib
import threading
from collections import deque
from types import TracebackType
from typing import Final


class FairLock:
    """A context manager that one thread holds at a time, in the order of their asking. It is not reentrant.

    It costs about a microsecond while nobody else wants it.
    """

    def __init__(self) -> None:
        # of the thread that holds it and of those that wait, in order; each step on a deque is a whole one
        self._line: Final[deque[threading.Lock]] = deque()

    def locked(self) -> bool:
        """Return whether a thread holds it."""
        return bool(self._line)

    def __enter__(self) -> None:
        mine = threading.Lock()
        mine.acquire()
        self._line.append(mine)
        if self._line[0] is not mine:
            mine.acquire()  # until the one before hands over

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.popleft()
        # the next may have come meanwhile, and found itself first: then it needs no hand, and may be gone
        with contextlib.suppress(IndexError, RuntimeError):
            self._line[0].release()
