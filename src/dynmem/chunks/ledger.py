"""Chunks of guest memory that another process made: ids by the VM and the offset they stand for.

A VM's monitor says how much memory its guest has, and never which pages. So nothing can be mapped, compared
or discarded here, and there are no page ids; but each 2 MiB has a chunk id of its own, from the ids that all
stores share, and the id says whose memory it is and where in it. A VM takes ids in ascending order of its
offsets and returns those of the highest offsets first.

One id space serves all: where there is a memory file, too, the ledger begins behind its last chunk. There are
ids for 1 TiB. On a larger host the memory beyond has none, until ids are returned; what the books count does
not depend on it.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from dynmem.gmm.constants import GMM_CHUNKID_LAST

_NOBODY: Final = 0
_BLOCK: Final = 4096  # ids looked through at a time
_FIRST_IDS: Final = 64  # room in a VM's list at first: 128 MiB

U32Array = npt.NDArray[np.uint32]


class Place(NamedTuple):
    """What a chunk id stands for.

    Attributes:
        vm: The name of the VM.
        block: Which 2 MiB of its memory, from 0.
    """

    vm: str
    block: int


class _Owner:
    """A VM's ids, in ascending order of what they stand for; the array has room beyond them."""

    __slots__ = ("chunks", "count", "ids", "number", "vm")

    def __init__(self, vm: str, number: int) -> None:
        self.vm = vm
        self.number = number
        self.chunks = 0
        self.count = 0
        self.ids: U32Array = np.empty(_FIRST_IDS, np.uint32)

    def reserve(self, count: int) -> None:
        """Make room for as many ids, and a half more than there were if there is not."""
        if count > self.ids.size:
            wider = np.empty(max(count, self.ids.size * 3 // 2), np.uint32)
            wider[: self.count] = self.ids[: self.count]
            self.ids = wider


class LedgerStore:
    """Which chunk ids stand for which VM's memory: 12 bytes a chunk at most, of 2 MiB."""

    def __init__(self, first_chunk: int = 1, last_chunk: int = GMM_CHUNKID_LAST) -> None:
        """Begin with no VM, and the ids `first_chunk` to `last_chunk`."""
        self.first_chunk: Final = first_chunk
        self.last_chunk: Final = last_chunk
        # zeros that are never written take no memory: the arrays grow with the ids in use
        self._numbers: Final = np.zeros(last_chunk + 1, np.uint16)
        self._blocks: Final = np.zeros(last_chunk + 1, np.uint32)
        self._owners: Final[dict[str, _Owner]] = {}
        self._by_number: Final[dict[int, _Owner]] = {}
        self._next_id = first_chunk
        self._used = 0

    def set_chunks(self, vm: str, chunks: int) -> None:
        # memory for which there is no id goes without: see `unnamed_chunks`
        owner = self._owners.get(vm)
        if owner is None:
            if not chunks:
                return
            owner = self._owners[vm] = _Owner(vm, self._free_number())
            self._by_number[owner.number] = owner
        owner.chunks = chunks
        if chunks > owner.count:
            self._take(owner, chunks - owner.count)
        elif chunks < owner.count:
            self._return(owner, owner.count - chunks)
        if not chunks:
            del self._owners[vm], self._by_number[owner.number]

    def place(self, chunk_id: int) -> Place | None:
        """Return what an id stands for; None if it is free or not an id."""
        if not 0 < chunk_id <= self.last_chunk or not (number := int(self._numbers[chunk_id])):
            return None
        return Place(self._by_number[number].vm, int(self._blocks[chunk_id]))

    def chunk_ids(self, vm: str) -> U32Array:
        """Return a VM's ids in ascending order of its offsets; a copy. None for a VM that is not known."""
        owner = self._owners.get(vm)
        return np.empty(0, np.uint32) if owner is None else owner.ids[: owner.count].copy()

    @property
    def used_ids(self) -> int:
        """Ids that stand for memory now."""
        return self._used

    @property
    def unnamed_chunks(self) -> int:
        """Chunks of all VMs for which there was no id."""
        return sum(owner.chunks - owner.count for owner in self._owners.values())

    def _take(self, owner: _Owner, wanted: int) -> None:
        """Add up to `wanted` free ids: the next after those taken last, and round again."""
        wanted = min(wanted, self.last_chunk + 1 - self.first_chunk - self._used)
        owner.reserve(owner.count + wanted)
        while wanted:
            end = min(self._next_id + _BLOCK, self.last_chunk + 1)
            free = np.flatnonzero(self._numbers[self._next_id : end] == _NOBODY)[:wanted] + self._next_id
            self._numbers[free] = owner.number
            self._blocks[free] = np.arange(owner.count, owner.count + free.size)
            owner.ids[owner.count : owner.count + free.size] = free
            owner.count += free.size
            self._used += free.size
            wanted -= free.size
            self._next_id = end if wanted else int(free[-1]) + 1
            if self._next_id > self.last_chunk:
                self._next_id = self.first_chunk

    def _return(self, owner: _Owner, unwanted: int) -> None:
        """Free the ids of the highest offsets."""
        owner.count -= unwanted
        self._numbers[owner.ids[owner.count : owner.count + unwanted]] = _NOBODY
        self._used -= unwanted
        if owner.count < owner.ids.size // 4:
            owner.ids = owner.ids[: max(owner.count, _FIRST_IDS)].copy()

    def _free_number(self) -> int:
        return next(number for number in range(1, 1 << 16) if number not in self._by_number)
