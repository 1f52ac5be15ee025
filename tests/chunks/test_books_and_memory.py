"""What the books count is what the memory file holds, less the pages that were never touched.

The file's own count of blocks is compared with the books after every batch. A chunk is resident whole when it
is made; a page that is freed is a hole, and stays one when it is allocated again until it is written.
"""

import errno
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from dynmem.chunks.memfd_store import MemfdStore
from dynmem.gmm.codes import Account, GmmError, OcPolicy, Priority, Status
from dynmem.gmm.constants import GMM_CHUNK_NUM_PAGES, GMM_CHUNKID_SHIFT, NIL_GMM_PAGEID
from dynmem.gmm.manager import GlobalMemoryManager
from dynmem.gmm.structures import free_page_descriptors, page_descriptors
from dynmem.memory import system_calls
from dynmem.memory.discard import DiscardError
from dynmem.units import PAGE_SHIFT, PAGE_SIZE

U32Array = npt.NDArray[np.uint32]
PAGES = GMM_CHUNK_NUM_PAGES
VMS = ("db", "mail", "web")
LAST_CHUNK = 512
MOST = LAST_CHUNK // 2 * PAGES  # pages held at once: 512 MiB


class Watched(MemfdStore):
    """A store whose chunks and holes are known without looking at the file.

    Attributes:
        chunks: The ids of the chunks that are there.
        holes: For each page id whether it was discarded in a chunk that is there and not written since.
    """

    def __init__(self, last_chunk: int = LAST_CHUNK) -> None:
        super().__init__(last_chunk)
        self.chunks: set[int] = set()
        self.holes = np.zeros((LAST_CHUNK + 1) * PAGES, np.bool_)

    def new_chunk(self, chunk_id: int) -> None:
        super().new_chunk(chunk_id)
        self.chunks.add(chunk_id)

    def drop_chunks(self, chunk_ids: npt.ArrayLike) -> None:
        super().drop_chunks(chunk_ids)
        for chunk_id in np.atleast_1d(np.asarray(chunk_ids)).tolist():
            self.chunks.remove(chunk_id)
            self.holes.reshape(-1, PAGES)[chunk_id] = False

    def discard(self, page_ids: U32Array) -> None:
        super().discard(page_ids)
        self.holes[page_ids] = True

    def write(self, page_ids: U32Array) -> None:
        """Write each page's own id to it."""
        for page in page_ids.tolist():
            at = (page & PAGES - 1) << PAGE_SHIFT
            self.view(page >> GMM_CHUNKID_SHIFT)[at : at + 4] = page.to_bytes(4, "little")
        self.holes[page_ids] = False

    def read(self, page_ids: U32Array) -> U32Array:
        """Return what was written to each page."""
        words = np.frombuffer(self._memory.view, np.uint32).reshape(-1, PAGE_SIZE // 4)
        found: U32Array = words[page_ids, 0]
        return found


class Bench:
    """Books over a watched store, with VMs that allocate and free at random."""

    def __init__(self, store: Watched, seed: int) -> None:
        self.store = store
        self.chance = np.random.default_rng(seed)
        self.gmm = GlobalMemoryManager(LAST_CHUNK * PAGES, store=store)
        self.held = {vm: np.empty(0, np.uint32) for vm in VMS}
        self.touched = {vm: np.empty(0, np.uint32) for vm in VMS}
        for vm in VMS:
            self.gmm.register_vm(vm)
            self.gmm.initial_reservation(vm, LAST_CHUNK * PAGES, 1, 1, OcPolicy.TBD, Priority.NORMAL)

    def allocate(self, vm: str, pages: int) -> None:
        descriptors = page_descriptors(pages)
        self.gmm.allocate_pages(vm, descriptors, Account.BASE)
        ids = descriptors["idPage"].copy()
        self.held[vm] = np.concatenate((self.held[vm], ids))
        written = ids[self.chance.random(pages) < 0.8]
        self.store.write(written)
        self.touched[vm] = np.concatenate((self.touched[vm], written))

    def free(self, vm: str, pages: int) -> None:
        order = self.chance.permutation(self.held[vm].size)
        ids, self.held[vm] = self.held[vm][order[:pages]], self.held[vm][order[pages:]]
        self.touched[vm] = np.setdiff1d(self.touched[vm], ids)
        descriptors = free_page_descriptors(ids)
        assert self.gmm.free_pages(vm, descriptors, Account.BASE) == ids.size
        assert (descriptors["idPage"] == NIL_GMM_PAGEID).all()

    def check(self) -> None:
        stats = self.gmm.query_statistics()
        held = sum(ids.size for ids in self.held.values())
        assert (stats.allocated_pages, stats.chunks) == (held, len(self.store.chunks))
        assert self.store.resident_pages == stats.chunks * PAGES - np.count_nonzero(self.store.holes)

    def verify(self) -> None:
        self.gmm.verify()
        for vm in VMS:
            assert (self.store.read(self.touched[vm]) == self.touched[vm]).all()


@pytest.fixture
def store() -> Iterator[Watched]:
    with Watched() as made:
        yield made


def play(store: Watched, pages: int, largest: int) -> None:
    bench = Bench(store, pages)
    moved = batches = 0
    while moved < pages:
        vm = VMS[int(bench.chance.integers(len(VMS)))]
        count = int(bench.chance.integers(1, largest + 1))
        held = sum(ids.size for ids in bench.held.values())
        if held + count <= MOST and (bench.chance.random() < 0.6 or not bench.held[vm].size):
            bench.allocate(vm, count)
        else:
            bench.free(vm, count)
        bench.check()
        moved += count
        batches += 1
        if batches % 64 == 0:
            bench.verify()
    for vm in VMS:
        bench.gmm.cleanup_vm(vm)
        bench.held[vm] = bench.touched[vm] = np.empty(0, np.uint32)
        bench.check()
    assert store.resident_pages == bench.gmm.query_statistics().chunks * PAGES - np.count_nonzero(store.holes)


@pytest.mark.parametrize(("pages", "largest"), [(40_000, 1024), (400, 1)])
def test_the_books_and_the_files_blocks_agree_after_every_batch(
    pages: int, largest: int, store: Watched
) -> None:
    play(store, pages, largest)


@pytest.mark.soak
def test_they_agree_over_two_million_pages(store: Watched) -> None:
    play(store, 2_000_000, 4096)


def test_an_allocation_without_memory_leaves_the_books_and_the_memory_as_they_were() -> None:
    with Watched(last_chunk=5) as store:
        bench = Bench(store, 1)
        bench.allocate("web", 2 * PAGES)
        with pytest.raises(GmmError) as refusal:
            bench.allocate("db", 3 * PAGES + 1)
        assert refusal.value.code is Status.OUT_OF_MEMORY
        bench.check()
        bench.verify()
        assert store.resident_pages == 2 * PAGES
        bench.allocate("db", 3 * PAGES)
        bench.check()


def test_pages_that_the_kernel_does_not_take_stay_the_vms(
    store: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(store, 1)
    bench.allocate("web", 2 * PAGES)
    before = bench.gmm.query_statistics("web")
    page = bench.held["web"][0]
    descriptors = free_page_descriptors([page])
    with monkeypatch.context() as kernel:
        kernel.setattr(system_calls, "punch", lambda *_: errno.ENOMEM)
        with pytest.raises(DiscardError):
            bench.gmm.free_pages("web", descriptors, Account.BASE)
        assert descriptors["idPage"] == page
        assert bench.gmm.verify().query_statistics("web") == before
        with pytest.raises(DiscardError):
            bench.gmm.cleanup_vm("web")
        bench.gmm.verify()
    assert bench.gmm.free_pages("web", descriptors, Account.BASE) == 1
    bench.gmm.cleanup_vm("web")
    bench.held["web"] = bench.held["web"][:0]
    bench.check()
