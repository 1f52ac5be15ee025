"""How often QEMU asks a guest with virtio-balloon for its statistics, and what the manager does about that.

Whoever started the VM, or a tool that watches it, may have set an interval of its own. The manager looks at
it now and then, and whenever a report is late. In enforce mode, and with `statistics = true` in any, it sets
an interval as short as its period, a few times: where another program insists on its own, that one stays.
What was found is put back when the VM is released.

    found                        observe, advise enforce, or statistics = true
    as short as the period       used            used
    a few periods                used            set
    longer: too slow to shrink   used, and said  set
    off                          said            set

Between two of its own times a guest can be asked at once (`ask_now`), where the interval is what the manager
would set.
"""

from typing import Final

from dynmem.manager.sweep.demand import Device, statistics_interval
from dynmem.manager.sweep.monitor import SELDOM, STATISTICS_INTERVAL, Monitor
from dynmem.qmp.errors import QmpCommandError
from dynmem.units import NS_PER_S

# Not even the interval is set before a VM has been looked at this many times.
LOOKS_BEFORE_WRITING: Final = 2
# A report that is this many intervals old is late.
_LATE_INTERVALS: Final = 2
# How often it is set. Then another program wants another one.
_SETS_MAX: Final = 3
# Between two questions at once.
ASK_EVERY_NS: Final = NS_PER_S // 10
# A guest that is asked less often than this many periods cannot be followed.
_SLOW_PERIODS: Final = 3


class Statistics:
    """The statistics interval of one balloon device."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._period_s = 1.0
        self._now_s = 0
        self._awaited_s = 0
        self._found_s: int | None = None
        self._set_s = 0
        self._sets = 0
        self._next = 0
        self._looks = 0
        self._cut_short_s = 0
        self._asked_ns: int | None = None
        self.problem: str | None = None

    @property
    def _wanted_s(self) -> int:
        """The interval that the manager sets: as short as its period."""
        return max(1, round(self._period_s))

    @property
    def interval_ns(self) -> int:
        """How long a report may take to come: of the present interval and the one before, the longer."""
        return max(self._now_s, self._awaited_s) * NS_PER_S

    def reported(self) -> None:
        """Take in that a report has come: by now the present interval holds."""
        self._awaited_s = 0

    def is_late(self, age_ns: int) -> bool:
        """Return whether the next report should have come, so that the interval may be another one now."""
        return age_ns > _LATE_INTERVALS * max(self._now_s, self._wanted_s) * NS_PER_S

    async def look(
        self, monitor: Monitor, number: int, *, period_s: float, late: bool, released: bool
    ) -> None:
        """Check the interval at look *number*, if it is time to or a report is *late*; set it if need be."""
        self._period_s, self._looks = period_s, number
        await self._finish(monitor)
        if released:
            await self._put_back(monitor)
            return
        if number < self._next and not late:
            return
        self._next = max(number + SELDOM, LOOKS_BEFORE_WRITING + 1)
        now_s = await statistics_interval(monitor, self._device)
        self._awaited_s = max(self._awaited_s, self._now_s) if now_s != self._now_s else self._awaited_s
        self._now_s = now_s
        self.problem = None
        if 0 < now_s <= self._wanted_s:
            return
        if not monitor.may_ask:
            self.problem = self._why(
                "only enforce mode changes that", 'or use mode = "enforce", or statistics = true'
            )
        elif number <= LOOKS_BEFORE_WRITING:
            self._next = LOOKS_BEFORE_WRITING + 1
            self.problem = None if now_s else "its guest statistics are being turned on"
        elif self._sets == _SETS_MAX:
            self.problem = self._why("another program sets it so again and again", "there")
        else:
            await self._set(monitor, now_s)

    def check_again(self) -> None:
        """Check the interval at the next look, whenever that comes: nothing may be set until then."""
        self.problem, self._next = None, 0

    async def ask_now(self, monitor: Monitor, now_ns: int) -> bool:
        """Have the guest asked at once where that changes nobody's setting; return whether it is asked.

        A VM that is released is not to be asked. Raises as QmpClient.execute. What was not finished is
        finished at the next look.
        """
        may_write = monitor.may_write and self._looks > LOOKS_BEFORE_WRITING
        is_early = self._asked_ns is not None and now_ns - self._asked_ns < ASK_EVERY_NS
        if not may_write or is_early or self._cut_short_s or self._now_s != self._wanted_s:
            return False
        self._asked_ns = now_ns
        if await statistics_interval(monitor, self._device) != self._wanted_s:
            self._next = 0  # another program has set another one
            return False
        self._cut_short_s = self._wanted_s
        await monitor.ask_for_statistics(self._device.path, self._wanted_s)
        self._cut_short_s = 0
        return True

    async def _finish(self, monitor: Monitor) -> None:
        """Turn the statistics on again if a question at once was cut short and left them off."""
        if not self._cut_short_s or not monitor.may_ask:
            return
        if await statistics_interval(monitor, self._device) == 0:
            await monitor.set_statistics_interval(self._device.path, self._cut_short_s)
        self._cut_short_s = 0

    async def _set(self, monitor: Monitor, found_s: int) -> None:
        if found_s != self._set_s or self._found_s is None:  # not the manager's own, of another period
            self._found_s = found_s
        self._set_s = self._wanted_s
        self._sets += 1
        try:
            await monitor.set_statistics_interval(self._device.path, self._wanted_s)
        except QmpCommandError as error:
            self.problem = self._why(f"its monitor rejects another interval ({error.desc})", "")
        else:
            self._now_s, self._awaited_s = self._wanted_s, max(self._awaited_s, found_s)

    async def _put_back(self, monitor: Monitor) -> None:
        """Set what was found before the manager set it, unless another program has set another one since."""
        self.problem, self._next, self._sets = None, 0, 0
        if self._found_s is None or not monitor.may_ask:
            return
        found_s, self._found_s = self._found_s, None
        if await statistics_interval(monitor, self._device) != self._set_s:
            return
        await monitor.set_statistics_interval(self._device.path, found_s)
        self._awaited_s, self._now_s = self._now_s, found_s

    def _why(self, obstacle: str, otherwise: str) -> str | None:
        """Return what is wrong with the interval and what to do; None if the manager can live with it."""
        remedy = f"set {STATISTICS_INTERVAL} of {self._device.path} to {self._wanted_s}"
        remedy = f"{remedy}, {otherwise}" if otherwise else remedy
        if not self._now_s:
            return f"its guest statistics are off, and {obstacle}: {remedy}"
        if self._now_s <= _SLOW_PERIODS * max(1.0, self._period_s):
            return None
        return (
            f"its guest statistics come every {self._now_s} s, too slowly to follow its growth, and"
            f" {obstacle}: {remedy}"
        )
