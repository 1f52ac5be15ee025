"""What a client or a guest can push to its limit: names, sizes, descriptors."""

import contextlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.rigs.embedded import GuestWithoutProcess
from tests.rigs.own_process import few_more_descriptors
from tests.rigs.processes import is_there
from tests.rigs.scenes import play, until
from tests.rigs.vms import running

from dynmem.limits import DISCARD_BATCH_RANGES
from dynmem.memory.backend import BackendError
from dynmem.memory.backend_file import FileBackend
from dynmem.pages import ranges as page_ranges
from dynmem.pages.page_set import PageSet
from dynmem.units import MIB
from dynmem.vm.balloon.accounts import Batch, Memory
from dynmem.vm.machine import Machine
from dynmem.vm.options.machine import VmOptions
from dynmem.vm.options.memory import BackendOptions, DimmOptions, MemoryOptions

PAGES = 1 << 15
OPTIONS = VmOptions(
    name="one",
    memory=MemoryOptions(32 * MIB, 64 * MIB, 4),
    objects=(
        BackendOptions("memory-backend-ram", "a", 2 * MIB),
        BackendOptions("memory-backend-ram", "b", 2 * MIB),
    ),
)


def test_a_dimm_with_an_id_like_a_name_for_those_without_is_not_lost_when_one_without_comes() -> None:
    machine = Machine(OPTIONS, lambda *_: None)
    first = machine.dimms.plug(DimmOptions("a", "device[0]"))
    second = machine.dimms.plug(DimmOptions("b"))
    assert set(machine.dimms.by_name.values()) == {first, second}
    assert machine.dimms.path("device[0]") == "/machine/peripheral/device[0]"
    machine.memory.close()


def test_a_dimm_that_comes_between_two_guests_is_a_hot_plugged_one() -> None:
    machine = Machine(replace(OPTIONS, dimms=(DimmOptions("a", "x"),)), lambda *_: None)
    assert not machine.dimms.by_name["x"].hotplugged
    machine.dimms.guest_gone()  # a reset has begun
    assert machine.dimms.plug(DimmOptions("b")).hotplugged
    machine.memory.close()


def test_a_file_larger_than_any_is_refused_and_not_left_behind(tmp_path: Path) -> None:
    for size in (1 << 63, (1 << 64) - 4096, 1 << 70):
        with pytest.raises(BackendError, match=r"^unable to map backing store for guest RAM: "):
            FileBackend(size, tmp_path / "memory")
    assert list(tmp_path.iterdir()) == []


def test_what_a_guest_gives_for_good_faster_than_it_is_discarded_is_discarded_in_bounded_batches() -> None:
    memory = Memory([(0, PAGES)])
    first = memory_due(memory, page_ranges.span(1, 1))
    for start in range(0, PAGES, 1024):  # every other page, in messages of 512 ranges
        memory.free(page_ranges.from_pages(np.arange(start, start + 1024, 2)))
    assert memory.due(0, flush=True) is None
    memory.done(first, failed=False)
    batches = []
    while (discard := memory.due(0, flush=True)) is not None:
        assert memory.is_freeing
        batches.append(discard.ranges)
        memory.done(discard, failed=False)
    assert not memory.is_freeing
    assert max(map(len, batches)) <= 8 * DISCARD_BATCH_RANGES
    assert b"".join(batches) == page_ranges.from_pages(np.arange(0, PAGES, 2))


def memory_due(memory: Memory, ranges: bytes) -> Batch:
    """The discard of pages that were given for good, in flight."""
    memory.free(ranges)
    discard = memory.due(0, flush=True)
    assert discard is not None
    return discard


def make_objects(machine: Machine, count: int) -> None:
    for number in range(count):
        machine.objects.make(BackendOptions("memory-backend-ram", f"o{number}", 4096))


def test_objects_leave_descriptors_for_the_next_guest() -> None:
    machine = Machine(OPTIONS, lambda *_: None)
    with few_more_descriptors(200), contextlib.ExitStack() as stack:
        with pytest.raises(BackendError, match=r"^object 'o\d+': Too many open files$"):
            make_objects(machine, 1000)
        assert len(machine.objects) > 10
        for _ in range(32):  # two guests' hardware, and then some
            stack.callback(os.close, os.eventfd(0))
    machine.memory.close()


def test_a_machine_whose_memory_file_somebody_cuts_short_ends_and_its_log_says_by_what(
    tmp_path: Path,
) -> None:
    memory = tmp_path / "memory"
    backend = f"--object=memory-backend-file,id=b,size=128M,mem-path={memory},share=on"
    options = (backend, "--machine=memory-backend=b")

    async def scene() -> None:
        async with running(tmp_path, memory="128M", options=options) as (vm, _):
            (guest,) = await until(vm.guest_pids)
            await until(vm.console)
            os.truncate(memory, 0)
            assert await vm.exit_code() != 0
            await until(lambda: not is_there(guest))
            log = vm.log.read_text()
            assert "Bus error" in log or "killed by SIGBUS" in log

    play(scene())


def test_a_guest_that_refuses_to_let_go_before_it_has_read_the_request_makes_nothing_grow() -> None:
    async def scene() -> None:
        machine = Machine(OPTIONS, lambda *_: None, make_platform=GuestWithoutProcess)
        guest = machine.platform
        assert isinstance(guest, GuestWithoutProcess)
        await guest.power_on(())
        address = machine.dimms.plug(DimmOptions("a", "d")).get_addr()
        for _ in range(5000):
            machine.dimms.request_unplug("d")
            assert machine.dimms.is_unplugging("d")
            await machine.dimms.unplug_answered(address, is_done=False)
        assert len(guest.hardware._unsent) < 4
        await machine.close()

    play(scene())


def test_clearing_an_empty_set_makes_nothing_new_however_often_a_guest_begins_anew() -> None:
    pages = PageSet(PAGES)
    before = pages._map
    pages.clear()
    assert pages._map is before
    for span in ((0, PAGES), (5, 9)):
        pages.add(page_ranges.span(*span))
        assert pages.take(3, 1)
        pages.clear()
        assert len(pages) == 0
        assert not pages.overlaps(page_ranges.span(0, PAGES))
