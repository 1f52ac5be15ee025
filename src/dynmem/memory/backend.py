"""Memory backends: where the bytes of a guest's memory live on the host.

Each is one of QEMU's `memory-backend-*` objects, with QEMU's properties and, where it refuses, QEMU's words
(backends/hostmem*.c, system/physmem.c, util/memfd.c). A backend that cannot be made leaves nothing behind: no
descriptor, no mapping, no file.
"""

import bisect
import contextlib
import errno
import fcntl
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Self

import numpy as np

from dynmem import mappings
from dynmem.errors import ConfigError, DynmemError
from dynmem.limits import HUGE_PAGE_REFUSALS_MAX
from dynmem.memory import system_calls
from dynmem.memory.host_memory import host_memory
from dynmem.pages import ranges as page_ranges
from dynmem.units import MIB, PAGE_SHIFT, PAGE_SIZE, STAT_BLOCK_BYTES, format_size

SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
HUGE_PAGE_SIZE: Final = 2 * MIB  # of transparent huge pages; x86-64
_ALLOCATE_BYTES: Final = 1 << 30  # whole huge pages, of any size
_HUGE_PAGES: Final = Path("/sys/kernel/mm/transparent_hugepage")
_PAGEMAP_ENTRIES: Final = 1 << 17  # read at a time: 1 MiB, for 512 MiB of memory
_OWN_PAGE: Final = np.uint64(1 << 63 | 1 << 56)  # of an entry: in memory, and mapped here only
_OWN_MASK: Final = _OWN_PAGE | np.uint64(1 << 61)  # nor a page of a file
_SWAPPED: Final = np.uint64(1 << 62)
_PREALLOCATING: Final = threading.Lock()  # so that no two count on the same memory of the host
_HUGE_SHIFT: Final = 26  # MFD_HUGE_SHIFT: where memfd_create's flags hold the size of a huge page


class BackendError(DynmemError):
    """The memory cannot be made or mapped; `errno` is the system's number, 0 if the refusal is ours."""

    def __init__(self, message: str, errno: int) -> None:
        super().__init__(message)
        self.errno = errno


class Backend:
    """Memory for a guest: mapped here and, unless it is private, shared by every process that has `fd`.

    Attributes:
        kind: The name of its type, as QEMU's.
        hugetlb: Whether it consists of reserved huge pages, which come and go whole.
        owns_file: Whether the memory file is this backend's alone, and its content need not be kept.
        shared_underneath: Whether it is shared by its descriptor though `share` says otherwise.
    """

    kind: ClassVar[str] = ""
    hugetlb: bool = False
    owns_file: bool = False
    shared_underneath: bool = False

    def __init__(self, size: int, name: str, *, fd: int, page_size: int, share: bool, prealloc: bool) -> None:
        """Map `size` bytes of `fd`, which is closed if this fails, or private memory if it is -1.

        Raises ConfigError unless the size is a multiple of the page size; BackendError if the system refuses,
        or lacks the memory that `prealloc` needs now.
        """
        self.size: Final = size
        self.name: Final = name
        self.page_size: Final = page_size
        self.share: Final = share
        self.prealloc: Final = prealloc
        self.is_shared: Final = fd >= 0 and (share or self.shared_underneath)
        self._fd = fd
        self._starts = [0]  # of its files, ascending, with a descriptor each
        self._files = [fd]
        self._closed = False
        self._huge_pages = self._huge_pages_given()
        try:
            check_size(self.kind, size, page_size)
            self._map, start = self._mapped()
            self._view = memoryview(self._map)[start : start + size]
        except BaseException:
            self._close_descriptor()
            raise
        # the array that shows the address is gone after this line, so it keeps no mapping open
        self._address = int(np.frombuffer(self._view, np.uint8).ctypes.data)
        if prealloc:
            try:
                self.preallocate()
            except BackendError:
                self.close()
                raise

    @property
    def may_have_huge_pages(self) -> bool:
        """Whether the kernel may have put transparent huge pages under the memory."""
        # where the system leaves the choice to us ("madvise", "advise"), nothing asks for them
        return self._huge_pages not in {"never", "deny", "madvise", "advise"}

    @property
    def is_closed(self) -> bool:
        """Whether it was closed; the mapping goes with the last array over it."""
        return self._closed

    @property
    def fd(self) -> int:
        """The (first) memory file's descriptor, the backend's own; -1 for private anonymous memory."""
        return self._fd

    @property
    def view(self) -> memoryview:
        """The whole memory."""
        return self._view

    @property
    def address(self) -> int:
        """Where the memory is mapped in this process; a multiple of 2 MiB for private anonymous memory."""
        return self._address

    def resident_bytes(self) -> int:
        """Return the bytes that the memory occupies now, in RAM or swap.

        Of shared memory these are the blocks of its file (on a disk, its size there). Of private memory they
        are this process's own pages, counted one by one: half a second for a terabyte.
        """
        if self.is_shared:
            return sum(os.fstat(fd).st_blocks for fd in self._files) * STAT_BLOCK_BYTES
        return _private_bytes(self._address, self.size)

    def reserve(self, ranges: bytes, *, in_parts: bool = True) -> bytes:
        """Reserve huge pages of the host before the guest touches them; return the ranges that it lacks.

        A discarded huge page is free for other programs; if the system has none left, touching it is a
        SIGBUS. `ranges` are in pages of 4 KiB and mean all of each huge page that they are in, and so does
        the result: ascending, disjoint. For memory other than reserved huge pages nothing is done, and the
        result is b"". Without `in_parts` a range that lacks a huge page is lacking whole.
        """
        if not (self.hugetlb and self.is_shared):
            return b""
        size = self.page_size >> PAGE_SHIFT
        starts, counts = page_ranges.unpack(page_ranges.merge(ranges))
        ends = -(-(starts + counts).astype(np.int64) // size)
        blocks = list(zip((starts.astype(np.int64) // size).tolist(), ends.tolist(), strict=True))[::-1]
        refused: list[tuple[int, int]] = []
        refusals = 0
        while blocks:
            start, end = blocks.pop()
            known = refusals >= HUGE_PAGE_REFUSALS_MAX
            parts = self.files(start * self.page_size, (end - start) * self.page_size)
            if not known and not any(mappings.reserve_huge(*part) for part in parts):
                continue
            if known or end - start == 1 or not in_parts:
                refusals += 1
                refused.append((start * size, (end - start) * size))
                continue
            middle = (start + end) // 2
            blocks += [(middle, end), (start, middle)]
        return page_ranges.merge(b"".join(page_ranges.span(start, pages) for start, pages in refused))

    def files(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Yield the parts of a range as (descriptor, offset in that file, length)."""
        end = offset + length
        while offset < end:
            at = bisect.bisect_right(self._starts, offset)
            stop = min(end, self._starts[at] if at < len(self._starts) else end)
            yield self._files[at - 1], offset - self._starts[at - 1], stop - offset
            offset = stop

    def cut(self, size: int) -> None:
        """Put every `size` bytes into a file of their own; what was in the memory is lost.

        A process that has the descriptor of one can then use nothing of the others. Nothing is done for
        memory that is not shared by its descriptor, or is in a file with a name; nor for reserved huge pages:
        those of the whole memory were set aside for it when it was mapped. Raises BackendError; then the
        backend can only be closed.
        """
        starts = list(range(0, self.size, size))
        sizes = [min(size, self.size - start) for start in starts]
        if not self.is_shared or self.hugetlb or len(starts) == 1 or size % PAGE_SIZE:
            return
        if (first := self._another_file(sizes[0])) < 0:
            return
        for part in self.files(0, self.size):
            system_calls.punch(*part)  # the new files need its pages
        self._close_descriptor()
        self._fd = first
        for start, length in zip(starts, sizes, strict=True):
            self._files.append(self._another_file(length) if start else first)
            number = mappings.map_file(self._address + start, length, self._files[-1])
            if not number and self.prealloc:
                number = system_calls.allocate(self._files[-1], 0, length)
            if number:
                raise BackendError(f"{self._cannot_map()}: {os.strerror(number)}", number)
        self._starts = starts

    def preallocate(self) -> None:
        """Make all of the memory resident; its content stays.

        Raises BackendError, also if the host has too little memory: QEMU tries, and the kernel's
        out-of-memory killer ends a process.
        """
        with _PREALLOCATING:
            self._check_host(self.size)
            if self.is_shared:
                number = self._allocate()
            else:
                number = system_calls.madvise(self._address, self.size, system_calls.MADV_POPULATE_WRITE)
        if number:
            raise BackendError(
                f"qemu_prealloc_mem: preallocating memory failed: {os.strerror(number)}", number
            )

    def _check_host(self, size: int) -> None:
        """Raise BackendError unless the host has memory for `size` bytes, less what is resident."""
        if self.page_size > PAGE_SIZE:  # they are reserved: the system refuses if there are too few
            return
        if self.is_shared and system_calls.file_system(self._fd)[0] != system_calls.TMPFS_MAGIC:
            return  # on a disk
        lacks = host_memory().lacks(min(size, max(0, self.size - self.resident_bytes())))
        if lacks is not None:
            raise BackendError(f"prealloc: {lacks}", errno.ENOMEM)

    def close(self) -> None:
        """Close the descriptor and unmap; a mapping that arrays still use goes with the last of them."""
        self._closed = True
        self._close_descriptor()
        with contextlib.suppress(BufferError):
            self._view.release()
            self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _huge_pages_given(self) -> str:
        """Return when this memory gets transparent huge pages, in the system's words."""
        if self._fd < 0:
            return huge_pages_given()
        return huge_pages_given("shmem_enabled") if self.is_shared else "never"

    def _mapped(self) -> tuple[mmap.mmap, int]:
        """Map the memory; return the mapping, and where in it the memory begins."""
        flags = mmap.MAP_SHARED if self.is_shared else mmap.MAP_PRIVATE
        try:
            if self._fd >= 0:
                return mmap.mmap(self._fd, self.size, flags), 0
            # the guest's 2 MiB blocks must lie in huge pages of the host, or none is ever discarded whole
            room = mmap.mmap(-1, self.size + HUGE_PAGE_SIZE, flags | mmap.MAP_ANONYMOUS)
            return room, -int(np.frombuffer(room, np.uint8).ctypes.data) % HUGE_PAGE_SIZE
        except (OSError, ValueError, OverflowError) as error:
            raise refusal(self._cannot_map(), error) from error

    def _cannot_map(self) -> str:
        return "unable to map backing store for guest RAM"

    def _allocate(self) -> int:
        """Allocate all pages of the file, in steps, since a signal undoes the call that it interrupts."""
        for at in range(0, self.size, _ALLOCATE_BYTES):
            step = min(_ALLOCATE_BYTES, self.size - at)
            self._check_host(step)  # others take memory, too
            number = self._allocated(at, step)
            if number:
                return number
        return 0

    def _allocated(self, offset: int, length: int) -> int:
        """Allocate the pages of a part; return 0 or an errno."""
        numbers = (system_calls.allocate(*part) for part in self.files(offset, length))
        return next((number for number in numbers if number), 0)

    def _close_descriptor(self) -> None:
        for fd in self._files:
            if fd >= 0:
                os.close(fd)
        self._files = []
        self._fd = -1

    def _another_file(self, size: int) -> int:
        """Make a file like the present one; -1 if it must stay this one. Raises BackendError."""
        del size
        return -1


class MemfdBackend(Backend):
    """RAM in an anonymous memory file (memory-backend-memfd), sealed against any change of its size.

    Without the seals a process that receives the descriptor (an embedded guest) could truncate the file, and
    touching the lost part would end this process with SIGBUS.
    """

    kind = "memory-backend-memfd"
    owns_file = True

    def __init__(
        self,
        size: int,
        name: str = "guest-ram",
        *,
        share: bool = True,
        prealloc: bool = False,
        hugetlb: bool = False,
        hugetlb_size: int = 0,
    ) -> None:
        """Make, seal and map `size` bytes, none of them resident yet.

        `name` shows up in /proc/PID/fd as ``/memfd:NAME``. `hugetlb` takes reserved huge pages, of
        `hugetlb_size` bytes (0: the system's usual ones). Raises ConfigError, BackendError.
        """
        check_size(self.kind, size, PAGE_SIZE)
        self.hugetlb = hugetlb
        self.hugetlb_size: Final = hugetlb_size
        fd = memory_file(name, size, hugetlb=hugetlb, hugetlb_size=hugetlb_size)
        super().__init__(size, name, fd=fd, page_size=page_size_of(fd), share=share, prealloc=prealloc)

    def _another_file(self, size: int) -> int:
        return memory_file(self.name, size, hugetlb=self.hugetlb, hugetlb_size=self.hugetlb_size)


class RamBackend(Backend):
    """RAM without a name (memory-backend-ram): private unless it is shared by its descriptor."""

    kind = "memory-backend-ram"

    def __init__(
        self,
        size: int,
        name: str = "guest-ram",
        *,
        share: bool = False,
        prealloc: bool = False,
        needs_descriptor: bool = False,
    ) -> None:
        """Map `size` bytes, none of them resident yet.

        `needs_descriptor`: another process will map the memory, so it is shared underneath whatever `share`
        says; `share` reads back as it was set. Raises ConfigError, BackendError.
        """
        check_size(self.kind, size, PAGE_SIZE)
        self.shared_underneath = needs_descriptor
        fd = -1
        if share or needs_descriptor:
            try:
                fd = memory_file(name, size)
            except BackendError as error:
                what = f"cannot set up guest memory '{name}': {os.strerror(error.errno)}"
                raise BackendError(what, error.errno) from error
        super().__init__(size, name, fd=fd, page_size=PAGE_SIZE, share=share, prealloc=prealloc)

    def _cannot_map(self) -> str:
        return f"cannot set up guest memory '{self.name}'"

    def _another_file(self, size: int) -> int:
        return memory_file(self.name, size)


def check_size(kind: str, size: int, page_size: int) -> None:
    """Raise ConfigError, in QEMU's words, unless `size` is a positive multiple of the page size."""
    if size <= 0:
        raise ConfigError("can't create backend with size 0")
    if size % page_size:
        unit = format_size(page_size)
        raise ConfigError(f"backend '{kind}' memory size must be multiple of {unit}")


def memory_file(name: str, size: int, *, hugetlb: bool = False, hugetlb_size: int = 0) -> int:
    """Make a sealed memory file of `size` bytes and return its descriptor. Raises BackendError."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    if hugetlb_size & (hugetlb_size - 1):  # the flags have room for powers of two only
        raise BackendError("Hugepage size must be a power of 2", errno.EINVAL)
    if hugetlb:
        flags |= os.MFD_HUGETLB | (hugetlb_size.bit_length() - 1 if hugetlb_size else 0) << _HUGE_SHIFT
    what = f"failed to create memfd with flags {flags:#x}"
    fd = -1
    try:
        fd = os.memfd_create(name, flags)
        what = f"failed to resize memfd to {size}"
        os.ftruncate(fd, size)
        what = "failed to add seals"
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except (OSError, OverflowError) as error:
        if fd >= 0:
            os.close(fd)
        raise refusal(what, error) from error
    return fd


def page_size_of(fd: int) -> int:
    """Return the bytes of a page of the file: 4096, or a huge page's on hugetlbfs. Raises OSError."""
    magic, block_size = system_calls.file_system(fd)
    return block_size if magic == system_calls.HUGETLBFS_MAGIC else PAGE_SIZE


def huge_pages_given(kind: str = "enabled") -> str:
    """Return when memory gets transparent huge pages: ``enabled`` (private) or ``shmem_enabled`` (files).

    ``always``, ``madvise`` or ``never``; of memory files also ``within_size``, ``advise``, ``deny`` and
    ``force``.
    """
    modes = []
    for name in (f"hugepages-2048kB/{kind}", kind):  # the first may say "inherit"
        with contextlib.suppress(OSError):
            line = (_HUGE_PAGES / name).read_text(encoding="ascii")
            modes.append(line.partition("[")[2].partition("]")[0])
    return next((mode for mode in modes if mode != "inherit"), "never")


def refusal(what: str, error: Exception) -> BackendError:
    """Return the error for a refusal by the system: ``WHAT: No space left on device``.

    A size that no system call takes counts as more memory than there is.
    """
    number = error.errno if isinstance(error, OSError) and error.errno is not None else errno.ENOMEM
    return BackendError(f"{what}: {os.strerror(number)}", number)


def _private_bytes(address: int, size: int) -> int:
    """Return the bytes of a mapping that are this process's own, in memory or swap (/proc/self/pagemap).

    /proc/self/smaps shows adjacent mappings as one, so it cannot be used.
    """
    pages = 0
    with Path("/proc/self/pagemap").open("rb", 0) as table:
        for at in range(0, size >> PAGE_SHIFT, _PAGEMAP_ENTRIES):
            table.seek((address >> PAGE_SHIFT) + at << 3)
            entries = np.frombuffer(
                table.read(min(_PAGEMAP_ENTRIES, (size >> PAGE_SHIFT) - at) << 3), np.uint64
            )
            pages += int(np.count_nonzero((entries & _OWN_MASK == _OWN_PAGE) | (entries & _SWAPPED != 0)))
    return pages << PAGE_SHIFT
