"""A guest and its VM process, physically: memory is touched as it is used, given slowly, freed late.

Sizes are pages of 4 KiB, time is ticks of TICK_NS. `touched` is what this guest holds of the host; `size` is
what the balloon leaves it (`actual`); `used` is what its programs hold. The balloon takes only what is free
in the guest.
"""

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Final

import msgspec

from dynmem.manager.step.facts import Demand, VmConfig, VmFacts
from dynmem.units import MIB, NS_PER_S, PAGE_SIZE

TICK_NS: Final = 100_000_000
TICKS_PER_S: Final = NS_PER_S // TICK_NS
MIB_PAGES: Final = MIB // PAGE_SIZE
# A guest reports once a second.
REPORT_TICKS: Final = TICKS_PER_S
KERNEL_PAGES: Final = 24 * MIB_PAGES
# With less free, a guest that is pressed further begins to kill.
WATERMARK_PAGES: Final = 4 * MIB_PAGES
TAKE_PER_TICK: Final = 400 * MIB_PAGES
TRICKLE_TICKS: Final = 24
BOAST_BYTES: Final = 1 << 59

Curve = Callable[[int], int]


class Character(msgspec.Struct, frozen=True):
    """What kind of guest this is.

    Attributes:
        name: Its name in the log.
        give_per_tick: Pages that its balloon takes in a tick.
        own_floor_percent: The part of its boot size below which it does not go.
        settles_ticks: The time from its start, or a reset, until its balloon moves.
        gives_whole: Whether it gives nothing when it cannot give all that is requested.
        touches_all: Whether it touches all of its memory when it starts.
        trickles: Whether its balloon takes next to nothing: as little as counts as progress at all.
        dozes: Whether its driver does nothing for some seconds now and then.
        lag_ticks: The time until given memory is free on the host.
        keeps: Whether given memory is never freed on the host.
        boasts: Whether its monitor says that it is larger than any host.
        first_report_ticks: The time from its start, or a reset, until it reports.
        report_percent: The part of its true use that it reports.
        grow_per_tick: Pages by which its programs grow in a tick.
        answers: Whether it reports when it is asked to, and not only once a second.
        greedy: Whether its programs take what they want, until its kernel kills them.
        reserve_pages: What its manager adds, since its driver keeps no reserve.
        silent: Whether its monitor does not reply now and then.
        pauses: Whether it is paused now and then.
        dies: Whether its process ends now and then.
        resets: Whether it resets itself now and then.
    """

    name: str
    give_per_tick: int = 100 * MIB_PAGES
    trickles: bool = False
    dozes: bool = False
    own_floor_percent: int = 0
    settles_ticks: int = 0
    gives_whole: bool = False
    touches_all: bool = False
    lag_ticks: int = 2
    keeps: bool = False
    boasts: bool = False
    first_report_ticks: int = 0
    report_percent: int = 100
    grow_per_tick: int = 2 * MIB_PAGES
    answers: bool = False
    greedy: bool = False
    reserve_pages: int = 0
    silent: bool = False
    pauses: bool = False
    dies: bool = False
    resets: bool = False


class Guest:
    """One VM that runs; *curve* returns how many pages its programs want at a tick."""

    def __init__(
        self, config: VmConfig, character: Character, curve: Curve, incarnation: str, random: Random
    ) -> None:
        self.config = config
        self.character = character
        self.incarnation = incarnation
        self.boot: int = config.maximum_bytes // PAGE_SIZE
        self.size: int = self.boot
        self.target: int = self.boot
        self.used: int = 0
        self.touched: int = self.boot if character.touches_all else KERNEL_PAGES
        self.resets: int = 0
        self.run_state = "running"
        self.dozing = False
        self.pressed: int = 0
        self.kills: int = 0
        self._up: int = 0
        self._curve = curve
        self._phase = random.randrange(REPORT_TICKS)
        self._freeing: deque[tuple[int, int]] = deque()
        self._report: tuple[int, int, int] | None = None
        self._wanted = 0
        self._asked = False
        self.is_busy: bool = False

    @property
    def free(self) -> int:
        """Pages that nothing in the guest uses."""
        return self.size - KERNEL_PAGES - self.used

    @property
    def wanted(self) -> int:
        """What its programs wanted to hold at the last tick."""
        return self._wanted

    def tick(self, now: int) -> None:
        """Let one tick pass; nothing moves while it is paused, but given memory still becomes free."""
        self._free_late(now)
        if self.run_state == "paused":
            return
        self._balloon(now)
        self._work(now)
        self._up += 1
        if self._up > self.character.first_report_ticks and (
            self._asked or (now + self._phase) % REPORT_TICKS == 0
        ):
            self.report(now)
        self._asked = False

    def report(self, now: int) -> None:
        """Make a report of what it needs at this moment."""
        demand = (self.used + KERNEL_PAGES) * self.character.report_percent // 100
        # Programs commit memory that is not there, as Linux counts it; greedy ones just use it.
        wanted = self.used if self.character.greedy else self._wanted
        asked = max(demand, (wanted + KERNEL_PAGES) * self.character.report_percent // 100)
        # Like num_committed of the protocol, this includes what is in the balloon.
        self._report = (now, asked + self.boot - self.size, max(0, self.free))

    def ask(self) -> None:
        """Ask it for a report: it comes with the next tick."""
        self._asked = self.character.answers

    def reset(self) -> None:
        """Restart the guest at its boot size, without a target; what it touched is still lost to the host."""
        self.size = self.target = self.boot
        self.used = self._up = 0
        self.resets += 1
        self._report = None

    def facts(self, now: int, *, silent: bool) -> VmFacts:
        """Return what a sweep reads from this VM."""
        boast = BOAST_BYTES if self.character.boasts else 0
        return VmFacts(
            name=self.config.name,
            incarnation=self.incarnation,
            run_state="silent" if silent else self.run_state,
            device="hv-balloon",
            boot_bytes=self.boot * PAGE_SIZE + boast,
            actual_bytes=None if silent else self.size * PAGE_SIZE + boast,
            resident_bytes=self.resident * PAGE_SIZE,
            resident_source="st_blocks",
            demand=None if silent else self._demand(now),
            resets=self.resets,
        )

    @property
    def is_freeing(self) -> bool:
        """Whether the host is about to free something that it gave."""
        return bool(self._freeing)

    def hand_back(self, now: int, keep: int) -> None:
        """Hand back what it has touched beyond so much, as a guest that reports its free pages does."""
        if self.touched > keep:
            self._freeing.append((now + self.character.lag_ticks, self.touched - keep))
            self.touched = keep

    @property
    def resident(self) -> int:
        """Pages of the host that this VM holds."""
        return self.touched + sum(pages for _, pages in self._freeing)

    def _demand(self, now: int) -> Demand | None:
        if self._report is None:
            return None
        at, committed, available = self._report
        demand = max(0, committed - (self.boot - self.size))
        return Demand(
            demand * PAGE_SIZE,
            available * PAGE_SIZE,
            "committed",
            (now - at) * TICK_NS,
            reserve_bytes=self.character.reserve_pages * PAGE_SIZE,
        )

    def _balloon(self, now: int) -> None:
        """Move towards the target: give pages, or take them."""
        if self.dozing or (self.character.trickles and now % TRICKLE_TICKS):
            return
        if self._up < self.character.settles_ticks:
            return
        if self.size > self.target:
            floor = self.boot * self.character.own_floor_percent // 100
            room = min(self.free, self.size - floor, self.size - self.target)
            if self.character.gives_whole and room < self.size - self.target:
                return
            given = max(0, min(room, MIB_PAGES if self.character.trickles else self.character.give_per_tick))
            self.size -= given
            self.pressed += given > 0 and self.free < WATERMARK_PAGES
            if not self.character.keeps and self.touched > self.size:
                self._freeing.append((now + self.character.lag_ticks, self.touched - self.size))
                self.touched = self.size
        elif self.size < self.target:
            taken = min(self.target - self.size, TAKE_PER_TICK)
            self.size += taken
            self._keep_unfreed(taken)

    def _keep_unfreed(self, pages: int) -> None:
        """Return pages to the guest first that the host was about to free: they are still touched."""
        while pages and self._freeing:
            at, waiting = self._freeing.pop()
            back = min(pages, waiting)
            self.touched += back
            pages -= back
            if waiting > back:
                self._freeing.append((at, waiting - back))

    def _work(self, now: int) -> None:
        """Grow and shrink the programs towards what they want; what they use is touched."""
        self._wanted = min(self._curve(now), self.boot - KERNEL_PAGES)
        self.is_busy = self._wanted != self.used
        if self._wanted > self.used:
            grown = min(self._wanted - self.used, self.character.grow_per_tick)
            if self.character.greedy and grown > self.free:
                self.kills += 1
                self.used = grown = 0
            self.used += min(grown, max(0, self.free))
        else:
            self.used -= min(self.used - self._wanted, 4 * self.character.grow_per_tick)
        # Freed memory stays touched (page cache, allocator); a little of what is free is touched as well.
        cache = min(max(0, self.free), self.used // 8)
        self.touched = max(self.touched, min(self.size, self.used + KERNEL_PAGES + cache))

    def _free_late(self, now: int) -> None:
        while self._freeing and self._freeing[0][0] <= now:
            self._freeing.popleft()
