"""What a guest's load is told, and what it tells.

`Load` is written as ``key=value,...`` on the kernel's command line or as a line on the serial port; sizes are
whole MiB there. `Report` is one line of JSON from the serial port, written by the guest's init, 6 a second.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from dynmem.errors import ConfigError
from dynmem.limits import LAB_REPORT_LINE_BYTES_MAX
from dynmem.units import MIB, NS_PER_S, format_size

Curve = Literal["steady", "sine", "steps", "burst"]
CURVES: Final[tuple[Curve, ...]] = ("steady", "sine", "steps", "burst")
_SIZE_MAX: Final = 65536 * MIB
_PERIOD_MIN_NS: Final = NS_PER_S // 10
_PERIOD_MAX_NS: Final = 86400 * NS_PER_S


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the load process wants, over time.

    ``steady`` is always `high`; ``sine`` swings between `low` and `high`; ``steps`` is half a period at
    `low`, then half at `high`; ``burst`` is at `high` for the last fifth of each period. `phase` (0..1) moves
    the start. The demand moves at most `rate_bytes` a second. With a `reserve_bytes` the load is polite: it
    stops growing while the guest's MemAvailable is at or below that, and what it goes without is wanted minus
    held. Without one it behaves like most programs and touches memory until the kernel kills it.
    """

    curve: Curve = "steady"
    low_bytes: int = 0
    high_bytes: int = 0
    period_ns: int = 30 * NS_PER_S
    phase: float = 0.0
    rate_bytes: int = 64 * MIB
    reserve_bytes: int = 0

    def __post_init__(self) -> None:
        """Refuse what the guest would refuse, with a sentence."""
        if self.curve not in CURVES:
            raise ConfigError(f"curve {self.curve!r} is not one of {', '.join(CURVES)}")
        if not 0 <= self.low_bytes <= self.high_bytes <= _SIZE_MAX:
            raise ConfigError(
                f"a load from {self.low_bytes} to {self.high_bytes} bytes is not possible:"
                f" low must not be above high, and high not above {format_size(_SIZE_MAX)}"
            )
        if not _PERIOD_MIN_NS <= self.period_ns <= _PERIOD_MAX_NS:
            raise ConfigError(f"a period of {self.period_ns} ns is not between 0.1 s and a day")
        if not (math.isfinite(self.phase) and 0 <= self.phase <= 1):
            raise ConfigError(f"phase {self.phase} is not between 0 and 1")
        if not MIB <= self.rate_bytes <= _SIZE_MAX:
            raise ConfigError(f"a rate of {self.rate_bytes} bytes a second is not 1 MiB/s to 64 GiB/s")
        if not 0 <= self.reserve_bytes <= _SIZE_MAX:
            raise ConfigError(f"a reserve of {self.reserve_bytes} bytes is below 0 or above 64 GiB")

    def argument(self) -> str:
        """The load as the guest's init reads it: every field, so that nothing stays from an earlier order."""
        return (
            f"curve={self.curve},low={self.low_bytes // MIB},high={self.high_bytes // MIB}"
            f",period={self.period_ns / NS_PER_S:.3f},phase={self.phase:.4f}"
            f",rate={self.rate_bytes // MIB},reserve={self.reserve_bytes // MIB}"
        )


class Report(msgspec.Struct, frozen=True, gc=False):
    """One line from the guest. Counters of pages are in units of 4 KiB; counters of events only ever rise.

    `t` is seconds since the guest booted. `load` says what became of the load process: ``running``,
    ``killed`` (by the kernel, for want of memory) or ``exited``. `total_pages` is MemTotal before the balloon
    driver loaded, `ballooned_pages` how far MemTotal fell since (0 with deflate-on-oom, where Linux does not
    lower it). `free_pages`, `available_pages` and `committed_pages` are the kernel's MemFree, MemAvailable
    and Committed_AS. `wanted_pages` is what the curve asks of the load, dead or alive, `held_pages` what it
    has; the difference is unmet demand. `verified_pages` counts whole pages checked, `wrong_bytes` and
    `wrong_pages` what did not check out. `oom_kills` is the kernel's own counter, `oom_messages` the lines of
    its log that say so. `orders` and `refused_orders` count the `Load` lines taken and not taken.
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

    @property
    def unmet_pages(self) -> int:
        """Pages that the load wants and does not have."""
        return max(0, self.wanted_pages - self.held_pages)


_decoder: Final = msgspec.json.Decoder(Report)


def latest_report(serial: bytes) -> Report | None:
    """The last whole report in what a serial port wrote, or None.

    The kernel writes to the same port: whatever is not a report is passed over. A line without its end is not
    there yet. Looks at no more than the last few lines' worth of bytes.
    """
    lines = serial[-8 * LAB_REPORT_LINE_BYTES_MAX :].split(b"\n")
    for line in reversed(lines[:-1]):
        start = line.find(b'{"t":')
        if start < 0:
            continue
        try:
            return _decoder.decode(line[start:])
        except msgspec.DecodeError:  # cut in two by a line of the kernel's
            continue
    return None
