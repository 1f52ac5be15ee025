"""What the manager remembers of one life of one VM, between two sweeps.

The books count its memory. This record keeps the target last sent, when its size was last seen to move, and
what was concluded from that.
"""

from typing import Final

import msgspec

from dynmem.manager.step.deadlines import Deadlines
from dynmem.manager.step.facts import HV_BALLOON, VmConfig, VmFacts
from dynmem.manager.step.growth import Growth
from dynmem.manager.step.safeguards import (
    ARRIVED_PAGES,
    HOT_ADD_STEP_PAGES,
    PROGRESS_PAGES,
    RETRY_LONGEST_NS,
    SETTLES_NS,
    tolerance_pages,
)
from dynmem.manager.step.thrash import Thrash
from dynmem.policy import ANY, Sizes
from dynmem.units import pages_covering, pages_of

ANY_SIZE: Final = 1 << 62


class Stopped(msgspec.Struct):
    """A guest that stopped on its way to a target.

    Attributes:
        at_pages: Its size then.
        demand_pages: Its demand then.
        retry_at_ns: When to ask again.
        pause_ns: How long that pause is.
        asked_pages: The target that it did not reach in time; it may still go there.
        is_over: Whether it may be asked again; what was concluded is kept, so that the next pause is longer.
    """

    at_pages: int
    demand_pages: int
    retry_at_ns: int
    pause_ns: int
    asked_pages: int
    is_over: bool = False

    @property
    def holds(self) -> bool:
        """Whether it is not asked beyond this."""
        return not self.is_over


class Nudge(msgspec.Struct):
    """A small target that shows whether a guest that never reports has a driver. See `nudges`.

    Attributes:
        before_pages: Its size before.
        asked_pages: What it was asked to go down to.
        asked_ns: When that was.
        answered: Whether its size moved; None: there is still time.
    """

    before_pages: int
    asked_pages: int
    asked_ns: int
    answered: bool | None = None


class Excess(msgspec.Struct):
    """The least that resident memory lay above what was assigned, over one to two windows of time.

    A shrink frees memory a little after `actual` falls; only what stays is overhead of the process, or memory
    of a guest that does not come back.

    Attributes:
        window_ns: The length of a window.
        started_ns: When the present window began; -1: no measurement yet.
        least_now: The least in this window. Pages.
        least_before: The least in the window before. Pages.
    """

    window_ns: int
    started_ns: int = -1
    least_now: int = 0
    least_before: int = 0

    def see(self, pages: int, now_ns: int) -> None:
        """Take in one measurement."""
        if self.started_ns < 0:
            self.started_ns, self.least_now = now_ns, pages
        self.least_now = min(self.least_now, pages)
        if now_ns - self.started_ns >= self.window_ns:
            self.least_before, self.least_now, self.started_ns = self.least_now, pages, now_ns

    def forget(self) -> None:
        """Start again after a reset: the measurements were those of another guest."""
        self.started_ns, self.least_now, self.least_before = -1, 0, 0

    @property
    def pages(self) -> int:
        """The excess that has stayed."""
        return min(self.least_before, self.least_now)


class Record(msgspec.Struct):
    """One life of one VM. Pages, and nanoseconds of the manager's clock.

    Attributes:
        config: What the operator configured.
        incarnation: The name of this life.
        resets: RESETs seen in it.
        restored: How often it was seen to be given the memory of another moment.
        boot_pages: What it booted with.
        excess: Resident memory above what was assigned.
        deadlines: Until when it has to carry out what it was asked.
        facts: What the last sweep found.
        began_ns: When it was found, or reset last.
        reported_after_ns: The first report that counts is younger than this.
        reported: Whether a fresh report was seen since start or RESET.
        first_report_ns: When that was.
        equal_sweeps: How many sweeps in a row found the same.
        fingerprint: What they found.
        target_pages: The target last set, or the size that was adopted; None until then.
        most_pages: The largest size that counts against others.
        credible_pages: The largest size that it could have: its maximum, the host's memory, or what is
            measured, whichever is largest.
        restored_pages: The target that a manager before this one set, or that ended with a reset; it counts
            until a size is adopted.
        is_target_over: Whether that target ended with a reset.
        actual_pages: Its size when it was last known.
        highest_pages: The largest size seen since its guest started.
        actual_changed_ns: When its size last changed.
        actual_rose: Whether it rose then.
        demand_pages: What the guest needs without a buffer, as far as its reports can be believed.
        growth: How fast it grows, and what it uses more by now than it reported.
        expected_pages: What it will need beyond its report: what it uses more by now, and its growth.
        thrash: Whether it reads back what it gave.
        regained_pages: The size that it keeps since it did; 0: none.
        mark_pages: Its size when progress was last seen.
        mark_ns: When that was.
        set_ns: When a target was last sent; -1: never.
        stopped: Where it gave no more.
        declined: Where it took no more.
        stuck: What its virtio-mem devices are not asked to unplug, since its guest could not. Bytes, by path.
        stuck_ns: When that was found.
        nudge: How it was nudged, if it was.
        has_plugged: Whether its guest has plugged memory since it started: virtio-mem has a driver.
        released_ns: When making room for its release began.
        standing: The reason last printed why it is not managed; empty if it is.
        named_above: Whether it was reported that it is above its own maximum.
    """

    config: VmConfig
    incarnation: str
    resets: int
    boot_pages: int
    excess: Excess
    deadlines: Deadlines
    facts: VmFacts
    reported_after_ns: int
    began_ns: int = 0
    restored: int = 0
    reported: bool = False
    first_report_ns: int = 0
    equal_sweeps: int = 0
    fingerprint: tuple[object, ...] = ()
    target_pages: int | None = None
    most_pages: int = 0
    credible_pages: int = ANY_SIZE
    restored_pages: int | None = None
    is_target_over: bool = False
    actual_pages: int | None = None
    highest_pages: int = 0
    actual_changed_ns: int = -1
    actual_rose: bool = False
    demand_pages: int = 0
    growth: Growth = msgspec.field(default_factory=Growth)
    expected_pages: int = 0
    thrash: Thrash = msgspec.field(default_factory=Thrash)
    regained_pages: int = 0
    mark_pages: int = 0
    mark_ns: int = 0
    set_ns: int = -1
    stopped: Stopped | None = None
    declined: Stopped | None = None
    stuck: dict[str, int] = msgspec.field(default_factory=dict)
    stuck_ns: int = 0
    nudge: Nudge | None = None
    has_plugged: bool = False
    released_ns: int | None = None
    standing: str = ""
    named_above: bool = False

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
        """The most it can have: its boot size and what can be added, within the configured maximum."""
        limit = max(self.boot_pages, pages_of(self.facts.limit_bytes or 0))
        return min(pages_of(self.config.maximum_bytes), limit)

    @property
    def sizes(self) -> Sizes:
        """The sizes it can have: any by its balloon, larger ones in the steps in which memory is added."""
        if self.facts.may_plug:
            block = pages_of(max(each.block_bytes for each in self.facts.virtio_mems))
            return Sizes(self.boot_pages, block) if block > ARRIVED_PAGES else ANY
        if pages_of(self.facts.limit_bytes or 0) <= self.boot_pages:
            return ANY
        added = self.boot_pages + pages_of(self.facts.added_bytes or 0)
        return Sizes(max(added, self.highest_pages), HOT_ADD_STEP_PAGES)

    @property
    def released_pages(self) -> int:
        """What it is due when it is released: its boot size, or its maximum if it can grow beyond that."""
        full = max(self.boot_pages, self.sizes.down(self.maximum_pages), self.target_pages or 0)
        return min(full, self.credible_pages)

    @property
    def reported_pages(self) -> int:
        """The size that its monitor reports, believed or not."""
        return max(pages_of(self.facts.actual_bytes or 0), self.actual_pages or 0)

    @property
    def boasted_pages(self) -> int:
        """What its monitor reports beyond what this host could give it; 0 if it does not."""
        reported = max(self.reported_pages, pages_of(self.facts.boot_bytes or 0))
        return reported if reported > self.credible_pages else 0

    @property
    def floor_pages(self) -> int:
        """The least it may have: the operator's minimum or the guest's own floor."""
        demand = self.facts.demand
        floor = max(self.config.minimum_bytes, demand.floor_bytes if demand else 0)
        if self.facts.may_plug and not self.facts.may_balloon:
            floor = max(floor, self.facts.balloon_bytes)  # only what is plugged can be taken
        return min(pages_covering(floor), self.maximum_pages)

    @property
    def assigned_pages(self) -> int:
        """The larger of what it has and what it may take."""
        takes = (self.actual_pages or 0) + self.offered_pages
        return max(takes, self.target_pages or 0, self.restored_pages or 0)

    @property
    def is_untried(self) -> bool:
        """Whether it has virtio-mem, and nothing has shown yet that its guest has a driver for that."""
        return self.facts.may_plug and not self.has_plugged

    @property
    def offered_pages(self) -> int:
        """What virtio-mem lets its guest plug beyond its size, by whoever's request."""
        return min(pages_of(self.facts.offered_bytes), self.credible_pages)

    @property
    def guest_pages(self) -> int | None:
        """What the host measured that the guest holds, rounded up."""
        held = self.facts.guest_bytes
        return None if held is None else pages_covering(held)

    @property
    def above_pages(self) -> int:
        """What it holds above its own maximum, beyond what a process holds besides its guest."""
        maximum = pages_of(self.config.maximum_bytes)
        return max(0, (self.guest_pages or 0) - maximum - tolerance_pages(maximum))

    def believe(self, memory_pages: int | None) -> None:
        """Decide how large it may say that it is, from what the operator and the host know.

        Against others, a monitor's own word counts up to the configured maximum and the memory of the host
        (None: any word counts). Beyond that, what the host measures counts: a VM may well have booted with
        more. It is that VM's own affair up to the memory of the host, and no further: no target is larger.
        """
        if memory_pages is None:
            self.most_pages = self.credible_pages = ANY_SIZE
            return
        maximum, guest = pages_of(self.config.maximum_bytes), self.guest_pages or 0
        self.most_pages = max(1, min(maximum, memory_pages), guest)
        self.credible_pages = max(1, maximum, memory_pages, guest)
        if self.restored_pages is not None:
            self.restored_pages = min(self.restored_pages, self.credible_pages)

    def see_boot(self) -> None:
        """Take in what it booted with, as far as that is believed."""
        boot = self.facts.boot_bytes
        self.boot_pages = min(pages_of(boot) if boot else self.boot_pages, self.credible_pages)

    @property
    def excess_pages(self) -> int:
        """Resident guest memory above what is assigned, now."""
        return max(0, (self.guest_pages or 0) - self.assigned_pages)

    @property
    def arrived(self) -> bool:
        """Whether it has its target, but for a few pages."""
        return abs((self.actual_pages or 0) - (self.target_pages or 0)) <= ARRIVED_PAGES

    @property
    def _beyond_target_pages(self) -> int:
        """What it has more than its target, as far as its size is believed."""
        if self.target_pages is None:
            return 0
        return max(0, min(self.actual_pages or 0, self.most_pages) - self.target_pages)

    @property
    def owed_pages(self) -> int:
        """What it was asked to give and has not given; 0 if it has arrived."""
        return 0 if self.arrived else self._beyond_target_pages

    @property
    def returning_pages(self) -> int:
        """What its guest was offered and has not taken; 0 if it has arrived."""
        return (
            0 if self.arrived or not self.adopted else max(0, (self.target_pages or 0) - self.reported_pages)
        )

    @property
    def left_over_pages(self) -> int:
        """The few pages that it keeps beyond its target although it has arrived."""
        return self._beyond_target_pages if self.arrived else 0

    def late_pages(self, now_ns: int) -> int:
        """Return what it owes and should have given by now; 0 if it is in time."""
        return self.owed_pages if self.deadlines.passed(now_ns) else 0

    @property
    def settled_ns(self) -> int:
        """When the first request is with the guest at the latest; 0 where none is kept, or once it has moved.

        A driver reports only when its device has begun to wait.
        """
        if self.facts.device != HV_BALLOON or self.actual_changed_ns > self.first_report_ns:
            return 0
        return self.first_report_ns + SETTLES_NS

    def report_ns(self, now_ns: int) -> int | None:
        """Return when the guest's last report was made; None: it has made none."""
        demand = self.facts.demand
        return None if demand is None else now_ns - demand.age_ns

    def see_actual(self, now_ns: int) -> None:
        """Take in the size that the VMM reports, and note whether it moved."""
        if self.facts.actual_bytes is None:
            return
        actual = min(pages_of(self.facts.actual_bytes), self.credible_pages)
        if self.facts.is_actual_former:
            actual = max(actual, self.boot_pages + pages_of(self.facts.plugged_bytes))
        if self.actual_pages is not None and actual != self.actual_pages:
            self.actual_changed_ns = now_ns
            self.actual_rose = actual > self.actual_pages
        self.actual_pages = actual
        self.has_plugged |= self.facts.plugged_bytes > 0
        self._see_stuck(now_ns)
        self.highest_pages = max(self.highest_pages, actual)

    def _see_stuck(self, now_ns: int) -> None:
        """Forget what could not be unplugged once some of it was, or after long."""
        if now_ns - self.stuck_ns >= RETRY_LONGEST_NS:
            self.stuck = {}
        elif self.stuck:
            sizes = {each.path: each.size_bytes for each in self.facts.virtio_mems}
            self.stuck = {path: size for path, size in self.stuck.items() if sizes.get(path, 0) >= size}

    def report_is_older_than_size(self, now_ns: int) -> bool:
        """Return whether the guest's report was made before its size last changed."""
        reported = self.report_ns(now_ns)
        return reported is not None and reported < self.actual_changed_ns

    def see_demand(self, now_ns: int, *, believe_all: bool) -> None:
        """Take in the guest's report.

        What a guest commits includes what is ballooned, so a report from before a change of size is off by
        that change: after growth the guest seems to need that much more, after a shrink that much less.
        Neither is believed.
        """
        if self.facts.demand is None:
            return
        said = pages_of(self.facts.demand.committed_bytes)
        if believe_all or not self.report_is_older_than_size(now_ns):
            self.demand_pages = said
        elif not self.actual_rose:
            self.demand_pages = max(self.demand_pages, said)

    def see_growth(self, now_ns: int, *, expects: bool) -> None:
        """Take in how fast it grows; what the VM cannot hold is not expected of it."""
        made_ns = self.report_ns(now_ns)
        report = None if made_ns is None else (made_ns, self.demand_pages)
        self.growth.see(now_ns, self.guest_pages, None if self.report_is_older_than_size(now_ns) else report)
        more = min(self.growth.since_report(now_ns), max(0, (self.actual_pages or 0) - self.demand_pages))
        self.expected_pages = more + self.growth.expected if expects else 0

    def see_faults(self, now_ns: int, *, minds: bool) -> None:
        """Take in how many pages it has read back."""
        demand, made_ns = self.facts.demand, self.report_ns(now_ns)
        if demand is not None and made_ns is not None and minds:
            self.thrash.see(made_ns, demand.faults, now_ns)
        self.regained_pages = self.thrash.needed(now_ns)

    @property
    def needed_pages(self) -> int:
        """What it needs: what it reported, uses more by now and is about to use, or what it got back."""
        return max(self.demand_pages + self.expected_pages, self.regained_pages)

    @property
    def at_hand_pages(self) -> int:
        """What its guest should have at hand beyond that; 0 where its driver keeps a reserve itself."""
        demand = self.facts.demand
        return pages_of(demand.reserve_bytes) if demand is not None else 0

    def see_progress(self, now_ns: int) -> None:
        """Note progress from `actual` to the target; having reached it counts as progress."""
        actual, target = self.actual_pages, self.target_pages
        if actual is None or target is None:
            self.restart(now_ns)
            return
        self.deadlines.see(actual, target, now_ns)
        if self.arrived:
            self.restart_clock(now_ns)
            return
        came_closer = abs(self.mark_pages - target) - abs(actual - target)
        if came_closer >= PROGRESS_PAGES:
            self.restart_clock(now_ns)

    def restart_clock(self, now_ns: int) -> None:
        """Begin to wait for progress."""
        self.mark_pages = self.actual_pages or 0
        self.mark_ns = now_ns

    def restart(self, now_ns: int) -> None:
        """Begin to wait for progress, with new deadlines: until now it could make none."""
        self.deadlines.forget()
        self.restart_clock(now_ns)

    def adopt_again(self) -> None:
        """Require two equal sweeps before the next write; until then the last target still counts."""
        if self.target_pages is not None:
            self.restored_pages, self.target_pages = self.target_pages, None
        self.equal_sweeps = 0

    def start_again(self, resets: int, now_ns: int) -> None:
        """Forget what was known of the guest before its reset."""
        self.resets = resets
        self.began_ns = now_ns
        self._forget_guest(now_ns)
        if self.facts.device == HV_BALLOON:  # virtio-balloon keeps its target
            self.adopt_again()
            self.is_target_over = True

    def await_guest(self, now_ns: int) -> None:
        """Take in that another guest will run than the one that has reported, with another target."""
        self._forget_guest(now_ns)
        self.adopt_again()
        self.is_target_over = True

    def _forget_guest(self, now_ns: int) -> None:
        self.reported = False
        self.reported_after_ns = now_ns
        self.stopped = self.declined = None
        self.stuck, self.nudge, self.has_plugged = {}, None, False
        self.highest_pages = self.demand_pages = self.expected_pages = 0
        self.growth.forget()
        self.thrash, self.regained_pages = Thrash(), 0
        self.excess.forget()
        self.restart(now_ns)
        if self.facts.virtio_mems:  # a reset unplugs all that these have
            self.mark_pages = self.boot_pages

    def take_back(self, pages: int | None) -> None:
        """Return to the target before the last one, which was not sent."""
        self.target_pages = pages
        self.deadlines.forget()

    def retarget(self, pages: int, now_ns: int) -> None:
        """Record a target that is about to be sent."""
        if pages < (self.target_pages or 0):
            self.thrash.shrunk(self.actual_pages or 0, now_ns)
        self.target_pages = pages
        self.set_ns = now_ns
        self.deadlines.order(self.actual_pages or 0, pages, now_ns)
        self.restart_clock(now_ns)
