"""Guest memory in reserved huge pages, which are anybody's once the guest has given them up."""

from pathlib import Path
from typing import Any, Final

import pytest
from tests.rigs.added_memory import SIZE, UNIT, AddingRig, Discards, Plugged
from tests.rigs.balloon_device import Rig
from tests.rigs.machine_wide import HUGE, reserved, spare, taken
from tests.rigs.processes import is_there
from tests.rigs.scenes import play, plays, until
from tests.rigs.vms import Vm, running

from dynmem.memory.backend import MemfdBackend
from dynmem.memory.discard import Discarder
from dynmem.pages import ranges as page_ranges
from dynmem.units import MIB, PAGE_SIZE
from dynmem.wire import dm

pytestmark = pytest.mark.usefixtures("huge_pages")

BLOCK: Final = HUGE // PAGE_SIZE
SLOT: Final = 128 * MIB
BOOT: Final = 64 * MIB
SMALL: Final = 26 * MIB  # whole huge pages are given up, then


@plays
async def test_boot_memory_that_another_program_took_stays_in_the_balloon_and_a_reset_says_so() -> None:
    with reserved(SIZE // HUGE), MemfdBackend(SIZE, hugetlb=True) as boot:
        boot.view[:] = bytes(SIZE)  # what was never touched is still set aside
        rig = Rig(discards := Discards(), boot=boot)
        rig.ask(SIZE - 4 * HUGE)
        rig.give((4 * BLOCK, 4 * BLOCK))
        rig.turn()
        discard = Discarder(boot).discard
        discard(discards.finish())
        with taken(left=1):
            assert rig.ask(SIZE) == [
                dm.UnballoonRequest(1, more_pages=True, ranges=page_ranges.span(4 * BLOCK, BLOCK)),
                dm.UnballoonRequest(1, more_pages=False, ranges=b""),
            ]
            rig.say(dm.UnballoonResponse(9))
            assert rig.turn() == []
            assert rig.device.actual_bytes == SIZE - 3 * HUGE
            rig.disconnect()
            await rig.device.reset()
            assert rig.faults.counts["huge pages missing"] == 1
            boot.view[: 5 * HUGE] = bytes(5 * HUGE)


@plays
async def test_added_memory_that_another_program_took_is_not_offered_after_it_was_given_for_good() -> None:
    with reserved(SLOT // HUGE), MemfdBackend(SLOT, hugetlb=True) as backend:
        backend.view[:] = bytes(SLOT)
        plugged = Plugged(SLOT, backend=backend)
        rig = AddingRig(plugged, Discards())
        assert rig.grow(SIZE + 8 * MIB) == [(0, 8 * UNIT)]
        rig.remove(8 * UNIT, (2 * UNIT, 6 * UNIT))
        (_, ranges, _) = rig.discards.open[0]
        Discarder(backend).discard(ranges)
        rig.discards.finish()
        rig.turn()
        with taken(left=1):
            assert rig.grow(SIZE + 8 * MIB) == [(2 * UNIT, 2 * UNIT)]
            assert rig.device.actual_bytes == SIZE + 4 * MIB
            backend.view[: 4 * MIB] = b"x" * (4 * MIB)
        assert rig.grow(SIZE + 8 * MIB) == [(4 * UNIT, 4 * UNIT)]
        backend.view[: 8 * MIB] = b"x" * (8 * MIB)


@plays
async def test_after_a_reset_a_slot_comes_only_when_the_host_has_all_of_it() -> None:
    with reserved(SLOT // HUGE), MemfdBackend(SLOT, hugetlb=True) as backend:
        backend.view[:] = bytes(SLOT)
        rig = AddingRig(Plugged(SLOT, backend=backend), Discards())
        rig.grow(SIZE + 8 * MIB)
        Discarder(backend).discard(page_ranges.span(0, SLOT // PAGE_SIZE))
        assert spare() == SLOT // HUGE
        with taken(left=3):
            assert await rig.reset() == []
            assert rig.plugged.slots == []
            assert spare() == 3
        assert rig.grow(SIZE + 8 * MIB) == [(0, 8 * UNIT)]


def test_a_real_guest_lives_on_when_the_host_has_no_huge_pages_to_give_back(tmp_path: Path) -> None:
    options = (
        f"--object=memory-backend-memfd,id=m,size={BOOT},hugetlb=on,prealloc=on",
        "--machine=memory-backend=m",
    )

    async def ballooned_to(client: Any, size: int) -> None:
        await client.execute("balloon", {"value": size})

    async def actual(client: Any) -> int:
        return int((await client.execute("query-balloon"))["actual"])

    async def scene(vm: Vm, client: Any) -> None:
        await ballooned_to(client, SMALL)

        async def is_small() -> bool:
            return await actual(client) == SMALL and spare() >= 1

        await until(is_small)
        (pid,) = vm.guest_pids()
        with taken():
            await ballooned_to(client, BOOT)
            await until(lambda: "stay in the balloon" in vm.log.read_text())
            short = await actual(client)
            assert SMALL < short < BOOT
            reports = len(vm.console())
            await until(lambda: len(vm.console()) > reports + 2)
        await ballooned_to(client, BOOT)

        async def is_whole() -> bool:
            return await actual(client) == BOOT

        await until(is_whole)
        reports = len(vm.console())
        await until(lambda: len(vm.console()) > reports + 2)
        assert is_there(pid)
        assert vm.console()[-1]["wrong_bytes"] == 0

    async def story() -> None:
        with reserved(BOOT // HUGE):
            async with running(tmp_path, memory="64M", options=options) as (vm, client):
                await scene(vm, client)

    play(story())
