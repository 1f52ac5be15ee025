"""The loads that a guest is sent, and the reports that it sends.

A `Load` is written as ``key=value,...`` on the kernel's command line or on the serial port, with sizes in
whole MiB. A `Report` is one line of JSON from the serial port; the guest's init writes 6 per second.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from dynmem.errors import ConfigError
from dynmem.json_errors import NOT_JSON
from dynmem.limits import LAB_REPORT_LINE_BYTES_MAX
from dynmem.units import MIB, NS_PER_S, format_size

Curve = Literal["steady", "sine", "steps", "burst"]
CURVES: Final[tuple[Curve, ...]] = ("steady", "sine", "steps", "burst")
_SIZE_MAX: Final = 65536 * MIB
_PERIOD_MIN_NS: Final = NS_PER_S // 10
_PERIOD_MAX_NS: Final = 86400 * NS_PER_S


@dataclass(frozen=True, kw_only=True)
class Load:
    """The demand of the load process over time.

    ``steady`` is always `high`; ``sine`` swings between `low` and `high`; ``steps`` is half a period at
    `low`, then half at `high`; ``burst`` is at `high` for the last fifth of each period. `phase` (0..1) moves
    the start. The demand changes by at most `rate_bytes` per second. With `reserve_bytes` the load is polite:
    it stops growing while the guest's MemAvailable is at or below that, and wanted minus held is its unmet
    demand. Without it, the load behaves like most programs and touches memory until the kernel kills it.

    `cache_bytes` is how much of the guest's disk is read, at the same rate, which leaves it in the page
    cache; after a smaller order, a larger one reads it again. `revive` starts another load process if the
    last one was killed.
    """

    curve: Curve = "steady"
    low_bytes: int = 0
    high_bytes: int = 0
    period_ns: int = 30 * NS_PER_S
    phase: float = 0.0
    rate_bytes: int = 64 * MIB
    reserve_bytes: int = 0
    cache_bytes: int = 0
    revive: bool = False

    def __post_init__(self) -> None:
        """Reject what the guest would reject, with a sentence."""
        if self.curve not in CURVES:
            raise ConfigError(f"curve {self.curve!r} is not one of {', '.join(CURVES)}")
        if not 0 <= self.low_bytes <= self.high_bytes <= _SIZE_MAX:
            raise ConfigError(
                f"a load from {self.low_bytes} to {self.high_bytes} bytes is not possible:"
                f" low may be at most high, and high at most {format_size(_SIZE_MAX)}"
            )
        if not _PERIOD_MIN_NS <= self.period_ns <= _PERIOD_MAX_NS:
            raise ConfigError(f"a period of {self.period_ns} ns is not from 0.1 s to a day")
        if not (math.isfinite(self.phase) and 0 <= self.phase <= 1):
            raise ConfigError(f"phase {self.phase} is not between 0 and 1")
        if not MIB <= self.rate_bytes <= _SIZE_MAX:
            raise ConfigError(f"a rate of {self.rate_bytes} bytes per second is not from 1 MiB/s to 64 GiB/s")
        if not 0 <= self.reserve_bytes <= _SIZE_MAX:
            raise ConfigError(f"a reserve of {self.reserve_bytes} bytes is below 0 or above 64 GiB")
        if not 0 <= self.cache_bytes <= _SIZE_MAX:
            raise ConfigError(f"a page cache of {self.cache_bytes} bytes is below 0 or above 64 GiB")

    def argument(self) -> str:
        """Return the load as the guest's init reads it, with every field, so earlier orders leave nothing."""
        return (
            f"curve={self.curve},low={self.low_bytes // MIB},high={self.high_bytes // MIB}"
            f",period={self.period_ns / NS_PER_S:.3f},phase={self.phase:.4f}"
            f",rate={self.rate_bytes // MIB},reserve={self.reserve_bytes // MIB}"
            f",cache={self.cache_bytes // MIB},revive={self.revive:d}"
        )


class Report(msgspec.Struct, frozen=True, gc=False):
    """One line from the guest. Pages are 4 KiB; counters of events only rise.

    `t` is seconds since the guest booted. `load` is the state of the load process: ``running``, ``killed``
    (by the kernel, out of memory) or ``exited``. `total_pages` is MemTotal before the balloon driver loaded,
    `ballooned_pages` how far MemTotal fell since (0 with deflate-on-oom, where Linux does not lower it).
    `free_pages`, `available_pages` and `committed_pages` are the kernel's MemFree, MemAvailable and
    Committed_AS. `wanted_pages` is the curve's demand, whether the load is dead or alive, `held_pages` what
    the load holds; the difference is unmet demand. `verified_pages` counts whole pages checked, `wrong_bytes`
    and `wrong_pages` those that were wrong. `oom_kills` is the kernel's own counter, `oom_messages` the lines
    of its log about it. `orders` and `refused_orders` count the `Load` lines accepted and rejected.
    `read_pages` is how much of its disk has been read.
    """

    t: float
    load: Literal["running", "killed", "exited"]
    total_pages: int
    ballooned_pages: int
    free_pages: int
    available_pages: int
    committed_pages: int
    wanted_pages: int
    held_pages: int
    verified_pages: int
    wrong_bytes: int
    wrong_pages: int
    oom_kills: int
    oom_messages: int
    orders: int
    refused_orders: int
    read_pages: int = 0

    @property
    def unmet_pages(self) -> int:
        """Pages that the load wants and does not hold."""
        return max(0, self.wanted_pages - self.held_pages)


_decoder: Final = msgspec.json.Decoder(Report)


def latest_report(serial: bytes) -> Report | None:
    """Return the last whole report in what a serial port wrote, or None.

    The kernel writes to the same port: lines that are not reports are skipped, and so is an unfinished line.
    Only the last few lines are read.
    """
    lines = serial[-8 * LAB_REPORT_LINE_BYTES_MAX :].split(b"\n")
    for line in reversed(lines[:-1]):
        start = line.find(b'{"t":')
        if start < 0:
            continue
        try:
            return _decoder.decode(line[start:])
        except NOT_JSON:  # split by a line of the kernel
            continue
    return None
