"""Rate limits of events: the first goes out at once; of those that follow too soon the last, when it is time.

The names and the milliseconds are QEMU's (monitor/monitor.c).
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

RATE_LIMITS_MS: Final[Mapping[str, int]] = {
    "BALLOON_CHANGE": 1000,
    "HV_BALLOON_STATUS_REPORT": 1000,
}


class Throttle:
    """Passes lines to `send`, those of a rate-limited event at most once per its time."""

    def __init__(
        self, send: Callable[[bytes], None], rate_limits_ms: Mapping[str, int] = RATE_LIMITS_MS
    ) -> None:
        self._send = send
        self._limits = rate_limits_ms
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._last: dict[str, bytes] = {}

    def offer(self, name: str, line: bytes) -> None:
        """Send `line` now, or keep it in place of an earlier one of this name."""
        if name in self._timers:
            self._last[name] = line
            return
        self._send(line)
        if name in self._limits:
            self._start(name)

    def close(self) -> None:
        """Forget what waits."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._last.clear()

    def _start(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        self._timers[name] = loop.call_later(self._limits[name] / 1000, self._expired, name)

    def _expired(self, name: str) -> None:
        del self._timers[name]
        line = self._last.pop(name, None)
        if line is not None:
            self._send(line)
            self._start(name)
