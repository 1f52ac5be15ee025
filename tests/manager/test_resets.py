"""A guest is reset while its balloon is filled: what the former guest had and said ends with it."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.rigs.monitored import MEBIBYTE, FakeVm, look, look_until, watched
from tests.rigs.scenes import play

from dynmem.manager.step.facts import VmFacts
from dynmem.manager.sweep.connection import VmConnection
from dynmem.manager.sweep.demand import VIRTIO_RESERVE_BYTES

FULL, FORMER = 512, 300


class BootingVm(FakeVm):
    """A VM of 512 MiB; QEMU goes on reporting the 300 MiB of its former guest after a reset."""

    def __init__(self) -> None:
        self.actual, self.available, self.updated = FORMER, 180, 1
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
        stats = {"stat-available-memory": self.available * MEBIBYTE}
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
    assert await needing(vm, connection, 180) == FORMER - 180 + VIRTIO_RESERVE_BYTES // MEBIBYTE
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
            assert await needing(vm, connection, 212) == 300 + 64  # it uses 300 of 512 MiB, and not 88 of 300
            vm.actual = 400  # its balloon fills
            assert not (await look(connection)).is_actual_former
            assert await needing(vm, connection, 100) == 300 + 64

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
