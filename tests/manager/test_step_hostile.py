"""Whatever the sweeps say: a step ends, its books add up, and no target moves away from its bounds."""

from random import Random

import msgspec
import pytest

from dynmem.manager.step import Manager
from dynmem.manager.step.facts import Demand, Facts, HostFacts, ManagerSettings, VmConfig, VmFacts
from dynmem.manager.step.safeguards import ALL_ON, Safeguards
from dynmem.units import GIB, MIB, NS_PER_S, PAGE_SIZE, pages_of

STATES = ("running",) * 8 + ("paused", "silent", "absent", "migrating")
SIZES = (0, MIB, 50 * MIB, 200 * MIB, 512 * MIB, 16 * GIB, 1 << 60)
NAMES = ("v0", "v1", "v2")


class Liars:
    """VMs that say anything, under a manager that is also asked for anything."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        pick = self.random.choice
        self.configs = [
            VmConfig(
                name,
                minimum_bytes=pick((16, 64, 200)) * MIB,
                maximum_bytes=pick((256, 512, 1024)) * MIB,
                buffer_percent=pick((0, 20, 100)),
                weight=self.random.randrange(1, 10_001),
                priority=pick(("low", "normal", "high")),
            )
            for name in NAMES
        ]
        settings = ManagerSettings(pick((512, 1024, 2048)) * MIB, pick((0, 64)) * MIB, NS_PER_S, "enforce")
        self.manager = Manager(settings, self.configs)
        self.now = 0
        self.sizes = dict.fromkeys(NAMES, 512 * MIB)

    def size(self) -> int:
        return self.random.choice((*SIZES, self.random.randrange(2 * GIB)))

    def vm(self, config: VmConfig) -> VmFacts:
        chance, pick = self.random.random, self.random.choice
        if chance() < 0.3:
            self.sizes[config.name] = self.size()
        state, actual = pick(STATES), self.sizes[config.name]
        demand = Demand(
            pick((-self.size(), self.size())),
            pick((-self.size(), self.size())),
            "x",
            pick((0, 1, NS_PER_S, 1000 * NS_PER_S)),
        )
        return VmFacts(
            name=config.name,
            incarnation="" if state == "absent" else f"{config.name}.{pick((1,) * 20 + (2,))}",
            run_state=state,
            device=pick(("hv-balloon",) * 5 + (None,)),
            boot_bytes=pick((None, config.maximum_bytes, config.maximum_bytes, MIB, 1 << 60)),
            actual_bytes=actual if chance() < 0.95 else None,
            resident_bytes=pick((None, actual, self.size())),
            demand=demand if chance() < 0.8 else None,
            resets=pick((0,) * 9 + (1,)),
            resident_overhead_bytes=pick((0, 0, self.size())),
        )

    def ask(self) -> None:
        """Sometimes somebody asks the manager for something."""
        chance = self.random.random()
        if chance < 0.1:
            size, wait = self.random.choice((0, 1, 100 * MIB, 1 << 60)), self.random.choice((0, NS_PER_S))
            self.manager.reserve(self.random.choice(("v0", "new")), size, self.now, self.now + wait)
        elif chance < 0.15:
            self.manager.release(self.random.choice((None, "v0")))
        elif chance < 0.2:
            self.manager.take_up(self.random.choice((None, "v0")))
        elif chance < 0.25:
            self.manager.pause("v0", self.now + self.random.choice((0, NS_PER_S, 100 * NS_PER_S)))
        elif chance < 0.3:
            self.manager.resume(self.random.choice((None, "v0")))

    def sweep(self) -> None:
        self.now += self.random.choice((1, NS_PER_S // 5, NS_PER_S, 10 * NS_PER_S))
        host = HostFacts(self.random.choice((0, self.size(), 64 * GIB)), 64 * GIB)
        vms = tuple(self.vm(config) for config in self.configs if self.random.random() < 0.95)
        before = {record.name: record.target_pages for record in self.manager._roster}
        result = self.manager.step(Facts(self.now, host, vms))
        self.manager.claims.gmm.verify()
        self.manager.status()
        for command in result.commands:
            assert command.vm not in self.manager.paused
            record, old = self.manager._roster.get(command.vm), before.get(command.vm)
            assert record is not None
            assert command.target_bytes >= PAGE_SIZE
            if old is not None and "released" not in command.reason:
                lowest, highest = min(record.floor_pages, old), max(record.maximum_pages, old)
                assert lowest <= pages_of(command.target_bytes) <= highest, command
            if self.random.random() < 0.7:
                self.sizes[command.vm] = command.target_bytes


@pytest.mark.parametrize("seed", range(40))
def test_lies_of_vms_end_no_step_and_move_no_target_out_of_its_bounds(seed: int) -> None:
    liars = Liars(seed)
    for _ in range(60):
        liars.ask()
        liars.sweep()


WANTED, OTHER = 480 * MIB, 120 * MIB  # what two honest VMs want, with a buffer of a fifth


class BesideLiars(Liars):
    """Two honest VMs whose wants fit beside the maximums of two VMs whose monitors say anything."""

    def __init__(self, seed: int, safeguards: Safeguards) -> None:
        super().__init__(seed)
        self.configs = [msgspec.structs.replace(each, priority="normal") for each in self.configs[:2]]
        self.honest = [VmConfig("web", 64 * MIB, GIB), VmConfig("db", 64 * MIB, 512 * MIB)]
        budget = sum(each.maximum_bytes for each in self.configs) + WANTED + OTHER + 64 * MIB
        settings = ManagerSettings(budget, 64 * MIB, NS_PER_S, "enforce")
        self.manager = Manager(settings, [*self.configs, *self.honest], safeguards)
        self.sizes |= {"web": 300 * MIB, "db": 300 * MIB}
        self.demands = {"web": 100 * MIB, "db": OTHER * 5 // 6}
        self.resident = dict.fromkeys(NAMES, 0)

    def lying(self, config: VmConfig) -> VmFacts:
        """Return anything, but for what the host measures."""
        if self.random.random() < 0.5:
            self.resident[config.name] = self.random.randrange(config.maximum_bytes)
        resident = self.resident[config.name] if self.random.random() < 0.9 else None
        return msgspec.structs.replace(self.vm(config), resident_bytes=resident, resident_overhead_bytes=0)

    def telling(self, config: VmConfig) -> VmFacts:
        size, demand = self.sizes[config.name], self.demands[config.name]
        return VmFacts(
            name=config.name,
            incarnation="1",
            run_state="running",
            device="hv-balloon",
            boot_bytes=config.maximum_bytes,
            actual_bytes=size,
            resident_bytes=min(size, demand),
            demand=Demand(demand, max(0, size - demand), "x", 1),
        )

    def sweep(self) -> None:
        self.now += NS_PER_S
        vms = (*map(self.lying, self.configs), *map(self.telling, self.honest))
        result = self.manager.step(Facts(self.now, HostFacts(64 * GIB, 64 * GIB), vms))
        for command in result.commands:
            if command.vm in self.demands or self.random.random() < 0.5:
                self.sizes[command.vm] = command.target_bytes


def sweeps_until_served(seed: int, safeguards: Safeguards = ALL_ON) -> int:
    """Return how long an honest VM waits for what it needs."""
    host = BesideLiars(seed, safeguards)
    for _ in range(12):
        host.sweep()
    host.demands["web"] = WANTED * 5 // 6
    sweeps = 0
    while host.sizes["web"] < host.demands["web"] and sweeps < 30:
        host.sweep()
        sweeps += 1
    return sweeps


def test_whatever_other_monitors_say_an_honest_vm_gets_what_fits_beside_their_maximums() -> None:
    waits = [sweeps_until_served(seed) for seed in range(60)]
    assert max(waits) <= 5
    assert sum(waits) <= 2 * len(waits)


def test_without_two_sources_what_other_monitors_say_makes_an_honest_vm_wait() -> None:
    assert max(sweeps_until_served(seed, Safeguards(two_sources=False)) for seed in range(60)) > 10
