"""Who sets the sizes on a stage: the manager's own step, the published rules of others, or nobody."""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from dynmem.manager.step import Manager
from dynmem.manager.step.facts import (
    ABSENT,
    Facts,
    HostFacts,
    ManagerSettings,
    VmFacts,
    between_sweeps,
)
from dynmem.manager.step.results import StepResult
from dynmem.manager.step.safeguards import ALL_ON, Safeguards
from dynmem.manager.step.watch import Watch
from dynmem.rivals import mom, proxmox
from dynmem.rivals.fixed import shares
from dynmem.rivals.host import Sharer
from dynmem.sim.guest import TICK_NS, TICKS_PER_S
from dynmem.simulation.load import Load
from dynmem.simulation.stage import Actor, Rule, Stage
from dynmem.units import NS_PER_S, PAGE_SIZE

# The manager sweeps again soon while a VM waits for memory that is being given.
_SOON_TICKS: Final = 2
# Where nothing happens, steps that would change nothing are left out, up to this long.
_IDLE_TICKS: Final = 30 * TICKS_PER_S


class Nobody:
    """Sets no size: every guest keeps its maximum."""

    watches: bool = False

    def came(self, stage: Stage, name: str) -> None:
        """Leave it as it is."""

    def turn(self, stage: Stage) -> int:
        """Do nothing."""
        return stage.now + _IDLE_TICKS


class Fixed(Nobody):
    """Sets each guest to its share of the budget when it starts."""

    def __init__(self, load: Load) -> None:
        maximums = {vm.name: vm.maximum_bytes for vm in load.vms}
        self._sizes = shares(load.budget_bytes, maximums)

    def came(self, stage: Stage, name: str) -> None:
        stage.order(name, self._sizes[name])


class Proxmox(Nobody):
    """Follows the rules of Proxmox's balloon manager."""

    def came(self, stage: Stage, name: str) -> None:
        stage.order(name, stage.actors[name].config.minimum_bytes)

    def turn(self, stage: Stage) -> int:
        period = int(proxmox.PERIOD_S * TICKS_PER_S)
        if stage.now % period == 0:
            for name, size in proxmox.orders(stage.host, _sharers(stage)).items():
                stage.order(name, size)
        return _following(stage.now, period)


class Mom(Nobody):
    """Follows the rules of MOM."""

    def __init__(self) -> None:
        self._averages = mom.Averages()

    def turn(self, stage: Stage) -> int:
        sample, period = (int(each * TICKS_PER_S) for each in (mom.SAMPLE_PERIOD_S, mom.PERIOD_S))
        if stage.now % sample == 0:
            sharers = _sharers(stage)
            self._averages.sample(stage.host, sharers)
            if stage.now % period == 0:
                for name, size in self._averages.orders(sharers).items():
                    stage.order(name, size)
        return _following(stage.now, sample)


def _sharers(stage: Stage) -> dict[str, Sharer]:
    return {name: actor.sharer for name, actor in stage.actors.items()}


def _following(now: int, period: int) -> int:
    """Return the next multiple of a period."""
    return (now // period + 1) * period


class Dynmem:
    """The manager's own step, in a sweep each second and, if it *watches*, between two sweeps.

    Where nothing moves, the sweeps that would find nothing are left out.
    """

    def __init__(self, load: Load, safeguards: Safeguards = ALL_ON, *, watches: bool) -> None:
        settings = ManagerSettings(load.budget_bytes, load.slush_bytes, NS_PER_S, "enforce")
        self._configs = [Actor.config_of(vm) for vm in load.vms]
        self.manager: Final = Manager(settings, self._configs, safeguards)
        self.watches: bool = watches
        self._watch = Watch()
        self._swept: Facts | None = None
        self._next = 0
        self._gap = TICKS_PER_S
        self._moving: frozenset[str] = frozenset()
        self._tight: frozenset[str] = frozenset()

    def came(self, stage: Stage, name: str) -> None:
        """Have it looked at in the next sweep."""
        self._next = min(self._next, stage.now)

    def turn(self, stage: Stage) -> int:
        now = stage.now
        if stage.is_disturbed:
            self._gap = TICKS_PER_S
            self._next = min(self._next, _following(now - 1, TICKS_PER_S))
        if now >= self._next:
            self._sweep(stage)
        elif self.watches and self._swept is not None and stage.awake:
            self._look(stage, self._swept)
        return now + 1 if self.watches and stage.awake else self._next

    def _sweep(self, stage: Stage) -> None:
        facts = self._swept = Facts(
            stage.now * TICK_NS,
            _host(stage),
            tuple(_facts(stage, config.name) for config in self._configs),
        )
        result = self._step(stage, facts)
        self._moving, self._tight = result.moving, result.tight
        if self.watches:
            self._watch.looked({vm.name: vm.resident_bytes for vm in facts.vms})
        if result.waiting:
            self._next, self._gap = stage.now + _SOON_TICKS, TICKS_PER_S
        elif result.commands or stage.awake:
            self._next, self._gap = _following(stage.now, TICKS_PER_S), TICKS_PER_S
        else:
            self._next = stage.now + self._gap
            self._gap = min(2 * self._gap, _IDLE_TICKS)

    def _look(self, stage: Stage, swept: Facts) -> None:
        """Look at the VMs that grow, as the manager's loop does between two sweeps."""
        actors = stage.actors
        busy = {name for name in self._tight if name in actors and actors[name].guest.is_busy}
        risen = self._watch.risen({name: actors[name].held * PAGE_SIZE for name in stage.awake})
        looks = {name: _facts(stage, name) for name in sorted(self._moving | risen | busy) if name in actors}
        if not looks:
            return
        facts = self._swept = between_sweeps(swept, stage.now * TICK_NS, _host(stage), looks)
        result = self._step(stage, facts)
        self._moving, self._tight = result.moving, result.tight
        self._watch.looked({name: vm.resident_bytes for name, vm in looks.items()})

    def _step(self, stage: Stage, facts: Facts) -> StepResult:
        result = self.manager.step(facts)
        for command in result.commands:
            stage.order(command.vm, command.target_bytes)
            self.manager.was_sent(command.vm)
        return result


def _host(stage: Stage) -> HostFacts:
    available = max(0, stage.total_pages - stage.held)
    return HostFacts(available * PAGE_SIZE, stage.total_pages * PAGE_SIZE)


def _facts(stage: Stage, name: str) -> VmFacts:
    actor = stage.actors.get(name)
    if actor is None:
        return VmFacts(name, "", ABSENT)
    actor.report(stage.now)
    facts = actor.guest.facts(stage.now, silent=False)
    return msgspec.structs.replace(facts, device="virtio-balloon")


#: Makes each rule; whether guests report free pages, and so hand them back by themselves.
RULES: Final[Mapping[str, tuple[Callable[[Load, bool], Rule], bool]]] = {
    "dynmem": (lambda load, watches: Dynmem(load, watches=watches), False),
    "proxmox": (lambda load, _: Proxmox(), False),
    "mom": (lambda load, _: Mom(), False),
    "static": (lambda load, _: Fixed(load), False),
    "fpr": (lambda load, _: Nobody(), True),
    "none": (lambda load, _: Nobody(), False),
}
