"""What a guest writes to its standard error: lines of the machine's log, as long as there are few of them.

The guest has its end of a socket pair instead of the machine's own standard error, which it could fill, make
non-blocking or send a terminal's commands to. What it writes beyond the allowance is dropped and counted.
"""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable
from typing import Final

from dynmem.limits import GUEST_LOG_BYTES_MAX, GUEST_LOG_BYTES_PER_MINUTE, GUEST_LOG_LINE_MAX
from dynmem.units import NS_PER_S
from dynmem.vm.embedded.readiness import Readiness

_LOG: Final = logging.getLogger("dynmem.vm.guest")
_BYTES_AT_ONCE: Final = 4096
_PAUSE_S: Final = 0.004  # between two reads: a megabyte a second, however much comes
_READS_AT_END_MAX: Final = 64  # more than the socket holds
_OVERHEAD_BYTES: Final = 64  # of a line: its date and whose it is
_NS_PER_MINUTE: Final = 60 * NS_PER_S


class LogAllowance:
    """How many bytes of guests' lines may be logged: so many at once, and then few a minute."""

    def __init__(self, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._now_ns = now_ns
        self._bytes = float(GUEST_LOG_BYTES_MAX)
        self._at_ns = now_ns()
        self.dropped_bytes: int = 0

    def log(self, line: str) -> None:
        """Log a line, or drop it."""
        now = self._now_ns()
        self._bytes += (now - self._at_ns) * GUEST_LOG_BYTES_PER_MINUTE / _NS_PER_MINUTE
        self._bytes = min(self._bytes, GUEST_LOG_BYTES_MAX)
        self._at_ns = now
        cost = len(line) + _OVERHEAD_BYTES
        # a minute's worth at once, so that the lines about what was dropped are not most of them
        if cost + (GUEST_LOG_BYTES_PER_MINUTE if self.dropped_bytes else 0) > self._bytes:
            if not self.dropped_bytes:
                _LOG.warning("the guest logs too much: what follows is dropped")
            self.dropped_bytes += cost
            return
        self._bytes -= cost
        if self.dropped_bytes:
            _LOG.warning("%d bytes of the guest's log were dropped", self.dropped_bytes)
            self.dropped_bytes = 0
        _LOG.info("guest: %s", line)


class GuestLog:
    """One guest's standard error; `guest_end` is for the guest."""

    def __init__(self, allowance: LogAllowance) -> None:
        self.guest_end: socket.socket
        self._end, self.guest_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._allowance = allowance
        self._line = b""
        self._readiness = Readiness(self._end.fileno(), self._read)
        self._timer: asyncio.TimerHandle | None = None
        self._readiness.arm()

    def _read(self) -> None:
        if self._take():
            self._timer = asyncio.get_running_loop().call_later(_PAUSE_S, self._readiness.arm)

    def _take(self) -> bool:
        """Take what there is, up to a bound; False when there is no more to come."""
        try:
            data = self._end.recv(_BYTES_AT_ONCE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        *lines, self._line = (self._line + data).split(b"\n")
        while len(self._line) > GUEST_LOG_LINE_MAX:
            lines.append(self._line[:GUEST_LOG_LINE_MAX])
            self._line = self._line[GUEST_LOG_LINE_MAX:]
        for line in lines:
            self._log(line)
        return bool(data)

    def _log(self, line: bytes) -> None:
        if line := line.rstrip():
            self._allowance.log(printable(line))

    def close(self) -> None:
        """Log what a guest that has ended has left."""
        self._readiness.disarm()
        if self._timer is not None:
            self._timer.cancel()
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)
        for _ in range(_READS_AT_END_MAX):
            if not self._take():
                break
        self._log(self._line)
        self._end.close()


def printable(line: bytes) -> str:
    """Return a line in characters that no terminal takes for a command."""
    text = line.decode("utf-8", "backslashreplace")
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
