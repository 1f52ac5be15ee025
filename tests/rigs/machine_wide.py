"""What the machine has one of: one test at a time has it, in whatever checkout, and the next finds it whole.

A lock in the folder for temporary files says who has it. Two checkouts share the machine, so the lock's name
holds the user and the thing, and nothing of the checkout.
"""

import contextlib
import fcntl
import gc
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TextIO

import pytest

from dynmem.memory.backend import Backend, MemfdBackend
from dynmem.units import MIB

HUGE: Final = 2 * MIB
HUGE_PAGES: Final = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
_TURN_S: Final = 600.0  # others' tests come first
_GONE_S: Final = 60.0  # processes that were killed give their memory back one by one
_NAME: Final = "huge-pages"

_held: dict[str, TextIO] = {}  # by this process


@contextlib.contextmanager
def held(name: str) -> Iterator[str]:
    """Hold what the machine has one of; yield the note of a holder that died with it ("" if it was released).

    A test that holds it may take it again: its fixture and what it calls need not know of each other.
    """
    if name in _held:
        yield ""
        return
    path = Path(tempfile.gettempdir()) / f"dynmem-tests-{os.geteuid()}-{name}.lock"
    with path.open("a+") as lock:
        _wait_for_turn(lock, name)
        lock.seek(0)
        note = lock.read()
        _held[name] = lock
        try:
            write_note(name)
            yield note
        finally:
            del _held[name]
            lock.truncate(0)  # closing it releases the lock


def _wait_for_turn(lock: TextIO, name: str) -> None:
    deadline = time.monotonic() + _TURN_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            note = lock.read()
            assert time.monotonic() < deadline, f"{name}: held for {_TURN_S:g} s by {note or 'nobody known'}"
            time.sleep(0.02)
        else:
            return


def write_note(name: str, more: str = "") -> None:
    """Say in the lock who holds it, and what else whoever comes after a crash has to know."""
    lock = _held[name]
    lock.truncate(0)
    lock.write(f"process {os.getpid()}, {os.environ.get('PYTEST_CURRENT_TEST', 'no test')}\n{more}")
    lock.flush()


def crowd() -> int:
    """Return how many programs there are for each processor, 1 to 4: everything takes that much longer."""
    return min(4, max(1, round(os.getloadavg()[0] / len(os.sched_getaffinity(0)))))


@contextlib.contextmanager
def huge_pages_held() -> Iterator[None]:
    """Hold the pool of huge pages, and give it up as it was: what the test left in it is waited for.

    For tests that may take one, and for those whose transparent huge pages would suffer from making more.
    """
    knob = HUGE_PAGES / "nr_hugepages"
    if not os.access(knob, os.W_OK):
        yield
        return
    if _NAME in _held:
        yield
        return
    with held(_NAME) as note:
        if figures := note.partition("\n")[2].split():  # a holder was killed: do what it could not
            before, used = map(int, figures)
            knob.write_text(str(before))
            _until_given_back(used)
        before, used = _figure("nr") - _figure("surplus"), used_huge_pages()
        write_note(_NAME, f"{before} {used}")
        try:
            yield
            _until_given_back(used)
        finally:
            knob.write_text(str(before))


@contextlib.contextmanager
def reserved(pages: int) -> Iterator[None]:
    """Reserve huge pages of 2 MiB, beside those in use; skip where there are none to be had."""
    knob = HUGE_PAGES / "nr_hugepages"
    if not os.access(knob, os.W_OK):
        pytest.skip("huge pages can be reserved by root only")
    with huge_pages_held():
        if not _grow(knob, used_huge_pages() + pages):
            pytest.skip(f"the kernel has no {pages} huge pages of 2 MiB in one piece")
        yield


def _grow(knob: Path, pages: int) -> bool:
    """Ask for so many pages, after a first refusal of memory that is tidied up."""
    knob.write_text(str(pages))
    if int(knob.read_text()) < pages:
        with contextlib.suppress(OSError):  # a kernel without compaction
            Path("/proc/sys/vm/compact_memory").write_text("1")
        knob.write_text(str(pages))
    return int(knob.read_text()) >= pages


def _figure(name: str) -> int:
    return int((HUGE_PAGES / f"{name}_hugepages").read_text())


def huge_pages_of_the_machine() -> int:
    """Huge pages that are reserved while no test has them."""
    if not HUGE_PAGES.exists():
        return 0
    with huge_pages_held():
        return _figure("nr") - _figure("surplus")


def used_huge_pages() -> int:
    """Huge pages that programs have or have set aside."""
    return _figure("nr") - spare()


def spare() -> int:
    """Huge pages of the host that nobody has, nor has set aside."""
    return _figure("free") - _figure("resv")


@contextlib.contextmanager
def taken(left: int = 0) -> Iterator[Backend]:
    """Another program takes what the host has to spare, but for so many pages."""
    with MemfdBackend((spare() - left) * HUGE, hugetlb=True) as other:
        yield other


def _until_given_back(used: int) -> None:
    if used_huge_pages() <= used:
        return
    gc.collect()  # what a rig of the test still maps
    deadline = time.monotonic() + _GONE_S
    while (now := used_huge_pages()) > used:
        assert time.monotonic() < deadline, (
            f"{now - used} huge pages more than before are still in use after {_GONE_S:g} s, by {_users()}"
        )
        time.sleep(0.02)


def _users() -> str:
    """Who has huge pages mapped."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            size = status.read_text().partition("HugetlbPages:")[2].partition("\n")[0].strip()
            if size and not size.startswith("0 "):
                command = (
                    (status.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
                found.append(f"{status.parent.name} ({command.strip()}: {size})")
    return "; ".join(found) or "no process that has them mapped: a file or a descriptor keeps them"
