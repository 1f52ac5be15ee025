"""Backends of every kind: QEMU's properties and words, and nothing left behind by one that cannot be made."""

import errno
import fcntl
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from tests.rigs.backings import BACKINGS, fill, mounted
from tests.rigs.machine_wide import HUGE, HUGE_PAGES, reserved
from tests.rigs.own_process import mappings, open_descriptors

from dynmem.errors import ConfigError
from dynmem.memory import backend as backends
from dynmem.memory import system_calls
from dynmem.memory.abilities import NONE
from dynmem.memory.backend import SEALS, Backend, BackendError, MemfdBackend, RamBackend, huge_pages_given
from dynmem.memory.backend_file import FileBackend
from dynmem.memory.discard import Discarder, DiscardError
from dynmem.units import GIB, MIB, PAGE_SIZE

TOO_MUCH: Final = 1 << 62


def traces() -> tuple[int, int]:
    """Descriptors and mappings of this process."""
    return len(open_descriptors()), len(mappings())


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """What is refused leaves no descriptor behind."""
    before = traces()[0]
    yield
    assert traces()[0] == before


# what the kinds are


def test_the_kinds_have_qemus_names() -> None:
    kinds = {MemfdBackend.kind, RamBackend.kind, FileBackend.kind}
    assert kinds == {"memory-backend-memfd", "memory-backend-ram", "memory-backend-file"}


@pytest.mark.parametrize("kind", BACKINGS)
def test_each_kind_is_what_it_says(kind: str, tmp_path: Path) -> None:
    with BACKINGS[kind](2 * HUGE, tmp_path) as backend:
        assert backend.size == len(backend.view) == 2 * HUGE
        assert backend.hugetlb == ("hugetlb" in kind)
        assert backend.page_size == (HUGE if "hugetlb" in kind else PAGE_SIZE)
        assert backend.is_shared == (not kind.startswith("private") and kind != "ram")
        assert (backend.fd < 0) == (kind == "ram")
        assert backend.resident_bytes() == 0
        assert backend.address % backend.page_size == 0
        backend.view[HUGE] = 1
        assert backend.resident_bytes() in {PAGE_SIZE, HUGE}
        if backend.is_shared:
            with mmap.mmap(backend.fd, backend.size) as other:
                assert other[HUGE] == 1
        elif backend.fd >= 0:
            with mmap.mmap(backend.fd, backend.size, mmap.MAP_PRIVATE) as other:
                assert other[HUGE] == 0


@pytest.mark.parametrize("kind", BACKINGS)
def test_closing_twice_leaves_neither_descriptor_nor_mapping(kind: str, tmp_path: Path) -> None:
    before = traces()
    with BACKINGS[kind](2 * HUGE, tmp_path) as backend:
        fill(backend)
        assert not backend.is_closed
        backend.close()
        assert backend.is_closed
        assert backend.fd == -1
    assert traces()[0] == before[0]
    with pytest.raises(DiscardError):
        Discarder(backend).discard(b"")


def test_memory_that_another_process_needs_is_shared_and_says_what_was_set() -> None:
    with RamBackend(MIB, needs_descriptor=True) as backend:
        assert (backend.share, backend.is_shared) == (False, True)
        assert fcntl.fcntl(backend.fd, fcntl.F_GET_SEALS) == SEALS
    with RamBackend(MIB, share=True) as backend:
        assert (backend.share, backend.is_shared) == (True, True)


def test_private_memory_counts_only_its_own_pages() -> None:
    with RamBackend(MIB) as one, RamBackend(MIB) as other:
        fill(other)
        assert (one.resident_bytes(), other.resident_bytes()) == (0, MIB)
        assert not any(one.view[::PAGE_SIZE])  # the page of zeros that everybody reads is nobody's
        assert one.resident_bytes() == 0


@pytest.mark.parametrize("kind", BACKINGS)
def test_what_is_preallocated_is_resident_at_once_and_keeps_its_bytes(kind: str, tmp_path: Path) -> None:
    with BACKINGS[kind](2 * HUGE, tmp_path) as backend:
        backend.view[HUGE + 5] = 9
        backend.preallocate()
        assert backend.resident_bytes() == backend.size
        assert backend.view[HUGE + 5] == 9


@pytest.mark.parametrize("make", [MemfdBackend, RamBackend])
def test_prealloc_takes_the_memory_when_the_backend_is_made(make: Callable[..., Backend]) -> None:
    with make(MIB, prealloc=True) as backend:
        assert backend.prealloc
        assert backend.resident_bytes() == MIB


def test_signals_do_not_hold_a_preallocation_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_ALLOCATE_BYTES", 4 * MIB)
    came = 0

    def count(*_: object) -> None:
        nonlocal came
        came += 1

    before = signal.signal(signal.SIGALRM, count)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.005)
    try:
        with MemfdBackend(128 * MIB, prealloc=True) as backend:
            assert backend.resident_bytes() == 128 * MIB
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert came


# huge pages


def test_huge_pages_that_were_not_reserved_are_refused_and_leave_nothing() -> None:
    with reserved(1):
        before, set_aside = traces(), (HUGE_PAGES / "resv_hugepages").read_text()
        with pytest.raises(BackendError) as refused:
            MemfdBackend(1 * GIB, hugetlb=True)
        assert refused.value.errno == errno.ENOMEM
        assert str(refused.value) == "unable to map backing store for guest RAM: Cannot allocate memory"
        assert traces() == before
        assert (HUGE_PAGES / "resv_hugepages").read_text() == set_aside


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("size", "huge", "text"),
    [
        (3 * MIB, 2 * MIB, "failed to resize memfd to 3145728: Invalid argument"),
        (128 * MIB, 128 * MIB, "failed to create memfd with flags 0x6c000007: No such device"),
        (3 * MIB, 3 * MIB, "Hugepage size must be a power of 2"),
    ],
)
def test_a_size_that_huge_pages_do_not_come_in_is_refused_in_qemus_words(
    size: int, huge: int, text: str
) -> None:
    with pytest.raises(BackendError) as refused:
        MemfdBackend(size, hugetlb=True, hugetlb_size=huge)
    assert str(refused.value) == text


def test_a_file_on_huge_pages_must_be_as_large_as_one(tmp_path: Path) -> None:
    with reserved(2), mounted(tmp_path / "huge", "hugetlbfs", "pagesize=2M") as place:
        with pytest.raises(ConfigError, match=r"^memory size 0x1000 must be equal to or larger than page"):
            FileBackend(PAGE_SIZE, place / "ram", share=True)
        with pytest.raises(ConfigError, match=r"memory size must be multiple of 2 MiB$"):
            FileBackend(3 * MIB, place / "ram", share=True)
        assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("lines", "mode"),
    [
        ({"enabled": "always [madvise] never"}, "madvise"),
        (
            {"enabled": "[always] madvise never", "hugepages-2048kB/enabled": "always [inherit] never"},
            "always",
        ),
        (
            {"enabled": "[always] madvise never", "hugepages-2048kB/enabled": "always inherit [never]"},
            "never",
        ),
        ({}, "never"),
    ],
)
def test_when_private_memory_gets_huge_pages_is_read_from_the_system(
    lines: dict[str, str], mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "_HUGE_PAGES", tmp_path)
    for name, line in lines.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(line + "\n")
    assert huge_pages_given() == mode
    with RamBackend(MIB) as backend:
        assert backend.may_have_huge_pages == (mode == "always")
    with MemfdBackend(MIB, share=False) as backend:
        assert not backend.may_have_huge_pages


# files


def test_a_file_that_is_not_there_is_made_with_the_size_and_stays(tmp_path: Path) -> None:
    with FileBackend(MIB, tmp_path / "ram", share=True) as backend:
        backend.view[:4] = b"kept"
    content = (tmp_path / "ram").read_bytes()
    assert (len(content), content[:4]) == (MIB, b"kept")


def test_a_folder_holds_a_file_without_a_name(tmp_path: Path) -> None:
    with FileBackend(MIB, tmp_path, name="/objects/m", share=True) as backend:
        link = str(Path(f"/proc/self/fd/{backend.fd}").readlink())
        assert link.startswith(f"{tmp_path}/qemu_back_mem._objects_m.")
        assert link.endswith("(deleted)")
        assert list(tmp_path.iterdir()) == []
        assert os.get_inheritable(backend.fd) is False


def test_a_longer_file_is_used_from_its_first_byte_and_keeps_its_length(tmp_path: Path) -> None:
    (tmp_path / "ram").write_bytes(b"first" + bytes(2 * MIB))
    with FileBackend(MIB, tmp_path / "ram", share=True) as backend:
        assert bytes(backend.view[:5]) == b"first"
    assert (tmp_path / "ram").stat().st_size == 2 * MIB + 5


@pytest.mark.usefixtures("nothing_left")
def test_a_shorter_file_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "ram").write_bytes(b"short")
    with pytest.raises(ConfigError) as refused:
        FileBackend(MIB, tmp_path / "ram", name="/objects/m", discard_data=True)
    assert str(refused.value) == (
        "/objects/m backing store size 0x5 is too small for 'size' option 0x100000 plus 'offset' option 0x0"
    )
    assert (tmp_path / "ram").read_bytes() == b"short"


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("none/ram", errno.ENOENT),
        ("file/ram", errno.ENOTDIR),
        ("loop", errno.ELOOP),
        ("x" * 300, errno.ENAMETOOLONG),
    ],
)
def test_a_file_that_cannot_be_opened_is_refused_with_the_reason(
    name: str, number: int, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(BackendError) as refused:
        FileBackend(MIB, tmp_path / name)
    assert str(refused.value) == (
        f"can't open backing store {tmp_path / name} for guest RAM: {os.strerror(number)}"
    )
    assert refused.value.errno == number


def test_a_dangling_link_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(BackendError) as refused:
        FileBackend(MIB, tmp_path / "link")
    assert refused.value.errno == errno.EEXIST
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize(
    ("size", "text"), [(0, "can't create backend with size 0"), (4097, "multiple of 4 KiB")]
)
def test_a_size_that_is_refused_leaves_no_file(size: int, text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=text):
        FileBackend(size, tmp_path / "ram")
    assert list(tmp_path.iterdir()) == []


def test_a_file_backend_without_a_path_is_refused_in_qemus_words() -> None:
    with pytest.raises(ConfigError, match=r"^mem-path property not set$"):
        FileBackend(MIB, "")


@pytest.mark.parametrize("discards", [False, True])
def test_a_file_whose_data_is_not_worth_keeping_is_emptied_when_it_is_closed(
    discards: bool, tmp_path: Path
) -> None:
    with FileBackend(MIB, tmp_path / "ram", share=True, prealloc=True, discard_data=discards) as backend:
        fill(backend)
    status = (tmp_path / "ram").stat()
    assert status.st_size == MIB
    assert (status.st_blocks == 0) == discards


# no room


def test_a_file_system_that_is_full_is_told_and_the_file_goes_again(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "tmpfs", "size=1m") as place:
        before = traces()
        with pytest.raises(BackendError) as refused:
            FileBackend(4 * MIB, place / "ram", share=True, prealloc=True)
        assert refused.value.errno == errno.ENOSPC
        assert str(refused.value) == "qemu_prealloc_mem: preallocating memory failed: No space left on device"
        assert list(place.iterdir()) == []
        assert traces() == before
        with FileBackend(MIB, place / "ram", share=True, prealloc=True) as backend:
            assert backend.resident_bytes() == MIB


def test_an_empty_file_is_empty_again_when_there_is_no_room(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "tmpfs", "size=1m") as place:
        (place / "ram").touch()
        with pytest.raises(BackendError):
            FileBackend(4 * MIB, place / "ram", share=True, prealloc=True)
        status = (place / "ram").stat()
        assert (status.st_size, status.st_blocks) == (0, 0)


def test_a_file_that_was_there_stays_when_there_is_no_room(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "tmpfs", "size=1m") as place:
        (place / "ram").write_bytes(b"mine")
        os.truncate(place / "ram", 4 * MIB)
        with pytest.raises(BackendError):
            FileBackend(4 * MIB, place / "ram", share=True, prealloc=True)
        assert (place / "ram").read_bytes()[:4] == b"mine"


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    "make",
    [
        lambda _: RamBackend(TOO_MUCH, "/objects/m"),
        lambda _: RamBackend(TOO_MUCH, "/objects/m", share=True),
        lambda _: RamBackend(TOO_MUCH, "/objects/m", needs_descriptor=True),
    ],
)
def test_ram_that_cannot_be_had_is_refused_in_qemus_words(
    make: Callable[[Path], Backend], tmp_path: Path
) -> None:
    with pytest.raises(BackendError) as refused:
        make(tmp_path)
    assert str(refused.value) == "cannot set up guest memory '/objects/m': Cannot allocate memory"
    assert refused.value.errno == errno.ENOMEM


@pytest.mark.usefixtures("nothing_left")
def test_a_file_that_is_too_large_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"^unable to map backing store for guest RAM: "):
        FileBackend(TOO_MUCH, tmp_path / "ram")
    assert list(tmp_path.iterdir()) == []


def test_memory_that_a_limit_forbids_is_refused_and_the_process_lives() -> None:
    code = (
        "import resource\n"
        "from dynmem.memory.backend import BackendError, MemfdBackend, RamBackend\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\n"
        "for make in (MemfdBackend, RamBackend):\n"
        "    try:\n"
        "        make(4 << 30)\n"
        "    except BackendError as error:\n"
        "        print(error.errno, error)\n"
        "print(len(RamBackend(1 << 20).view))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "12 unable to map backing store for guest RAM: Cannot allocate memory",
        "12 cannot set up guest memory 'guest-ram': Cannot allocate memory",
        str(MIB),
    ]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOMEM, errno.EBUSY, errno.EOPNOTSUPP])
def test_a_discard_that_the_system_refuses_names_the_reason(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    punch = system_calls.punch
    monkeypatch.setattr(
        system_calls,
        "punch",
        lambda fd, offset, length: number if offset == 3 * PAGE_SIZE else punch(fd, offset, length),
    )
    with MemfdBackend(MIB) as backend:
        fill(backend)
        ranges = b"".join((page | 1 << 40).to_bytes(8, "little") for page in (1, 3, 5))
        with pytest.raises(
            DiscardError, match=rf"^cannot discard 4096 bytes at page 3: {os.strerror(number)}$"
        ):
            Discarder(backend, NONE).discard(ranges)
        words = np.frombuffer(backend.view, np.uint64)[:: PAGE_SIZE // 8]
        assert words[:7].tolist() == [1, 0, 3, 4, 5, 0, 7]
        del words


@pytest.mark.parametrize("kind", ["memfd", "ram for another process"])
def test_a_memory_file_may_have_huge_pages_where_the_system_says_so(kind: str, tmp_path: Path) -> None:
    mode = huge_pages_given("shmem_enabled")
    with BACKINGS[kind](2 * HUGE, tmp_path) as backend:
        assert backend.may_have_huge_pages == (mode in {"always", "within_size", "force"})


def test_a_file_on_tmpfs_may_have_huge_pages_and_one_that_is_not_shared_has_none(tmp_path: Path) -> None:
    with BACKINGS["tmpfs"](2 * HUGE, tmp_path) as backend:
        assert backend.may_have_huge_pages
    for kind in ("private memfd", "private file"):
        with BACKINGS[kind](2 * HUGE, tmp_path) as backend:
            assert not backend.may_have_huge_pages
