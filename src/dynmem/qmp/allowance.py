"""What a monitor may cost its client unasked: a small share of a processor, saved up to a small burst.

Events, replies to no command, and lines that come in crumbs all take the time of whoever reads them, and one
event loop reads all monitors. The costs are estimates in nanoseconds, rounded up; that they are fixed makes
the pauses the same on every machine.
"""

import time
from collections.abc import Callable
from typing import Final

from dynmem.units import NS_PER_MS, NS_PER_S

# Waking up for some bytes.
READ_NS: Final = 40_000
# Taking one message apart.
MESSAGE_NS: Final = 4_000
# A byte, wherever it is.
BYTE_NS: Final = 1
# The share of a processor: some thousand events a second. QEMU limits the rate of its frequent ones to 1/s.
SHARE: Final = 0.005
BURST_NS: Final = 20 * NS_PER_MS


class Allowance:
    """The balance of one monitor."""

    def __init__(self, share: float = SHARE, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._share = share
        self._clock_ns = clock_ns
        self._balance = float(BURST_NS)
        self._since = clock_ns()

    def spend(self, cost_ns: int) -> None:
        """Take the cost of something off the balance; a negative cost is a refund."""
        self._balance -= cost_ns

    def pause_s(self) -> float:
        """Return for how long nothing more may be read; 0 while the balance lasts."""
        now = self._clock_ns()
        self._balance = min(float(BURST_NS), self._balance + (now - self._since) * self._share)
        self._since = now
        return max(0.0, -self._balance / self._share / NS_PER_S)
