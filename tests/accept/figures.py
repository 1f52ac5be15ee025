"""The figures of one scene: a line each, with the rule that it keeps or breaks.

Every rule is a comparison of two figures from different sources, or of a figure with one that was set before;
what a scene only shows has no rule, and nothing hangs on it.
"""

import textwrap
from collections.abc import Callable
from typing import Final

from dynmem.units import PAGE_SIZE, format_size

_WHAT: Final = 62  # columns
_SEEN: Final = 14
HEADER: Final = f"  {'what':<{_WHAT}} {'seen':>{_SEEN}}         must be"


def in_bytes(size: int) -> str:
    """Return a size as people read it."""
    return format_size(size)


def in_pages(pages: int) -> str:
    """Return pages, and how much that is."""
    return f"{pages} ({format_size(pages * PAGE_SIZE)})"


class Figures:
    """The lines of one scene, shown as they come.

    Attributes:
        wrong: A sentence for each rule that was broken.
        rules: How many rules were looked at.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self.wrong: list[str] = []
        self.rules = 0

    def note(self, what: str, seen: object) -> None:
        """Show a figure."""
        self._line(what, str(seen), "", "")

    def sentence(self, text: str) -> None:
        """Show what a program said."""
        for line in textwrap.wrap(text.strip(), 110):
            self._show(f"      {line}")

    def equal(
        self, what: str, seen: object, expected: object, why: str, unit: Callable[[int], str] | None = None
    ) -> None:
        """Hold a figure to be exactly the other one; *why* names where that comes from."""
        self._hold(what, seen, f"= {_shown(expected, unit)}, {why}", seen == expected, unit)

    def at_least(
        self, what: str, seen: float, least: float, why: str, unit: Callable[[int], str] | None = None
    ) -> None:
        """Hold a figure to be as large as the other one."""
        self._hold(what, seen, f">= {_shown(least, unit)}, {why}", seen >= least, unit)

    def at_most(
        self, what: str, seen: float, most: float, why: str, unit: Callable[[int], str] | None = None
    ) -> None:
        """Hold a figure to be no larger than the other one."""
        self._hold(what, seen, f"<= {_shown(most, unit)}, {why}", seen <= most, unit)

    def true(self, what: str, seen: object, rule: str, *, holds: bool) -> None:
        """Hold what no comparison of two figures says."""
        self._hold(what, seen, rule, holds, None)

    def _hold(
        self, what: str, seen: object, rule: str, holds: bool, unit: Callable[[int], str] | None
    ) -> None:
        self.rules += 1
        shown = _shown(seen, unit)
        self._line(what, shown, rule, "ok" if holds else "WRONG")
        if not holds:
            exactly = f" (exactly {seen})" if unit else ""
            self.wrong.append(f"{what}: {shown}{exactly}, and it must be {rule}")

    def _line(self, what: str, seen: str, rule: str, verdict: str) -> None:
        line = f"  {what:<{_WHAT}} {seen:>{_SEEN}}"
        self._show(f"{line}  {verdict:<5} {rule}".rstrip())


def _shown(value: object, unit: Callable[[int], str] | None) -> str:
    if unit is not None and isinstance(value, int):
        return unit(value)
    return f"{value:.2f}" if isinstance(value, float) else str(value)
