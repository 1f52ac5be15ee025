"""Discards: return the memory behind page ranges to the host, in as few calls as the kernel allows.

What works differs by the kind of memory (measured, see docs/performance.md):

- Shared memory (memfd, tmpfs, hugetlbfs): only a hole in the file frees it; MADV_DONTNEED drops this
  process's mapping and nothing else. Holes are punched by fallocate, one call for each coalesced range, or
  by MADV_REMOVE in batches, where the kernel takes that from a process for itself (1.4 times as fast for
  ranges of 4 KiB). Small ranges that this process has mapped are dropped in a batch before (1.2 times
  again). Two threads are no faster on one file, nor is io_uring.
- Private memory: MADV_DONTNEED, batched where the kernel takes that from a process for itself.
- Transparent huge pages of private memory: a part that is dropped leaves the huge page as it is until the
  kernel runs out of memory, so a huge page that loses a part is split first.
- Reserved huge pages (hugetlbfs): whole ones only. Punching a part would zero it and free nothing.
"""

import errno
import os
from pathlib import Path
from typing import Final

import numpy as np

from dynmem.errors import DynmemError
from dynmem.memory import system_calls
from dynmem.memory.abilities import Abilities, probe
from dynmem.memory.backend import HUGE_PAGE_SIZE, Backend
from dynmem.memory.system_calls import (
    IOVECS_MAX,
    MADV_COLD,
    MADV_DONTNEED,
    MADV_REMOVE,
)
from dynmem.pages import ranges as page_ranges
from dynmem.pages.ranges import U64Array
from dynmem.units import PAGE_SHIFT, PAGE_SIZE

_SHIFT: Final = np.uint64(PAGE_SHIFT)
_SMALL_BYTES: Final = 64 << 10  # from here on dropping ranges before they are punched does not pay
_SAMPLES: Final = 8  # pages looked at to know whether this process has ranges mapped


class DiscardError(DynmemError):
    """The system refused a discard: `errno` is its number, `discarded` the bytes discarded all the same."""

    def __init__(self, message: str, number: int, discarded: int) -> None:
        super().__init__(message)
        self.errno = number
        self.discarded = discarded


class Discarder:
    """Discards pages of one backend; page 0 is the backend's first."""

    def __init__(self, backend: Backend, abilities: Abilities | None = None) -> None:
        """`abilities` are those to use; by default those that the kernel was found to have."""
        self._backend = backend
        self._abilities: Final = probe() if abilities is None else abilities
        self.granularity_pages: Final = backend.page_size >> PAGE_SHIFT

    def discard(self, ranges: bytes) -> int:
        """Discard the whole host pages in `ranges` and return their bytes.

        Every mapping of shared memory then reads zeros there, and so does private memory (a private mapping
        of a named file reads the file). Of pages larger than 4 KiB those that `ranges` cover only in part are
        left alone. The interpreter lock is free during each call, so this may run in a worker thread.

        Raises DiscardError: before anything is done if the memory is closed or a range lies outside it; after
        all other ranges if one is refused.
        """
        if self._backend.is_closed:  # its descriptor and addresses may be reused by now
            raise DiscardError(f"cannot discard: {os.strerror(errno.EBADF)}", errno.EBADF, 0)
        starts, counts = page_ranges.unpack(page_ranges.merge(ranges))
        size = self._backend.size
        if starts.size and (int(starts[-1]) + int(counts[-1])) << PAGE_SHIFT > size:
            raise DiscardError("a range to discard lies outside the memory", errno.EINVAL, 0)
        spans = self._whole_host_pages(starts, starts + counts)
        work = _Work(self._backend, self._abilities)
        if self._backend.is_shared:
            work.unmap(spans)
            work.punch(spans)
            return work.result()
        if self._backend.may_have_huge_pages:
            work.split_huge_pages(spans)
        if self._backend.owns_file:  # reading what was never written fills the file, behind the copies
            for offset, length in spans.tolist():
                system_calls.punch(self._backend.fd, offset, length)
        work.drop(spans)
        return work.result()

    def _whole_host_pages(self, starts: U64Array, ends: U64Array) -> U64Array:
        """Return the host pages that lie wholly in disjoint ranges, (n, 2) of offset and length in bytes.

        Host pages of 4: [1,9) -> round up 1 to 4, down 9 to 8 -> [4,8); [5,7) -> 8 and 4: nothing
        """
        size = np.uint64(self.granularity_pages)
        starts = (starts + size - np.uint64(1)) // size * size
        ends = ends // size * size
        sound = starts < ends
        return np.stack((starts[sound] << _SHIFT, (ends - starts)[sound] << _SHIFT), axis=1)


class _Work:
    """One discard: what is done so far, and the first refusal."""

    def __init__(self, backend: Backend, abilities: Abilities) -> None:
        self._backend = backend
        self._abilities = abilities
        self._done = 0
        self._refused: tuple[int, int, int] | None = None

    def result(self) -> int:
        """Return the bytes discarded. Raises DiscardError for the first refusal."""
        if self._refused is None:
            return self._done
        number, offset, length = self._refused
        raise DiscardError(
            f"cannot discard {length} bytes at page {offset >> PAGE_SHIFT}: {os.strerror(number)}",
            number,
            self._done,
        )

    def unmap(self, spans: U64Array) -> None:
        """Take small ranges out of this process's mapping of a file; a failure here does not matter."""
        small = len(spans) > 1 and int(spans[:, 1].sum()) < len(spans) * _SMALL_BYTES
        if self._abilities.batched_dontneed and small and self._has_mapped(spans):
            self._in_batches(spans, MADV_DONTNEED)

    def punch(self, spans: U64Array) -> None:
        """Punch holes into the file, in batches where the kernel does that."""
        if self._abilities.batched_remove and len(spans) > 1:
            removed, spans = self._in_batches(spans, MADV_REMOVE)
            self._done += removed
        for offset, length in spans.tolist():
            for fd, at, part in self._backend.files(offset, length):
                self._record(system_calls.punch(fd, at, part), offset, part)

    def _has_mapped(self, spans: U64Array) -> bool:
        """Return whether this process has touched any of a sample of the ranges, or only the guest has."""
        chosen = spans[:: max(1, len(spans) // _SAMPLES), 0].tolist()
        with Path("/proc/self/pagemap").open("rb", 0) as table:
            entries = (
                os.pread(table.fileno(), 8, (self._backend.address + offset >> PAGE_SHIFT) * 8)
                for offset in chosen
            )
            return any(entry[7:] >= b"\x80" for entry in entries)  # bit 63: there is a page

    def drop(self, spans: U64Array) -> None:
        """Drop private pages, in batches where the kernel does that."""
        if self._abilities.batched_dontneed and len(spans) > 1:
            dropped, spans = self._in_batches(spans, MADV_DONTNEED)
            self._done += dropped
        base = self._backend.address
        for offset, length in spans.tolist():
            self._record(system_calls.madvise(base + offset, length, MADV_DONTNEED), offset, length)

    def split_huge_pages(self, spans: U64Array) -> None:
        """Split each transparent huge page that loses a part and keeps a part, before the part is dropped.

        Advice on one of its pages does it; a small page, or a huge one in use, stays as it is.
        """
        if not self._abilities.splits:
            return
        starts, ends = spans[:, 0], spans[:, 0] + spans[:, 1]
        huge = np.uint64(HUGE_PAGE_SIZE)
        heads = starts[starts % huge != 0]
        tails = np.maximum(starts, ends // huge * huge)[ends % huge != 0]
        if not heads.size and not tails.size:
            return
        inside = np.sort(np.concatenate((heads, tails)))
        first = np.flatnonzero(np.append(True, inside[1:] // huge != inside[:-1] // huge))
        pages = np.stack((inside[first], np.full(first.size, PAGE_SIZE, np.uint64)), axis=1)
        if self._abilities.batched_dontneed:
            self._in_batches(pages, MADV_COLD)
            return
        for offset, length in pages.tolist():
            system_calls.madvise(self._backend.address + offset, length, MADV_COLD)

    def _in_batches(self, spans: U64Array, advice: int) -> tuple[int, U64Array]:
        """Advise on as many spans per call as the kernel takes; return the bytes done, and the spans left.

        The kernel stops at a span that it refuses, and silently in the span that exceeds what it does in one
        call (2 GiB - 4 KiB): either is left for a call of its own, and this continues behind it.
        """
        base = np.array((self._backend.address, 0), np.uint64)
        left: list[int] = []
        advised = position = 0
        while position < len(spans):
            batch = spans[position : position + IOVECS_MAX]
            done = system_calls.process_madvise(self._abilities.pidfd, batch + base, advice)
            whole = int(np.searchsorted(np.cumsum(batch[:, 1]), max(done, 0), "right"))
            advised += int(batch[:whole, 1].sum())
            position += whole
            if whole < len(batch):
                left.append(position)
                position += 1
        return advised, spans[left]

    def _record(self, number: int, offset: int, length: int) -> None:
        """Record the result of one call: 0 or an errno."""
        if number == 0:
            self._done += length
        elif self._refused is None:
            self._refused = number, offset, length
