"""Guest memory as VMBus sees it: a few operations by guest physical address, or by offset over pages.

The memory is shared with a peer that is hostile and runs at the same time. So bytes are copied out once and
checked afterwards, 32-bit words are loaded and stored whole (``memoryview.cast("I")``: ``struct.pack_into``
clears the field before it writes it, which a concurrent reader sees), and `fence` stands between publishing
a word and reading the peer's. x86-64 only: its stores are seen in order, its loads may pass earlier stores.
"""

import bisect
import threading
from array import array
from collections.abc import Iterable
from typing import Final, Protocol

from dynmem.errors import RemoteProtocolError
from dynmem.units import PAGE_SHIFT


class BadAddressError(RemoteProtocolError):
    """An address outside the memory, or a word that is not aligned."""


class GuestMemory(Protocol):
    """What a bus needs of memory; each operation raises BadAddressError for an address outside."""

    def read(self, gpa: int, length: int) -> bytes:
        """Copy `length` bytes out; each is read once."""
        ...

    def write(self, gpa: int, data: bytes) -> None:
        """Copy `data` in."""
        ...

    def load32(self, gpa: int) -> int:
        """Load an aligned 32-bit word in one access."""
        ...

    def store32(self, gpa: int, value: int) -> None:
        """Store an aligned 32-bit word in one access."""
        ...

    def fence(self) -> None:
        """Order everything before against everything after, as the peer sees it."""
        ...


class FlatMemory:
    """Mapped memory from guest physical address `base` on; `view` is writable, of whole pages."""

    __slots__ = ("_base", "_bytes", "_lock", "_size", "_words")

    def __init__(self, view: memoryview, base: int = 0) -> None:
        self._bytes = view.cast("B")
        self._words = self._bytes.cast("I")
        self._base = base
        self._size: Final = len(self._bytes)
        self._lock = threading.Lock()

    def _outside(self, gpa: int, length: int) -> BadAddressError:
        return BadAddressError(f"{length} bytes at {gpa:#x} are not guest memory")

    def read(self, gpa: int, length: int) -> bytes:
        start = gpa - self._base
        if start < 0 or length < 0 or start + length > self._size:
            raise self._outside(gpa, length)
        return self._bytes[start : start + length].tobytes()

    def write(self, gpa: int, data: bytes) -> None:
        start = gpa - self._base
        if start < 0 or start + len(data) > self._size:
            raise self._outside(gpa, len(data))
        self._bytes[start : start + len(data)] = data

    def load32(self, gpa: int) -> int:
        start = gpa - self._base
        if start < 0 or start & 3 or start + 4 > self._size:
            raise self._outside(gpa, 4)
        return self._words[start >> 2]

    def store32(self, gpa: int, value: int) -> None:
        start = gpa - self._base
        if start < 0 or start & 3 or start + 4 > self._size:
            raise self._outside(gpa, 4)
        self._words[start >> 2] = value

    def fence(self) -> None:
        # taking a lock is a locked instruction
        with self._lock:
            pass

    def release(self) -> None:
        """Release the view, so that its map can be closed."""
        self._words.release()
        self._bytes.release()


class PageRuns:
    """Guest pages in an order of their own, kept as runs of neighbours: two words a run.

    Pages may be added at any time, for work and memory in proportion to their number.

    Attributes:
        pages: How many there are.
        starts: The offset at which each run begins.
        pfns: Its first page.

    """

    __slots__ = ("_expected", "pages", "pfns", "starts")

    def __init__(self, pfns: Iterable[int] = ()) -> None:
        self.pages: int = 0
        self.starts: Final = array("Q")
        self.pfns: Final = array("Q")
        self._expected = -1
        self.extend(pfns)

    def extend(self, pfns: Iterable[int]) -> None:
        """Add pages."""
        index, expected = self.pages, self._expected
        for pfn in pfns:
            if pfn != expected:
                self.starts.append(index << PAGE_SHIFT)
                self.pfns.append(pfn)
            expected = pfn + 1
            index += 1
        self.pages, self._expected = index, expected

    def words(self) -> bytes:
        """Return the page numbers, packed little-endian u64."""
        ends = (*self.starts[1:], self.pages << PAGE_SHIFT)
        each = array("Q")
        for start, end, pfn in zip(self.starts, ends, self.pfns, strict=False):
            each.extend(range(pfn, pfn + (end - start >> PAGE_SHIFT)))
        return each.tobytes()


class GpadlMemory:
    """The pages of a GPADL as one stretch of bytes; neighbouring pages are read and written as one slice.

    Args:
        memory: Where the pages are.
        pages: Guest page numbers, in the GPADL's order.

    """

    __slots__ = ("_memory", "_pfns", "_starts", "pages", "size")

    def __init__(self, memory: GuestMemory, pages: Iterable[int] | PageRuns) -> None:
        runs = pages if isinstance(pages, PageRuns) else PageRuns(pages)
        self._memory = memory
        self.pages: Final = runs.pages
        self.size: Final = self.pages << PAGE_SHIFT
        self._starts = runs.starts
        self._pfns = runs.pfns

    def _pieces(self, offset: int, length: int) -> list[tuple[int, int]]:
        """Return where `length` bytes at `offset` lie: pieces of (guest physical address, length).

        pages 7, 8 and 3 of 4 KiB: runs start at offsets 0 and 0x2000, at addresses 0x7000 and 0x3000
        0x1000 bytes at 0x1800  ->  (0x8800, 0x800), (0x3000, 0x800)
        """
        end = offset + length
        if offset < 0 or length < 0 or end > self.size:
            raise BadAddressError(f"{length} bytes at {offset:#x} pass the {self.pages} pages of a GPADL")
        starts, pfns = self._starts, self._pfns
        run = bisect.bisect_right(starts, offset) - 1
        pieces = []
        while offset < end:
            run_end = starts[run + 1] if run + 1 < len(starts) else self.size
            piece = min(end, run_end) - offset
            pieces.append(((pfns[run] << PAGE_SHIFT) + offset - starts[run], piece))
            offset += piece
            run += 1
        return pieces

    def read(self, offset: int, length: int) -> bytes:
        pieces = self._pieces(offset, length)
        if len(pieces) == 1:
            return self._memory.read(*pieces[0])
        return b"".join([self._memory.read(gpa, size) for gpa, size in pieces])

    def write(self, offset: int, data: bytes) -> None:
        pieces = self._pieces(offset, len(data))
        if len(pieces) == 1:
            self._memory.write(pieces[0][0], data)
            return
        position = 0
        for gpa, size in pieces:
            self._memory.write(gpa, data[position : position + size])
            position += size

    def _word_address(self, offset: int) -> int:
        """Return the guest physical address of an aligned word."""
        if offset & 3 or not 0 <= offset <= self.size - 4:
            raise BadAddressError(f"no word at {offset:#x} of a GPADL of {self.pages} pages")
        run = bisect.bisect_right(self._starts, offset) - 1
        return (self._pfns[run] << PAGE_SHIFT) + offset - self._starts[run]

    def load32(self, offset: int) -> int:
        return self._memory.load32(self._word_address(offset))

    def store32(self, offset: int, value: int) -> None:
        self._memory.store32(self._word_address(offset), value)

    def fence(self) -> None:
        self._memory.fence()
