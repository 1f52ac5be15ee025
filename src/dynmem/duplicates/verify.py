"""Compare candidates by their bytes: only pages that were read again and are equal count as equal.

Each page is read a second time, in the order of the groups, and must still have its hash: a guest that runs
has changed some. The rest of a group is divided into classes by content. Nearly always that is one class, and
numpy sees it at once; otherwise the bytes themselves are the keys of a dictionary.
"""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dynmem.duplicates.candidates import Candidates
from dynmem.duplicates.tally import IntArray, Tally
from dynmem.pages.ranges import U64Array

BATCH_PAGES: Final = 256
# Different contents kept of one hash, 4 KiB each. By chance there are hardly ever two.
_CONTENTS_MAX: Final = 4096

Hash = Callable[[U64Array], U64Array]


class PageReader(Protocol):
    """Where pages come from."""

    def read_pages(self, places: U64Array) -> tuple[U64Array, NDArray[np.bool_]]:
        """Read at most 256 pages; return them, (n, 512) until the next call, and which of them exist."""

    def vms_of(self, places: U64Array) -> IntArray:
        """Return the VM of each page: its position among those of the account."""


class Verified(NamedTuple):
    """What came of it.

    Attributes:
        tally: What the equal pages would save.
        changed: Pages that were gone, or had other bytes than before.
        uncompared: Pages left out since their hash has too many different contents.
    """

    tally: Tally
    changed: int
    uncompared: int


def verify(candidates: Candidates, hash_of: Hash, reader: PageReader, vms: int) -> Verified:
    """Return the classes of equal pages among sorted candidates of `vms` VMs. Raises what `reader` raises."""
    work = _Work(candidates, hash_of, reader, vms)
    position = 0
    while position < len(candidates):
        position = work.take(position)
    return Verified(work.tally, work.changed, work.uncompared)


class _Work:
    def __init__(self, candidates: Candidates, hash_of: Hash, reader: PageReader, vms: int) -> None:
        self._candidates = candidates
        self._hash_of = hash_of
        self._reader = reader
        self._vms = vms
        self.tally: Final = Tally(vms)
        self.changed = 0
        self.uncompared = 0

    def take(self, begin: int) -> int:
        """Verify some groups, from this position of the keys on; return where they end."""
        keys = self._candidates.keys[begin : begin + BATCH_PAGES + 1]
        end = keys.size
        if end > BATCH_PAGES:
            hashes = self._candidates.hash_bits(keys)
            ends = np.flatnonzero(hashes[1:] != hashes[:-1]) + 1
            if not ends.size:
                return self._take_large(begin)
            end = int(ends[-1])
        self._take_small(keys[:end])
        return begin + end

    def _take_small(self, keys: U64Array) -> None:
        """Verify whole groups that fit into the buffer together."""
        keys, pages = self._read(keys)
        if not keys.size:
            return
        hashes = self._candidates.hash_bits(keys)
        begins = np.ones(keys.size, np.bool_)
        begins[1:] = hashes[1:] != hashes[:-1]
        differs = ~begins[1:] & (pages[1:] != pages[:-1]).any(axis=1)
        vms = self._reader.vms_of(self._candidates.places(keys))
        if differs.any():
            order = self._by_content(pages, begins, 1 + np.flatnonzero(differs))
            vms = vms[order]
        self.tally.add(vms, begins)

    @staticmethod
    def _by_content(pages: U64Array, begins: NDArray[np.bool_], unequal: IntArray) -> IntArray:
        """Return an order in which equal pages are neighbours; correct `begins` to be of that order.

        `unequal` are pages that differ from the one before, in the same group.
        """
        order = np.arange(begins.size)
        starts = np.flatnonzero(begins)
        groups = np.unique(np.searchsorted(starts, unequal, side="right") - 1)
        ends = np.append(starts[1:], begins.size)
        for first, end in zip(starts[groups].tolist(), ends[groups].tolist(), strict=True):
            classes: dict[bytes, list[int]] = {}
            for row in range(first, end):
                classes.setdefault(pages[row].tobytes(), []).append(row)
            at = first
            for rows in classes.values():
                order[at : at + len(rows)] = rows
                begins[at] = True
                begins[at + 1 : at + len(rows)] = False
                at += len(rows)
        return order

    def _take_large(self, begin: int) -> int:
        """Verify one group that does not fit into the buffer."""
        end = self._candidates.group_end(begin)
        classes: dict[bytes, IntArray] = {}
        first: U64Array | None = None
        for keys, pages in self._parts(begin, end):
            vms = self._reader.vms_of(self._candidates.places(keys))
            if first is None:
                first = pages[0].copy()
                classes[first.tobytes()] = np.zeros(self._vms, np.int64)
            equal = (pages == first).all(axis=1)
            classes[first.tobytes()] += np.bincount(vms[equal], minlength=self._vms)
            for row in np.flatnonzero(~equal).tolist():
                content = pages[row].tobytes()
                if content not in classes:
                    if len(classes) >= _CONTENTS_MAX:
                        self.uncompared += 1
                        continue
                    classes[content] = np.zeros(self._vms, np.int64)
                classes[content][vms[row]] += 1
        for counts in classes.values():
            self.tally.add_class(counts)
        return end

    def _parts(self, begin: int, end: int) -> Iterator[tuple[U64Array, U64Array]]:
        for at in range(begin, end, BATCH_PAGES):
            keys, pages = self._read(self._candidates.keys[at : min(at + BATCH_PAGES, end)])
            if keys.size:
                yield keys, pages

    def _read(self, keys: U64Array) -> tuple[U64Array, U64Array]:
        """Read pages again; return those that still have their hash, and their bytes."""
        pages, there = self._reader.read_pages(self._candidates.places(keys))
        hash_bits = self._candidates.hash_bits
        sound = there & (hash_bits(self._hash_of(pages)) == hash_bits(keys))
        lost = keys.size - int(np.count_nonzero(sound))
        if not lost:
            return keys, pages
        self.changed += lost
        return keys[sound], pages[sound]
