"""How often libvirt has a guest asked for its statistics, and what the manager does about that.

As with a monitor (`sweep.statistics`): whatever is as short as the manager's period is used; in enforce mode
a longer one, or none, is set, a few times at most; what was found is put back when the VM is released.
Whether another program has changed it shows in the domain's definition, which is read now and then.
"""

from typing import Final

from dynmem.domains.definition import Definition
from dynmem.units import NS_PER_S

# Not even the period is set before a VM has been looked at this many times.
_LOOKS_BEFORE_WRITING: Final = 2
# How often it is set. Then another program wants another one.
_SETS_MAX: Final = 3
# A guest that is asked less often than this many periods cannot be followed.
_SLOW_PERIODS: Final = 3


class StatisticsPeriod:
    """The statistics period of one domain; *name* is what `virsh` is to call it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._definition: Definition | None = None
        self._now_s = 0
        self._awaited_s = 0
        self._found_s: int | None = None
        self._set_s = 0
        self._sets = 0
        self.problem: str | None = None

    @property
    def interval_ns(self) -> int:
        """How long a report may take to come: of the present period and the one before, the longer."""
        return max(self._now_s, self._awaited_s) * NS_PER_S

    def reported(self) -> None:
        """Take in that a report has come: by now the present period holds."""
        self._awaited_s = 0

    def saw(self, definition: Definition) -> None:
        """Take in what the definition says; one that was read before says nothing new."""
        if definition is not self._definition:
            self._definition = definition
            self._change(definition.period_s)

    def wish(self, looks: int, *, period_s: float, may_ask: bool, released: bool) -> int | None:
        """Return what is to be set now, in seconds; None: nothing. `was_set` takes in that it was."""
        wanted_s = max(1, round(period_s))
        self.problem = None
        if released:
            self._sets = 0
            is_mine = self._found_s is not None and self._now_s == self._set_s
            return self._found_s if is_mine and may_ask else None
        if 0 < self._now_s <= wanted_s:
            return None
        if not may_ask:
            self._complain(
                period_s,
                wanted_s,
                "only enforce mode changes that",
                ', or use mode = "enforce", or statistics = true',
            )
        elif self._sets == _SETS_MAX:
            self._complain(period_s, wanted_s, "another program sets it so again and again", " there")
        elif looks > _LOOKS_BEFORE_WRITING:
            return wanted_s
        return None

    def was_set(self, seconds: int) -> None:
        """Take in that the manager has set it."""
        if seconds == self._found_s:
            self._found_s = None
        else:
            if self._found_s is None or self._now_s != self._set_s:
                self._found_s = self._now_s
            self._set_s = seconds
            self._sets += 1
        self._change(seconds)

    def _change(self, seconds: int) -> None:
        if seconds != self._now_s:
            self._awaited_s, self._now_s = max(self._awaited_s, self._now_s), seconds

    def _complain(self, period_s: float, wanted_s: int, obstacle: str, otherwise: str) -> None:
        """Record what is wrong with the period and what to do, unless the manager can live with it."""
        remedy = f"run virsh dommemstat {self._name} --period {wanted_s} --live{otherwise}"
        if not self._now_s:
            self.problem = f"its guest statistics are off, and {obstacle}: {remedy}"
        elif self._now_s > _SLOW_PERIODS * max(1.0, period_s):
            self.problem = (
                f"its guest statistics come every {self._now_s} s, too slowly to follow its growth, and"
                f" {obstacle}: {remedy}"
            )
