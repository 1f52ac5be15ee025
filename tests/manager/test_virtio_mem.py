"""virtio-mem under the manager, over a real socket: what is asked of it, and what is made of its answers."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.rigs.monitored import FakeVm, listening, look, watched
from tests.rigs.obedient import ObedientHost
from tests.rigs.pluggable import BLOCK, BOOT, KERNEL, Device, Managed, Pluggable
from tests.rigs.scenes import plays

from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.manager.step.advice import command_for
from dynmem.manager.step.changes import Change
from dynmem.manager.step.division import Parts
from dynmem.manager.step.facts import SILENT, ManagerSettings, Owner, VirtioMem, VmConfig
from dynmem.manager.step.safeguards import RETRY_LONGEST_NS
from dynmem.manager.sweep.monitor import Monitor
from dynmem.manager.sweep.sizes import read_memory
from dynmem.manager.sweep.virtio_mem import Online, PartlySentError
from dynmem.qmp.client import QmpClient
from dynmem.units import GIB, MIB, NS_PER_S


@contextlib.asynccontextmanager
async def managed(vm: Pluggable, folder: Path, *, mode: str = "enforce") -> AsyncIterator[Managed]:
    async with listening(folder / "qmp", vm.serve):
        managed = Managed(vm, folder / "qmp", mode=mode)
        try:
            yield managed
        finally:
            await managed.connection.close()


@contextlib.asynccontextmanager
async def monitor_of(vm: FakeVm, path: Path) -> AsyncIterator[Monitor]:
    async with listening(path, vm.serve):
        client = await QmpClient.connect(path)
        try:
            yield Monitor(client, may_write=True, timeout_s=5)
        finally:
            await client.close()


@plays
async def test_a_guest_that_needs_more_than_it_booted_with_is_plugged_and_one_that_needs_less_unplugged(
    tmp_path: Path,
) -> None:
    vm = Pluggable(Device("one", 256 * MIB), Device("two", 512 * MIB))
    async with managed(vm, tmp_path) as web:
        await web.period(2)
        assert (web.facts.actual_bytes, web.facts.limit_bytes) == (BOOT, BOOT + 768 * MIB)
        vm.used = 700 * MIB - KERNEL
        await web.period(8)
        assert vm.size >= 700 * MIB
        assert vm.own == BOOT
        assert [each.size for each in vm.devices.values()] == [256 * MIB, vm.size - BOOT - 256 * MIB]
        assert web.facts.actual_bytes == vm.size == web.view.actual_bytes
        assert web.view.plugged_bytes == vm.plugged
        assert web.view.pluggable_bytes == 768 * MIB
        vm.used = 60 * MIB
        await shrinks(web)
        assert vm.plugged == 0


async def shrinks(web: Managed, periods: int = 12) -> None:
    """Leave the host so little that its VM has to give all that it does not need."""
    web.configure(budget_bytes=224 * MIB)
    await web.period(periods)


@plays
async def test_what_lies_below_the_boot_size_is_the_balloons(tmp_path: Path) -> None:
    vm = Pluggable(Device("one", 512 * MIB, requested=256 * MIB), used=60 * MIB)
    vm.obey()
    async with managed(vm, tmp_path) as web:
        await web.period(3)
        begun = len(vm.writes)
        await shrinks(web)
        assert vm.plugged == 0
        assert vm.own < BOOT
        told = vm.writes[begun:]
        assert told[0][0] == "one"
        vm.used = 180 * MIB
        await web.period(6)
        assert vm.plugged == 0 or vm.own == BOOT


@plays
async def test_observe_and_advise_send_nothing_and_advise_says_what_to_type(tmp_path: Path) -> None:
    for mode in ("observe", "advise"):
        (tmp_path / mode).mkdir()
        vm = Pluggable(Device("one", 512 * MIB), used=300 * MIB)
        async with managed(vm, tmp_path / mode, mode=mode) as web:
            await web.period(6)
            assert vm.writes == []
            assert any("would grow" in each for each in web.lines)
            if mode == "advise":
                assert (
                    '{"execute": "qom-set", "arguments": {"path": "/machine/peripheral/one"' in web.lines[-1]
                )


@plays
async def test_the_command_is_that_of_the_program_which_runs_the_vm(tmp_path: Path) -> None:
    async with managed(Pluggable(Device("one", 512 * MIB)), tmp_path, mode="observe") as web:
        await web.period(3)
        (record,) = web.manager._roster
        change = Change(record, (BOOT + 256 * MIB) // 4096, "")
        for owner, command in (
            (
                Owner("libvirt", "web"),
                "virsh update-memory-device web --alias one --requested-size 262144KiB",
            ),
            (
                Owner("proxmox", "104"),
                "echo 'qom-set /machine/peripheral/one requested-size 268435456' | qm monitor 104",
            ),
        ):
            record.facts = replace(record.facts, owner=owner)
            assert command_for(change) == command
        change = Change(record, BOOT // 2 // 4096, "")
        assert command_for(change) == "echo 'balloon 128' | qm monitor 104"


@plays
async def test_a_guest_that_cannot_unplug_is_asked_by_its_balloon_for_the_rest(tmp_path: Path) -> None:
    vm = Pluggable(Device("one", 512 * MIB, requested=256 * MIB), used=60 * MIB)
    vm.obey()
    vm.devices["/machine/peripheral/one"].keeps = 200 * MIB
    async with managed(vm, tmp_path) as web:
        await web.period(3)
        await shrinks(web, 20)
        assert any(
            "unplugs no more at 360 MiB: 200 MiB is stuck, and its balloon gives" in each
            for each in web.lines
        )
        assert vm.devices["/machine/peripheral/one"].requested == 200 * MIB
        assert vm.own == web.config.minimum_bytes  # of which its kernel lives, whatever is plugged
        vm.devices["/machine/peripheral/one"].keeps = 0
        vm.obey()
        assert vm.plugged == 200 * MIB  # nothing is pending that could shrink it further by itself


@plays
async def test_a_vm_without_a_balloon_reports_nothing_and_is_left_as_it_is_at_its_full_size(
    tmp_path: Path,
) -> None:
    vm = Pluggable(Device("one", 512 * MIB, requested=256 * MIB), balloon=False)
    vm.obey()
    async with managed(vm, tmp_path) as web:
        await web.period(6)
        await shrinks(web)
        assert vm.writes == []
        assert web.view.standing == "frozen"
        assert "no balloon, so nothing reports what its guest needs" in web.view.reason
        assert (web.view.actual_bytes, web.view.claim_bytes) == (BOOT + 256 * MIB,) * 2


@plays
async def test_a_released_vm_is_offered_all_that_its_configuration_allows(tmp_path: Path) -> None:
    for has_balloon in (True, False):
        (tmp_path / str(has_balloon)).mkdir()
        vm = Pluggable(Device("one", 2 * GIB, requested=128 * MIB), balloon=has_balloon)
        async with managed(vm, tmp_path / str(has_balloon)) as web:
            await web.period(3)
            web.manager.release("web")
            await web.period(3)
            assert vm.size == GIB
            assert vm.own == BOOT


@pytest.mark.parametrize("is_noticed", [True, False])
@plays
async def test_memory_that_is_plugged_and_never_put_online_is_named_and_is_no_demand(
    is_noticed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise all of it would seem to be used, and call for more, until the VM is at its maximum."""
    if not is_noticed:
        monkeypatch.setattr(Online, "saw_total", lambda *_: None)
    vm = Pluggable(Device("one", 768 * MIB), used=80 * MIB)
    async with managed(vm, tmp_path) as web:
        web.configure(budget_bytes=BOOT + 96 * MIB)  # less the slush, and what is kept ready
        await web.period(5)
        assert (vm.own, vm.plugged) == (BOOT, 0)
        vm.onlines = False
        web.configure(budget_bytes=GIB)
        await web.period(12)
        assert vm.plugged > 512 * MIB
        assert web.facts.demand is not None
        seems_used = 0 if is_noticed else vm.plugged
        assert web.facts.demand.committed_bytes == 80 * MIB + KERNEL + seems_used
        if is_noticed:
            assert web.view.offline_bytes == vm.plugged
            assert "that virtio-mem has plugged is not online in its guest" in web.view.reason
            vm.onlines, vm.online = True, vm.plugged
            await web.period(3)
            assert web.view.offline_bytes == 0


@plays
async def test_a_guest_without_the_driver_takes_no_more_and_its_request_is_withdrawn(tmp_path: Path) -> None:
    vm = Pluggable(Device("one", 512 * MIB), used=220 * MIB)
    vm.devices["/machine/peripheral/one"].takes = 0
    async with managed(vm, tmp_path) as web:
        await web.period(12)
        assert any("takes no more at 256 MiB" in each for each in web.lines)
        assert vm.devices["/machine/peripheral/one"].requested <= 16 * MIB  # the small offer


@plays
async def test_what_another_program_has_requested_counts_as_taken_and_stays_requested(tmp_path: Path) -> None:
    """The guest may plug it at any moment, without anybody asking."""
    vm = Pluggable(Device("one", 512 * MIB, requested=256 * MIB), used=60 * MIB)
    vm.devices["/machine/peripheral/one"].takes = 0
    async with managed(vm, tmp_path) as web:
        await web.period(2)
        assert web.view.claim_bytes == web.view.assigned_bytes == BOOT + 256 * MIB
        assert vm.writes == []


@plays
async def test_a_vm_with_an_assigned_device_moves_by_virtio_mem_alone_and_not_below_its_boot_size(
    tmp_path: Path,
) -> None:
    vm = Pluggable(Device("one", 512 * MIB), used=60 * MIB)
    vm.others = [{"name": "gpu", "type": "child<vfio-pci>"}]
    async with managed(vm, tmp_path) as web:
        await web.period(8)
        assert web.view.pinned is not None
        assert vm.plugged > 256 * MIB
        await shrinks(web)
        assert (vm.own, vm.plugged) == (BOOT, 0)
        assert web.view.floor_bytes == BOOT
        assert {name for name, _ in vm.writes} == {"one"}


@plays
async def test_a_reset_unplugs_all_and_what_is_still_requested_counts_until_the_next_guest_plugs_it(
    tmp_path: Path,
) -> None:
    vm = Pluggable(Device("one", 512 * MIB), used=300 * MIB)
    one = vm.devices["/machine/peripheral/one"]
    async with managed(vm, tmp_path) as web:
        web.configure(budget_bytes=768 * MIB)
        await web.period(10)
        before = vm.plugged
        assert before > 128 * MIB
        seen = len(web.lines)
        vm.event("RESET")
        one.size = vm.online = 0
        one.takes, vm.used = 0, 30 * MIB  # its driver is not loaded yet
        await web.period(2)
        assert (web.view.claim_bytes or 0) >= BOOT + before
        assert one.requested == before
        one.takes, vm.used = one.most, 300 * MIB
        vm.obey()
        await web.period(4)
        assert vm.plugged == before
        assert not any("another program" in each or "no more" in each for each in web.lines[seen:])


@plays
async def test_a_vm_whose_devices_go_anywhere_stays_within_its_maximum_for_the_others(tmp_path: Path) -> None:
    vm = Pluggable(Device("one", 8 * GIB), used=60 * MIB)
    one = vm.devices["/machine/peripheral/one"]
    sizes = iter([0, 4 * GIB, BLOCK, 8 * GIB, 0, GIB] * 5)

    def wander() -> None:
        one.size = next(sizes)

    vm.moves = wander
    async with managed(vm, tmp_path) as web:
        for _ in range(24):
            await web.period()
            assert (web.view.claim_bytes or 0) <= GIB
            assert one.requested <= GIB


IMPOSSIBLE = [
    {"size": 1 << 63},
    {"size": -2},
    {"size": BLOCK + 1},
    {"size": 512 * MIB},
    {"requested-size": 512 * MIB},
    {"block-size": 0},
    {"block-size": True},
    {"max-size": None},
    {"memaddr": "low"},
]


@pytest.mark.parametrize("lie", IMPOSSIBLE, ids=str)
@plays
async def test_sizes_that_no_device_has_are_a_fault_of_the_monitor_and_freeze_the_vm(
    lie: dict[str, object], tmp_path: Path
) -> None:
    vm = Pluggable(Device("one", 256 * MIB))
    listed = vm.devices["/machine/peripheral/one"].listed
    async with managed(vm, tmp_path) as web:
        await web.period(3)
        before = len(vm.writes)
        vm.answers["query-memory-devices"] = [{**listed, "data": {**listed["data"], **lie}}]
        await web.period(2)
        assert web.facts.run_state == SILENT
        assert "what no monitor sends" in (web.facts.problem or "")
        assert len(vm.writes) == before


@plays
async def test_a_request_is_sent_only_to_a_device_that_was_found(tmp_path: Path) -> None:
    vm = Pluggable(Device("one", 256 * MIB))
    async with monitor_of(vm, tmp_path / "qmp") as monitor:
        with pytest.raises(LocalProtocolError):
            await monitor.set_requested_size("/machine/peripheral/one", BLOCK)
        monitor.virtio_mems = frozenset({"/machine/peripheral/one"})
        await monitor.set_requested_size("/machine/peripheral/one", BLOCK)
        monitor.may_write = False
        with pytest.raises(LocalProtocolError):
            await monitor.set_requested_size("/machine/peripheral/one", 0)
        assert vm.writes == [("one", 2)]


@plays
async def test_a_device_without_an_id_is_found_by_its_memory_and_one_that_is_not_found_is_left_alone(
    tmp_path: Path,
) -> None:
    for place, (folder, is_found) in enumerate((("/machine/peripheral-anon", True), ("/nowhere", False))):
        (tmp_path / str(place)).mkdir()
        device = Device("one", 256 * MIB, requested=128 * MIB)
        vm = Pluggable(device, used=350 * MIB)
        vm.obey()
        vm.devices = {f"{folder}/one": device}
        listing = vm._list
        vm.answers["qom-list"] = lambda asked, listing=listing, folder=folder: [
            each
            for each in listing({"path": "/machine/peripheral"})
            if asked["path"] == ("/machine/peripheral" if "balloon" in each["type"] else folder)
        ]
        vm.answers["query-memory-devices"] = [
            {"type": "virtio-mem", "data": {k: v for k, v in device.listed["data"].items() if k != "id"}}
        ]
        async with watched(vm, tmp_path / str(place), may_write=True) as connection:
            facts = await look(connection, now_ns=1)
            assert [each.path for each in facts.virtio_mems] == ([f"{folder}/one"] if is_found else [""])
            assert facts.actual_bytes == BOOT + 128 * MIB
            assert facts.limit_bytes == BOOT + (256 if is_found else 128) * MIB


@plays
async def test_a_device_that_replaces_another_one_with_the_same_memory_is_found(tmp_path: Path) -> None:
    one = Device("one", 256 * MIB)
    vm = Pluggable(one)
    async with watched(vm, tmp_path) as connection:
        assert (await look(connection, now_ns=1)).virtio_mems[0].path == "/machine/peripheral/one"
        vm.devices = {"/machine/peripheral/other": one}
        vm.answers["qom-list"] = lambda asked: (
            [{"name": "other", "type": "child<virtio-mem-pci>"}] if asked["path"][-1] == "l" else []
        )
        for _ in range(11):
            facts = await look(connection, now_ns=1)
        assert facts.virtio_mems[0].path == "/machine/peripheral/other"


@plays
async def test_after_a_refusal_nothing_more_of_an_order_is_sent(tmp_path: Path) -> None:
    vm = Pluggable(Device("one", 256 * MIB), Device("two", 256 * MIB))
    async with watched(vm, tmp_path, may_write=True) as connection:
        await look(connection, now_ns=1)
        one, two = "/machine/peripheral/one", "/machine/peripheral/two"
        with pytest.raises(PartlySentError, match="requested-size of /machine/peripheral/one is set"):
            await connection.set_balloon(BOOT, Parts(BOOT // 2, ((one, BLOCK), (two, BLOCK + 1))))
        assert vm.target == BOOT
        with pytest.raises(Exception, match="has to be multiples"):
            await connection.set_balloon(BOOT, Parts(BOOT // 2, ((two, BLOCK + 1), (one, 2 * BLOCK))))
        assert [each.requested for each in vm.devices.values()] == [BLOCK, 0]
        assert vm.target == BOOT


@pytest.mark.parametrize("is_deducted", [True, False])
def test_only_a_total_that_stays_behind_counts_as_offline_whatever_a_balloon_does_to_it(
    is_deducted: bool,
) -> None:
    """Linux takes the balloon off its total, except with deflate-on-oom; there, and in Windows, it is not."""
    online, reports = Online(), iter(range(100))

    def look(plugged: int, ballooned: int, offline: int = 0) -> int:
        for _ in range(3):
            online.saw_sizes(BOOT, BOOT - ballooned + plugged, plugged)
            total = BOOT + plugged - offline - KERNEL - (ballooned if is_deducted else 0)
            online.saw_total(next(reports), total)
        return online.offline_bytes // MIB

    assert look(0, 0) == 0
    assert look(0, 128 * MIB) == 0
    assert look(0, 0) == 0
    assert look(256 * MIB, 0) == 0
    assert look(384 * MIB, 0, 128 * MIB) == 128
    assert look(384 * MIB, 64 * MIB, 384 * MIB) == 384
    assert look(384 * MIB, 64 * MIB) == 0
    assert look(0, 128 * MIB) == 0


@pytest.mark.parametrize(
    ("age_ns", "plugged", "is_stuck"),
    [(0, 256 * MIB, True), (0, 128 * MIB, False), (RETRY_LONGEST_NS, 256 * MIB, False)],
)
def test_what_a_guest_could_not_unplug_is_asked_for_again_once_some_of_it_was_or_after_the_longest_pause(
    age_ns: int, plugged: int, *, is_stuck: bool
) -> None:
    settings = ManagerSettings(4 * GIB, 0, NS_PER_S, "enforce")
    host = ObedientHost(settings, [VmConfig("web", 64 * MIB, 2 * GIB)], {"web": 512 * MIB})
    device = VirtioMem("/m", 2 * MIB, 256 * MIB, 256 * MIB, 512 * MIB)
    host.overrides["web"] = {"virtio_mems": (device,)}
    host.sweep(2)
    record = host.manager._roster.get("web")
    assert record is not None
    record.stuck, record.stuck_ns = {"/m": 256 * MIB}, host.now_ns + NS_PER_S - age_ns
    host.overrides["web"] = {"virtio_mems": (replace(device, size_bytes=plugged, requested_bytes=plugged),)}
    host.sweep()
    assert bool(record.stuck) is is_stuck


def test_one_quiet_report_before_anything_is_plugged_shows_what_is_left_offline_then() -> None:
    online = Online()
    for mark in range(2):
        online.saw_sizes(BOOT, BOOT, 0)
        online.saw_total(mark, BOOT - KERNEL)
    for mark in range(2, 5):
        online.saw_sizes(BOOT, BOOT + 512 * MIB, 512 * MIB)
        online.saw_total(mark, BOOT - KERNEL)
    assert online.offline_bytes == 512 * MIB


def test_a_report_from_before_a_move_is_no_measure() -> None:
    online = Online()
    for mark in range(4):
        online.saw_sizes(BOOT, BOOT + GIB, GIB)
        online.saw_total(mark, BOOT + GIB - KERNEL)
    online.saw_sizes(BOOT, BOOT, 0)
    online.saw_total(5, BOOT + GIB - KERNEL)  # made before it was unplugged
    for mark in range(6, 9):
        online.saw_sizes(BOOT, BOOT, 0)
        online.saw_total(mark, BOOT - KERNEL)
        assert online.offline_bytes == 0
    online.saw_sizes(BOOT, BOOT + 512 * MIB, 512 * MIB)
    online.saw_total(9, BOOT - KERNEL)  # made before it was plugged
    online.saw_sizes(BOOT, BOOT + 512 * MIB, 512 * MIB)
    online.saw_total(10, BOOT + 512 * MIB - KERNEL)
    assert online.offline_bytes == 0


@pytest.mark.parametrize("change", [256 * MIB, 0])
@plays
async def test_what_is_plugged_or_unplugged_while_a_vm_is_read_is_no_change_of_its_demand(
    change: int, tmp_path: Path
) -> None:
    """The guest's report is from after that, and the size that was read first from before it."""
    one = Device("one", 512 * MIB, requested=128 * MIB)
    vm = Pluggable(one, used=100 * MIB)
    vm.obey()
    told = vm._statistics
    async with managed(vm, tmp_path, mode="observe") as web:
        await web.period(4)

        def moves_first() -> dict[str, object]:
            one.requested = change
            vm.obey()
            return told()

        vm.answers["qom-get guest-stats"] = lambda _: moves_first()
        await web.period()
        assert web.facts.actual_bytes == BOOT + change
        assert web.facts.demand is not None
        assert web.facts.demand.committed_bytes == 100 * MIB + KERNEL


@plays
async def test_the_memory_behind_it_is_a_piece_of_the_guests_and_not_of_the_process(tmp_path: Path) -> None:
    vm = Pluggable(Device("one", 256 * MIB))
    async with monitor_of(vm, tmp_path / "qmp") as monitor:
        memory = await read_memory(monitor, BOOT)
        assert memory.blocks == (BOOT, 256 * MIB)
        assert (memory.boot_bytes, memory.limit_bytes, memory.added_bytes) == (BOOT, BOOT, 0)
        vm.answers["query-memory-devices"] = [{"type": "virtio-mem", "data": {"size": 0}}]
        with pytest.raises(RemoteProtocolError):
            await read_memory(monitor, BOOT)
