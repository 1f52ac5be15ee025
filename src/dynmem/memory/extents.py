"""Which parts of a memory file hold data, so that whoever reads one can skip its holes.

Read a hole of a tmpfs file with read(2), and the kernel copies zeros: nothing is allocated. Touch it through
a shared mapping, and the page fault gives the file a page, even for a read, since the mapping has to show
what other processes write there later. So a program that only looks at a guest's memory uses preadv(2) and no
mapping. A mapping would also end the reader with SIGBUS when the file shrinks.

Source: Linux mm/shmem.c (shmem_file_read_iter, and shmem_fault, which allocates).
"""

import errno
import os
from collections.abc import Iterator

from dynmem.units import PAGE_SIZE, STAT_BLOCK_BYTES


def data_extents(fd: int, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of a file that hold data as (offset, end), whole pages, ascending.

    Pages in swap are data. On hugetlbfs everything is: it does not report holes. Pages that were allocated
    and never written are holes, unless the whole file is allocated: then it is not searched. Each part is
    looked up when it is asked for, so what comes and goes meanwhile may be in it or not. Raises OSError.
    """
    info = os.fstat(fd)
    if info.st_blocks * STAT_BLOCK_BYTES == info.st_size >= end:
        yield begin - begin % PAGE_SIZE, end
        return
    begin -= begin % PAGE_SIZE
    while begin < end:
        try:
            start = os.lseek(fd, begin, os.SEEK_DATA)
            stop = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole until the end, or the file ends here by now
                return
            raise
        start -= start % PAGE_SIZE
        if start >= end:
            return
        stop = min(-(-stop // PAGE_SIZE) * PAGE_SIZE, end)
        yield start, stop
        begin = stop


def data_pieces(fd: int, begin: int, end: int, most: int) -> Iterator[tuple[int, int]]:
    """Yield the same in pieces of at most *most* bytes, whole pages, as (offset, length). Raises OSError."""
    for start, stop in data_extents(fd, begin, end):
        for offset in range(start, stop, most):
            yield offset, min(most, stop - offset)
