"""How fast processors may leave their guest while others do, too, so that the machine's loop gets a word in.

All of them share the interpreter's lock, and it is not a fair one: whoever runs has it before a thread that
must be woken first. One processor that does nothing but leave its guest has it half of the time, and the loop
the other half. Eight would have it always: an answer of the monitor then took up to a second. So each of
several that leave their guest all the time pauses after an exit, the longer the more there are.
"""

import time
from collections.abc import Callable
from typing import Final

# After an exit: the next one of this processor, or one of another, is together with it.
_SOON_S: Final = 0.001
_PAUSE_S: Final = 0.000_06  # for each other one: about as long as an exit takes


class Pace:
    """The pace of a guest's processors. Each calls `after_exit` on its own thread."""

    def __init__(
        self,
        vp_count: int,
        now_s: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._now_s: Final = now_s
        self._pause: Final = pause
        self._last_s: Final = [-_SOON_S] * vp_count  # when each has last left the guest, and gone on

    def after_exit(self, vp: int) -> None:
        """Pause if this processor and others leave the guest all the time."""
        now_s, last_s = self._now_s(), self._last_s
        if now_s - last_s[vp] < _SOON_S:
            since_s = now_s - _SOON_S * 2
            others = sum([each > since_s for each in last_s]) - 1
            if others:
                self._pause(others * _PAUSE_S)
                now_s = self._now_s()
        last_s[vp] = now_s
