"""Discards of every kind of memory, by every way the kernel has: what is freed, and what happens without.

Freed means that the host has it back: st_blocks of shared memory, this process's own pages of private memory,
and, for transparent huge pages, what the kernel says of the very page frames. Free memory of the machine
says nothing: pages lie on per-processor lists for a long time.
"""

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.rigs.backings import BACKINGS, fill, first_words
from tests.rigs.machine_wide import HUGE, huge_pages_held
from tests.rigs.pages import packed

from dynmem.memory import abilities, system_calls
from dynmem.memory.abilities import NONE, Abilities, probe
from dynmem.memory.backend import Backend, MemfdBackend, RamBackend
from dynmem.memory.backend_file import FileBackend
from dynmem.memory.discard import Discarder, DiscardError
from dynmem.pages import ranges as page_ranges
from dynmem.pages.ranges import U64Array
from dynmem.units import GIB, MIB, PAGE_SIZE

BLOCKS = 4
PAGES = BLOCKS * 512
WAYS = {
    "plain": NONE,
    "splits only": NONE._replace(splits=True),
    "no batched punch": probe()._replace(batched_remove=False),
    "what this kernel has": None,
}
_THP: Final = 22  # of /proc/kpageflags: a part of a transparent huge page


@pytest.fixture(params=BACKINGS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    with BACKINGS[request.param](PAGES * PAGE_SIZE, tmp_path) as backend:
        yield backend


@pytest.mark.parametrize("way", WAYS)
def test_pages_that_are_discarded_are_free_and_all_others_keep_their_bytes(
    backend: Backend, way: str
) -> None:
    fill(backend)
    assert backend.resident_bytes() == backend.size
    spans = [
        (512, 512),
        (3, 1),
        (100, 30),
        (105, 40),
        (1536 + 511, 1),
        *((p, 1) for p in range(1600, 1700, 2)),
    ]
    host_page = backend.page_size // PAGE_SIZE
    gone = {page for start, count in spans for page in range(start, start + count)}
    if host_page > 1:
        gone = set(range(512, 1024))
    assert Discarder(backend, WAYS[way]).discard(packed(*spans)) == len(gone) * PAGE_SIZE
    assert backend.resident_bytes() == backend.size - len(gone) * PAGE_SIZE
    words = first_words(backend).tolist()
    assert words == [0 if page in gone else page + 1 for page in range(PAGES)]


@pytest.mark.parametrize("way", WAYS)
def test_all_of_the_memory_can_be_discarded_and_used_again(backend: Backend, way: str) -> None:
    fill(backend)
    discarder = Discarder(backend, WAYS[way])
    for _ in range(2):
        assert discarder.discard(packed((0, PAGES))) == backend.size
        assert backend.resident_bytes() == 0
        fill(backend)
    assert backend.resident_bytes() == backend.size


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spans=st.lists(st.tuples(st.integers(0, 599), st.integers(0, 600)), max_size=30))
def test_private_memory_loses_exactly_the_pages_named(way: str, spans: list[tuple[int, int]]) -> None:
    pages = 600
    spans = [(start, min(count, pages - start)) for start, count in spans]
    gone = {page for start, count in spans for page in range(start, start + count)}
    with RamBackend(pages * PAGE_SIZE) as backend:
        fill(backend)
        assert Discarder(backend, WAYS[way]).discard(packed(*spans)) == len(gone) * PAGE_SIZE
        assert first_words(backend).tolist() == [0 if page in gone else page + 1 for page in range(pages)]


# shared memory


def test_dropping_the_mapping_of_shared_memory_frees_none_of_it_so_it_is_punched() -> None:
    with MemfdBackend(MIB) as backend:
        fill(backend)
        assert system_calls.madvise(backend.address, MIB, system_calls.MADV_DONTNEED) == 0
        assert backend.resident_bytes() == MIB
        assert backend.view[0] == 1
        Discarder(backend).discard(packed((0, 256)))
        assert backend.resident_bytes() == 0


def test_what_reading_a_private_memory_file_left_behind_the_copies_is_freed_too() -> None:
    with MemfdBackend(MIB, share=False) as backend:
        assert not any(backend.view[::PAGE_SIZE])
        assert os.fstat(backend.fd).st_blocks * 512 == MIB
        Discarder(backend).discard(packed((0, 256)))
        assert os.fstat(backend.fd).st_blocks == 0


def test_the_same_holds_for_a_private_file_that_has_no_name(tmp_path: Path) -> None:
    with FileBackend(MIB, tmp_path, share=False, prealloc=True) as backend:
        os.pwrite(backend.fd, b"x" * MIB, 0)
        assert os.fstat(backend.fd).st_blocks
        Discarder(backend).discard(packed((0, 256)))
        assert os.fstat(backend.fd).st_blocks == 0


def test_a_discard_of_a_private_mapping_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "ram"
    file.write_bytes(b"file" * MIB)
    with BACKINGS["private file"](MIB, tmp_path) as backend:
        backend.view[:4] = b"copy"
        Discarder(backend).discard(packed((0, 256)))
        assert bytes(backend.view[:4]) == b"file"
    assert file.read_bytes() == b"file" * MIB


# reserved huge pages


@pytest.mark.parametrize("kind", ["hugetlb memfd", "hugetlbfs"])
def test_a_part_of_a_huge_page_is_never_punched(kind: str, tmp_path: Path) -> None:
    with BACKINGS[kind](PAGES * PAGE_SIZE, tmp_path) as backend:
        fill(backend)
        discarder = Discarder(backend)
        assert discarder.granularity_pages == 512
        assert discarder.discard(packed((1, 511), (1024, 100), (1124, 411))) == 0
        assert backend.resident_bytes() == backend.size
        assert first_words(backend).tolist() == list(range(1, PAGES + 1))
        assert discarder.discard(packed((1, 1534))) == HUGE
        assert backend.resident_bytes() == backend.size - HUGE


def test_punching_a_part_of_a_huge_page_would_free_nothing_and_cost_its_bytes(tmp_path: Path) -> None:
    with BACKINGS["hugetlb memfd"](HUGE, tmp_path) as backend:
        fill(backend)
        assert system_calls.punch(backend.fd, PAGE_SIZE, PAGE_SIZE) == 0
        assert backend.resident_bytes() == HUGE
        assert backend.view[PAGE_SIZE] == 0


# transparent huge pages


def huge_frames(backend: Backend) -> int:
    """Pages of the memory whose frame is a part of a transparent huge page."""
    if os.geteuid() != 0:
        pytest.skip("only root may look at page frames")
    count = 0
    with Path("/proc/self/pagemap").open("rb") as table, Path("/proc/kpageflags").open("rb", 0) as flags:
        table.seek(backend.address // PAGE_SIZE * 8)
        entries = np.frombuffer(table.read(backend.size // PAGE_SIZE * 8), np.uint64)
        frames = (entries[entries >> np.uint64(63) != 0] & np.uint64((1 << 55) - 1)).tolist()
        if frames and not any(frames):
            pytest.skip("the kernel does not tell us which page frames memory has")
        for frame in frames:
            flags.seek(frame * 8)
            count += int.from_bytes(flags.read(8), "little") >> _THP & 1
    return count


@pytest.fixture
def huge_ram(monkeypatch: pytest.MonkeyPatch) -> Iterator[RamBackend]:
    with huge_pages_held(), RamBackend(4 * HUGE) as backend:
        monkeypatch.setattr(backend, "_huge_pages", "always")
        system_calls.madvise(backend.address, backend.size, mmap.MADV_HUGEPAGE)
        fill(backend)
        if huge_frames(backend) != backend.size // PAGE_SIZE:
            pytest.skip("the kernel gives private memory no huge pages here")
        yield backend


def scattered() -> bytes:
    """Every second page of the first two blocks, the third's first part, and the fourth's last."""
    return packed(*((page, 1) for page in range(0, 1024, 2)), (1024, 50), (1800, 248))


@pytest.mark.parametrize("way", [abilities.Abilities(splits=True), None])
def test_parts_of_transparent_huge_pages_are_really_freed(
    huge_ram: RamBackend, way: Abilities | None
) -> None:
    before = huge_ram.resident_bytes()
    assert Discarder(huge_ram, way).discard(scattered()) == (512 + 50 + 248) * PAGE_SIZE
    assert huge_ram.resident_bytes() == before - (512 + 50 + 248) * PAGE_SIZE
    assert huge_frames(huge_ram) == 0  # no huge page is left that keeps the frames of discarded pages


def test_without_the_split_the_frames_of_discarded_pages_stay_where_they_are(huge_ram: RamBackend) -> None:
    assert Discarder(huge_ram, probe()._replace(splits=False)).discard(scattered()) == 810 * PAGE_SIZE
    assert huge_frames(huge_ram) == 4 * 512 - 810  # what is left are parts of four whole huge pages


def test_huge_pages_that_are_discarded_whole_split_no_other(huge_ram: RamBackend) -> None:
    assert Discarder(huge_ram).discard(packed((512, 1024))) == 2 * HUGE
    assert huge_frames(huge_ram) == 2 * 512


def test_a_part_of_a_huge_page_of_tmpfs_is_freed_at_once(tmp_path: Path) -> None:
    with BACKINGS["huge tmpfs"](2 * HUGE, tmp_path) as backend:
        fill(backend)
        if huge_frames(backend) != 1024:
            pytest.skip("the kernel gives tmpfs no huge pages here")
        Discarder(backend).discard(packed((0, 512)))
        assert huge_frames(backend) == 512  # the other is whole
        Discarder(backend).discard(packed((513, 1)))
        assert backend.resident_bytes() == HUGE - PAGE_SIZE


def test_private_memory_lies_on_the_boundary_of_a_huge_page() -> None:
    with RamBackend(PAGE_SIZE) as small, RamBackend(3 * MIB) as large:
        assert small.address % HUGE == large.address % HUGE == 0
        assert len(small.view) == PAGE_SIZE


# batched calls


@pytest.fixture
def batched() -> Abilities:
    if not probe().batched_dontneed:
        pytest.skip("this kernel takes no batched MADV_DONTNEED from a process for itself")
    return probe()


@pytest.mark.usefixtures("batched")
def test_more_than_one_call_takes_is_discarded_in_several() -> None:
    with RamBackend(7 * GIB) as backend:
        places = [0, 2 * GIB - 2 * PAGE_SIZE, 2 * GIB - PAGE_SIZE, 4 * GIB, 7 * GIB - PAGE_SIZE]
        for place in places:
            backend.view[place] = 1
        one = np.array([(backend.address, backend.size)], np.uint64)
        done = system_calls.process_madvise(probe().pidfd, one, system_calls.MADV_DONTNEED)
        assert done == system_calls.CALL_BYTES_MAX  # the rest is left, and nobody says so
        assert [backend.view[place] for place in places] == [0, 0, 1, 1, 1]
        pages = 7 * GIB // PAGE_SIZE
        ranges = page_ranges.span(0, pages - 2) + page_ranges.span(pages - 1, 1)
        assert Discarder(backend).discard(ranges) == backend.size - PAGE_SIZE
        assert not any(backend.view[place] for place in places)


def test_more_ranges_than_one_call_takes_are_discarded_in_several(batched: Abilities) -> None:
    with RamBackend(16 * MIB) as backend:
        fill(backend)
        every_second = packed(*((page, 1) for page in range(0, 4096, 2)))
        starts, counts = page_ranges.unpack(every_second)
        all_in_one = np.stack(
            (starts * np.uint64(4096) + np.uint64(backend.address), counts << np.uint64(12)), 1
        )
        assert (
            system_calls.process_madvise(batched.pidfd, all_in_one, system_calls.MADV_DONTNEED)
            == -errno.EINVAL
        )
        assert Discarder(backend).discard(every_second) == 8 * MIB


@pytest.mark.parametrize("way", WAYS)
def test_a_range_that_the_kernel_refuses_is_told_and_keeps_no_other_from_being_discarded(way: str) -> None:
    munmap = ctypes.CDLL(None).munmap
    with RamBackend(MIB) as backend:
        fill(backend)
        munmap(ctypes.c_void_p(backend.address + 100 * PAGE_SIZE), ctypes.c_size_t(PAGE_SIZE))
        spans = [(page, 1) for page in range(0, 256, 4)]
        with pytest.raises(DiscardError, match=rf"page 100: {os.strerror(errno.ENOMEM)}") as refused:
            Discarder(backend, WAYS[way]).discard(packed(*spans))
        assert refused.value.errno == errno.ENOMEM
        assert refused.value.discarded == (len(spans) - 1) * PAGE_SIZE
        assert not any(backend.view[page * PAGE_SIZE] for page, _ in spans if page != 100)
        assert backend.view[101 * PAGE_SIZE] == 102


def test_a_kernel_that_refuses_batches_costs_no_discard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_calls, "process_madvise", lambda *_: -errno.EINVAL)
    with RamBackend(MIB) as backend:
        fill(backend)
        way = Abilities(pidfd=-1, batched_dontneed=True)
        assert Discarder(backend, way).discard(packed((0, 5), (9, 1))) == 6 * PAGE_SIZE
        assert first_words(backend)[:10].tolist() == [0] * 5 + [6, 7, 8, 9, 0]


@pytest.fixture
def calls(batched: Abilities, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Of each batched call from here on: its advice, and how many ranges."""
    assert batched.pidfd
    seen: list[tuple[int, int]] = []
    real = system_calls.process_madvise

    def noted(pidfd: int, ranges: U64Array, advice: int) -> int:
        seen.append((advice, len(ranges)))
        return real(pidfd, ranges, advice)

    monkeypatch.setattr(system_calls, "process_madvise", noted)
    return seen


def every_second_page(pages: int) -> bytes:
    return packed(*((page, 1) for page in range(0, pages, 2)))


def test_a_thousand_ranges_take_one_call(calls: list[tuple[int, int]]) -> None:
    with RamBackend(16 * MIB) as backend:
        fill(backend)
        Discarder(backend).discard(every_second_page(4096))
    assert calls == [(system_calls.MADV_DONTNEED, 1024)] * 2


def test_each_huge_page_is_split_once(calls: list[tuple[int, int]], huge_ram: RamBackend) -> None:
    Discarder(huge_ram).discard(scattered())
    assert calls == [(system_calls.MADV_COLD, 4), (system_calls.MADV_DONTNEED, 514)]


@pytest.mark.parametrize("touched_here", [False, True])
def test_small_ranges_of_shared_memory_are_dropped_first_only_where_this_process_has_them_mapped(
    calls: list[tuple[int, int]], touched_here: bool
) -> None:
    if not probe().batched_remove:
        pytest.skip("this kernel punches no ranges in batches")
    with MemfdBackend(MIB) as backend:
        if touched_here:
            fill(backend)
        else:
            backend.preallocate()
        assert Discarder(backend).discard(every_second_page(256)) == MIB // 2
        assert backend.resident_bytes() == MIB // 2
    punched = [(system_calls.MADV_REMOVE, 128)]
    assert calls == [(system_calls.MADV_DONTNEED, 128)] * touched_here + punched


@pytest.mark.parametrize("way", WAYS)
def test_of_several_refusals_the_first_is_told(way: str) -> None:
    munmap = ctypes.CDLL(None).munmap
    with RamBackend(MIB) as backend:
        for page in (100, 180):
            munmap(ctypes.c_void_p(backend.address + page * PAGE_SIZE), ctypes.c_size_t(PAGE_SIZE))
        with pytest.raises(DiscardError, match="page 100: ") as refused:
            Discarder(backend, WAYS[way]).discard(packed((180, 1), (3, 1), (100, 1)))
        assert refused.value.discarded == PAGE_SIZE


# closed memory


@pytest.mark.parametrize("kind", ["memfd", "ram"])
def test_nothing_is_done_to_memory_that_is_closed(kind: str, tmp_path: Path) -> None:
    backend = BACKINGS[kind](MIB, tmp_path).__enter__()
    discarder = Discarder(backend)
    words = first_words(backend)  # keeps the mapping
    words[:] = 7
    backend.close()
    with pytest.raises(DiscardError, match=os.strerror(errno.EBADF)) as refused:
        discarder.discard(packed((0, 1)))
    assert refused.value.errno == errno.EBADF
    assert words[0] == 7
