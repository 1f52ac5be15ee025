"""VMs that can grow past the size they booted with: hv-balloon with memory behind it, and DIMMs."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from tests.rigs.monitored import FakeVm, listening, look, look_until, watched
from tests.rigs.obedient import ObedientHost
from tests.rigs.scenes import play

from dynmem.errors import RemoteProtocolError
from dynmem.manager.step.facts import ManagerSettings, VmConfig
from dynmem.manager.sweep.connection import VmConnection
from dynmem.manager.sweep.monitor import Monitor
from dynmem.manager.sweep.sizes import Grown, VmMemory, read_memory
from dynmem.qmp.client import QmpClient
from dynmem.units import GIB, MIB, NS_PER_S, format_size

BOOT = 64 * MIB
HOST = ManagerSettings(4 * GIB, 64 * MIB, NS_PER_S, "enforce")


def hv_balloon(most: int, added: int | None) -> Mapping[str, object]:
    data = {"id": "hvb", "max-size": most} | ({} if added is None else {"size": added})
    return {"type": "hv-balloon", "data": data}


def dimm(size: int) -> Mapping[str, object]:
    return {"type": "dimm", "data": {"id": "d", "size": size, "slot": 0}}


@contextlib.asynccontextmanager
async def monitor_of(path: Path, devices: object) -> AsyncIterator[Monitor]:
    vm = FakeVm({"query-memory-devices": devices})
    async with listening(path, vm.serve):
        client = await QmpClient.connect(path)
        try:
            yield Monitor(client, may_write=False, timeout_s=5)
        finally:
            await client.close()


@pytest.mark.parametrize(
    ("devices", "memory"),
    [
        (None, VmMemory(BOOT, BOOT, 0, (BOOT,))),
        ([], VmMemory(BOOT, BOOT, 0, (BOOT,))),
        # QEMU does not count an NVDIMM in `actual`, and no balloon can have it.
        (
            [{"type": "nvdimm", "data": {"size": GIB}}, dimm(GIB)],
            VmMemory(BOOT + GIB, BOOT + GIB, 0, (BOOT, GIB)),
        ),
        ([hv_balloon(0, None)], VmMemory(BOOT, BOOT, 0, (BOOT,))),
        ([hv_balloon(GIB, None)], VmMemory(BOOT, BOOT + GIB, None, (BOOT, GIB))),
        (
            [dimm(128 * MIB), hv_balloon(GIB, 256 * MIB), {"type": "virtio-mem", "data": {}}],
            VmMemory(BOOT + 128 * MIB, BOOT + 128 * MIB + GIB, 256 * MIB, (BOOT, 128 * MIB, GIB)),
        ),
    ],
)
def test_memory_is_what_the_monitor_lists(tmp_path: Path, devices: object, memory: VmMemory) -> None:
    async def scenario() -> None:
        async with monitor_of(tmp_path / "qmp", devices) as monitor:
            assert await read_memory(monitor, BOOT) == memory

    play(scenario())


@pytest.mark.parametrize(
    "devices", [{}, [1], [{"type": "dimm"}], [dimm(-1)], [hv_balloon(1 << 63, 0)], [dimm(1)] * 1025]
)
def test_a_list_of_devices_that_cannot_be_is_refused(tmp_path: Path, devices: object) -> None:
    async def scenario() -> None:
        async with monitor_of(tmp_path / "qmp", devices) as monitor:
            with pytest.raises(RemoteProtocolError):
                await read_memory(monitor, BOOT)

    play(scenario())


def test_where_nobody_tells_what_was_added_nothing_counts_as_ballooned_that_may_not_be() -> None:
    told, untold = (VmMemory(BOOT, BOOT + GIB, added, (BOOT, GIB)) for added in (512 * MIB, None))
    actual = BOOT + 100 * MIB  # of 576 MiB that it has been given
    assert told.without_added(actual) == actual - 512 * MIB
    assert untold.without_added(actual) == BOOT
    assert untold.without_added(BOOT // 2) == BOOT // 2


def test_demand_of_a_guest_that_has_grown_leaves_out_what_is_ballooned(tmp_path: Path) -> None:
    async def scenario() -> None:
        status: dict[str, object] = {"committed": 700 * MIB, "available": 9 * MIB}
        vm = FakeVm(
            {
                "query-hv-balloon-status-report": status,
                "query-memory-devices": [hv_balloon(GIB, 896 * MIB)],
                "query-balloon": {"actual": BOOT + 500 * MIB},  # 396 MiB of it are ballooned
            }
        )
        connection = VmConnection("web", tmp_path / "qmp", may_write=False, period_s=0.1)
        async with listening(tmp_path / "qmp", vm.serve):
            facts = await look(connection)
            assert (facts.boot_bytes, facts.limit_bytes) == (BOOT, BOOT + GIB)
            vm.event("HV_BALLOON_STATUS_REPORT", status)
            facts = await look_until(connection, lambda facts: facts.demand is not None)
            assert facts.demand is not None
            assert facts.demand.committed_bytes == (700 - 396) * MIB
            await connection.close()

    play(scenario())


def test_what_was_added_is_known_by_how_large_a_guest_has_been_where_nobody_tells_it(tmp_path: Path) -> None:
    """QEMU's case: 256 MiB were added, and then more than that was ballooned."""

    async def scenario() -> None:
        size = {"actual": BOOT + 256 * MIB}
        status: dict[str, object] = {"committed": 300 * MIB, "available": 9 * MIB}
        vm = FakeVm(
            {
                "query-hv-balloon-status-report": status,
                "query-memory-devices": [hv_balloon(GIB, None)],
                "query-balloon": lambda _: size,
            }
        )
        connection = VmConnection("web", tmp_path / "qmp", may_write=False, period_s=0.1)

        async def demand() -> int:
            for _ in range(3):  # the figure of a report from before the size moved is not believed
                vm.event("HV_BALLOON_STATUS_REPORT", status)
                facts = await look(connection)
            return facts.demand.committed_bytes // MIB if facts.demand is not None else 0

        async with listening(tmp_path / "qmp", vm.serve):
            for _ in range(2):
                await look(connection)
            size["actual"] = BOOT + 56 * MIB
            assert await demand() == 300 - 200
            await connection._hang_up()  # a RESET may be missed meanwhile
            assert await demand() == 300
            vm.event("RESET", {})
            size["actual"] = BOOT - 32 * MIB
            assert await demand() == 300 - 32
            await connection.close()

    play(scenario())


def test_a_size_above_the_boot_size_counts_as_growth_once_two_looks_agree() -> None:
    grown = Grown()
    seen = []
    for above in (0, 1024, 0, 512, 256, 300, -100, 300):
        grown.saw(above)
        seen.append(grown.bytes)
    assert seen == [0, 0, 0, 0, 256, 256, 256, 256]


def grower(boot: int, limit: int, demand: int) -> ObedientHost:
    rack = ObedientHost(HOST, [VmConfig("web", 64 * MIB, 2 * GIB)], {"web": demand})
    rack.sizes["web"] = boot
    rack.overrides["web"] = {"boot_bytes": boot, "limit_bytes": limit}
    return rack


def test_a_vm_is_grown_past_its_boot_size_up_to_what_it_can_have() -> None:
    rack = grower(256 * MIB, 1 * GIB, 3 * GIB)
    rack.sweep(6)
    assert rack.sizes["web"] == 1 * GIB
    rack = grower(256 * MIB, 3 * GIB, 3 * GIB)
    rack.sweep(6)
    assert rack.sizes["web"] == 2 * GIB  # its configured maximum
    rack = grower(256 * MIB, 256 * MIB, 3 * GIB)
    rack.sweep(6)
    assert rack.sizes["web"] == 256 * MIB


@pytest.mark.parametrize(
    ("boot", "limit", "due"),
    [
        (256 * MIB, 256 * MIB, 256 * MIB),  # nothing can be added: what it booted with
        (3 * GIB, 3 * GIB, 3 * GIB),  # also beyond its configured maximum
        (256 * MIB, 1 * GIB, 1 * GIB),
        (256 * MIB, 8 * GIB, 2 * GIB),  # its configured maximum
        (300 * MIB, 8 * GIB, (300 + 13 * 128) * MIB),  # in whole blocks
    ],
)
def test_a_released_vm_has_all_it_can_have_and_is_left_alone(boot: int, limit: int, due: int) -> None:
    rack = grower(boot, limit, 100 * MIB)
    rack.sweep(3)
    rack.manager.release("web")
    rack.sweep(6)
    assert rack.sizes["web"] == due
    (vm,) = rack.manager.status().vms
    assert f"gets its full size, {format_size(due)}" in vm.reason
    assert "`dynmem release web --undo`" in vm.reason
    rack.demands["web"] = 64 * MIB
    assert rack.sweep(6).commands == ()


def test_a_released_vm_that_starts_anew_is_given_all_it_can_have_again() -> None:
    rack = grower(256 * MIB, 2 * GIB, 100 * MIB)
    rack.sweep(3)
    rack.manager.release("web")
    rack.sweep(3)
    rack.overrides["web"] |= {"incarnation": "web.2"}
    rack.sizes["web"] = 256 * MIB
    rack.sweep(3)
    assert rack.sizes["web"] == 2 * GIB


def test_released_vms_that_can_grow_get_their_maximum_beyond_the_budget_by_the_operators_order() -> None:
    small = ManagerSettings(1 * GIB, 64 * MIB, NS_PER_S, "enforce")
    rack = ObedientHost(
        small, [VmConfig(name, 64 * MIB, 2 * GIB) for name in ("web", "db")], {"web": 9 * MIB, "db": 9 * MIB}
    )
    for name in rack.demands:
        rack.sizes[name] = 256 * MIB
        rack.overrides[name] = {"boot_bytes": 256 * MIB, "limit_bytes": 2 * GIB}
    rack.sweep(3)
    rack.manager.release(None)
    rack.sweep(10)
    assert any("the budget does not cover" in line for line in rack.news)
    assert set(rack.sizes.values()) == {2 * GIB}
    assert rack.manager.promised_bytes() == 4 * GIB


def test_a_reset_books_the_larger_of_boot_size_and_target() -> None:
    rack = grower(256 * MIB, 2 * GIB, 1 * GIB)
    rack.sweep(6)
    grown = rack.sizes["web"]
    rack.sizes["web"] = 256 * MIB
    rack.overrides["web"] |= {"resets": 1, "demand": None}
    rack.sweep()
    assert rack.manager.claims.pages("web") << 12 >= grown


def test_a_target_that_ended_with_a_reset_is_not_waited_for() -> None:
    rack = grower(256 * MIB, 2 * GIB, 1 * GIB)
    rack.sweep(6)
    rack.sizes["web"] = 256 * MIB
    rack.overrides["web"] |= {"resets": 1, "demand": None}
    rack.sweep(2)
    assert rack.manager.status().vm("web").assigned_bytes == 256 * MIB
    assert "takes no more" not in rack.manager.status().vm("web").reason


def test_what_a_reset_has_unplugged_is_known_at_the_next_look(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = FakeVm({"query-memory-devices": [dimm(128 * MIB)]})
        async with watched(vm, tmp_path) as connection:
            assert (await look(connection)).boot_bytes == BOOT + 128 * MIB
            vm.answers["query-memory-devices"] = []
            assert (await look(connection)).boot_bytes == BOOT + 128 * MIB  # it is read now and then
            vm.event("RESET")
            await look_until(connection, lambda facts: facts.resets == 1)
            assert (await look(connection)).boot_bytes == BOOT

    play(scenario())
