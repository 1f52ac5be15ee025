"""VMs as other people start and change them: a device is replaced, an answer is long, a query fails once."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.rigs.monitored import MEBIBYTE, FakeVm, look, watched
from tests.rigs.scenes import play

from dynmem.limits import MANAGER_DEVICES_MAX, QMP_MESSAGE_BYTES_MAX, QMP_REPLY_BYTES_MAX, QMP_VALUES_MAX
from dynmem.manager.step.facts import RUNNING, SILENT

FOLDER = "/machine/peripheral"


class VirtioVm(FakeVm):
    """A VM of 64 MiB whose virtio-balloon may change its id; it reports anew each time it is asked."""

    def __init__(self, device: str = "balloon0") -> None:
        self.device = device
        self.reports = 0
        super().__init__(
            {
                "qom-list": self._list,
                "qom-get guest-stats": self._statistics,
                "qom-get guest-stats-polling-interval": lambda asked: self._own(asked) or 1,
            }
        )

    def _list(self, asked: Mapping[str, object]) -> list[object]:
        return [{"name": self.device, "type": "child<virtio-balloon-pci>"}] if asked["path"] == FOLDER else []

    def _own(self, asked: Mapping[str, object]) -> Exception | None:
        path = asked["path"]
        return None if path == f"{FOLDER}/{self.device}" else LookupError(f"Device '{path}' not found")

    def _statistics(self, asked: Mapping[str, object]) -> object:
        self.reports += 1
        return self._own(asked) or {
            "stats": {"stat-available-memory": 20 * MEBIBYTE},
            "last-update": 100 + self.reports,
        }


def test_a_balloon_that_was_replaced_by_one_of_another_name_is_found_in_the_same_look(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = VirtioVm("balloon0")
        async with watched(vm, tmp_path) as connection:
            for _ in range(3):
                facts = await look(connection)
            assert facts.demand is not None
            vm.device = "balloon1"
            facts = await look(connection)
            assert (facts.run_state, facts.problem) == (RUNNING, None)
            assert facts.demand is None  # the one before has reported, this one has not
            assert (await look(connection)).demand is not None
            assert len(vm.writers) == 1, "the monitor was disconnected for an answer"

    play(scenario())


def test_a_balloon_that_is_unplugged_is_looked_for_until_there_is_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = VirtioVm()
        async with watched(vm, tmp_path) as connection:
            assert (await look(connection)).device == "virtio-balloon"
            vm.answers["query-balloon"] = LookupError("No balloon device has been activated")
            facts = await look(connection)
            assert (facts.run_state, facts.device) == (RUNNING, None)
            assert facts.problem == "its balloon device does not reply: No balloon device has been activated"
            vm.answers["query-balloon"] = {"actual": 64 * MEBIBYTE}
            assert (await look(connection)).device == "virtio-balloon"

    play(scenario())


def test_a_search_that_failed_once_is_no_proof_that_there_is_no_balloon(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = VirtioVm()
        listed, vm.answers["qom-list"] = vm.answers["qom-list"], RuntimeError("try again")
        async with watched(vm, tmp_path) as connection:
            facts = await look(connection)
            assert facts.problem == "its monitor does not list its devices: try again"
            vm.answers["qom-list"] = listed
            assert (await look(connection)).device == "virtio-balloon"

    play(scenario())


def test_a_search_cut_short_by_a_lost_monitor_is_repeated_when_it_is_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = VirtioVm()
        listed, vm.answers["qom-list"] = vm.answers["qom-list"], ["not an object"]
        async with watched(vm, tmp_path) as connection:
            assert (await look(connection)).run_state == SILENT
            vm.answers["qom-list"] = listed
            connection._not_before = 0.0
            assert (await look(connection)).device == "virtio-balloon"

    play(scenario())


@pytest.mark.parametrize("command", ["query-status", "query-memory-size-summary"])
def test_an_error_reply_is_an_answer_and_the_monitor_is_asked_again(command: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = VirtioVm()
        answer, vm.answers[command] = vm.answers[command], RuntimeError("not in preconfig state")
        async with watched(vm, tmp_path) as connection:
            facts = await look(connection)
            assert facts.run_state == SILENT
            assert "not in preconfig state" in (facts.problem or "")
            vm.answers[command] = answer
            facts = await look(connection)
            assert (facts.run_state, facts.device) == (RUNNING, "virtio-balloon")
            assert len(vm.writers) == 1

    play(scenario())


def test_a_vm_that_could_not_say_at_first_whether_it_migrates_is_asked_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = VirtioVm()
        async with watched(vm, tmp_path) as connection:
            assert (await look(connection)).run_state == RUNNING
            vm.answers["query-migrate"] = {"status": "active"}
            assert (await look(connection)).run_state == "migrating"

    play(scenario())


def test_an_answer_about_many_devices_with_long_names_may_be_longer_than_a_command(tmp_path: Path) -> None:
    async def scenario() -> None:
        names = [f"dimm-of-a-tenant-with-a-long-name-{number:0200}" for number in range(256)]
        devices = [
            {"type": "dimm", "data": {"id": name, "size": MEBIBYTE, "memdev": f"/objects/mem{name}"}}
            for name in names
        ]
        assert len(str(devices)) > QMP_MESSAGE_BYTES_MAX
        vm = VirtioVm("b" * 300)
        vm.answers["query-memory-devices"] = devices
        async with watched(vm, tmp_path) as connection:
            facts = await look(connection)
            assert (facts.run_state, facts.device) == (RUNNING, "virtio-balloon")
            assert facts.boot_bytes == (64 + 256) * MEBIBYTE

    play(scenario())


@pytest.mark.parametrize("size", [QMP_REPLY_BYTES_MAX, QMP_VALUES_MAX, MANAGER_DEVICES_MAX + 1])
def test_an_answer_beyond_our_own_limit_is_said_to_be_that(size: int, tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = VirtioVm()
        vm.answers["query-memory-devices"] = (
            ["x" * size] if size == QMP_REPLY_BYTES_MAX else [{"type": "dimm"}] * size
        )
        async with watched(vm, tmp_path) as connection:
            facts = await look(connection)
            assert "its monitor sent more than dynmem reads" in (facts.problem or "")

    play(scenario())


def test_a_balloon_that_a_guest_calls_larger_than_its_memory_is_not_blamed_on_the_monitor(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        vm = VirtioVm()
        async with watched(vm, tmp_path) as connection:
            before = await look(connection)
            pages = (1 << 32) - 1  # what the guest writes for the size of its balloon
            vm.answers["query-balloon"] = {"actual": 64 * MEBIBYTE - (pages << 12)}
            facts = await look(connection)
            assert (facts.run_state, facts.actual_bytes) == (RUNNING, before.actual_bytes)
            assert "its guest reports an impossible balloon" in (facts.problem or "")
            assert len(vm.writers) == 1  # it stays connected

    play(scenario())
