"""What must hold, checked from the physics of the simulation and not from the manager's own books.

    budget        the VMs hold no more than the budget, while every VM was started by a reservation
    coverage      no VM holds more than was counted for it in the last step
    bounds        a target is whole pages, from floor to maximum (or on the way there from the size that the
                  monitor reports), and goes to a VM that runs
    look          a VM gets no target in a step for which it was not looked at
    two sweeps    a VM gets no target before two equal sweeps in one life
    measurement   a grant names the measurement that pays for it
    worst case    if every VM takes all that it was offered, that and the slush fit into budget and host
    books         the books add up, know who is there, and claim no less than each VM may take
    barred        a VM that does not fit is not grown, but by an operator's release

A broken invariant raises InvariantError, which names it.
"""

import itertools
from collections.abc import Mapping
from typing import Literal

from dynmem.manager.step import Manager
from dynmem.manager.step.claims import RESERVATION
from dynmem.manager.step.facts import RUNNING, Facts, ManagerSettings
from dynmem.manager.step.results import SetBalloon, StepResult
from dynmem.sim.guest import Guest
from dynmem.units import PAGE_SIZE, format_pages, pages_of

Invariant = Literal[
    "budget", "coverage", "bounds", "look", "two sweeps", "measurement", "worst case", "books", "barred"
]


class InvariantError(Exception):
    """An invariant is broken; the text says which one, and how."""

    def __init__(self, invariant: Invariant, sentence: str) -> None:
        super().__init__(f"{invariant}: {sentence}")


class Invariants:
    """The watcher of one world; *controlled* says that every VM is started by a reservation."""

    def __init__(self, settings: ManagerSettings, *, controlled: bool) -> None:
        self._settings = settings
        self._budget = pages_of(settings.budget_bytes)
        self._slush = pages_of(settings.slush_bytes)
        self._controlled = controlled
        self._covered: dict[str, tuple[str, int]] = {}
        self._worst_before: dict[str, int] = {}
        self._seen: dict[str, list[tuple[str, int | None, int]]] = {}

    def guest_reset(self, name: str) -> None:
        """Note that a guest emptied its balloon by itself: until the next step no manager can know."""
        self._covered.pop(name, None)
        self._controlled = False

    def manager_restarted(self) -> None:
        """Note that a new manager took over, which has to look twice again."""
        self._seen.clear()

    def after_tick(self, now: int, guests: Mapping[str, Guest]) -> None:
        """Check budget and coverage."""
        resident = sum(guest.resident for guest in guests.values())
        if self._controlled and resident > self._budget:
            raise InvariantError(
                "budget",
                f"tick {now}: the VMs hold {format_pages(resident)} of {format_pages(self._budget)}",
            )
        for name, guest in guests.items():
            if not 0 <= guest.size <= guest.boot:
                raise InvariantError("bounds", f"tick {now}: {name} has {guest.size} of {guest.boot} pages")
            incarnation, covered = self._covered.get(name, ("", 0))
            if incarnation == guest.incarnation and guest.resident > covered:
                raise InvariantError(
                    "coverage",
                    f"tick {now}: {name} holds {format_pages(guest.resident)}, "
                    f"{format_pages(covered)} was counted for it",
                )

    def before_commands(self, facts: Facts, guests: Mapping[str, Guest]) -> None:
        """Note what each VM may hold at worst before this step's commands."""
        self._worst_before = {name: _worst(guest) for name, guest in guests.items()}
        for vm in facts.vms:
            seen = self._seen.setdefault(vm.name, [])
            seen.append((vm.incarnation, vm.actual_bytes, vm.resets))

    def after_step(
        self, facts: Facts, result: StepResult, guests: Mapping[str, Guest], manager: Manager
    ) -> None:
        """Check that what the step sent is safe to keep permanently: all other invariants.

        Of a guest that has come, or was reset, since all were looked at, no manager can know.
        """
        states = {vm.name: vm for vm in facts.vms}
        known = {
            name: each
            for name, each in guests.items()
            if (states[name].incarnation, states[name].resets) == (each.incarnation, each.resets)
        }
        paid = 0
        for command in result.commands:
            guest = guests.get(command.vm)
            if guest is None or states[command.vm].run_state != RUNNING:
                raise InvariantError("bounds", f"{command.vm} was sent a target and is not running")
            may_shrink, may_grow = facts.is_new(command.vm), facts.may_grow(command.vm)
            if not (may_grow if command.takes_nothing else may_shrink):
                raise InvariantError("look", f"{command.vm} was sent a target and not looked at before")
            self._check_bounds(command, guest, states[command.vm].actual_bytes or 0)
            self._check_two_sweeps(command)
            rise = min(command.target_bytes // PAGE_SIZE, guest.boot) - self._worst_before[command.vm]
            if rise > 0:
                paid += rise
                if not command.measurement:
                    raise InvariantError("measurement", f"the grant to {command.vm} names none")
                if command.vm not in manager.released and (why := manager.claims.barred(command.vm)):
                    raise InvariantError("barred", f"{command.vm} was grown, and {why}")
        if paid:
            self._check_grants(facts, guests if self._controlled else known, paid, manager)
        self._check_books(known, manager, facts)
        self._covered = {name: (guest.incarnation, _worst(guest)) for name, guest in known.items()}

    def _check_bounds(self, command: SetBalloon, guest: Guest, reported: int) -> None:
        floor = min(guest.config.minimum_bytes, guest.boot * PAGE_SIZE)
        if not floor <= command.target_bytes <= max(guest.config.maximum_bytes, reported - 1):
            raise InvariantError(
                "bounds",
                f"{command.vm} was sent {command.target_bytes}, below its floor or above its maximum",
            )
        if command.target_bytes % PAGE_SIZE:
            raise InvariantError(
                "bounds", f"{command.vm} was sent {command.target_bytes}, which is not whole pages"
            )

    def _check_two_sweeps(self, command: SetBalloon) -> None:
        seen = self._seen[command.vm]
        life = seen[-1][0]
        own = [each for each in seen if each[0] == life and each[1] is not None]
        if not any(before == after for before, after in itertools.pairwise(own)):
            raise InvariantError("two sweeps", f"{command.vm} was sent a target before two equal sweeps")

    def _check_grants(self, facts: Facts, guests: Mapping[str, Guest], paid: int, manager: Manager) -> None:
        """Check the worst case: every VM takes all that it may."""
        worst = {name: _worst(guest) for name, guest in guests.items()}
        held = sum(worst.values())
        if held + self._slush > self._budget:
            raise InvariantError(
                "worst case",
                f"{format_pages(paid)} was granted, and {format_pages(held)} may be taken, "
                f"with the slush more than the budget of {format_pages(self._budget)}",
            )
        untouched = sum(worst[name] - guest.resident for name, guest in guests.items())
        available = pages_of(facts.host.mem_available_bytes)
        if untouched + self._slush > available:
            raise InvariantError(
                "worst case",
                f"{format_pages(paid)} was granted, and {format_pages(untouched)} may still be taken of "
                f"{format_pages(available)} that the host has available",
            )

    def _check_books(self, guests: Mapping[str, Guest], manager: Manager, facts: Facts) -> None:
        """Check the books against the guests."""
        gmm = manager.claims.gmm.verify()
        for name, guest in guests.items():
            if not facts.is_new(name):
                continue
            claim = gmm.allocated(name)
            may_take = max(guest.size, guest.target)
            if claim < may_take:
                raise InvariantError(
                    "books",
                    f"they claim {format_pages(claim)} for {name}, which may take {format_pages(may_take)}",
                )
        for name in gmm:
            if facts.looked is None and name not in guests and not name.startswith(RESERVATION):
                raise InvariantError("books", f"they still know {name}, which is gone")


def _worst(guest: Guest) -> int:
    """Return the most that this VM may hold if it takes all that it was offered."""
    return max(guest.resident, guest.size, guest.target)
