"""Rate limits of events: the first is sent at once; of those that follow too soon, the last is sent in time.

The names, the milliseconds and what is counted separately are QEMU's (monitor/monitor.c).
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

RATE_LIMITS_MS: Final[Mapping[str, int]] = {
    "BALLOON_CHANGE": 1000,
    "HV_BALLOON_STATUS_REPORT": 1000,
    "MEMORY_DEVICE_SIZE_CHANGE": 1000,
}
_APART_BY: Final[Mapping[str, str]] = {"MEMORY_DEVICE_SIZE_CHANGE": "qom-path"}
_Key = tuple[str, object]


class Throttle:
    """Passes lines to `send`, at most one per interval for a rate-limited event.

    MEMORY_DEVICE_SIZE_CHANGE is limited per device.
    """

    def __init__(
        self, send: Callable[[bytes], None], rate_limits_ms: Mapping[str, int] = RATE_LIMITS_MS
    ) -> None:
        self._send = send
        self._limits = rate_limits_ms
        self._timers: dict[_Key, asyncio.TimerHandle] = {}
        self._last: dict[_Key, bytes] = {}

    def offer(self, name: str, line: bytes, data: Mapping[str, object]) -> None:
        """Send `line` now, or keep it in place of an earlier one of its kind; `data` is its content."""
        key = (name, data.get(_APART_BY.get(name, "")))
        if key in self._timers:
            self._last[key] = line
            return
        self._send(line)
        if name in self._limits:
            self._start(key)

    def close(self) -> None:
        """Drop what is waiting."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._last.clear()

    def _start(self, key: _Key) -> None:
        loop = asyncio.get_running_loop()
        self._timers[key] = loop.call_later(self._limits[key[0]] / 1000, self._expired, key)

    def _expired(self, key: _Key) -> None:
        del self._timers[key]
        line = self._last.pop(key, None)
        if line is not None:
            self._send(line)
            self._start(key)
