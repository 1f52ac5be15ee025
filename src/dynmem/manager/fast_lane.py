"""Looks between two sweeps, for guests that could run out of memory before the next one.

    every 100 ms, of the VMs whose guests have little available:
        what they hold, and whether they do anything   (files of /proc: no monitor and no guest is asked)
        --> a glance at those that grow, that are busy, or that give what they were asked for
        --> facts for a step, as after a sweep

A VM with much available is not looked at: it lives until the next sweep whatever it does. One that grows, and
whose monitor is too late for a glance, is served by what the host measures: on a busy machine monitors are
late, and guests are killed in time.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

from dynmem.manager.step.facts import RUNNING, Facts, HostFacts, between_sweeps
from dynmem.manager.step.results import StepResult
from dynmem.manager.step.watch import WATCH_NS, Watch
from dynmem.manager.sweep.managed_vm import ManagedVm
from dynmem.units import NS_PER_S

WATCH_S: Final = WATCH_NS / NS_PER_S
# The most VMs that are watched at a time; beyond that they take turns. Each costs about 30 us.
WATCHED_MAX: Final = 200


class FastLane:
    """The looks between one sweep and the next; *measure_host* returns None if that fails."""

    def __init__(self, measure_host: Callable[[], HostFacts | None]) -> None:
        self._measure_host = measure_host
        self._watch = Watch()
        self._facts: Facts | None = None
        self._moving: frozenset[str] = frozenset()
        self._tight: frozenset[str] = frozenset()
        self._turn = 0

    def stepped(self, facts: Facts, result: StepResult) -> None:
        """Take in a step, and the facts that it was made from."""
        self._facts, self._moving, self._tight = facts, result.moving, result.tight
        self._watch.looked({vm.name: vm.guest_bytes for vm in facts.vms if facts.may_grow(vm.name)})

    @property
    def is_wanted(self) -> bool:
        """Whether there is anything to watch."""
        return bool(self._moving or self._tight)

    async def look(self, connections: Mapping[str, ManagedVm]) -> Facts | None:
        """Return the facts for a step; None if nothing calls for one."""
        before = self._facts
        if before is None:
            return None
        watched = [name for name in self._watched() if name in connections]
        held = {name: connections[name].resident_now() for name in watched}
        risen = self._watch.risen(held)
        busy = {name for name in watched if connections[name].was_busy()}
        names = [name for name in watched if name in self._moving or name in risen or name in busy]
        if not names:
            return None
        now_ns = time.monotonic_ns()
        found = await asyncio.gather(*(connections[name].glance(now_ns, ask=True) for name in names))
        looks = {vm.name: vm for vm in found if vm is not None and vm.run_state == RUNNING}
        replied = {vm.name for vm in found if vm is not None}
        late = {
            vm.name: size
            for vm in before.vms
            if vm.name in risen - replied and (size := held[vm.name]) is not None
            if (vm.run_state, vm.incarnation) == (RUNNING, connections[vm.name].incarnation)
        }
        host = self._measure_host() if looks or late else None
        return None if host is None else between_sweeps(before, now_ns, host, looks, late)

    def _watched(self) -> list[str]:
        """Return whom to watch now: all that move, and of the others as many as can be, in turns."""
        others = sorted(self._tight - self._moving)
        count = max(0, WATCHED_MAX - len(self._moving))
        if len(others) > count:
            begin = self._turn % len(others)
            self._turn = begin + count
            others = [*others[begin:], *others[:begin]][:count]
        return [*self._moving, *others]
