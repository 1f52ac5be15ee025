"""How often a guest is asked for statistics is also other programs' affair: used, set, left or put back."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.rigs.managers import configured, managing
from tests.rigs.monitored import MEBIBYTE, FakeVm, listening, look, watched
from tests.rigs.obedient import ObedientHost
from tests.rigs.scenes import play

from dynmem.errors import LocalProtocolError
from dynmem.manager.step.facts import RUNNING, Demand, ManagerSettings, VmConfig
from dynmem.manager.sweep.monitor import Monitor
from dynmem.qmp.client import QmpClient
from dynmem.units import GIB, MIB, NS_PER_S


class AskedVm(FakeVm):
    """A VM whose guest has virtio-balloon and is asked for statistics every `interval` seconds."""

    def __init__(self, interval: int) -> None:
        self.interval, self.updated = interval, 1
        super().__init__(
            {
                "qom-list": [{"name": "balloon0", "type": "child<virtio-balloon-pci>"}],
                "qom-get guest-stats": self._statistics,
                "qom-get guest-stats-polling-interval": lambda _: self.interval,
                "qom-set": self._set,
            }
        )

    def _statistics(self, _: Mapping[str, object]) -> object:
        return {"stats": {"stat-available-memory": 20 * MEBIBYTE}, "last-update": self.updated}

    def _set(self, arguments: Mapping[str, object]) -> object:
        assert isinstance(arguments["value"], int)
        self.interval = arguments["value"]
        return {}

    @property
    def sets(self) -> list[object]:
        """The intervals that were set."""
        return [arguments["value"] for name, arguments in self.asked if name == "qom-set"]


@pytest.mark.parametrize("found", [0, 2, 10, 60])
def test_in_enforce_mode_an_interval_longer_than_the_period_is_set_after_two_looks(
    found: int, tmp_path: Path
) -> None:
    async def scenario() -> None:
        vm = AskedVm(found)
        async with watched(vm, tmp_path, may_write=True) as connection:
            for _ in range(2):
                await look(connection)
                assert vm.sets == []
            for _ in range(20):
                facts = await look(connection)
            assert vm.sets == [1]
            assert facts.problem is None

    play(scenario())


def test_in_observe_mode_a_slow_interval_is_named_with_what_to_do_and_never_set(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = AskedVm(10)
        async with watched(vm, tmp_path) as connection:
            for _ in range(20):
                facts = await look(connection)
            assert facts.report_interval_ns == 10 * NS_PER_S
            assert facts.problem == (
                "its guest statistics come every 10 s, too slowly to follow its growth, and only enforce mode"
                " changes that: set guest-stats-polling-interval of /machine/peripheral/balloon0 to 1, or"
                ' use mode = "enforce", or statistics = true'
            )
            vm.interval = 2
            for _ in range(20):
                facts = await look(connection)
            assert facts.problem is None
            assert vm.sets == []

    play(scenario())


def test_with_the_operators_leave_observe_mode_sets_the_interval_and_nothing_else(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = AskedVm(0)
        async with watched(vm, tmp_path, may_ask=True) as connection:
            for _ in range(20):
                facts = await look(connection)
            assert vm.sets == [1]
            assert facts.problem is None
            connection.is_released = True
            await look(connection)
            assert vm.sets == [1, 0]
            with pytest.raises(LocalProtocolError, match="nothing may be sent to"):
                await connection.set_balloon(50 * MEBIBYTE)

    play(scenario())


def test_without_leave_no_interval_reaches_a_monitor_whoever_asks_for_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = AskedVm(10)
        async with listening(tmp_path / "qmp", vm.serve), await QmpClient.connect(tmp_path / "qmp") as client:
            monitor = Monitor(client, may_write=False, timeout_s=5)
            with pytest.raises(LocalProtocolError, match="nothing may be sent to"):
                await monitor.set_statistics_interval("/machine/peripheral/balloon0", 1)
            assert vm.asked == []
            monitor.may_ask = True
            await monitor.set_statistics_interval("/machine/peripheral/balloon0", 1)
            assert vm.sets == [1]

    play(scenario())


def test_a_leave_to_set_the_interval_that_a_reload_takes_back_during_a_pause_is_gone(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = AskedVm(0)
        async with watched(vm, tmp_path, may_ask=True) as connection:
            connection.is_paused = True
            await look(connection)
            connection.is_paused = False
            connection.configure(may_write=False, may_ask=False, period_s=0.1)
            for _ in range(20):
                await look(connection)
            assert vm.sets == []

    play(scenario())


def test_a_program_that_insists_on_its_interval_gets_it_and_is_named(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = AskedVm(30)
        async with watched(vm, tmp_path, may_write=True) as connection:
            for _ in range(100):
                facts = await look(connection)
                vm.interval = 30
            assert vm.sets == [1, 1, 1]
            assert "another program sets it so again and again" in (facts.problem or "")
            assert facts.report_interval_ns == 30 * NS_PER_S

    play(scenario())


def test_an_interval_that_was_changed_is_noticed_when_a_report_is_late(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = AskedVm(1)
        async with watched(vm, tmp_path) as connection:
            for _ in range(2):
                vm.updated += 1
                await look(connection, now_ns=0)
            vm.interval = 60
            facts = await look(connection, now_ns=NS_PER_S)
            assert facts.report_interval_ns == NS_PER_S
            facts = await look(connection, now_ns=3 * NS_PER_S)
            assert facts.report_interval_ns == 60 * NS_PER_S

    play(scenario())


def test_a_shorter_interval_counts_when_the_first_report_has_come_by_it(tmp_path: Path) -> None:
    """Until then the last report is as old as the longer one let it be."""

    async def scenario() -> None:
        vm = AskedVm(10)
        async with watched(vm, tmp_path, may_write=True) as connection:
            for _ in range(5):
                facts = await look(connection)
            assert (vm.sets, facts.report_interval_ns) == ([1], 10 * NS_PER_S)
            vm.updated += 1
            await look(connection)
            assert (await look(connection)).report_interval_ns == NS_PER_S

    play(scenario())


@pytest.mark.parametrize(("since", "left"), [(1, 10), (5, 5)])
def test_what_was_found_is_put_back_when_the_vm_is_released(since: int, left: int, tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = AskedVm(10)
        async with watched(vm, tmp_path, may_write=True) as connection:
            for _ in range(4):
                await look(connection)
            assert vm.interval == 1
            vm.interval = since  # what another program has set since is its own
            connection.is_released = True
            for _ in range(20):
                await look(connection)
            assert vm.interval == left
            connection.is_released = False
            await look(connection)
            assert vm.interval == 1

    play(scenario())


def test_in_observe_mode_nothing_is_put_back_and_in_enforce_mode_again_it_is(tmp_path: Path) -> None:
    """The mode may change while the manager runs."""

    async def scenario() -> None:
        vm = AskedVm(10)
        async with watched(vm, tmp_path, may_write=True) as connection:
            for _ in range(4):
                await look(connection)
            connection.configure(may_write=False, period_s=0.1)
            connection.is_released = True
            for _ in range(3):
                facts = await look(connection)
            assert (vm.interval, facts.run_state) == (1, RUNNING)
            connection.configure(may_write=True, period_s=0.1)
            await look(connection)
            assert vm.interval == 10

    play(scenario())


def test_a_longer_period_asks_for_a_longer_interval(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = AskedVm(60)
        async with watched(vm, tmp_path, may_write=True) as connection:
            connection.configure(may_write=True, period_s=30.0)
            for _ in range(4):
                await look(connection)
            assert vm.interval == 30
            connection.configure(may_write=True, period_s=5.0)
            for _ in range(12):
                await look(connection)
            assert vm.interval == 5
            connection.is_released = True
            await look(connection)
            assert vm.interval == 60

    play(scenario())


def rack_with_reports_every(seconds: int) -> ObedientHost:
    settings = ManagerSettings(1 * GIB, 64 * MIB, NS_PER_S, "enforce")
    configs = [VmConfig(name, 64 * MIB, 512 * MIB) for name in ("web", "db", "batch")]
    rack = ObedientHost(settings, configs, {"web": 100 * MIB, "db": 100 * MIB, "batch": 100 * MIB})
    rack.overrides["web"] = {"report_interval_ns": seconds * NS_PER_S}
    return rack


def aged(rack: ObedientHost, seconds: int) -> None:
    """Sweep while web's last report grows old."""
    demand = rack.demands["web"]
    for age in range(seconds):
        report = Demand(demand, rack.sizes["web"] - demand, "a test", 1 + age * NS_PER_S)
        rack.overrides["web"] = rack.overrides["web"] | {"demand": report}
        rack.sweep()
        assert rack.manager.status().vm("web").standing != "frozen" or age == 0


def test_a_guest_with_slow_statistics_is_served_and_not_shrunk_and_says_why() -> None:
    rack = rack_with_reports_every(10)
    rack.sweep(2)
    before = rack.sizes["web"]
    rack.demands["db"] = 500 * MIB
    aged(rack, 12)
    assert rack.sizes["web"] >= before
    assert rack.manager.status().vm("web").reason.startswith("not shrunk: it reports every 10 s, too slowly")
    rack.demands["web"], rack.demands["db"] = 500 * MIB, 100 * MIB
    aged(rack, 12)
    assert rack.sizes["web"] >= 500 * MIB


def test_a_guest_that_reports_every_few_periods_does_not_flap_and_is_shrunk() -> None:
    rack = rack_with_reports_every(3)
    rack.sweep(2)
    aged(rack, 5)
    assert rack.sizes["web"] < 512 * MIB


def test_a_manager_that_releases_a_vm_puts_its_interval_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = AskedVm(10)
        async with (
            listening(tmp_path / "web.qmp", vm.serve),
            managing(configured(tmp_path, "enforce", web='minimum = "32MiB"\nmaximum = "64MiB"')) as manager,
        ):
            await manager.until(lambda _: vm.interval == 1)
            await manager.ask(command="release", vm="web")
            await manager.until(lambda _: vm.interval == 10)

    play(scenario())


@pytest.mark.parametrize("leave", ["may_write", "may_ask"])
def test_the_interval_of_a_paused_vm_is_not_set_before_the_pause_is_over(leave: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = AskedVm(10)
        async with watched(vm, tmp_path, **{leave: True}) as connection:
            connection.is_paused = True
            for _ in range(20):
                await look(connection)
            assert vm.sets == []
            connection.is_paused = False
            for _ in range(12):
                await look(connection)
            assert vm.sets == [1]

    play(scenario())
