"""The books of the Global Memory Manager beside the usual way, free lists in C.

Both sides allocate the same number of pages in batches, then free a batch at random and allocate another,
in the same run and in turns, and must hold that many different pages at the end. Times are processor time
of all calls, with the choice of what to free. "Beside C" is C's time divided by ours: 1 is as fast. Memory
is what this process grows by while the books are filled, for each TiB that they are about.

The memory file's part is the way from the books to the kernel and back, beside a bare system call for each
page.
"""

import ctypes
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from bench import peer_programs
from bench.figures import Figure
from bench.peer_programs import Measured
from dynmem.chunks.ledger import LedgerStore
from dynmem.chunks.memfd_store import MemfdStore
from dynmem.gmm.codes import Account, OcPolicy, Priority
from dynmem.gmm.constants import (
    GMM_CHUNK_NUM_PAGES,
    GMM_CHUNK_SHIFT,
    GMM_CHUNK_SIZE,
    GMM_CHUNKID_LAST,
)
from dynmem.gmm.manager import GlobalMemoryManager
from dynmem.gmm.store import ChunkStore, NoStore
from dynmem.gmm.structures import free_page_descriptors, page_descriptors
from dynmem.memory import system_calls
from dynmem.units import GIB, MIB, PAGE_SIZE, TIB

ROUNDS: Final = 3
VM: Final = "bench"
U32Array = npt.NDArray[np.uint32]


class Workload(NamedTuple):
    """What is done to the books.

    Attributes:
        name: How the figures are called.
        batch: Pages of one call.
        pages: Pages that are held.
        rounds: How often a batch is freed and another one allocated.
        is_scattered: Whether the pages of a batch are chosen at random, so that most are in chunks of their
            own, or are those that were allocated together.
        fill_of_c: The part of C's speed that is held of filling: half of what was measured at first.
        rounds_of_c: The same of the rounds.
    """

    name: str
    batch: int
    pages: int
    rounds: int
    is_scattered: bool
    fill_of_c: float
    rounds_of_c: float

    def victims(self) -> U32Array:
        """Return positions among the pages that are held, a row for each round."""
        chance = np.random.default_rng(self.batch)
        if self.is_scattered:
            rows = [chance.choice(self.pages, self.batch, replace=False) for _ in range(self.rounds)]
        else:
            starts = chance.integers(0, self.pages // self.batch, self.rounds) * self.batch
            rows = [np.arange(start, start + self.batch) for start in starts.tolist()]
        return np.stack(rows).astype(np.uint32)


WORKLOADS: Final = (
    Workload("batches of 512", 512, 1 << 18, 256, False, 0.05, 0.018),
    Workload("batches of 512, scattered", 512, 1 << 18, 256, True, 0.05, 0.018),
    Workload("batches of 1", 1, 1 << 12, 4096, True, 0.0012, 0.00025),
)
BOOKS_SHARE: Final = 0.0025  # of the memory that is managed
LEDGER_SHARE: Final = 0.0001
LEDGER_VMS: Final = 1000


class Books:
    """Books with one VM, and what it holds."""

    def __init__(self, store: ChunkStore, pages: int) -> None:
        self.gmm = GlobalMemoryManager(pages, store=store)
        self.gmm.register_vm(VM)
        self.gmm.initial_reservation(VM, pages, 1, 1, OcPolicy.TBD, Priority.NORMAL)

    def allocate(self, batch: int) -> U32Array:
        descriptors = page_descriptors(batch)
        self.gmm.allocate_pages(VM, descriptors, Account.BASE)
        ids: U32Array = descriptors["idPage"]
        return ids

    def free(self, ids: U32Array) -> None:
        self.gmm.free_pages(VM, free_page_descriptors(ids), Account.BASE)


def _resident() -> int:
    # tables that grew leave their former places free in the heap, which keeps them resident otherwise
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_SIZE


def _ours(pages: int, victims: U32Array) -> Measured:
    """Fill the books, then free and allocate at random; named as the peer does."""
    batch = victims.shape[1]
    books, held = Books(NoStore(), pages), np.zeros(pages, np.uint32)
    begin = time.process_time()
    for at in range(0, pages, batch):
        held[at : at + batch] = books.allocate(batch)
    filled = time.process_time() - begin
    begin = time.process_time()
    for chosen in victims:
        books.free(held[chosen])
        held[chosen] = books.allocate(batch)
    moved = time.process_time() - begin
    chunks = books.gmm.query_statistics().chunks
    return {"fill_s": filled, "rounds_s": moved, "distinct": np.unique(held).size, "chunks": chunks}


def _beside_c(program: Path, workload: Workload) -> Iterator[Figure]:
    pages, victims = workload.pages, workload.victims()
    sides: dict[str, list[Measured]] = {"ours": [], "theirs": []}
    with tempfile.NamedTemporaryFile(prefix="dynmem-bench-") as file:
        victims.tofile(file.name)
        for _round in range(ROUNDS):
            sides["ours"].append(_ours(pages, victims))
            sides["theirs"].append(
                peer_programs.measured(program, pages, workload.batch, workload.rounds, file.name)
            )
            if sides["ours"][-1]["distinct"] != sides["theirs"][-1]["distinct"]:
                raise AssertionError(f"{sides['ours'][-1]} here, {sides['theirs'][-1]} in C")
    ours, theirs = map(peer_programs.medians, sides.values())
    name = workload.name
    for part, what, moved, bound in (
        ("fill", "allocate", pages, workload.fill_of_c),
        ("rounds", "free and allocate", 2 * victims.size, workload.rounds_of_c),
    ):
        yield Figure(f"{name}: {what}", moved / ours[f"{part}_s"] / 1e6, "million pages/s")
        yield Figure(f"{name}: {what}, C", moved / theirs[f"{part}_s"] / 1e6, "million pages/s")
        ratio = theirs[f"{part}_s"] / ours[f"{part}_s"]
        yield Figure(f"{name}: {what}, beside C", ratio, "x", at_least=bound)


def _memory_of_books(managed: int) -> Iterator[Figure]:
    """What the books take for this many bytes, all allocated, at the size of a TiB."""
    Books(NoStore(), 4096).allocate(4096)  # what the first batch imports and keeps is none of theirs
    before = _resident()
    books = Books(NoStore(), managed // PAGE_SIZE)
    for _ in range(managed // PAGE_SIZE // 4096):
        books.allocate(4096)
    grown = (_resident() - before) * TIB / managed
    limit = TIB * BOOKS_SHARE / MIB
    yield Figure(
        f"{managed // GIB} GiB of pages: memory of the books, a TiB", grown / MIB, "MiB", at_most=limit
    )
    yield Figure(f"{managed // GIB} GiB of pages: of what is managed", 100 * grown / TIB, "%")


def _memory_of_ledger() -> Iterator[Figure]:
    before = _resident()
    ledger = LedgerStore()
    each = GMM_CHUNKID_LAST // LEDGER_VMS
    for chunks in (each // 2, each):
        for number in range(LEDGER_VMS):
            ledger.set_chunks(f"vm{number}", chunks)
    grown = (_resident() - before) * TIB / (ledger.used_ids * GMM_CHUNK_SIZE)
    yield Figure("ledger of 1000 VMs: memory, a TiB", grown / MIB, "MiB", at_most=TIB * LEDGER_SHARE / MIB)
    begin = time.process_time()
    for _ in range(10):
        for number in range(LEDGER_VMS):
            ledger.set_chunks(f"vm{number}", each)
    yield Figure("ledger: a VM that has not changed", (time.process_time() - begin) * 1e2, "us")
    begin = time.process_time()
    for chunks in (each - 20, each) * 5:
        for number in range(LEDGER_VMS):
            ledger.set_chunks(f"vm{number}", chunks)
    yield Figure("ledger: 40 MiB of a VM come or go", (time.process_time() - begin) * 1e2, "us")


def _memfd() -> Iterator[Figure]:
    """Sixteen chunks made, and returned at random: by books over a memory file, and by bare system calls."""
    chunks = 16
    pages = chunks * GMM_CHUNK_NUM_PAGES
    order = np.random.default_rng(1).permutation(pages)
    ours, bare = [], []
    for _round in range(ROUNDS):
        with MemfdStore(last_chunk=64) as store:
            books = Books(store, 4 * pages)
            begin = time.process_time()
            held = np.concatenate([books.allocate(GMM_CHUNK_NUM_PAGES) for _ in range(chunks)])
            for at in range(0, pages, GMM_CHUNK_NUM_PAGES):
                books.free(held[order[at : at + GMM_CHUNK_NUM_PAGES]])
            ours.append(time.process_time() - begin)
        with MemfdStore(last_chunk=64) as store:
            begin = time.process_time()
            for chunk in range(1, chunks + 1):
                system_calls.allocate(store.fd, chunk << GMM_CHUNK_SHIFT, GMM_CHUNK_SIZE)
            for page in order.tolist():
                system_calls.punch(store.fd, GMM_CHUNK_SIZE + page * PAGE_SIZE, PAGE_SIZE)
            bare.append(time.process_time() - begin)
    seconds = statistics.median(ours)
    yield Figure(
        "memory file: allocate and free, batches of 512", 2 * pages / seconds / 1e6, "million pages/s"
    )
    yield Figure(
        "memory file: beside a bare call for each", statistics.median(bare) / seconds, "x", at_least=0.6
    )


def _run(*, managed: int) -> Iterator[Figure]:
    # first: what was freed before counts as resident
    yield from _memory_of_ledger()
    yield from _memory_of_books(managed)
    with peer_programs.built("free_lists") as program:
        for workload in WORKLOADS:
            yield from _beside_c(program, workload)
    yield from _memfd()


def run() -> Iterator[Figure]:
    """Everything, with books of 16 GiB."""
    return _run(managed=16 * GIB)


def run_big() -> Iterator[Figure]:
    """The same with books of almost a TiB; some minutes."""
    return _run(managed=TIB - GIB)
