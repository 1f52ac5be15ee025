"""Where the guest has a memory: in one piece, or in several that follow each other in the memory.

Boot memory goes round the hole that a platform has below 4 GiB. The memory's own pages, which are those of
its backend, are counted through:

    guest pages   [0, 8)  hole  [12, 16)
    own pages     [0, 8)        [8, 12)
"""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import numpy as np

from dynmem.pages import ranges as page_ranges
from dynmem.pages.algebra import Ranges, joined, within


class Piece(NamedTuple):
    """A part of a memory that the guest has in one piece.

    Attributes:
        first_page: Where it begins, in guest pages.
        own_page: Which of the memory's own pages that is.
        pages: Its size.
    """

    first_page: int
    own_page: int
    pages: int


class Pieces:
    """The pieces of one memory.

    Attributes:
        first_page: The first guest page of them.
        pages: The size of all together.
    """

    def __init__(self, pieces: Iterable[tuple[int, int]]) -> None:
        """Place the memory; each piece is its first guest page and its pages, in ascending order."""
        self._pieces: list[Piece] = []
        own_page = 0
        for first_page, pages in pieces:
            self._pieces.append(Piece(first_page, own_page, pages))
            own_page += pages
        self.first_page: Final = self._pieces[0].first_page
        self.pages: Final = own_page
        starts = np.array([piece.own_page for piece in self], np.uint64)
        self._own = Ranges(starts, np.append(starts[1:], np.uint64(own_page)))
        self._ahead = np.array([piece.first_page for piece in self], np.uint64) - starts  # of own pages

    def __iter__(self) -> Iterator[Piece]:
        return iter(self._pieces)

    def part(self, ranges: bytes, most: int) -> tuple[bytes, bytes]:
        """Part ascending ranges of own pages where a piece ends; return the first `most`, and the rest.

        [6,10) in the picture, at most one  ->  [6,8), and [8,10)
        """
        parted = within(joined(ranges), self._own).packed()
        end = most * page_ranges.RANGE_BYTES
        return parted[:end], parted[end:]

    def guest_pages(self, ranges: bytes) -> bytes:
        """Return what the guest calls ranges of own pages, each of which lies in one piece.

        [6,8) [8,10) in the picture  ->  [6,8) [12,14)
        """
        starts, counts = page_ranges.unpack(ranges)
        piece = np.searchsorted(self._own.ends, starts, side="right")
        return page_ranges.pack(starts + self._ahead[piece], counts)
