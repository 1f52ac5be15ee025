"""A host full of guests in virtual time, under the manager's step as in production. One seed, one log.

Every VM starts when a reservation for its full size is ready, as an operator would start it; mortal ones
start again. The invariants are checked after every tick and every step.
"""

from collections.abc import Mapping
from random import Random
from typing import Final

import msgspec

from dynmem.manager.step import Manager
from dynmem.manager.step.facts import (
    RUNNING,
    Facts,
    HostFacts,
    ManagerSettings,
    VmConfig,
    VmFacts,
    between_sweeps,
)
from dynmem.manager.step.results import StepResult
from dynmem.manager.step.safeguards import ALL_ON, Safeguards
from dynmem.manager.step.watch import Watch
from dynmem.sim.cast import CAST, draw_config, draw_curve
from dynmem.sim.guest import MIB_PAGES, TICK_NS, TICKS_PER_S, Character, Curve, Guest
from dynmem.sim.invariants import Invariants
from dynmem.units import MIB, NS_PER_S, PAGE_SIZE

SOON_TICKS: Final = 2
SLUSH_BYTES: Final = 64 * MIB
START_PATIENCE_NS: Final = 60 * NS_PER_S
OUTAGE_TICKS: Final = 4 * TICKS_PER_S


class Part(msgspec.Struct):
    """One VM of the cast, running or not.

    Attributes:
        config: Its configuration.
        character: What kind of guest it is.
        curve: Its load.
        random: Its own random numbers.
        guest: The guest; None while it does not run.
        lives: How often it has started.
        asked: Whether its reservation is open.
        away_until: The tick at which it starts, replies or continues again.
    """

    config: VmConfig
    character: Character
    curve: Curve
    random: Random
    guest: Guest | None = None
    lives: int = 0
    asked: bool = False
    away_until: int = 0


class World:
    """Budget, guests and manager. `run` advances by whole seconds; `log` is what happened, line by line."""

    def __init__(
        self,
        parts: list[Part],
        settings: ManagerSettings,
        *,
        random: Random,
        safeguards: Safeguards = ALL_ON,
        admit: bool = True,
        check: bool = True,
    ) -> None:
        self.parts = parts
        self.settings = settings
        self.random = random
        self.safeguards = safeguards
        self.manager: Manager = self._new_manager()
        self.now: int = 0
        self.log: list[str] = []
        self.commands: int = 0
        self.peak_pages: int = 0
        self.unmet_page_ticks: int = 0
        #: Whether the VMs that could run out of memory are looked at between two sweeps.
        self.watches: bool = True
        #: Whether every monitor is too late then, and whether a VM is served by the host's figure instead.
        self.has_late_monitors: bool = False
        self.serves_late: bool = True
        self._watch = Watch()
        self._moving: frozenset[str] = frozenset()
        self._tight: frozenset[str] = frozenset()
        self._swept: Facts | None = None
        self._admit = admit
        self._next_step = 0
        self._others = self._total // 8
        self._invariants = Invariants(settings, controlled=admit) if check else None

    @property
    def _total(self) -> int:
        """The host's memory in pages: one and a half times the budget."""
        return self.settings.budget_bytes * 3 // 2 // PAGE_SIZE

    def run(self, seconds: int) -> None:
        """Let virtual time pass."""
        for _ in range(seconds * TICKS_PER_S):
            self._tick()

    def restart_manager(self) -> None:
        """Kill the manager and start it again with what its journal holds."""
        self.manager = self._new_manager()
        self._swept, self._moving = None, frozenset()
        for part in self.parts:
            part.asked = False
            if part.guest is not None:
                target = part.guest.target * PAGE_SIZE
                self.manager.restore(part.config.name, part.guest.incarnation, target)
        if self._invariants is not None:
            self._invariants.manager_restarted()
        self._say("the manager was killed and started again")

    def _new_manager(self) -> Manager:
        return Manager(self.settings, [part.config for part in self.parts], self.safeguards)

    @property
    def guests(self) -> Mapping[str, Guest]:
        """The guests that run."""
        return {part.config.name: part.guest for part in self.parts if part.guest is not None}

    def _tick(self) -> None:
        for part in self.parts:
            self._live(part)
        for guest in self.guests.values():
            guest.tick(self.now)
            self.unmet_page_ticks += max(0, guest.wanted - guest.used)
        resident = sum(guest.resident for guest in self.guests.values())
        self.peak_pages = max(self.peak_pages, resident)
        if self._invariants is not None:
            self._invariants.after_tick(self.now, self.guests)
        if self.now >= self._next_step:
            facts = self._swept = self._facts()
            result = self._step(facts)
            period = self.settings.period_ns // TICK_NS
            self._next_step = self.now + (SOON_TICKS if result.waiting else period)
            self._watch.looked(_held(facts))
            self._moving, self._tight = result.moving, result.tight
        elif self._swept is not None and self.watches:
            self._look(self._swept)
        self.now += 1

    def _look(self, swept: Facts) -> None:
        """Look at the VMs that grow, as the manager's loop does between two sweeps."""
        now = self._facts()
        guests = self.guests
        busy = {name for name in self._tight if name in guests and guests[name].is_busy}
        risen = self._watch.risen(_held(now))
        names = self._moving | risen | busy
        for name in names & guests.keys():
            guests[name].ask()
        looks = {vm.name: vm for vm in now.vms if vm.name in names and vm.run_state == RUNNING}
        late: dict[str, int] = {}
        if self.has_late_monitors:
            late = {name: vm.guest_bytes or 0 for name, vm in looks.items() if name in risen}
            late, looks = (late if self.serves_late else {}), {}
        if looks or late:
            facts = self._swept = between_sweeps(swept, now.now_ns, now.host, looks, late)
            result = self._step(facts)
            self._moving, self._tight = result.moving, result.tight
            self._watch.looked({vm.name: vm.resident_bytes for vm in facts.vms if facts.may_grow(vm.name)})

    def _step(self, facts: Facts) -> StepResult:
        result = self.manager.step(facts)
        for line in result.changes:
            self._say(line)
        guests = self.guests
        if self._invariants is not None:
            self._invariants.before_commands(facts, guests)
        for command in result.commands:
            guest = guests.get(command.vm)
            if guest is not None and not self._silent(command.vm):
                guest.target = min(command.target_bytes // PAGE_SIZE, guest.boot)
                self.commands += 1
                self.manager.was_sent(command.vm)
                if command.news:
                    self._say(command.news)
        if self._invariants is not None:
            self._invariants.after_step(facts, result, guests, self.manager)
        return result

    def _facts(self) -> Facts:
        resident = sum(guest.resident for guest in self.guests.values())
        if self.now % TICKS_PER_S == 0:
            self._others += self.random.randrange(-4, 5) * MIB_PAGES
            self._others = max(self._total // 16, min(self._total // 4, self._others))
        available = max(0, self._total - resident - self._others)
        host = HostFacts(available * PAGE_SIZE, self._total * PAGE_SIZE)
        vms = tuple(self._vm_facts(part) for part in self.parts)
        return Facts(self.now * TICK_NS, host, vms)

    def _vm_facts(self, part: Part) -> VmFacts:
        if part.guest is None:
            return VmFacts(part.config.name, "", "absent")
        return part.guest.facts(self.now, silent=self._silent(part.config.name))

    def _silent(self, name: str) -> bool:
        part = next(each for each in self.parts if each.config.name == name)
        return part.character.silent and self.now < part.away_until

    def _live(self, part: Part) -> None:
        """Start, die, reset, pause, fall silent: what the character does, at times that the seed gives."""
        if part.guest is None:
            if self.now >= part.away_until:
                self._try_to_start(part)
            return
        if part.guest.run_state == "paused" and self.now >= part.away_until:
            part.guest.run_state = "running"
        if self.now >= part.away_until:
            part.guest.dozing = False
        if part.random.random() * 20 * TICKS_PER_S >= 1:
            return
        if part.character.dies:
            self._say(f"{part.config.name} dies")
            part.guest, part.asked = None, False
            part.away_until = self.now + OUTAGE_TICKS
        elif part.character.resets:
            self._say(f"{part.config.name} resets itself")
            part.guest.reset()
            if self._invariants is not None:
                self._invariants.guest_reset(part.config.name)
        elif part.character.pauses or part.character.silent or part.character.dozes:
            part.away_until = self.now + OUTAGE_TICKS
            part.guest.dozing = part.character.dozes
            if part.character.pauses:
                part.guest.run_state = "paused"

    def _try_to_start(self, part: Part) -> None:
        name = part.config.name
        if self._admit:
            now_ns = self.now * TICK_NS
            if not part.asked:
                self.manager.reserve(name, part.config.maximum_bytes, now_ns, now_ns + START_PATIENCE_NS)
                part.asked = True
                return
            state, _ = self.manager.reservation_state(name)
            if state in ("expired", "refused"):
                part.asked = False
                part.away_until = self.now + OUTAGE_TICKS
            if state != "ready":
                return
        part.lives += 1
        part.guest = Guest(part.config, part.character, part.curve, f"{name}.{part.lives}", part.random)
        self._say(f"{name} ({part.character.name}) starts")

    def _say(self, line: str) -> None:
        self.log.append(f"{self.now * TICK_NS / NS_PER_S:7.1f} {line}")


def _held(facts: Facts) -> dict[str, int | None]:
    return {vm.name: vm.resident_bytes for vm in facts.vms}


def draw_world(
    seed: int,
    *,
    safeguards: Safeguards = ALL_ON,
    admit: bool = True,
    check: bool = True,
    cast: tuple[Character, ...] = CAST,
) -> World:
    """Return the world of a seed: four to eight VMs whose maximums are 1.2 to 2 times the budget."""
    random = Random(seed)  # noqa: S311 - a simulation needs the same numbers again
    parts = []
    for index in range(random.randrange(4, 9)):
        config = draw_config(index, random)
        own = Random(random.randrange(1 << 62))  # noqa: S311 - see above
        character = random.choice(cast)
        parts.append(Part(config, character, draw_curve(config, random), own, away_until=index * TICKS_PER_S))
    maximums = sum(part.config.maximum_bytes for part in parts)
    budget = maximums * 100 // random.randrange(120, 201) + SLUSH_BYTES
    settings = ManagerSettings(budget // MIB * MIB, SLUSH_BYTES, NS_PER_S, "enforce")
    return World(parts, settings, random=random, safeguards=safeguards, admit=admit, check=check)
