"""A guest is reset while its balloon is filled: what the former guest had and said ends with it."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.rigs.managers import configured, managing
from tests.rigs.monitored import MEBIBYTE, FakeVm, listening, look, look_until, watched
from tests.rigs.obedient import ObedientHost
from tests.rigs.scenes import play, until

from dynmem.manager.api.messages import StatusReply, StatusRequest
from dynmem.manager.api.service import Service
from dynmem.manager.config import load
from dynmem.manager.journal.journal import Journal
from dynmem.manager.journal.writer import JournalWriter
from dynmem.manager.next_sweep import NextSweep
from dynmem.manager.private import private_folder
from dynmem.manager.reload import ConfigWatch
from dynmem.manager.step import Manager
from dynmem.manager.step.facts import Demand, ManagerSettings, VmConfig, VmFacts
from dynmem.manager.sweep.connection import VmConnection
from dynmem.manager.totals import Totals
from dynmem.units import GIB, MIB, NS_PER_S

FULL, FORMER = 512, 300


class BootingVm(FakeVm):
    """A VM of 512 MiB; QEMU goes on reporting the 300 MiB of its former guest after a reset."""

    def __init__(self) -> None:
        self.actual, self.available, self.updated, self.faults = FORMER, 180, 1, 5000
        super().__init__(
            {
                "query-memory-size-summary": {"base-memory": FULL * MEBIBYTE},
                "query-balloon": lambda _: {"actual": self.actual * MEBIBYTE},
                "qom-list": [{"name": "balloon0", "type": "child<virtio-balloon-pci>"}],
                "qom-get guest-stats": self._statistics,
                "qom-get guest-stats-polling-interval": 1,
            }
        )

    def _statistics(self, _: Mapping[str, object]) -> object:
        stats = {"stat-available-memory": self.available * MEBIBYTE, "stat-minor-faults": self.faults}
        return {"stats": stats, "last-update": self.updated}

    def report(self, available_mib: int) -> None:
        """Let the guest report."""
        self.available, self.updated = available_mib, self.updated + 1


async def needing(vm: BootingVm, connection: VmConnection, available_mib: int) -> int | None:
    """Return the demand after one more report, in MiB."""
    vm.report(available_mib)
    facts = await look(connection)
    return None if facts.demand is None else facts.demand.committed_bytes // MEBIBYTE


async def after_a_reset(vm: BootingVm, connection: VmConnection) -> VmFacts:
    """Look at the VM until it is known, reset it, and return the facts after that was seen."""
    await look(connection)
    assert await needing(vm, connection, 180) == FORMER - 180
    vm.report(170)  # made by the former guest, and read after the reset
    vm.event("RESET", at_s=100)
    facts = await look_until(connection, lambda facts: facts.resets == 1)
    assert facts.demand is None
    return await look(connection)


def test_a_report_made_before_a_reset_and_read_after_it_is_nobodys(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = BootingVm()
        async with watched(vm, tmp_path) as connection:
            facts = await after_a_reset(vm, connection)
            assert facts.demand is None

    play(scenario())


def test_until_the_new_driver_writes_a_size_the_guest_has_all_its_memory(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = BootingVm()
        async with watched(vm, tmp_path) as connection:
            facts = await after_a_reset(vm, connection)
            assert (facts.actual_bytes, facts.is_actual_former) == (FORMER * MEBIBYTE, True)
            vm.faults = 900  # it has booted: one reset, and not two
            assert await needing(vm, connection, 212) == 300  # it uses 300 of 512 MiB, and not 88 of 300
            vm.actual = 400  # its balloon fills
            assert not (await look(connection)).is_actual_former
            assert await needing(vm, connection, 100) == 300

    play(scenario())


@pytest.mark.parametrize(("at_s", "former"), [(99, True), (101, False)])
def test_a_driver_that_reached_the_former_size_between_two_looks_is_known_by_its_event(
    at_s: int, former: bool, tmp_path: Path
) -> None:
    """QEMU sends the event at most once a second: one from before the reset may come after it."""

    async def scenario() -> None:
        vm = BootingVm()
        async with watched(vm, tmp_path) as connection:
            await after_a_reset(vm, connection)
            vm.event("BALLOON_CHANGE", {"actual": FORMER * MEBIBYTE}, at_s=at_s)
            for _ in range(3):
                facts = await look(connection)
            assert (facts.actual_bytes, facts.is_actual_former) == (FORMER * MEBIBYTE, former)

    play(scenario())


def test_a_guest_that_booted_unseen_is_known_by_its_page_faults(tmp_path: Path) -> None:
    """Its RESET was missed or, with kexec, there was none: QEMU reports what the former guest had."""

    async def scenario() -> None:
        vm = BootingVm()
        async with watched(vm, tmp_path) as connection:
            await look(connection)
            vm.faults += 1
            assert await needing(vm, connection, 180) is not None
            vm.faults = 900
            assert await needing(vm, connection, 212) is None
            facts = await look(connection)
            assert (facts.resets, facts.is_actual_former) == (1, True)
            assert await needing(vm, connection, 212) == 300

    play(scenario())


def test_a_report_made_while_the_monitor_was_away_is_nobodys(tmp_path: Path) -> None:
    """Its guest may have been reset since then: the report after it is the present guest's."""

    async def scenario() -> None:
        vm = BootingVm()
        async with watched(vm, tmp_path) as connection:
            await look(connection)
            assert await needing(vm, connection, 180) == 120
            await connection._hang_up()
            assert await needing(vm, connection, 20) == 120  # and not the 280 of who knows when
            assert await needing(vm, connection, 170) == 130

    play(scenario())


class HyperVGuest(FakeVm):
    """A VM of 64 MiB with hv-balloon, whose guest reports in events."""

    def __init__(self) -> None:
        super().__init__()
        self.say(0)

    def say(self, committed_mib: int) -> None:
        self.answers["query-hv-balloon-status-report"] = {
            "committed": committed_mib * MEBIBYTE,
            "available": 9 * MEBIBYTE,
        }


@pytest.mark.parametrize(("at_s", "needed"), [(99, None), (101, 40), (90, 40)])
def test_a_report_of_the_former_guest_that_its_vmm_held_back_is_nobodys(
    at_s: int, needed: int | None, tmp_path: Path
) -> None:
    """QEMU sends this event once a second. A date further back was made by setting the host's clock."""

    async def scenario() -> None:
        vm = HyperVGuest()
        async with watched(vm, tmp_path) as connection:
            await look(connection)
            vm.say(40)
            vm.event("RESET", at_s=100)
            await look_until(connection, lambda facts: facts.resets == 1)
            await look(connection)
            vm.event("HV_BALLOON_STATUS_REPORT", at_s=at_s)
            await look(connection)  # by its end the event has come
            facts = await look(connection)
            demand = facts.demand
            assert (None if demand is None else demand.committed_bytes // MEBIBYTE) == needed

    play(scenario())


def rack() -> ObedientHost:
    """Two VMs of 512 MiB that share 768, one of them shrunk."""
    settings = ManagerSettings(768 * MIB, 64 * MIB, NS_PER_S, "enforce")
    configs = [VmConfig(name, 64 * MIB, 512 * MIB) for name in ("web", "db")]
    host = ObedientHost(settings, configs, {"web": 100 * MIB, "db": 400 * MIB}, available_bytes=8 * GIB)
    for name in host.sizes:
        host.overrides[name] = {"boot_bytes": 512 * MIB, "device": "virtio-balloon"}
    host.sweep(8)
    assert host.sizes["web"] < 300 * MIB
    return host


def test_a_guest_counts_with_all_its_memory_until_its_driver_has_written_a_size() -> None:
    host = rack()
    host.overrides["web"] |= {"resets": 1, "is_actual_former": True, "demand": None}
    host.sweep()
    del host.overrides["web"]["demand"]  # it reports before its driver has written anything
    host.sweep(2)
    assert host.manager.claims.pages("web") << 12 == 512 * MIB
    del host.overrides["web"]["is_actual_former"]
    host.sweep(2)
    assert host.manager.claims.pages("web") << 12 < 512 * MIB


def test_what_the_former_guest_needed_is_not_the_present_ones_demand() -> None:
    """Its first report is from before a change of its size, so that it counts only if it says more."""
    host = rack()
    host.overrides["db"] |= {"resets": 1, "demand": None}
    host.sweep(2)
    host.sizes["db"] -= 8 * MIB
    host.overrides["db"]["demand"] = Demand(80 * MIB, 300 * MIB, "a test", NS_PER_S // 2)
    host.sweep()
    wanted = host.manager.status().vm("db").wanted_bytes
    assert wanted is not None
    assert wanted < 200 * MIB


def test_a_reset_is_looked_at_at_once_and_not_at_the_next_period(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = BootingVm()
        config = configured(tmp_path, "observe", web='minimum = "32MiB"\nmaximum = "512MiB"')
        config.write_text(config.read_text().replace('period = "0.1s"', 'period = "1h"'))
        async with listening(tmp_path / "web.qmp", vm.serve), managing(config) as manager:
            await manager.until(lambda status: status.vm("web").there)
            vm.event("RESET")
            await manager.until(lambda status: status.manager.sweeps == 2)
            await until(lambda: any("web: reset" in line for line in manager.lines))

    play(scenario())


def test_a_status_does_not_show_a_former_life_while_a_reset_is_being_looked_at(tmp_path: Path) -> None:
    async def scenario() -> None:
        config = load(configured(tmp_path, "observe", web=""))
        private_folder(config.state)
        journal = Journal(config.state)
        writer = JournalWriter(journal, print)
        sweep = NextSweep()
        service = Service(ConfigWatch(config), Manager(config.settings, config.vms), writer, sweep, Totals())
        await service.handle(StatusRequest())
        sweep.begin()
        sweep.saw_reset()
        asked = asyncio.create_task(service.handle(StatusRequest()))
        sweep.stepped()  # it began before the reset
        await service.stepped(0.0)
        await asyncio.sleep(0)
        assert not asked.done()
        sweep.begin()
        sweep.stepped()
        await service.stepped(0.0)
        status = await asked
        assert isinstance(status, StatusReply)
        assert status.manager.sweeps == 2
        await writer.finish()
        journal.close()

    play(scenario())
