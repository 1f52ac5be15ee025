"""Huge pages that were discarded are anybody's: they are set aside again before a guest touches them."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.rigs.backings import BACKINGS, mounted
from tests.rigs.machine_wide import HUGE, reserved, spare, taken

from dynmem.memory.backend import Backend, MemfdBackend
from dynmem.memory.backend_file import FileBackend
from dynmem.memory.discard import Discarder
from dynmem.pages import ranges as page_ranges
from dynmem.units import MIB, PAGE_SIZE

BLOCK: Final = HUGE // PAGE_SIZE
PAGES: Final = 8
SIZE: Final = PAGES * HUGE


@pytest.fixture(params=["memfd", "hugetlbfs"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(reserved(PAGES))
        if request.param == "memfd":
            yield stack.enter_context(MemfdBackend(SIZE, hugetlb=True))
        else:
            place = stack.enter_context(mounted(tmp_path / "huge", "hugetlbfs", "pagesize=2M"))
            yield stack.enter_context(FileBackend(SIZE, place, share=True))


def test_a_huge_page_that_was_discarded_is_set_aside_again_and_not_made(backend: Backend) -> None:
    backend.view[:] = b"x" * SIZE
    Discarder(backend).discard(page_ranges.span(BLOCK, 3 * BLOCK))
    assert spare() == 3
    assert backend.reserve(page_ranges.span(BLOCK + 7, BLOCK)) == b""  # a part of two
    assert spare() == 1
    assert backend.reserve(page_ranges.span(0, PAGES * BLOCK)) == b""
    assert spare() == 0
    assert backend.resident_bytes() == (PAGES - 3) * HUGE
    with MemfdBackend(HUGE) as small:
        assert small.reserve(page_ranges.span(0, 1)) == b""
    assert backend.view[0] == backend.view[SIZE - 1] == ord("x")
    assert backend.view[HUGE] == 0


def test_what_another_program_has_taken_meanwhile_is_told_and_the_rest_is_had(backend: Backend) -> None:
    backend.view[:] = b"x" * SIZE
    Discarder(backend).discard(page_ranges.span(2 * BLOCK, 4 * BLOCK))
    with taken(left=1):
        whole = page_ranges.span(0, PAGES * BLOCK)
        assert backend.reserve(whole, in_parts=False) == whole
        assert spare() == 1
        refused = backend.reserve(whole)
        assert refused == page_ranges.span(3 * BLOCK, 3 * BLOCK)
        assert spare() == 0
        assert backend.reserve(page_ranges.span(2 * BLOCK, BLOCK)) == b""  # it is ours
    assert backend.reserve(refused) == b""
    assert spare() == 0


def test_memory_that_was_never_touched_or_is_there_costs_nothing(backend: Backend) -> None:
    backend.view[:HUGE] = b"x" * HUGE
    assert spare() == 0
    assert backend.reserve(page_ranges.span(0, PAGES * BLOCK)) == b""
    assert spare() == 0


@pytest.mark.parametrize("kind", ["memfd", "ram", "tmpfs", "private file"])
def test_memory_without_huge_pages_of_its_own_sets_nothing_aside(kind: str, tmp_path: Path) -> None:
    with BACKINGS[kind](4 * MIB, tmp_path) as backend:
        assert backend.reserve(page_ranges.span(0, 4 * MIB // PAGE_SIZE)) == b""


TOUCH: Final = """
import mmap, sys
fd, size = map(int, sys.argv[1:])
memory = mmap.mmap(fd, size)
print("mapped", flush=True)
for line in sys.stdin:
    memory[int(line)] = 1
    print("touched", flush=True)
"""


@pytest.mark.parametrize("is_had", [True, False])
def test_a_touch_of_what_was_had_is_sound_and_of_what_was_refused_is_the_end(is_had: bool) -> None:
    with reserved(PAGES), MemfdBackend(SIZE, hugetlb=True) as backend:
        command = [sys.executable, "-c", TOUCH, str(backend.fd), str(SIZE)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, pass_fds=(backend.fd,), stdin=pipe, stdout=pipe, text=True) as guest:
            assert guest.stdin is not None
            assert guest.stdout is not None
            assert guest.stdout.readline() == "mapped\n"
            backend.view[:] = b"x" * SIZE
            Discarder(backend).discard(page_ranges.span(0, BLOCK))
            if is_had:
                assert backend.reserve(page_ranges.span(0, BLOCK)) == b""
            with taken() if not is_had else contextlib.nullcontext():
                if not is_had:
                    assert backend.reserve(page_ranges.span(0, BLOCK)) == page_ranges.span(0, BLOCK)
                guest.stdin.write("0\n")
                guest.stdin.flush()
                assert guest.stdout.readline() == ("touched\n" if is_had else "")
                guest.stdin.close()
                assert guest.wait() == (0 if is_had else -signal.SIGBUS)
