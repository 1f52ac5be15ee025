"""Scan the VMs of one account: read and hash everything, sort the hashes, compare what has the same one.

Accounts are scanned one after the other, each with a salt of its own, so no page of one is ever compared with
a page of another.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np

from dynmem.duplicates.candidates import Candidates
from dynmem.duplicates.page_hash import PageHash, zero_pages
from dynmem.duplicates.rate import Rate
from dynmem.duplicates.reader import AccountReader, LostError, Progress
from dynmem.duplicates.report import AccountFigures, VmFigures
from dynmem.duplicates.tally import KSM_SHARING_MAX, IntArray
from dynmem.duplicates.verify import Hash, Verified, verify
from dynmem.duplicates.vms import Vm, VmGoneError
from dynmem.errors import DynmemError, NotPermittedError
from dynmem.units import PAGE_SHIFT, PAGE_SIZE, format_size


class Found(NamedTuple):
    """What came of one account.

    Attributes:
        account: The figures of all its VMs together.
        vms: The figures of each that was read to the end.
        notes: What was left out of those, and why.
        problems: Why others were not.
    """

    account: AccountFigures
    vms: tuple[VmFigures, ...]
    notes: tuple[str, ...]
    problems: tuple[DynmemError, ...]


def scan_account(
    name: str,
    vms: Sequence[Vm],
    rate: Rate,
    progress: Progress,
    make_hash: Callable[[], Hash] = PageHash,
) -> Found:
    """Return what is equal in the memory of some VMs. A VM that ends meanwhile is left out.

    Raises DynmemError if this process cannot have the memory for it, 8 bytes for each page.
    """
    try:
        return _Scan(name, vms, rate, progress, make_hash()).run()
    except MemoryError as error:
        raise DynmemError(
            f"account {name}: no memory for 8 bytes for each page of its VMs: name fewer VMs at a time"
        ) from error


class _Scan:
    def __init__(self, name: str, vms: Sequence[Vm], rate: Rate, progress: Progress, hash_of: Hash) -> None:
        self._name: Final = name
        self._vms: Final = vms
        self._progress = progress
        self._hash_of = hash_of
        self._reader: Final = AccountReader(vms, rate, progress)
        self._candidates: Final = Candidates(self._reader.places)
        self._read_pages: Final[IntArray] = np.zeros(len(vms), np.int64)
        self._zero_pages: Final[IntArray] = np.zeros(len(vms), np.int64)
        self._lost: Final[dict[int, DynmemError]] = {}

    def run(self) -> Found:
        for position in range(len(self._vms)):
            self._read(position)
        self._candidates.sort()
        self._progress.expect(len(self._candidates) << PAGE_SHIFT)
        while True:
            try:
                with self._reader.opened(self._left):
                    verified = verify(self._candidates, self._hash_of, self._reader, len(self._vms))
            except LostError as error:
                # What it was compared with is compared again, without it.
                self._lose(error.position, error)
                first, end = self._reader.first_places[error.position : error.position + 2]
                self._candidates.drop(first, end)
                self._progress.expect(len(self._candidates) << PAGE_SHIFT)
            else:
                return self._found(verified)

    @property
    def _left(self) -> list[int]:
        return [position for position in range(len(self._vms)) if position not in self._lost]

    def _lose(self, position: int, error: DynmemError) -> None:
        self._lost[position] = error
        self._read_pages[position] = self._zero_pages[position] = 0

    def _read(self, position: int) -> None:
        """Hash the pages of one VM."""
        before = len(self._candidates)
        try:
            for pages, places in self._reader.read_all(position):
                hashes = self._hash_of(pages)
                zeros = zero_pages(pages, hashes)
                count = int(np.count_nonzero(zeros))
                self._read_pages[position] += places.size
                self._zero_pages[position] += count
                self._candidates.add(*((hashes[~zeros], places[~zeros]) if count else (hashes, places)))
        except (VmGoneError, NotPermittedError) as error:
            self._lose(position, error)
            self._candidates.truncate(before)

    def _found(self, verified: Verified) -> Found:
        tally, left = verified.tally, self._left
        zeros = int(self._zero_pages.sum())
        copies = -(-zeros // KSM_SHARING_MAX)
        ksm = tally.ksm_pages + self._zero_pages * (1 - copies / max(1, zeros))
        sharing = tally.sharing_pages + self._zero_pages
        figures = tuple(
            VmFigures(
                name=self._vms[at].name,
                pid=self._vms[at].pid,
                account=self._name,
                ram_bytes=sum(file.size for file in (*self._vms[at].files, *self._vms[at].huge)),
                read_bytes=_bytes(self._read_pages[at]),
                zero_bytes=_bytes(self._zero_pages[at]),
                equal_bytes=_bytes(tally.equal_pages[at]),
                inside_bytes=_bytes(tally.inside_pages[at]),
                across_bytes=_bytes(tally.across_pages[at]),
                sharing_bytes=_bytes(sharing[at]),
                ksm_bytes=_bytes(ksm[at]),
                balloon_bytes=_bytes(self._zero_pages[at]),
            )
            for at in left
        )
        account = AccountFigures(
            name=self._name,
            vms=tuple(each.name for each in figures),
            read_bytes=_bytes(self._read_pages.sum()),
            zero_bytes=_bytes(zeros),
            equal_bytes=_bytes(tally.equal_pages.sum()),
            contents=tally.classes,
            sharing_bytes=_bytes(tally.saved_pages + zeros),
            ksm_bytes=_bytes(ksm.sum()),
            balloon_bytes=_bytes(zeros),
            changed_bytes=_bytes(verified.changed),
            uncompared_bytes=_bytes(verified.uncompared),
        )
        notes = [text for at in left for text in self._notes(at)]
        return Found(account, figures, tuple(notes), tuple(self._lost.values()))

    def _notes(self, position: int) -> list[str]:
        vm = self._vms[position]
        notes = [self._reader.shrunk[position]] if position in self._reader.shrunk else []
        if vm.huge:
            size = format_size(sum(each.size for each in vm.huge))
            notes.append(
                f"{vm.described}: {size} on reserved huge pages is left out: such pages are neither shared"
                " nor returned in parts"
            )
        elif not vm.files:
            notes.append(
                f"{vm.described}: no RAM in a shared file is found, so there is nothing to read: QEMU needs"
                " memory-backend-memfd, or memory-backend-file on tmpfs with share=on"
            )
        return notes


def _bytes(pages: float) -> int:
    return round(float(pages) * PAGE_SIZE)
