"""Whole scans of real processes with real memory files, small ones."""

import os
import subprocess
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.rigs.ram_holder import SIZE, file_of, held_pages, holder, page

from dynmem.duplicates import candidates as candidates_module
from dynmem.duplicates import reader as reader_module
from dynmem.duplicates.page_hash import PageHash
from dynmem.duplicates.rate import Rate
from dynmem.duplicates.scan import Found, scan_account
from dynmem.duplicates.vms import Vm
from dynmem.errors import DynmemError, NotPermittedError
from dynmem.memory.extents import data_extents
from dynmem.pages.ranges import U64Array
from dynmem.units import PAGE_SIZE

WEB = {0: 0, 1: 7, 2: 7, 3: 8, 100: 9, 4000: 0}
DB = {0: 8, 1: 8, 5: 9, 6: 10, 4095: 7}


class Watcher:
    """Does something once so many bytes were read, and counts them."""

    def __init__(self, act: Callable[[], object] | None = None, after: int = 0) -> None:
        self.done = self.expected = 0
        self._act, self._after = act, after

    def expect(self, size: int) -> None:
        self.expected += size

    def did(self, size: int) -> None:
        self.done += size
        if self._act is not None and self.done >= self._after:
            act, self._act = self._act, None
            act()


@contextmanager
def machines(
    *contents: dict[int, int],
) -> Iterator[tuple[list[Vm], list[int], list[subprocess.Popen[bytes]]]]:
    """VMs with these pages, with their files and processes."""
    with ExitStack() as stack:
        fds = [stack.enter_context(file_of(pages)) for pages in contents]
        children = [stack.enter_context(holder(fd)) for fd in fds]
        names = ["web", "db", "shop"]
        vms = [stack.enter_context(Vm(child.pid, name)) for child, name in zip(children, names, strict=False)]
        yield vms, fds, children


def scanned(vms: Sequence[Vm], watcher: Watcher | None = None) -> Found:
    return scan_account("anna", vms, Rate(None), watcher or Watcher())


def pages(size: int) -> float:
    return size / PAGE_SIZE


def test_zero_pages_and_equal_pages_are_found_within_and_across_vms() -> None:
    with machines(WEB, DB) as (vms, _, _):
        found = scanned(vms)
    web, db = found.vms
    assert [pages(size) for size in (web.read_bytes, web.zero_bytes, web.equal_bytes)] == [6, 2, 4]
    assert [pages(size) for size in (db.read_bytes, db.zero_bytes, db.equal_bytes)] == [5, 0, 4]
    assert [pages(size) for size in (web.inside_bytes, web.across_bytes)] == [1, 4]
    assert [pages(size) for size in (db.inside_bytes, db.across_bytes)] == [1, 4]
    # 7: two and one, 8: one and two, 9: one and one
    assert pages(web.sharing_bytes) == pytest.approx(2 + 2 * 2 / 3 + 2 / 3 + 1 / 2, abs=1e-3)
    assert (found.account.contents, pages(found.account.sharing_bytes)) == (3, 2 + 5)
    assert (found.account.changed_bytes, found.notes, found.problems) == (0, (), ())
    assert web.balloon_bytes == web.zero_bytes


def test_reading_allocates_nothing_and_changes_nothing() -> None:
    with machines(WEB) as (vms, fds, _):
        before, held = os.pread(fds[0], SIZE, 0), held_pages(fds[0])
        found = scanned(vms)
        assert held_pages(fds[0]) == held == len(WEB)
        assert os.pread(fds[0], SIZE, 0) == before
    assert pages(found.account.read_bytes) == len(WEB)


def test_holes_are_skipped_and_not_read() -> None:
    watcher = Watcher()
    with machines(WEB) as (vms, _, _):
        scanned(vms, watcher)
    compared = watcher.expected // PAGE_SIZE
    assert watcher.done // PAGE_SIZE == len(WEB) + compared
    assert compared == 2  # the two that are equal


def test_nothing_is_compared_across_accounts() -> None:
    with machines(WEB, DB) as (vms, _, _):
        one, two = (scanned([vm]) for vm in vms)
    assert [pages(each.vms[0].across_bytes) for each in (one, two)] == [0, 0]
    assert [pages(each.vms[0].equal_bytes) for each in (one, two)] == [2, 2]


def test_a_hash_that_is_the_same_for_all_pages_changes_no_figure() -> None:
    def constant(pages: U64Array) -> U64Array:
        return np.zeros(len(pages), np.uint64)

    with machines(WEB, DB) as (vms, _, _):
        honest = scanned(vms)
        blind = scan_account("anna", vms, Rate(None), Watcher(), make_hash=lambda: constant)
    assert blind == honest


def test_each_scan_has_a_salt_of_its_own() -> None:
    made = []

    def make() -> PageHash:
        made.append(PageHash())
        return made[-1]

    with machines(WEB, DB) as (vms, _, _):
        for vm in vms:
            scan_account("x", [vm], Rate(None), Watcher(), make_hash=make)
    assert made[0](np.ones((1, 512), np.uint64)) != made[1](np.ones((1, 512), np.uint64))


@pytest.mark.parametrize("after", [0, len(WEB) * PAGE_SIZE, (len(WEB) + len(DB)) * PAGE_SIZE])
def test_a_vm_that_dies_while_it_is_read_or_compared_is_left_out_with_a_sentence(after: int) -> None:
    with machines(WEB, DB, {**DB, 50: 11}) as (vms, _, children):
        alone = scanned([vms[0], vms[2]])

        def kill() -> None:
            child = children[1]
            child.kill()
            child.wait()

        found = scanned(vms, Watcher(kill, after))
    (problem,) = found.problems
    assert str(problem).startswith("VM db (pid ")
    assert "ended" in str(problem)
    assert (found.account, found.vms) == (alone.account, alone.vms)


def test_a_vm_that_dies_between_two_reads_leaves_no_page_behind() -> None:
    many = {index: index % 150 + 1 for index in range(300)}
    with machines({0: 1}, many, DB) as (vms, _, children):
        alone = scanned([vms[0], vms[2]])

        def kill() -> None:
            children[1].kill()
            children[1].wait()

        watcher = Watcher(kill, 257 * PAGE_SIZE)
        found = scanned(vms, watcher)
    assert len(found.problems) == 1
    assert (found.account, found.vms) == (alone.account, alone.vms)
    assert watcher.done == (1 + 256 + len(DB)) * PAGE_SIZE + watcher.expected


def test_a_vm_that_dies_between_two_comparisons_is_compared_with_nothing() -> None:
    many = {index: index % 150 + 1 for index in range(300)}
    with machines(many, many, {0: 1}) as (vms, _, children):
        alone = scanned([vms[0], vms[2]])

        def kill() -> None:
            children[1].kill()
            children[1].wait()

        read = (2 * len(many) + 1) * PAGE_SIZE
        found = scanned(vms, Watcher(kill, read + 256 * PAGE_SIZE))
    (problem,) = found.problems
    assert "ended while its memory was read" in str(problem)
    assert (found.account, found.vms) == (alone.account, alone.vms)


def test_no_file_of_a_vm_stays_open() -> None:
    with machines(WEB, DB) as (vms, _, _):
        before = len(list(Path("/proc/self/fd").iterdir()))
        scanned(vms)
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_file_that_shrinks_is_read_as_far_as_it_goes_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "_BATCH_BYTES", 64 * PAGE_SIZE)
    with machines(dict.fromkeys(range(256), 5)) as (vms, fds, _):
        found = scanned(vms, Watcher(lambda: os.ftruncate(fds[0], 32 * PAGE_SIZE), 1))
    (note,) = found.notes
    assert "a RAM file shrank from 16 MiB to 128 KiB while it was read" in note
    assert pages(found.account.equal_bytes) == 32
    assert pages(found.account.changed_bytes) == 32


def test_a_page_that_the_guest_changes_meanwhile_is_not_equal() -> None:
    with machines({1: 7, 2: 7, 3: 7}) as (vms, fds, _):
        found = scanned(vms, Watcher(lambda: os.pwrite(fds[0], page(8), PAGE_SIZE), 3 * PAGE_SIZE))
    assert pages(found.account.changed_bytes) == 1
    assert pages(found.account.equal_bytes) == 2


def test_a_vm_whose_files_may_not_be_opened_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with machines(WEB, DB) as (vms, _, _):

        def refuse(*_: object) -> int:
            raise vms[0].not_permitted()

        monkeypatch.setattr(vms[0], "open", refuse)
        found = scanned(vms)
    (problem,) = found.problems
    assert isinstance(problem, NotPermittedError)
    assert [vm.name for vm in found.vms] == ["db"]


def test_a_vm_without_ram_in_files_says_what_it_would_need() -> None:
    with holder() as child, Vm(child.pid, "old") as vm:
        (note,) = scanned([vm]).notes
    assert "no RAM in a shared file is found" in note
    assert "share=on" in note


def test_a_scan_for_which_there_is_no_memory_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(candidates_module.Candidates, "add", refuse)
    with (
        machines(WEB) as (vms, _, _),
        pytest.raises(DynmemError, match="no memory for 8 bytes for each page"),
    ):
        scanned(vms)


def peak_of(vms: Sequence[Vm]) -> int:
    scanned(vms)
    tracemalloc.start()
    try:
        scanned(vms)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_page_scanned_takes_at_most_16_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys are the only thing that grows with the memory: two VMs take little more than one of them."""
    monkeypatch.setattr(candidates_module, "_CHUNK", 256)
    numbers = {index: index // 2 + 1 for index in range(4096)}
    with machines(numbers, numbers) as (vms, _, _):
        more = peak_of(vms) - peak_of(vms[:1])
    assert 4 * 4096 <= more <= 16 * 4096


def test_data_extents_are_whole_pages_within_the_bounds() -> None:
    with file_of({0: 1, 1: 2, 10: 3, 4095: 4}) as fd:
        whole = [(begin // PAGE_SIZE, end // PAGE_SIZE) for begin, end in data_extents(fd, 0, SIZE)]
        assert whole == [(0, 2), (10, 11), (4095, 4096)]
        assert list(data_extents(fd, PAGE_SIZE, 5 * PAGE_SIZE)) == [(PAGE_SIZE, 2 * PAGE_SIZE)]
        assert list(data_extents(fd, 20 * PAGE_SIZE, 30 * PAGE_SIZE)) == []
    with file_of(dict.fromkeys(range(4096), 1)) as fd:
        assert list(data_extents(fd, PAGE_SIZE, SIZE)) == [(PAGE_SIZE, SIZE)]
    with file_of({}) as fd:
        assert list(data_extents(fd, 0, SIZE)) == []
        os.posix_fallocate(fd, 0, SIZE)  # a file that is allocated whole is data, written or not
        assert list(data_extents(fd, PAGE_SIZE, SIZE)) == [(PAGE_SIZE, SIZE)]
