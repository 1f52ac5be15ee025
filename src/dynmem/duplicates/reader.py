"""Read the memory of the VMs of one account: everything once, then single pages again.

Only preadv(2) is used, on descriptors opened for reading: that allocates nothing, changes nothing, and cannot
end this process (`memory.extents` says why). One thing is unavoidable: pages in swap come back to memory when
they are read.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from dynmem.duplicates.page_hash import PAGE_WORDS
from dynmem.duplicates.rate import Rate
from dynmem.duplicates.tally import IntArray
from dynmem.duplicates.verify import BATCH_PAGES
from dynmem.duplicates.vms import Vm, VmGoneError
from dynmem.errors import DynmemError, NotPermittedError
from dynmem.memory.extents import data_pieces
from dynmem.pages.ranges import U64Array
from dynmem.ram_files import RamFile
from dynmem.units import PAGE_SHIFT, PAGE_SIZE, format_size

_BATCH_BYTES: Final = BATCH_PAGES * PAGE_SIZE
_SHIFT: Final = np.uint64(PAGE_SHIFT)


class Progress(Protocol):
    """Who watches a scan."""

    def expect(self, size: int) -> None:
        """Know of `size` more bytes that are to be read."""

    def did(self, size: int) -> None:
        """Know that `size` bytes were read."""


class AccountReader:
    """The pages of the RAM files of some VMs, in one row: `places` count them.

    Attributes:
        places: How many there are.
        first_places: Where each VM's begin, and the end.
        shrunk: Of each VM by its position, a sentence if one of its files has become smaller.
    """

    def __init__(self, vms: Sequence[Vm], rate: Rate, progress: Progress) -> None:
        self._vms: Final = vms
        self._rate: Final = rate
        self._progress: Final = progress
        self._buffer: Final = np.empty((BATCH_PAGES, PAGE_WORDS), np.uint64)
        self._view: Final = self._buffer.data.cast("B")
        self._rows: Final = [(self._view[at : at + PAGE_SIZE],) for at in range(0, _BATCH_BYTES, PAGE_SIZE)]
        sizes = [file.size >> PAGE_SHIFT for vm in vms for file in vm.files]
        self._file_places: Final = np.cumsum([0, *sizes]).astype(np.uint64)
        firsts = np.cumsum([0, *(len(vm.files) for vm in vms)])
        self.first_places: Final[list[int]] = self._file_places[firsts].tolist()
        self.places: Final = self.first_places[-1]
        self._vm_places: Final = self._file_places[firsts][:-1]
        self._descriptors: list[int] = []
        self.shrunk: Final[dict[int, str]] = {}

    def read_all(self, position: int) -> Iterator[tuple[U64Array, U64Array]]:
        """Yield the pages of one VM that hold data, with their places: (n, 512) until the next step, (n,).

        Raises VmGoneError, NotPermittedError.
        """
        vm = self._vms[position]
        place = self.first_places[position]
        for file in vm.files:
            fd = vm.open(file)
            try:
                for offset, count in self._read_file(vm, fd, file.size):
                    begin = place + (offset >> PAGE_SHIFT)
                    yield self._buffer[:count], np.arange(begin, begin + count, dtype=np.uint64)
                self._note_size(position, fd, file)
            except OSError as error:
                raise VmGoneError(f"{vm.described}: its RAM cannot be read: {error.strerror}") from error
            finally:
                os.close(fd)
            place += file.size >> PAGE_SHIFT

    def _read_file(self, vm: Vm, fd: int, size: int) -> Iterator[tuple[int, int]]:
        """Fill the buffer with what a file holds; yield offset and number of pages, again and again."""
        for offset, length in data_pieces(fd, 0, size - size % PAGE_SIZE, _BATCH_BYTES):
            self._rate.spend(length)
            vm.check_alive()
            got = os.preadv(fd, (self._view[:length],), offset)
            self._progress.did(length)
            if got >= PAGE_SIZE:
                yield offset, got >> PAGE_SHIFT
            if got < length:
                return

    def _note_size(self, position: int, fd: int, file: RamFile) -> None:
        size = os.fstat(fd).st_size
        if size < file.size:
            self.shrunk[position] = (
                f"{self._vms[position].described}: a RAM file shrank from {format_size(file.size)} to"
                f" {format_size(size)} while it was read: what was cut off is not counted"
            )

    @contextlib.contextmanager
    def opened(self, positions: Sequence[int]) -> Iterator[None]:
        """Hold the files of some VMs open, for `read_pages`. Raises LostError."""
        with contextlib.ExitStack() as stack:
            self._descriptors = []
            for position, vm in enumerate(self._vms):
                for file in vm.files:
                    fd = -1
                    if position in positions:
                        with _of(position):
                            fd = vm.open(file)
                        stack.callback(os.close, fd)
                    self._descriptors.append(fd)
            self._open_vms = positions
            yield

    def read_pages(self, places: U64Array) -> tuple[U64Array, NDArray[np.bool_]]:
        """Read single pages of the opened files; return them, and which of them exist.

        Raises LostError if one of the opened VMs has ended.
        """
        size = places.size * PAGE_SIZE
        self._rate.spend(size)
        for position in self._open_vms:
            with _of(position):
                self._vms[position].check_alive()
        files = np.searchsorted(self._file_places, places, side="right") - 1
        offsets = ((places - self._file_places[files]) << _SHIFT).tolist()
        there = np.ones(places.size, np.bool_)
        read, descriptors = os.preadv, self._descriptors
        for row, (file, offset, view) in enumerate(zip(files.tolist(), offsets, self._rows, strict=False)):
            try:
                if read(descriptors[file], view, offset) != PAGE_SIZE:
                    there[row] = False
            except OSError:
                there[row] = False
        self._progress.did(size)
        return self._buffer[: places.size], there

    def vms_of(self, places: U64Array) -> IntArray:
        return np.searchsorted(self._vm_places, places, side="right") - 1


class LostError(VmGoneError):
    """One of several VMs is gone: the one at `position`."""

    def __init__(self, position: int, error: DynmemError) -> None:
        super().__init__(str(error))
        self.position: Final = position


@contextlib.contextmanager
def _of(position: int) -> Iterator[None]:
    try:
        yield
    except (VmGoneError, NotPermittedError) as error:
        raise LostError(position, error) from error
