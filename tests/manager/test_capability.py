"""What a VM can do is shown with its evidence, and an unproven driver is sent no more than a nudge."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.rigs.monitored import BALLOON, listening, qemu
from tests.rigs.obedient import ObedientHost
from tests.rigs.pluggable import BOOT, Device, Managed, Pluggable
from tests.rigs.scenes import play

from dynmem.manager.step.capability import Capability
from dynmem.manager.step.facts import (
    HV_BALLOON,
    RUNNING,
    VIRTIO_BALLOON,
    Demand,
    ManagerSettings,
    Mode,
    VmConfig,
)
from dynmem.manager.step.results import SetBalloon
from dynmem.manager.step.safeguards import Safeguards
from dynmem.units import GIB, MIB, NS_PER_S

FULL = 512 * MIB


class Mute(ObedientHost):
    """A VM of 512 MiB with virtio-balloon that never reports; `gives`: whether it has a driver yet."""

    def __init__(
        self, *, gives: bool, mode: Mode = "enforce", minimum: int = 64 * MIB, nudges: bool = True
    ) -> None:
        settings = ManagerSettings(4 * GIB, 64 * MIB, NS_PER_S, mode)
        guards = Safeguards(growth=False, ready=False, nudges=nudges)
        super().__init__(settings, [VmConfig("web", minimum, FULL)], {"web": 100 * MIB}, safeguards=guards)
        self.gives, self.sent = gives, list[SetBalloon]()
        self.set(device=VIRTIO_BALLOON, demand=None)

    def set(self, **facts: object) -> None:
        self.overrides.setdefault("web", {}).update(facts)

    def pass_periods(self, count: int) -> None:
        for _ in range(count):
            before = self.sizes["web"]
            self.sent += self.sweep().commands
            if not self.gives:
                self.sizes["web"] = before

    @property
    def targets(self) -> Sequence[int]:
        return [each.target_bytes // MIB for each in self.sent]

    @property
    def capability(self) -> Capability:
        found = self.manager.status().vms[0].capability
        assert found is not None
        return found


def test_a_guest_that_never_reports_is_nudged_once_and_one_that_gives_nothing_is_left_alone() -> None:
    host = Mute(gives=False)
    host.pass_periods(9)
    assert host.targets == []
    assert host.capability.driver.value == "unknown"
    host.pass_periods(3)
    assert host.targets == [496]
    assert "it is nudged" in host.capability.driver.evidence
    host.pass_periods(600)
    assert host.targets == [496, 512]
    assert host.capability.driver.value == "absent"
    assert (
        "nudge withdrawn: its guest gave nothing of 16 MiB: load the virtio_balloon driver" in host.news[-1]
    )


def test_a_driver_that_gives_what_it_is_nudged_for_has_it_back_and_is_told_apart_from_none() -> None:
    """As in Windows without the balloon's service: a driver, and no statistics."""
    host = Mute(gives=True)
    host.pass_periods(60)
    assert host.targets == [496, 512]
    assert host.sizes["web"] == FULL
    assert host.capability.driver.value == "proven"
    assert host.capability.statistics.value == "absent"
    assert "in Windows, the balloon's service is not running" in host.capability.statistics.evidence
    assert host.capability.movable.value == "no"
    assert host.manager.status().vms[0].claim_bytes == FULL


def test_a_guest_that_reports_after_all_is_managed_and_not_nudged() -> None:
    host = Mute(gives=True)
    host.pass_periods(5)
    host.set(demand=Demand(100 * MIB, 400 * MIB, "", 1))
    host.pass_periods(20)
    assert host.capability.driver.value == "proven"
    assert host.capability.statistics.value == "fresh"
    assert host.capability.movable.value == "yes"
    assert not any("nudge" in each for each in host.news)


def test_a_guest_that_was_reset_is_another_guest_and_may_have_a_driver() -> None:
    host = Mute(gives=False)
    host.pass_periods(20)
    host.set(resets=1)
    host.pass_periods(1)
    assert host.capability.driver.value == "unknown"
    host.pass_periods(20)
    assert host.targets == [496, 512] * 2


def test_the_nudge_of_a_manager_before_this_one_is_finished() -> None:
    host = Mute(gives=False)
    host.manager.restore("web", "web.1", 496 * MIB)
    host.pass_periods(7)  # no other VM is nudged that early
    assert host.targets == [496, 512]


@pytest.mark.parametrize(
    ("what", "facts"),
    [
        ("an hv-balloon, which a target at the wrong moment can end", {"device": HV_BALLOON}),
        ("a balloon that holds memory already", {"actual_bytes": FULL // 2}),
        ("a size that may be the former guest's", {"is_actual_former": True}),
        ("a VM that does not run", {"run_state": "paused"}),
        ("one that another program has locked", {"lock": "Proxmox backs it up"}),
    ],
)
def test_others_are_not_nudged(what: str, facts: dict[str, object]) -> None:
    host = Mute(gives=True)
    host.set(**facts)
    host.pass_periods(30)
    assert host.targets == [], what


def test_nobody_is_nudged_below_a_minimum_when_paused_released_or_by_a_manager_that_may_not_write() -> None:
    assert passes(Mute(gives=True, minimum=FULL - 8 * MIB)) == []
    assert passes(Mute(gives=True, mode="observe")) == []
    assert passes(Mute(gives=True, mode="advise")) == []
    assert passes(Mute(gives=True, nudges=False)) == []
    paused, released = Mute(gives=True), Mute(gives=True)
    paused.manager.pause("web", 10**15)
    released.manager.release("web")
    assert passes(paused) == passes(released) == []


def passes(host: Mute) -> Sequence[int]:
    host.pass_periods(30)
    return host.targets


def test_a_balloon_that_holds_memory_has_a_driver_that_has_given_it() -> None:
    host = Mute(gives=True)
    host.set(actual_bytes=FULL // 2)
    host.pass_periods(3)
    assert host.capability.driver.value == "proven"
    assert host.capability.driver.evidence == "its balloon holds 256 MiB, which a driver has given"
    host.set(is_actual_former=True)
    host.pass_periods(1)
    assert host.capability.driver.value == "unknown"


def test_reports_that_do_not_change_become_stale_and_are_no_signal() -> None:
    """QEMU shows the last statistics for ever: frozen ones are as good as none."""
    host = Mute(gives=True)
    host.set(demand=Demand(100 * MIB, 400 * MIB, "", 1))
    host.pass_periods(3)
    host.set(demand=Demand(100 * MIB, 400 * MIB, "", 30 * NS_PER_S))
    host.pass_periods(1)
    assert host.capability.statistics.value == "stale"
    assert host.capability.statistics.evidence == "its last report is 30 s old"
    assert host.capability.movable.value == "no"


@pytest.mark.parametrize(
    ("facts", "entry", "value"),
    [
        ({"device": None}, "driver", "none"),
        ({"device": None}, "devices", "none"),
        ({"device": None}, "deflate_on_oom", "none"),
        ({}, "devices", "virtio-balloon"),
        ({}, "plugging", "none"),
        ({"deflates_on_oom": True}, "deflate_on_oom", "on"),
        ({"deflates_on_oom": False}, "deflate_on_oom", "off"),
        ({}, "deflate_on_oom", "unknown"),
        ({"reports_free_pages": True}, "free_page_reporting", "on"),
        ({}, "guest_page_size", "unknown"),
        ({"device": HV_BALLOON}, "guest_page_size", "4096"),
        ({"run_state": RUNNING}, "movable", "no"),
    ],
)
def test_each_entry_has_a_word_and_its_evidence(facts: dict[str, object], entry: str, value: str) -> None:
    host = Mute(gives=True)
    host.set(**facts)
    host.pass_periods(1)
    found = getattr(host.capability, entry)
    assert found.value == value
    assert found.evidence


@pytest.mark.parametrize("is_wary", [True, False])
def test_a_virtio_mem_that_has_plugged_nothing_is_asked_for_no_more_than_16_mib(
    is_wary: bool, tmp_path: Path
) -> None:
    async def scene() -> None:
        vm = Pluggable(Device("one", 768 * MIB), used=200 * MIB)
        one = vm.devices["/machine/peripheral/one"]
        one.takes = 0
        async with listening(tmp_path / "qmp", vm.serve):
            web = Managed(vm, tmp_path / "qmp", guards=Safeguards(nudges=is_wary))
            requested = 0
            for _ in range(12):
                await web.period()
                requested = max(requested, one.requested)
            assert (requested <= 16 * MIB) == is_wary
            assert web.view.capability is not None
            assert web.view.capability.plugging.value == "absent"
            one.takes = one.most
            await web.period(30)
            assert vm.size > BOOT + 16 * MIB
            assert web.view.capability.plugging.value == "proven"
            assert web.view.capability.devices.value == "virtio-balloon and virtio-mem"
            await web.connection.close()

    play(scene())


@pytest.mark.parametrize("absent", [(1 << 64) - 1, -1])
def test_a_figure_that_means_never_is_absent_and_no_figure(absent: int, tmp_path: Path) -> None:
    """QEMU shows 2^64-1, and so does a program that reads it as a signed number."""

    async def scene() -> None:
        vm = Pluggable(Device("one", 256 * MIB))
        told = vm._statistics
        names = ("stat-available-memory", "stat-free-memory")
        vm.answers["qom-get guest-stats"] = lambda _: {**told(), "stats": dict.fromkeys(names, absent)}
        async with listening(tmp_path / "qmp", vm.serve):
            web = Managed(vm, tmp_path / "qmp", mode="observe")
            await web.period(5)
            assert web.facts.demand is None
            assert web.view.capability is not None
            assert web.view.capability.statistics.value == "absent"
            assert "has sent no statistics" in web.view.capability.statistics.evidence
            await web.connection.close()

    play(scene())


@pytest.mark.qemu
def test_a_real_qemu_without_a_guest_takes_the_nudge_and_is_found_to_have_no_driver(tmp_path: Path) -> None:
    """QEMU replies to both targets as if they were met."""

    async def scene() -> None:
        with qemu(tmp_path / "qmp", *BALLOON, paused=False):
            web = Managed(None, tmp_path / "qmp")
            web.config = replace(web.config, minimum_bytes=32 * MIB, maximum_bytes=64 * MIB)
            web.configure()
            targets = [each.target_bytes // MIB for _ in range(30) for each in (await web.period()).commands]
            assert targets == [48, 64]
            assert web.facts.actual_bytes == 64 * MIB
            assert web.view.capability is not None
            assert web.view.capability.driver.value == "absent"
            await web.connection.close()

    play(scene())
