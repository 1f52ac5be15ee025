"""What a balloon device lets its guest do by itself is read from its monitor, and shown in plain words."""

from pathlib import Path

import pytest
from tests.rigs.monitored import BALLOON, FakeVm, listening, look, qemu, watched
from tests.rigs.obedient import ObedientHost
from tests.rigs.scenes import play

from dynmem.manager.step.facts import RUNNING, ManagerSettings, VmConfig
from dynmem.manager.sweep.connection import VmConnection
from dynmem.units import GIB, MIB, NS_PER_S

BOTH = ("deflate-on-oom", "free-page-reporting")


def virtio_vm(**properties: object) -> FakeVm:
    """A VM with a virtio-balloon that has these properties besides."""
    vm = FakeVm(
        {
            "qom-list": [{"name": "balloon0", "type": "child<virtio-balloon-pci>"}],
            "qom-get guest-stats": {"stats": {"stat-available-memory": 1}, "last-update": 1},
            "qom-get guest-stats-polling-interval": 1,
        }
    )
    vm.answers |= {f"qom-get {name.replace('_', '-')}": value for name, value in properties.items()}
    return vm


def times_read(vm: FakeVm) -> list[int]:
    """How often each of the two was read."""
    return [[arguments.get("property") for _, arguments in vm.asked].count(name) for name in BOTH]


@pytest.mark.qemu
@pytest.mark.parametrize("on", [True, False])
def test_a_real_qemu_says_what_its_balloon_lets_the_guest_do(on: bool, tmp_path: Path) -> None:
    word = "on" if on else "off"
    options = (BALLOON[0], f"{BALLOON[1]},deflate-on-oom={word},free-page-reporting={word}")

    async def scenario() -> None:
        with qemu(tmp_path / "qmp", *options):
            connection = VmConnection("web", tmp_path / "qmp", may_write=False, period_s=0.1)
            facts = await look(connection)
            assert (facts.deflates_on_oom, facts.reports_free_pages) == (on, on)
            await connection.close()

    play(scenario())


def test_they_are_read_once_and_again_after_a_reconnect(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = virtio_vm(deflate_on_oom=True, free_page_reporting=False)
        async with watched(vm, tmp_path) as connection:
            for _ in range(20):
                facts = await look(connection)
                assert (facts.deflates_on_oom, facts.reports_free_pages) == (True, False)
            assert times_read(vm) == [1, 1]
            await connection._hang_up()
            vm.answers["qom-get deflate-on-oom"] = False
            facts = await look(connection)
            assert (facts.deflates_on_oom, facts.reports_free_pages) == (False, False)
            assert times_read(vm) == [2, 2]

    play(scenario())


def test_another_device_has_its_own(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = virtio_vm(deflate_on_oom=True)
        async with watched(vm, tmp_path) as connection:
            assert (await look(connection)).deflates_on_oom is True
            vm.answers["qom-get deflate-on-oom"] = False
            vm.answers["query-balloon"] = LookupError("No balloon device has been activated")
            await look(connection)
            vm.answers["query-balloon"] = {"actual": 64 * MIB}
            assert (await look(connection)).deflates_on_oom is False

    play(scenario())


@pytest.mark.parametrize("said", [None, "on", 1, [True], {"on": True}, RuntimeError("no such property")])
def test_a_monitor_that_does_not_say_leaves_them_unknown_and_its_vm_served(
    said: object, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with watched(virtio_vm(deflate_on_oom=said, free_page_reporting=said), tmp_path) as connection:
            facts = await look(connection)
            assert (facts.run_state, facts.device) == (RUNNING, "virtio-balloon")
            assert (facts.deflates_on_oom, facts.reports_free_pages) == (None, None)

    play(scenario())


@pytest.mark.parametrize("reports", [True, False, None])
def test_an_hv_balloon_may_say_whether_its_guest_reports_free_pages(
    reports: bool | None, tmp_path: Path
) -> None:
    async def scenario() -> None:
        vm = FakeVm(
            {
                "query-hv-balloon-status-report": {"committed": 1, "available": 1},
                "qom-list": [{"name": "hvb", "type": "child<hv-balloon>"}],
                "qom-get free-page-reporting": reports,
            }
        )
        async with listening(tmp_path / "qmp", vm.serve):
            connection = VmConnection("web", tmp_path / "qmp", may_write=False, period_s=0.1)
            facts = await look(connection)
            assert (facts.deflates_on_oom, facts.reports_free_pages) == (None, reports)
            asked = [arguments["path"] for name, arguments in vm.asked if name == "qom-get"]
            assert asked == ["/machine/peripheral/hvb"]
            await connection.close()

    play(scenario())


@pytest.mark.parametrize("on", [True, False, None])
def test_the_status_says_both_in_words(on: bool | None) -> None:
    settings = ManagerSettings(GIB, 64 * MIB, NS_PER_S)
    host = ObedientHost(settings, [VmConfig("web", 64 * MIB, 512 * MIB)], {"web": 100 * MIB})
    host.overrides["web"] = {"deflates_on_oom": on, "reports_free_pages": on}
    host.sweep()
    shown = host.manager.status().vm("web")
    if on is None:
        assert (shown.parachute, shown.free_pages) == (None, None)
    else:
        assert f"(deflate-on-oom={'on' if on else 'off'})" in (shown.parachute or "")
        assert f"(free-page-reporting={'on' if on else 'off'})" in (shown.free_pages or "")
