"""Two records of one figure, made at different moments by different observers: do they contradict each other?

Neither looked at the very moment of the other, and the figure moved meanwhile. So what one of them saw has to
lie between the least and the most that the other has of the seconds around it, but for a slack.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import NamedTuple


class Point(NamedTuple):
    """A figure at a time.

    Attributes:
        at_s: When, in seconds since the epoch.
        low: The least that it was.
        high: The most.
    """

    at_s: float
    low: float
    high: float


class Against(NamedTuple):
    """A figure that one saw and that the other's record has no room for.

    Attributes:
        at_s: When.
        seen: What one saw.
        low: The least that the other has of that time; NaN: nothing.
        high: The most.
    """

    at_s: float
    seen: float
    low: float
    high: float


class Track:
    """What one observer has recorded."""

    def __init__(self, points: Iterable[Point]) -> None:
        self._points = sorted(points)
        self._times = [point.at_s for point in self._points]

    def __len__(self) -> int:
        return len(self._points)

    def around(self, at_s: float, within_s: float) -> list[Point]:
        """Return what is recorded of the seconds around a time."""
        first, end = bisect_left(self._times, at_s - within_s), bisect_right(self._times, at_s + within_s)
        return self._points[first:end]

    def against(self, seen: Iterable[tuple[float, float]], *, within_s: float, slack: float) -> list[Against]:
        """Return what was seen and contradicts this record, or has nothing there to agree with."""
        found = []
        for at_s, value in seen:
            near = self.around(at_s, within_s)
            low = min((point.low for point in near), default=float("nan"))
            high = max((point.high for point in near), default=float("nan"))
            if not low - slack <= value <= high + slack:
                found.append(Against(at_s, value, low, high))
        return found
