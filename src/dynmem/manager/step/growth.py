"""How fast one guest grows, and what it uses by now.

A guest reports once a second and may need twice its memory by then. Between two reports the host itself sees
what the guest touches for the first time, as often as it likes to look, without asking anybody. What a guest
had touched before and uses again, the host cannot see: there, the slope of its reports goes on.

What a guest is expected to need is what it uses by now and the growth of the next second. That counts as
demand, since a guest that grows and does not get it is dead before its next report.
"""

from typing import Final

import msgspec

from dynmem.units import MIB, NS_PER_S, PAGE_SIZE

# What is expected: the growth of this time, in which the next grant reaches the guest.
_EXPECTED_NS: Final = NS_PER_S
# Nobody is expected to grow by more than this many times what it has grown by: a jump is not yet a slope.
_TIMES: Final = 3
# Older points say nothing about the present.
_WINDOW_NS: Final = 3 * NS_PER_S // 2
# Points that are closer than this are one.
_SHORTEST_NS: Final = 80_000_000
# Less than this is noise: caches, daemons, the balloon's own pages.
_NOISE_PAGES: Final = 16 * MIB // PAGE_SIZE
# A slope goes on for so long without a new report.
_GOES_ON_NS: Final = NS_PER_S


class Slope(msgspec.Struct):
    """A figure that is seen now and then, and how fast it has risen from its lowest point lately. Pages.

    Attributes:
        points: What was seen and when, the oldest first.
    """

    points: list[tuple[int, int]] = msgspec.field(default_factory=list)

    def see(self, at_ns: int, pages: int) -> bool:
        """Take in a point; return whether it is a new one."""
        if self.points and at_ns - self.points[-1][0] < _SHORTEST_NS:
            return False
        self.points = [each for each in self.points if at_ns - each[0] <= _WINDOW_NS]
        self.points.append((at_ns, pages))
        return True

    def forget(self) -> None:
        """Drop what was seen."""
        self.points = []

    @property
    def rise(self) -> int:
        """How far it has risen."""
        return self._risen()[0]

    @property
    def pages_per_s(self) -> int:
        """How fast."""
        rise, passed_ns = self._risen()
        return rise * NS_PER_S // passed_ns if passed_ns else 0

    def _risen(self) -> tuple[int, int]:
        if not self.points:
            return 0, 0
        now_ns, pages = self.points[-1]
        at_ns, lowest = min(reversed(self.points), key=lambda point: point[1])
        rise = pages - lowest
        return (rise, now_ns - at_ns) if rise >= _NOISE_PAGES else (0, 0)


class Growth(msgspec.Struct):
    """What was seen of one guest. Pages, and pages per second.

    Attributes:
        used: What it uses by its reports.
        held: What the host measures that it holds.
        held_then: What it held when it made its last report; None: not known.
    """

    used: Slope = msgspec.field(default_factory=Slope)
    held: Slope = msgspec.field(default_factory=Slope)
    held_then: int | None = None

    def see(self, now_ns: int, held: int | None, report: tuple[int, int] | None) -> None:
        """Take in what it holds (None: not known) and its last report: when it was made, and what it uses."""
        if held is not None:
            self.held.see(now_ns, held)
        if report is not None and self.used.see(*report):
            self.held_then = held

    def forget(self) -> None:
        """Start again after a reset: what was seen was another guest."""
        self.used.forget()
        self.held.forget()

    @property
    def pages_per_s(self) -> int:
        """How fast it grows."""
        return max(self.used.pages_per_s, self.held.pages_per_s)

    @property
    def expected(self) -> int:
        """The growth that has to be covered before the next grant."""
        return max(
            min(slope.pages_per_s * _EXPECTED_NS // NS_PER_S, _TIMES * slope.rise)
            for slope in (self.used, self.held)
        )

    def since_report(self, now_ns: int) -> int:
        """Return what it uses more by now than it reported."""
        if not self.used.points:
            return 0
        reported_ns, _ = self.used.points[-1]
        gone_on = self.used.pages_per_s * min(now_ns - reported_ns, _GOES_ON_NS) // NS_PER_S
        touched = 0
        if self.held.points and self.held_then is not None:
            touched = self.held.points[-1][1] - self.held_then
        return max(gone_on, touched if touched >= _NOISE_PAGES else 0)
