"""What a benchmark yields: figures, some of them with a bound that ``make bench-check`` holds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One measured number, and the bound that it must keep (None: only printed).

    Bounds are of sizes, and of what the same run measured beside it. A time or a rate alone says as much
    about the machine: what was promised of it is shown, and not held.
    """

    name: str
    value: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    promised: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the bound is kept."""
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )

    def line(self) -> str:
        """The figure as a line of the report."""
        bound = ""
        if self.at_least is not None:
            bound = f"  (at least {self.at_least:g})"
        if self.at_most is not None:
            bound += f"  (at most {self.at_most:g})"
        if self.promised is not None:
            bound += f"  (promised: {self.promised:g})"
        verdict = "" if self.holds else "  MISSED"
        return f"  {self.name:<58} {self.value:>12.4g} {self.unit}{bound}{verdict}"


Benchmark = Callable[[], Iterator[Figure]]
