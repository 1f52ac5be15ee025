"""The host that a load is played on: guests, what they hold, and time that is skipped where nothing happens.

Guests are those of `sim.guest`: memory is touched as it is used, a balloon takes what is free in the guest,
at a rate, and what it took is free on the host a little later. Programs take what they want and, when there
is no more, the guest's kernel kills them; they begin again a minute later. A guest in which a tick changed
nothing sleeps until its load or its target changes.
"""

import heapq
from collections import deque
from collections.abc import Iterator
from random import Random
from typing import Final, Protocol

import msgspec

from dynmem.manager.step.facts import VmConfig
from dynmem.rivals.host import HOST_SHARE, Host, Sharer
from dynmem.sim.guest import KERNEL_PAGES, TICKS_PER_S, Character, Guest
from dynmem.simulation.figures import Tally
from dynmem.simulation.load import ABSENT, Load, VmLoad, name_of
from dynmem.units import PAGE_SIZE, pages_of

#: Programs that were killed begin again after this.
OUT_TICKS: Final = 60 * TICKS_PER_S
# As much of what its programs use a guest of `sim.guest` has as page cache.
_CACHE_PART: Final = 8


class Guests(msgspec.Struct, frozen=True):
    """What is assumed of every guest; pages in a tenth of a second.

    Attributes:
        grow_per_tick: How fast programs grow; they fall four times as fast.
        give_per_tick: How fast a balloon takes.
    """

    grow_per_tick: int
    give_per_tick: int


class Rule(Protocol):
    """Whoever sets the sizes.

    Attributes:
        watches: Whether it has a turn as soon as anything happens, and not only at its next one.
    """

    watches: bool

    def came(self, stage: "Stage", name: str) -> None:
        """Take in that a VM has started, with its maximum."""

    def turn(self, stage: "Stage") -> int:
        """Do what is due now; return the tick of the next turn, if nothing happens until then."""


class Actor:
    """One VM that is there."""

    def __init__(self, load: VmLoad, life: int, guests: Guests) -> None:
        self.config: Final = self.config_of(load)
        self.want: int = 0
        #: What it would use with memory in plenty.
        self.ideal: int = 0
        self.held: int = 0
        #: Whether its programs were killed and have not begun again.
        self.is_out: bool = False
        character = Character(
            "simulated",
            answers=True,
            greedy=True,
            grow_per_tick=guests.grow_per_tick,
            give_per_tick=guests.give_per_tick,
            reserve_pages=pages_of(load.reserve_bytes),
        )
        name = f"{load.name}.{life}"
        self.guest: Final = Guest(self.config, character, self._wanted, name, Random(0))  # noqa: S311 - unused
        self._most = max(0, self.guest.boot - KERNEL_PAGES)
        self._rate = guests.grow_per_tick
        self._cached = 0

    @staticmethod
    def config_of(load: VmLoad) -> VmConfig:
        """Return how a VM is configured."""
        return VmConfig(
            load.name,
            min(load.minimum_bytes, load.maximum_bytes),
            load.maximum_bytes,
            buffer_percent=load.buffer_percent,
            weight=load.weight,
            priority=load.priority,
        )

    def _wanted(self, _: int) -> int:
        return 0 if self.is_out else self.want

    def change(self, pages: int) -> None:
        """Set what its guest needs, kernel and programs."""
        self.want = max(0, min(pages - KERNEL_PAGES, self._most))

    def tick(self, now: int) -> bool:
        """Let a tick pass; return whether anything changed."""
        guest = self.guest
        before = (guest.size, guest.used, self.ideal, guest.resident)
        kills = guest.kills
        if self.ideal < self.want:
            self.ideal += min(self._rate, self.want - self.ideal)
        else:
            self.ideal -= min(4 * self._rate, self.ideal - self.want)
        guest.tick(now)
        if guest.kills != kills:
            self.is_out = True
        return before != (guest.size, guest.used, self.ideal, guest.resident) or guest.kills != kills

    def report(self, now: int) -> None:
        """Have its guest report now."""
        self.guest.report(now)

    def hand_back(self, now: int) -> None:
        """Hand back free pages; the page cache stays."""
        guest = self.guest
        self._cached = max(self._cached, guest.used // _CACHE_PART)
        guest.hand_back(now, guest.used + KERNEL_PAGES + self._cached)

    @property
    def unmet(self) -> int:
        """What it lacks of what it would use with memory in plenty."""
        return max(0, self.ideal - self.guest.used)

    @property
    def sharer(self) -> Sharer:
        """Return it as published rules see it."""
        guest, config = self.guest, self.config
        size, free = guest.size * PAGE_SIZE, max(0, guest.free) * PAGE_SIZE
        return Sharer(size, config.minimum_bytes, config.maximum_bytes, free, config.weight)


class Stage:
    """One load under one rule, from a tick to another; `tally` counts from *measured* on."""

    def __init__(self, load: Load, rule: Rule, guests: Guests, seed: int, *, returns_free: bool) -> None:
        self.budget_pages: Final = pages_of(load.budget_bytes)
        self.total_pages: Final = int(load.budget_bytes / HOST_SHARE) // PAGE_SIZE
        self.actors: dict[str, Actor] = {}
        self.tally: Tally = Tally()
        self.now: int = 0
        #: All that the VMs hold. Pages.
        self.held: int = 0
        #: Whether a load changed, or a guest did anything, since the rule's last turn.
        self.is_disturbed: bool = True
        self.awake: set[str] = set()
        self._loads = {vm.name: vm for vm in load.vms}
        self._lives: dict[str, int] = {}
        self._rule = rule
        self._guests = guests
        self._unmet = 0
        self._returns_free = returns_free
        self._changes: Iterator[tuple[int, int, int]] = iter(())
        self._seed = seed
        self._next: tuple[int, int, int] | None = None
        # Programs that begin again: when, and in which life of which VM.
        self._returning: deque[tuple[int, str, Actor]] = deque()

    @property
    def host(self) -> Host:
        """Return the host as published rules see it."""
        return Host(self.total_pages * PAGE_SIZE, self.held * PAGE_SIZE)

    def order(self, name: str, target_bytes: int) -> None:
        """Set the target of a VM."""
        actor = self.actors.get(name)
        if actor is None:
            return
        target = min(target_bytes // PAGE_SIZE, actor.guest.boot)
        if target != actor.guest.target:
            actor.guest.target = target
            self.tally.moves += 1
            self.awake.add(name)

    def play(self, begin: int, measured: int, end: int) -> Tally:
        """Play from a tick up to another; what is before *measured* is not counted."""
        self.now = begin
        self._changes = heapq.merge(*(_changes(vm, self._seed, begin) for vm in self._loads.values()))
        self._next = next(self._changes, None)
        turn = begin
        while self.now < end:
            if self.now == measured:
                self._start_measuring()
            self._change_loads()
            self._begin_again()
            self._tick()
            is_noticed = self._rule.watches or self.now % TICKS_PER_S == 0
            if self.now >= turn or (self.is_disturbed and is_noticed):
                turn = self._rule.turn(self)
                self.is_disturbed = False
            then = self.now + 1
            if not self.awake:
                then = max(then, self._quiet_until(turn, measured if self.now < measured else end))
            self._count(then - self.now)
            self.now = then
        return self.tally

    def _quiet_until(self, *ticks: int) -> int:
        """Return when something happens next: one of these ticks, a change of a load, or programs begin."""
        loads = () if self._next is None else (self._next[0],)
        back = (self._returning[0][0],) if self._returning else ()
        return min(*ticks, *loads, *back)

    def _begin_again(self) -> None:
        while self._returning and self._returning[0][0] <= self.now:
            _, name, actor = self._returning.popleft()
            actor.is_out = False
            if self.actors.get(name) is actor:
                self.awake.add(name)
                self.is_disturbed = True

    def _start_measuring(self) -> None:
        self.tally = Tally(peak=self.held)

    def _change_loads(self) -> None:
        while self._next is not None and self._next[0] <= self.now:
            name, pages = name_of(self._next[1]), self._next[2]
            self._next = next(self._changes, None)
            if pages == ABSENT:
                self._end(name)
                continue
            if name not in self.actors:
                self._begin(name)
            self.actors[name].change(pages)
            self.awake.add(name)
            self.is_disturbed = True

    def _begin(self, name: str) -> None:
        life = self._lives[name] = self._lives.get(name, 0) + 1
        actor = self.actors[name] = Actor(self._loads[name], life, self._guests)
        actor.held = actor.guest.resident
        self.held += actor.held
        self._rule.came(self, name)

    def _end(self, name: str) -> None:
        actor = self.actors.pop(name, None)
        if actor is not None:
            self.held -= actor.held
            self._unmet -= actor.unmet
            self.awake.discard(name)
            self.is_disturbed = True

    def _tick(self) -> None:
        for name in sorted(self.awake):
            actor = self.actors[name]
            guest = actor.guest
            size, unmet, kills = guest.size, actor.unmet, guest.kills
            changed = actor.tick(self.now)
            if self._returns_free:
                actor.hand_back(self.now)
            self._unmet += actor.unmet - unmet
            self.held += guest.resident - actor.held
            actor.held = guest.resident
            self.tally.moved += abs(guest.size - size)
            if guest.kills != kills:
                self.tally.kills += 1
                self._returning.append((self.now + OUT_TICKS, name, actor))
            if changed:
                self.is_disturbed = True
            elif not guest.is_freeing:
                self.awake.discard(name)

    def _count(self, ticks: int) -> None:
        tally = self.tally
        tally.ticks += ticks
        tally.unmet += self._unmet * ticks
        tally.held += self.held * ticks
        tally.peak = max(tally.peak, self.held)
        if self.held > self.budget_pages:
            tally.above += ticks


def _changes(vm: VmLoad, seed: int, begin: int) -> Iterator[tuple[int, int, int]]:
    """Yield the changes of one VM; before the beginning of a load, it is as it is then."""
    for at, pages in vm.changes(seed):
        yield (begin if at <= 0 else at), vm.number, pages
