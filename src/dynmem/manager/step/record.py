"""What the manager remembers of one life of one VM, between two sweeps.

No counters of memory: those are the books'. Here stand the target last sent, when things were last seen to
move, and what was concluded from it.
"""

import msgspec

from dynmem.manager.step.facts import VmConfig, VmFacts
from dynmem.manager.step.safeguards import HOT_ADD_STEP_PAGES, PROGRESS_PAGES
from dynmem.policy import ANY, Sizes
from dynmem.units import pages_covering, pages_of


class Stopped(msgspec.Struct):
    """A guest that stopped on its way to a target: where, with which demand, and when to ask again."""

    at_pages: int
    demand_pages: int
    retry_at_ns: int
    pause_ns: int


class Excess(msgspec.Struct):
    """The least that resident memory lay above what was assigned, over one to two windows of time.

    A shrink frees memory a little after `actual` falls; only what stays is overhead of the process, or a
    guest whose memory does not come back.
    """

    window_ns: int
    started_ns: int = -1
    least_now: int = 0
    least_before: int = 0

    def see(self, pages: int, now_ns: int) -> None:
        """Take one measurement."""
        if self.started_ns < 0:
            self.started_ns, self.least_now = now_ns, pages
        self.least_now = min(self.least_now, pages)
        if now_ns - self.started_ns >= self.window_ns:
            self.least_before, self.least_now, self.started_ns = self.least_now, pages, now_ns

    def forget(self) -> None:
        """Start anew: what was assigned has changed hands."""
        self.started_ns, self.least_now, self.least_before = -1, 0, 0

    @property
    def pages(self) -> int:
        """What has stayed."""
        return min(self.least_before, self.least_now)


class Record(msgspec.Struct):
    """One life of one VM. Pages and nanoseconds of the manager's clock."""

    config: VmConfig
    incarnation: str
    resets: int
    boot_pages: int
    excess: Excess
    facts: VmFacts
    reported_after_ns: int  # the first report that counts is younger than this
    reported: bool = False  # a fresh report has been seen since start or RESET
    equal_sweeps: int = 0
    fingerprint: tuple[object, ...] = ()
    target_pages: int | None = None  # what was last set, or adopted; None until adopted
    restored_pages: int | None = None  # what a manager before this one had set, until adopted
    actual_pages: int | None = None  # last known
    highest_pages: int = 0  # the most it has had since its guest started, as far as seen
    actual_changed_ns: int = -1
    actual_rose: bool = False  # which way it changed
    demand_pages: int = 0  # what the guest needs without a buffer, as far as it can be believed
    mark_pages: int = 0  # actual when progress was last seen
    mark_ns: int = 0
    set_ns: int = -1  # when a target was last sent
    stopped: Stopped | None = None  # it does not go lower
    declined: Stopped | None = None  # it does not take more
    released_ns: int | None = None  # when making room for its release began
    standing: str = ""

    @property
    def name(self) -> str:
        """The VM's name."""
        return self.config.name

    @property
    def adopted(self) -> bool:
        """Whether its size is known well enough to be changed."""
        return self.target_pages is not None

    @property
    def maximum_pages(self) -> int:
        """The most it can have: what it booted with, or what can be added to that, where something can."""
        limit = max(self.boot_pages, pages_of(self.facts.limit_bytes or 0))
        return min(pages_of(self.config.maximum_bytes), limit)

    @property
    def sizes(self) -> Sizes:
        """Which sizes it can have: any by its balloon, larger ones as memory is added, in steps."""
        if pages_of(self.facts.limit_bytes or 0) <= self.boot_pages:
            return ANY
        added = self.boot_pages + pages_of(self.facts.added_bytes or 0)
        return Sizes(max(added, self.highest_pages), HOT_ADD_STEP_PAGES)

    @property
    def released_pages(self) -> int:
        """What it is due when it is left alone: its boot size, or its maximum where it can grow beyond."""
        return max(self.boot_pages, self.sizes.down(self.maximum_pages), self.target_pages or 0)

    @property
    def floor_pages(self) -> int:
        """The least it may have: the operator's minimum or the guest's own floor."""
        demand = self.facts.demand
        floor = max(self.config.minimum_bytes, demand.floor_bytes if demand else 0)
        return min(pages_covering(floor), self.maximum_pages)

    @property
    def assigned_pages(self) -> int:
        """The larger of what it has and what it may take."""
        return max(self.actual_pages or 0, self.target_pages or 0, self.restored_pages or 0)

    @property
    def resident_pages(self) -> int | None:
        """What the host measured, rounded up."""
        resident = self.facts.resident_bytes
        return None if resident is None else pages_covering(resident)

    @property
    def known_overhead_pages(self) -> int:
        """What the measurement is known to count besides guest memory."""
        return pages_of(self.facts.resident_overhead_bytes)

    @property
    def excess_pages(self) -> int:
        """Resident memory above what is assigned, now."""
        return max(0, (self.resident_pages or 0) - self.assigned_pages)

    def report_ns(self, now_ns: int) -> int | None:
        """When the guest's last report was made, or None."""
        demand = self.facts.demand
        return None if demand is None else now_ns - demand.age_ns

    def see_actual(self, now_ns: int) -> None:
        """Note the size the VMM reports, and whether it moved."""
        if self.facts.actual_bytes is None:
            return
        actual = pages_of(self.facts.actual_bytes)
        if self.actual_pages is not None and actual != self.actual_pages:
            self.actual_changed_ns = now_ns
            self.actual_rose = actual > self.actual_pages
        self.actual_pages = actual
        self.highest_pages = max(self.highest_pages, actual)

    def report_is_older_than_size(self, now_ns: int) -> bool:
        """Whether the guest reported before its size last changed."""
        reported = self.report_ns(now_ns)
        return reported is not None and reported < self.actual_changed_ns

    def see_demand(self, now_ns: int, *, believe_all: bool) -> None:
        """Take in the guest's word.

        What a guest commits includes what is ballooned, so a report from before a change of size is off by
        that change: after growth it seems to need that much more, after a shrink that much less. Neither is
        believed.
        """
        if self.facts.demand is None:
            return
        said = pages_of(self.facts.demand.committed_bytes)
        if believe_all or not self.report_is_older_than_size(now_ns):
            self.demand_pages = said
        elif not self.actual_rose:
            self.demand_pages = max(self.demand_pages, said)

    def see_progress(self, now_ns: int) -> None:
        """Note progress from `actual` to the target; being there is as good."""
        actual, target = self.actual_pages, self.target_pages
        if actual is None or target is None or actual == target:
            self.restart_clock(now_ns)
            return
        came_closer = abs(self.mark_pages - target) - abs(actual - target)
        if came_closer >= PROGRESS_PAGES:
            self.restart_clock(now_ns)

    def restart_clock(self, now_ns: int) -> None:
        """The wait for progress begins now."""
        self.mark_pages = self.actual_pages or 0
        self.mark_ns = now_ns

    def adopt_again(self) -> None:
        """Look twice before the next write; the target that is out there goes on counting."""
        if self.target_pages is not None:
            self.restored_pages, self.target_pages = self.target_pages, None
        self.equal_sweeps = 0

    def start_again(self, resets: int, now_ns: int) -> None:
        """Forget what was known of the guest before its reset."""
        self.resets = resets
        self.reported = False
        self.reported_after_ns = now_ns
        self.stopped = self.declined = None
        self.highest_pages = 0
        self.excess.forget()
        self.restart_clock(now_ns)

    def retarget(self, pages: int, now_ns: int) -> None:
        """Record a target that is about to be sent."""
        self.target_pages = pages
        self.set_ns = now_ns
        self.restart_clock(now_ns)
