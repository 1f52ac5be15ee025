"""Between two looks the manager glances at a VM, and asks its guest at once, without disturbing anything."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.rigs.monitored import MEBIBYTE, FakeVm, look, look_until, watched
from tests.rigs.scenes import play, until

from dynmem.manager.step.facts import RUNNING, SILENT, VmFacts
from dynmem.manager.sweep import balloon, looks
from dynmem.manager.sweep import connection as connection_module
from dynmem.manager.sweep.connection import VmConnection
from dynmem.units import NS_PER_MS, NS_PER_S

INTERVAL = "guest-stats-polling-interval"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine makes no glance fail, unless a test wants that."""
    monkeypatch.setattr(looks, "GLANCE_PATIENCE_S", 30.0)


class PromptVm(FakeVm):
    """A VM whose guest replies at once when QEMU's timer for its statistics begins anew, as QEMU's does.

    All that happens within one second: `last-update` does not move.
    """

    def __init__(self, interval: int = 1) -> None:
        self.interval, self.available = interval, 20
        self.reported = self.available
        super().__init__(
            {
                "qom-list": [{"name": "balloon0", "type": "child<virtio-balloon-pci>"}],
                "qom-get guest-stats": self._statistics,
                f"qom-get {INTERVAL}": lambda _: self.interval,
                "qom-set": self._set,
                "balloon": {},
            }
        )

    def _statistics(self, _: Mapping[str, object]) -> object:
        return {"stats": {"stat-available-memory": self.reported * MEBIBYTE}, "last-update": 1_700_000_000}

    def _set(self, arguments: Mapping[str, object]) -> object:
        value = arguments["value"]
        assert isinstance(value, int)
        if value and not self.interval:
            self.reported = self.available
        self.interval = value
        return {}

    @property
    def sets(self) -> list[object]:
        """The intervals that were set."""
        return [arguments["value"] for name, arguments in self.asked if name == "qom-set"]


async def known(vm: PromptVm, connection: VmConnection) -> None:
    """Look until the guest's demand is known, and forget what was asked until then."""
    for available in (22, 21, 20):
        vm.reported = vm.available = available
        facts = await look(connection, now_ns=0)
    assert used(facts) == 44
    vm.asked.clear()


def used(facts: VmFacts | None) -> int | None:
    return None if facts is None or facts.demand is None else facts.demand.committed_bytes // MEBIBYTE


def test_a_glance_reads_size_and_report_and_nothing_else(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = PromptVm()
        async with watched(vm, tmp_path, may_write=True) as connection:
            await known(vm, connection)
            vm.reported, vm.answers["query-balloon"] = 2, {"actual": 50 * MEBIBYTE}
            facts = await connection.glance(NS_PER_S)
            assert facts is not None
            assert (facts.run_state, facts.actual_bytes, used(facts)) == (RUNNING, 50 * MEBIBYTE, 48)
            assert facts.demand is not None
            assert facts.demand.age_ns == 0
            assert [name for name, _ in vm.asked] == ["query-balloon", "qom-get"]

    play(scenario())


def test_a_guest_is_asked_at_once_by_turning_its_timer_off_and_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = PromptVm()
        async with watched(vm, tmp_path, may_write=True) as connection:
            await known(vm, connection)
            vm.available = 4
            assert used(await connection.glance(0)) == 44  # it was not asked
            assert used(await connection.glance(0, ask=True)) == 60
            assert (vm.sets, vm.interval) == ([0, 1], 1)

    play(scenario())


def test_no_setting_of_a_paused_vm_is_changed_also_after_a_reload(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = PromptVm()
        async with watched(vm, tmp_path, may_write=True) as connection:
            await known(vm, connection)
            connection.is_paused = True
            await look(connection, now_ns=0)
            connection.configure(may_write=True, period_s=0.1)
            assert await connection.glance(NS_PER_S, ask=True) is not None
            assert vm.sets == []
            connection.is_paused = False
            await look(connection, now_ns=0)
            assert await connection.glance(2 * NS_PER_S, ask=True) is not None
            assert vm.sets == [0, 1]

    play(scenario())


def test_a_guest_that_is_asked_has_a_moment_to_reply_within_the_same_glance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(balloon, "REPLY_S", 0.0)

    class LaterVm(PromptVm):
        """Its guest has replied when it is read for the second time."""

        def _statistics(self, arguments: Mapping[str, object]) -> object:
            found = super()._statistics(arguments)
            self.reported = self.later
            return found

        later = 20

    async def scenario() -> None:
        vm = LaterVm()
        async with watched(vm, tmp_path, may_write=True) as connection:
            for available in (22, 21, 20, 20):
                vm.later = vm.available = available
                facts = await look(connection, now_ns=0)
            assert used(facts) == 44
            vm.later = 4
            assert used(await connection.glance(1, ask=True)) == 60
            assert used(await connection.glance(2)) == 60

    play(scenario())


def test_a_guest_is_asked_at_once_ten_times_a_second_at_most(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = PromptVm()
        async with watched(vm, tmp_path, may_write=True) as connection:
            await known(vm, connection)
            for turn in range(41):
                assert await connection.glance(turn * 25 * NS_PER_MS, ask=True) is not None
            assert vm.sets == [0, 1] * 11

    play(scenario())


def test_no_guest_is_asked_at_once_before_it_was_looked_at_twice(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = PromptVm()
        async with watched(vm, tmp_path, may_write=True) as connection:
            for _ in range(2):
                await look(connection)
                assert await connection.glance(0, ask=True) is not None
                assert vm.sets == []
            await look(connection)
            await connection.glance(0, ask=True)
            assert vm.sets == [0, 1]

    play(scenario())


@pytest.mark.parametrize(
    ("may_write", "released", "found", "period_s"),
    [(False, False, 1, 0.1), (True, True, 1, 0.1), (True, False, 2, 5.0)],
    ids=["observing", "released", "a shorter interval of somebody else"],
)
def test_no_guest_is_asked_at_once_where_that_would_change_a_setting(
    may_write: bool, released: bool, found: int, period_s: float, tmp_path: Path
) -> None:
    async def scenario() -> None:
        vm = PromptVm(found)
        async with watched(vm, tmp_path, may_write=may_write) as connection:
            connection.configure(may_write=may_write, period_s=period_s)
            connection.is_released = released
            await known(vm, connection)
            assert await connection.glance(0, ask=True) is not None
            assert vm.sets == []

    play(scenario())


def test_an_interval_that_another_program_has_set_since_is_left_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = PromptVm()
        async with watched(vm, tmp_path, may_write=True) as connection:
            await known(vm, connection)
            vm.interval = 7
            await connection.glance(0, ask=True)
            assert (vm.sets, vm.interval) == ([], 7)
            await look(connection)
            assert (vm.sets, vm.interval) == ([1], 1)  # by the rules of a look

    play(scenario())


def test_statistics_that_a_question_cut_short_left_off_are_on_again_after_the_next_look(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        vm = PromptVm()
        accept = vm.answers["qom-set"]
        assert callable(accept)

        def only_off(arguments: Mapping[str, object]) -> object:
            return RuntimeError("try again") if arguments["value"] else accept(arguments)

        async with watched(vm, tmp_path, may_write=True) as connection:
            await known(vm, connection)
            vm.answers["qom-set"] = only_off
            assert await connection.glance(0, ask=True) is None
            assert vm.interval == 0
            assert await connection.glance(NS_PER_S, ask=True) is not None  # and not asked once more
            vm.answers["qom-set"] = accept
            facts = await look(connection)
            assert (vm.interval, facts.problem) == (1, None)
            connection.is_released = True
            await look(connection)
            assert vm.interval == 1, "the manager took its own 0 for what it had found"

    play(scenario())


def test_statistics_are_turned_on_again_also_for_a_vm_that_is_released_meanwhile(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = PromptVm()
        async with watched(vm, tmp_path, may_write=True) as connection:
            await known(vm, connection)
            accept, vm.answers["qom-set"] = vm.answers["qom-set"], RuntimeError("try again")
            await connection.glance(0, ask=True)
            vm.answers["qom-set"], vm.interval = accept, 0
            connection.is_released = True
            await look(connection)
            assert vm.interval == 1

    play(scenario())


@pytest.mark.parametrize("command", ["query-balloon", "qom-get guest-stats"])
@pytest.mark.parametrize("answer", [RuntimeError("gone"), [], {"actual": -1, "last-update": "x"}])
def test_a_glance_that_finds_nonsense_decides_nothing_and_the_next_look_says_what_is_wrong(
    command: str, answer: object, tmp_path: Path
) -> None:
    async def scenario() -> None:
        vm = PromptVm()
        async with watched(vm, tmp_path, may_write=True) as connection:
            await known(vm, connection)
            vm.answers[command] = answer
            assert await connection.glance(0) is None
            assert len(vm.writers) == 1
            facts = await look(connection)
            assert facts.problem is not None
            assert used(facts) in (44, None)

    play(scenario())


def test_a_vm_that_is_not_known_or_not_connected_is_not_glanced_at(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = PromptVm()
        async with watched(vm, tmp_path) as connection:
            assert await connection.glance(0) is None
            assert connection.resident_now() is None
            await known(vm, connection)
            assert await connection.glance(0) is not None
            await connection._hang_up()
            assert await connection.glance(0) is None

    play(scenario())


def test_a_vm_that_is_being_looked_at_is_not_glanced_at(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = PromptVm()
        async with watched(vm, tmp_path) as connection:
            await known(vm, connection)
            vm.held_on = "query-status"
            looking = asyncio.create_task(look(connection))
            await until(lambda: connection._looks.is_looking)
            assert await connection.glance(0) is None
            vm.gate.set()
            assert (await looking).run_state == RUNNING
            assert await connection.glance(0) is not None

    play(scenario())


def test_what_comes_too_late_for_one_glance_is_waited_for_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        vm = PromptVm()
        async with watched(vm, tmp_path) as connection:
            await known(vm, connection)
            vm.held_on, vm.reported = "query-balloon", 4
            monkeypatch.setattr(looks, "GLANCE_PATIENCE_S", 0.01)
            for _ in range(3):
                assert await connection.glance(0) is None
            monkeypatch.setattr(looks, "GLANCE_PATIENCE_S", 30.0)
            vm.gate.set()
            assert used(await connection.glance(0)) == 60
            assert [name for name, _ in vm.asked] == ["query-balloon", "qom-get"]

    play(scenario())


def test_a_look_waits_for_a_late_glance_and_a_target_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        vm = PromptVm()
        async with watched(vm, tmp_path, may_write=True) as connection:
            await known(vm, connection)
            vm.held_on, vm.reported = "query-balloon", 4
            monkeypatch.setattr(looks, "GLANCE_PATIENCE_S", 0.01)
            assert await connection.glance(0) is None
            sending = asyncio.create_task(connection.set_balloon(32 * MEBIBYTE))
            await asyncio.sleep(0)  # it is sent
            assert (await look(connection, patience_s=0.01)).run_state == SILENT
            vm.gate.set()
            await sending
            facts = await look_until(connection, lambda facts: facts.run_state == RUNNING)
            assert used(facts) == 60
            assert [name for name, _ in vm.asked[:4]] == [
                "query-balloon",
                "balloon",
                "qom-get",
                "query-status",
            ]
            assert len(vm.writers) == 1

    play(scenario())


def test_a_monitor_that_stops_replying_to_a_glance_is_given_up_by_looks_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "COMMAND_TIMEOUT_S", 0.2)

    async def scenario() -> None:
        vm = PromptVm()
        async with watched(vm, tmp_path) as connection:
            await known(vm, connection)
            vm.silent_on = "query-balloon"
            assert await connection.glance(0) is None
            facts = await look(connection)
            assert facts.run_state == SILENT
            assert "no reply to query-balloon" in (facts.problem or "")
            assert await connection.glance(0) is None

    play(scenario())


def test_a_guest_that_is_reset_during_a_glance_has_said_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = PromptVm()
        async with watched(vm, tmp_path) as connection:
            await known(vm, connection)
            former = vm.answers["qom-get guest-stats"]
            assert callable(former)

            def reset_first(arguments: Mapping[str, object]) -> object:
                vm.event("RESET")
                return former(arguments)

            vm.answers["qom-get guest-stats"], vm.reported = reset_first, 4
            facts = await connection.glance(0)
            assert facts is not None
            assert (facts.resets, facts.demand) == (1, None)

    play(scenario())
