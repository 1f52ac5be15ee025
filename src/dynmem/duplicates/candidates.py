"""The pages of an account that may be equal: those with the same hash, found by sorting.

There is one 64-bit key for each page read: the upper bits of its hash, and below them its place, a number
that counts the pages of all RAM files of the account. Sorted in place, keys of pages that may be equal are
neighbours, those of one VM in a row. So a page costs 8 bytes, and nothing is needed beside the keys. Room for
them grows with what was read: how large a file is says nothing, since it may be one hole.

    2 TiB of RAM: 2^29 pages -> 30 bits of place, 34 bits of hash
"""

from typing import Final

import numpy as np

from dynmem.pages.ranges import U64Array

_CHUNK: Final = 1 << 14  # keys worked on at a time, so that what they need besides stays small


class Candidates:
    """Keys of pages; `add` them, then `sort`, then read `keys`."""

    def __init__(self, places: int) -> None:
        """Take pages with places below `places`."""
        self.place_bits: Final = max(1, places.bit_length())
        self._place_mask: Final = np.uint64((1 << self.place_bits) - 1)
        self._room: U64Array = np.empty(_CHUNK, np.uint64)
        self._count = 0

    @property
    def keys(self) -> U64Array:
        """The keys."""
        return self._room[: self._count]

    def __len__(self) -> int:
        return self._count

    def add(self, hashes: U64Array, places: U64Array) -> None:
        """Add pages. Raises MemoryError."""
        end = self._count + hashes.size
        if end > self._room.size:
            # in place, and the kernel gives memory only to what is written
            self._room.resize(end + (end >> 1), refcheck=False)
        self._room[self._count : end] = self.hash_bits(hashes) | places
        self._count = end

    def truncate(self, count: int) -> None:
        """Forget all pages but the first `count` that were added."""
        self._count = count

    def hash_bits(self, keys: U64Array) -> U64Array:
        """Return the part of hashes, or keys, that makes pages candidates for each other."""
        return keys & ~self._place_mask

    def places(self, keys: U64Array) -> U64Array:
        """Return the places of pages."""
        return keys & self._place_mask

    def sort(self) -> None:
        """Sort the keys, and keep those that have their hash in common with another one."""
        self.keys.sort()
        self._keep_neighbours()

    def drop(self, first: int, end: int) -> None:
        """Forget the pages at places `first` up to `end`, and those left alone with their hash."""
        kept = 0
        for begin in range(0, self._count, _CHUNK):
            chunk = self._room[begin : min(begin + _CHUNK, self._count)]
            places = self.places(chunk)
            kept = self._keep(kept, chunk[(places < np.uint64(first)) | (places >= np.uint64(end))])
        self._count = kept
        self._keep_neighbours()

    def group_end(self, begin: int) -> int:
        """Return where the group ends that begins at this position of the sorted keys."""
        last = self._room[begin] | self._place_mask
        return int(np.searchsorted(self.keys, last, side="right"))

    def _keep_neighbours(self) -> None:
        kept = 0
        for begin in range(0, self._count, _CHUNK):
            end = min(begin + _CHUNK, self._count)
            # with one key more on either side; what was kept so far ends before, or is what was there
            low, high = max(0, begin - 1), min(end + 1, self._count)
            hashes = self.hash_bits(self._room[low:high])
            same = hashes[1:] == hashes[:-1]
            shared = np.zeros(hashes.size, np.bool_)
            shared[1:] |= same
            shared[:-1] |= same
            kept = self._keep(kept, self._room[begin:end][shared[begin - low :][: end - begin]])
        self._count = kept

    def _keep(self, at: int, keys: U64Array) -> int:
        self._room[at : at + keys.size] = keys
        return at + keys.size
