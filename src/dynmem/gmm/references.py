"""The shared pages that one VM refers to, and how often it refers to each."""

from bisect import bisect_left
from typing import Final

import numpy as np
from numpy.typing import NDArray

#: Pages in the dictionary before they are merged into the arrays, or an eighth of those: a merge copies all.
RECENT_LEAST: Final = 1024


class References:
    """Counts by page id, for a VM with few references and for one with a million.

    The bulk lies in two sorted arrays, 6 bytes a page; only the newest pages are in a dictionary (about 100
    bytes each). A page whose count in the arrays falls to 0 is removed when half of them have.

    Attributes:
        total: References to all pages together.
    """

    __slots__ = ("_counts", "_dropped", "_ids", "_recent", "total")

    def __init__(self) -> None:
        self._ids = np.empty(0, np.uint32)
        self._counts = np.empty(0, np.uint16)
        self._dropped = 0
        self._recent: dict[int, int] = {}
        self.total: int = 0

    def __getitem__(self, page_id: int) -> int:
        place = self._place(page_id)
        return self._recent.get(page_id, 0) if place is None else int(self._counts[place])

    def add(self, page_id: int) -> None:
        """Add a reference to a page."""
        place = self._place(page_id)
        self.total += 1
        if place is None:
            self._recent[page_id] = self._recent.get(page_id, 0) + 1
            if len(self._recent) >= max(RECENT_LEAST, len(self._ids) // 8):
                self._merge()
        else:
            self._dropped -= not self._counts[place]
            self._counts[place] += 1

    def drop(self, page_id: int) -> None:
        """Drop a reference to a page, which must be there (KeyError)."""
        if not self[page_id]:
            raise KeyError(page_id)
        place = self._place(page_id)
        self.total -= 1
        if place is None:
            self._recent[page_id] -= 1
            if not self._recent[page_id]:
                del self._recent[page_id]
        else:
            self._counts[place] -= 1
            self._dropped += not self._counts[place]
            if 2 * self._dropped > len(self._ids):
                self._merge()

    def pages(self) -> tuple[NDArray[np.uint32], NDArray[np.uint16]]:
        """Return the ids of all pages referred to, in order, and the count of each."""
        self._merge()
        return self._ids, self._counts

    def _place(self, page_id: int) -> int | None:
        """Return where a page is in the arrays, also with a count of 0."""
        place = bisect_left(self._ids, page_id)
        return place if place < len(self._ids) and self._ids[place] == page_id else None

    def _merge(self) -> None:
        kept = self._counts > 0
        recent = np.fromiter(self._recent, np.uint32, len(self._recent))
        ids = np.concatenate((self._ids[kept], recent))
        counts = np.concatenate(
            (self._counts[kept], np.fromiter(self._recent.values(), np.uint16, len(self._recent)))
        )
        order = np.argsort(ids)
        self._ids, self._counts = ids[order], counts[order]
        self._recent = {}
        self._dropped = 0
