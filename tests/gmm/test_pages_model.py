"""The whole of the books against a naive model: many VMs, every call, a store that fails, in whatever order.

The model says of each call what becomes of it, from plain facts: who has which page, who reserved what.
"""

import contextlib
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Final

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from tests.gmm.naive_store import NaiveStore, address, snapshot

from dynmem.gmm import Account, BalloonAction, GlobalMemoryManager, GmmError, OcPolicy, Priority, Status
from dynmem.gmm.constants import GMM_GCPHYS_UNSHAREABLE, NIL_GMM_PAGEID
from dynmem.gmm.structures import (
    GMMSHAREDPAGEDESC,
    VMMDEVSHAREDREGIONDESC,
    free_page_descriptors,
    page_descriptors,
)

CHUNK: Final = 512
CHUNKS: Final = 5
LIMIT: Final = 1800
NAMES: Final = ("a", "b", "c", "d")
ACCOUNTS: Final = (Account.BASE, Account.SHADOW, Account.FIXED)
MODULE: Final = 0x40_0000
PLACES: Final = 3

VMS = st.sampled_from(NAMES)
ACCOUNT = st.sampled_from((Account.BASE, Account.BASE, Account.BASE, Account.SHADOW, Account.FIXED))
COUNTS = st.sampled_from((1, 2, 3, 16, 30, 100, 400, 512, 700))
CHOICE = st.integers(0, 1 << 16)


class NaiveVm:
    """What one VM has."""

    def __init__(self, sizes: tuple[int, int, int]) -> None:
        self.reserved = dict(zip(ACCOUNTS, sizes, strict=True))
        self.charged = dict.fromkeys(ACCOUNTS, 0)
        self.counted = dict.fromkeys(ACCOUNTS, 0)
        self.ballooned = 0
        self.why = ""
        self.references: Counter[int] = Counter()
        self.has_module = False

    def total_counted(self) -> int:
        return sum(self.counted.values())

    def identified(self, account: Account) -> int:
        return self.charged[account] - self.counted[account]

    def held(self, account: Account) -> int:
        return self.charged[account] + (self.ballooned if account is Account.BASE else 0)


class Books(RuleBasedStateMachine):
    """The books and the model of them."""

    mode: str = "shared"

    def __init__(self) -> None:
        super().__init__()
        self.store = NaiveStore(CHUNKS)
        self.gmm = GlobalMemoryManager(LIMIT, self.store, self.mode)  # type: ignore[arg-type]
        self.vms: dict[str, NaiveVm] = {}
        self.private: dict[int, str] = {}
        self.unshareable: set[int] = set()
        self.large: set[int] = set()
        self.mapped: set[tuple[str, int]] = set()
        self.places = [NIL_GMM_PAGEID] * PLACES
        self.left_behind = 0
        self.met: Counter[Status | None] = Counter()
        for name in NAMES[:3]:
            self.reserve(name, 1500, NAMES.index(name) % 2)

    # The facts, as the model has them.

    @property
    def bound(self) -> bool:
        return self.mode == "bound"

    def references(self) -> Counter[int]:
        return sum((vm.references for vm in self.vms.values()), Counter())

    def used(self) -> set[int]:
        return set(self.private) | set(self.references())

    def allocated(self) -> int:
        return len(self.used()) + sum(vm.total_counted() for vm in self.vms.values())

    def room(self, name: str) -> int:
        """Return how many pages the store has for a VM."""
        used = Counter(page_id >> 9 for page_id in self.used())
        new = 0 if self.store.full else CHUNKS - len(self.store.chunks)
        free = 0
        for chunk in self.store.chunks:
            owners = {vm for page_id, vm in self.private.items() if page_id >> 9 == chunk}
            if not self.bound or owners <= {name}:
                free += CHUNK - used[chunk]
        return free + new * CHUNK

    def refusal(self, name: str, pages: int, account: Account) -> Status | None:
        """Return why a VM may not be charged pages."""
        vm = self.vms.get(name)
        if vm is None:
            return Status.WRONG_ORDER
        if self.allocated() + pages > LIMIT:
            return Status.HIT_GLOBAL_LIMIT
        if vm.held(account) + pages > vm.reserved[account] or vm.why:
            return Status.HIT_VM_ACCOUNT_LIMIT
        return None

    def page(self, choice: int, name: str, *, own: bool) -> int:
        """Return some page id: one of a VM, if it is to be its own and it has any."""
        mine = [page_id for page_id, owner in self.private.items() if owner == name]
        mine += [*self.vms[name].references] if name in self.vms else []
        if own and mine:
            return sorted(mine)[choice % len(mine)]
        everything: list[int] = [
            *range(CHUNK, CHUNK + 4),
            *sorted(self.used()),
            5 << 9 | 500,
            9 << 9,
            NIL_GMM_PAGEID,
        ]
        return everything[choice % len(everything)]

    def not_freeable(self, name: str, page_id: int, freed: set[int], dropped: Counter[int]) -> Status | None:
        """Return why a page cannot be freed after others, which it then joins if it can."""
        if page_id >> 9 not in self.store.chunks:
            return Status.PAGE_NOT_FOUND
        if self.private.get(page_id) == name and page_id not in freed:
            freed.add(page_id)
            return None
        if page_id not in self.used() or page_id in freed:
            return Status.PAGE_ALREADY_FREE
        if dropped[page_id] < self.vms[name].references[page_id]:
            dropped[page_id] += 1
            return None
        return Status.NOT_PAGE_OWNER

    def not_private(self, name: str, page_id: int) -> Status | None:
        """Return why a page is not a private one of a VM."""
        if page_id >> 9 not in self.store.chunks:
            return Status.PAGE_NOT_FOUND
        if page_id not in self.private:
            return Status.PAGE_NOT_PRIVATE
        return None if self.private[page_id] == name else Status.NOT_PAGE_OWNER

    def expect(self, code: Status | None, call: Callable[[], object], *, partial: bool = False) -> None:
        """Make a call, which is refused with this status and changes nothing, or does what it says."""
        self.met[code] += 1
        if code is None:
            call()
            return
        before = snapshot(self.gmm)
        with pytest.raises(GmmError) as refused:
            call()
        assert refused.value.code is code, refused.value
        if not partial:
            assert snapshot(self.gmm) == before

    def drop(self, name: str, page_id: int) -> None:
        vm = self.vms[name]
        vm.references[page_id] -= 1
        vm.references += Counter()

    def give(self, name: str, ids: list[int], account: Account, content: int) -> None:
        """Book new pages, which are empty and were nobody's."""
        assert len(set(ids)) == len(ids)
        assert not self.used() & set(ids)
        assert all(page_id >> 9 in self.store.chunks for page_id in ids)
        assert not any(page_id in self.store.content for page_id in ids)
        self.private |= dict.fromkeys(ids, name)
        self.vms[name].charged[account] += len(ids)
        self.store.content |= dict.fromkeys(ids, content)

    def take_back(self, ids: set[int]) -> None:
        for page_id in ids:
            del self.private[page_id]
            self.unshareable.discard(page_id)
            self.large.discard(page_id >> 9)

    # The calls.

    @rule(name=VMS, base=st.sampled_from((0, 600, 1500, 4000)), node=st.integers(0, 1))
    def reserve(self, name: str, base: int, node: int) -> None:
        if name not in self.gmm._vms:
            self.gmm.register_vm(name, process=1 + NAMES.index(name) // 2, numa_node=node)
        code = Status.WRONG_ORDER if name in self.vms else None
        code = Status.INVALID_PARAMETER if not base else code
        args = (name, base, 600, 50, OcPolicy.TBD, Priority.NORMAL)
        self.expect(code, lambda: self.gmm.initial_reservation(*args))
        if code is None:
            self.vms[name] = NaiveVm((base, 600, 50))
            self.gmm.sharing.stop(name)

    @rule(name=VMS, base=st.sampled_from((0, 100, 700, 4000)))
    def update(self, name: str, base: int) -> None:
        vm = self.vms.get(name)
        code = Status.WRONG_ORDER if vm is None else Status.INVALID_PARAMETER if not base else None
        declined = code is None and vm is not None and vm.held(Account.BASE) > base
        if vm is not None and not code:
            vm.why = "declined" if declined else ""
            vm.reserved[Account.BASE] = vm.reserved[Account.BASE] if declined else base
        code = Status.MEMORY_RESERVATION_DECLINED if declined else code
        self.expect(code, lambda: self.gmm.update_reservation(name, base, 600, 50), partial=declined)

    @rule(name=VMS, pages=COUNTS, account=ACCOUNT, content=st.integers(1, 2), marks=st.booleans())
    def allocate(self, name: str, pages: int, account: Account, content: int, marks: bool) -> None:
        descriptors = page_descriptors(pages)
        if marks:
            descriptors["HCPhysGCPhys"] = GMM_GCPHYS_UNSHAREABLE
        elif account is Account.BASE:
            descriptors["HCPhysGCPhys"] = 0x1000 * (1 + np.arange(pages))
        code = self.refusal(name, pages, account)
        if code is None and self.room(name) < pages:
            code = Status.OUT_OF_MEMORY
        self.expect(code, lambda: self.gmm.allocate_pages(name, descriptors, account))
        if code is None:
            ids = descriptors["idPage"].tolist()
            self.give(name, ids, account, content)
            if marks or account is not Account.BASE:
                self.unshareable |= set(ids)

    @rule(name=VMS)
    def allocate_large(self, name: str) -> None:
        code = self.refusal(name, CHUNK, Account.BASE)
        unused = self.store.chunks - {page_id >> 9 for page_id in self.used()}
        if code is None and not unused and (self.store.full or len(self.store.chunks) == CHUNKS):
            code = Status.OUT_OF_MEMORY
        first = 0

        def call() -> None:
            nonlocal first
            first = self.gmm.allocate_large_page(name)

        self.expect(code, call)
        if code is None:
            ids = list(range(first, first + CHUNK))
            self.give(name, ids, Account.BASE, 3)
            self.unshareable |= set(ids)
            self.large.add(first >> 9)

    @rule(name=VMS, choice=CHOICE, index=st.sampled_from((0, 0, 1)))
    def free_large(self, name: str, choice: int, index: int) -> None:
        chunks = sorted({*self.large, 1, 2})
        page_id = chunks[choice % len(chunks)] << 9 | index
        vm = self.vms.get(name)
        code = Status.WRONG_ORDER if vm is None else None
        if vm is not None:
            if vm.identified(Account.BASE) < CHUNK:
                code = Status.ATTEMPT_TO_FREE_TOO_MUCH
            else:
                code = self.not_private(name, page_id)
                if code is None and (index or page_id >> 9 not in self.large):
                    code = Status.INVALID_PARAMETER
        self.expect(code, lambda: self.gmm.free_large_page(name, page_id))
        if code is None and vm is not None:
            vm.charged[Account.BASE] -= CHUNK
            self.take_back(set(range(page_id, page_id + CHUNK)))

    @rule(name=VMS, first=CHOICE, pages=COUNTS, strange=st.lists(CHOICE, max_size=2), account=ACCOUNT)
    def free(self, name: str, first: int, pages: int, strange: list[int], account: Account) -> None:
        mine = sorted(page_id for page_id, owner in self.private.items() if owner == name)
        start = first % (len(mine) or 1)
        ids = mine[start : start + pages][:: 1 if first & 1 else -1]
        for choice in strange:
            ids.insert(choice % (len(ids) + 1), self.page(choice, name, own=bool(choice & 1)))
        if not ids:
            return
        vm = self.vms.get(name)
        freed: set[int] = set()
        dropped: Counter[int] = Counter()
        code = Status.WRONG_ORDER if vm is None else None
        if vm is not None and vm.identified(account) < len(ids):
            code = Status.ATTEMPT_TO_FREE_TOO_MUCH
        elif vm is not None:
            for page_id in ids:
                code = self.not_freeable(name, page_id, freed, dropped)
                if code:
                    break
        done = len(freed) + dropped.total()
        descriptors = free_page_descriptors(ids)
        self.expect(code, lambda: self.gmm.free_pages(name, descriptors, account), partial=bool(done))
        assert descriptors["idPage"].tolist() == [NIL_GMM_PAGEID] * done + ids[done:]
        if vm is not None:
            vm.charged[account] -= done
            self.take_back(freed)
            for page_id in dropped.elements():
                self.drop(name, page_id)

    @rule(name=VMS, page=CHOICE, shared=CHOICE, pages=st.integers(0, 3), own=st.booleans())
    def handy(self, name: str, page: int, shared: int, pages: int, own: bool) -> None:
        """Update one page, or drop a shared one, or both; then refill."""
        page_id = self.page(page, name, own=own) if page & 3 else NIL_GMM_PAGEID
        replaced = NIL_GMM_PAGEID
        if shared & 1:
            mine = sorted(self.vms[name].references) if name in self.vms else []
            replaced = mine[shared % len(mine)] if mine else self.page(shared, name, own=False)
        descriptors = page_descriptors(max(1, pages))
        descriptors[0] = (0x7000, page_id, replaced)
        vm = self.vms.get(name)
        code = Status.WRONG_ORDER if vm is None else None
        updated = dropped = False
        if vm is not None:
            if page_id != NIL_GMM_PAGEID:
                code = self.not_private(name, page_id)
                updated = code is None
            if code is None and replaced != NIL_GMM_PAGEID:
                code = self.not_droppable(name, replaced)
                dropped = code is None
            if updated:
                self.unshareable.discard(page_id)
            if dropped:
                self.drop(name, replaced)
                vm.charged[Account.BASE] -= 1
            if code is None and pages:
                code = self.refusal(name, pages, Account.BASE)
                if code is None and self.room(name) < pages:
                    code = Status.OUT_OF_MEMORY
        partial = updated or dropped
        self.expect(code, lambda: self.gmm.allocate_handy_pages(name, 1, pages, descriptors), partial=partial)
        if code is None and pages:
            ids = descriptors["idPage"].tolist()
            self.give(name, ids, Account.BASE, 1)
            self.unshareable |= set(ids)

    def not_droppable(self, name: str, page_id: int) -> Status | None:
        if not self.vms[name].identified(Account.BASE):
            return Status.ATTEMPT_TO_FREE_TOO_MUCH
        if page_id >> 9 not in self.store.chunks:
            return Status.PAGE_NOT_FOUND
        if page_id not in self.references():
            return Status.PAGE_NOT_SHARED
        return None if self.vms[name].references[page_id] else Status.NOT_PAGE_OWNER

    @rule(name=VMS, place=st.integers(0, PLACES - 1), choice=CHOICE)
    def check_page(self, name: str, place: int, choice: int) -> None:
        vm = self.vms.get(name)
        if vm is None or self.bound:
            return
        if not vm.has_module:
            regions = np.array([(MODULE, PLACES << 12, 0)], VMMDEVSHAREDREGIONDESC)
            self.gmm.register_shared_module(name, 4, "libc", "1", MODULE, PLACES << 12, regions)
            vm.has_module = True
        page_id = self.page(choice, name, own=bool(choice & 3))
        descriptor = np.zeros(1, GMMSHAREDPAGEDESC)
        descriptor["idPage"] = page_id
        code = self.not_private(name, page_id)
        content = self.store.content.get(page_id)
        args = (name, MODULE, 0, place, descriptor[0])
        self.expect(code, lambda: self.gmm.shared_module_check_page(*args))
        if code is not None:
            return
        there, now = self.places[place], int(descriptor["idPage"][0])
        if page_id in self.unshareable or page_id >> 9 in self.large:
            assert now == NIL_GMM_PAGEID
        elif there not in self.references():
            assert now == page_id
            self.take_back({page_id})
            vm.references[page_id] += 1
            self.places[place] = page_id
        elif self.store.content.get(there) == content:
            assert now == there
            self.take_back({page_id})
            vm.references[there] += 1
        else:
            assert now == NIL_GMM_PAGEID

    @rule(name=VMS, map_id=st.integers(0, CHUNKS + 1), unmap_id=st.integers(0, CHUNKS + 1))
    def map_unmap(self, name: str, map_id: int, unmap_id: int) -> None:
        code = None
        if name not in self.gmm._vms:
            code = Status.WRONG_ORDER
        elif map_id == unmap_id:
            code = Status.INVALID_PARAMETER
        elif {map_id, unmap_id} - {0} - self.store.chunks or not self.may_map(name, map_id):
            code = Status.CHUNK_NOT_FOUND
        elif unmap_id and (name, unmap_id) not in self.mapped:
            code = Status.CHUNK_NOT_MAPPED
        elif map_id and self.store.full and (process(name), map_id) not in self.store.mapped:
            code = Status.OUT_OF_MEMORY
        there = 0

        def call() -> None:
            nonlocal there
            there = self.gmm.map_unmap_chunk(name, map_id, unmap_id)

        self.expect(code, call)
        if code is None:
            assert there == (address(process(name), map_id) if map_id else 0)
            self.mapped |= {(name, map_id)} if map_id else set()
            self.mapped -= {(name, unmap_id)}

    def may_map(self, name: str, chunk_id: int) -> bool:
        if not self.bound or not chunk_id:
            return True
        return any(owner == name for page_id, owner in self.private.items() if page_id >> 9 == chunk_id)

    @rule(name=VMS, pages=COUNTS, account=ACCOUNT)
    def charge(self, name: str, pages: int, account: Account) -> None:
        code = self.refusal(name, pages, account)
        self.expect(code, lambda: self.gmm.charge_pages(name, pages, account))
        if code is None:
            self.vms[name].charged[account] += pages
            self.vms[name].counted[account] += pages

    @rule(name=VMS, pages=COUNTS, account=ACCOUNT)
    def release(self, name: str, pages: int, account: Account) -> None:
        vm = self.vms.get(name)
        code = Status.WRONG_ORDER if vm is None else None
        if vm is not None and pages > vm.counted[account]:
            code = Status.ATTEMPT_TO_FREE_TOO_MUCH
        self.expect(code, lambda: self.gmm.release_pages(name, pages, account))
        if code is None and vm is not None:
            vm.charged[account] -= pages
            vm.counted[account] -= pages

    @rule(name=VMS, action=st.sampled_from(BalloonAction), pages=COUNTS)
    def balloon(self, name: str, action: BalloonAction, pages: int) -> None:
        vm = self.vms.get(name)
        code: Status | None = Status.WRONG_ORDER
        if vm is not None:
            change = {BalloonAction.INFLATE: pages, BalloonAction.DEFLATE: -pages}.get(action, -vm.ballooned)
            code = None
            if action is BalloonAction.INVALID:
                code = Status.INVALID_PARAMETER
            elif change > 0 and vm.held(Account.BASE) + pages > vm.reserved[Account.BASE]:
                code = Status.ATTEMPT_TO_FREE_TOO_MUCH
            elif vm.ballooned + change < 0:
                code = Status.ATTEMPT_TO_DEFLATE_TOO_MUCH
            vm.ballooned += 0 if code else change
        self.expect(code, lambda: self.gmm.ballooned_pages(name, action, pages))

    @rule(name=VMS, pages=COUNTS)
    def free_while_broken(self, name: str, pages: int) -> None:
        """Free private pages while the store returns none: nothing comes of it."""
        mine = sorted(page_id for page_id, owner in self.private.items() if owner == name)[:pages]
        if not mine or self.vms[name].identified(Account.BASE) < len(mine):
            return
        before = snapshot(self.gmm)
        self.store.broken = True
        with pytest.raises(OSError, match="broken"):
            self.gmm.free_pages(name, free_page_descriptors(mine), Account.BASE)
        self.store.broken = False
        assert snapshot(self.gmm) == before

    @rule(name=VMS, interrupted=st.booleans())
    def end(self, name: str, interrupted: bool) -> None:
        known = name in self.gmm._vms
        self.store.broken = interrupted and known
        if self.store.broken:
            with contextlib.suppress(OSError):
                self.gmm.cleanup_vm(name)
            self.store.broken = False
            self.gmm.verify()
        if not known or name in self.gmm._vms:
            self.expect(None if known else Status.WRONG_ORDER, lambda: self.gmm.cleanup_vm(name))
        vm = self.vms.pop(name, None)
        if vm is not None:
            self.left_behind += vm.references.total()
            self.take_back({page_id for page_id, owner in self.private.items() if owner == name})
        self.mapped = {each for each in self.mapped if each[0] != name}
        if not any(each.has_module for each in self.vms.values()):
            self.places = [NIL_GMM_PAGEID] * PLACES

    @rule(full=st.booleans())
    def fill_store(self, full: bool) -> None:
        self.store.full = full

    # What holds at every moment.

    @invariant()
    def books_agree_with_themselves_and_with_the_model(self) -> None:
        self.gmm.verify()
        references = self.references()
        stats = self.gmm.query_statistics()
        assert stats.allocated_pages == self.allocated()
        assert stats.shared_pages == len(references)
        assert stats.duplicate_pages == references.total() - len(references)
        assert stats.left_behind_shared_pages == self.left_behind
        assert stats.chunks == len(self.store.chunks) + sum(
            -(-vm.total_counted() // CHUNK) for vm in self.vms.values()
        )
        assert set(self.gmm) == set(self.vms)
        for name, vm in self.vms.items():
            private = {page_id for page_id, owner in self.private.items() if owner == name}
            figures = self.gmm.query_statistics(name).vm
            assert figures is not None
            assert figures.private_pages == len(private) + vm.total_counted()
            assert figures.shared_pages == vm.references.total()
            assert figures.ballooned_pages == vm.ballooned
            assert figures.may_allocate == (not vm.why)
            assert [self.gmm.allocated(name, account) for account in ACCOUNTS] == list(vm.charged.values())
            assert [self.gmm.reserved(name, account) for account in ACCOUNTS] == list(vm.reserved.values())
            assert set(self.gmm.pages.pages_of(name).tolist()) == private

    @invariant()
    def the_store_has_what_the_books_say_and_nothing_of_what_is_free(self) -> None:
        assert set(self.store.content) == self.used()
        assert self.store.mapped == {(process(name), chunk_id) for name, chunk_id in self.mapped}
        mapped = {chunk_id for _, chunk_id in self.mapped}
        unused = self.store.chunks - {page_id >> 9 for page_id in self.used()}
        assert len(unused - mapped) <= 1


def process(name: str) -> int:
    """Return the process of a VM: two live in each."""
    return 1 + NAMES.index(name) // 2


class BoundBooks(Books):
    """The same in bound mode."""

    mode = "bound"


def walk(books: Books, steps: int, random: Random) -> None:
    """Make calls at random, most of them such as succeed; hold everything against the model after each."""
    for _ in range(steps):
        name = random.choice(NAMES)
        pages = random.choice((1, 2, 3, 16, 30, 100, 300, 512, 700))
        account = random.choice((Account.BASE,) * 4 + ACCOUNTS)
        choice, other = random.randrange(1 << 16), random.randrange(1 << 16)
        match random.randrange(24):
            case 0 | 1:
                books.reserve(name, random.choice((0, 600, 1500, 4000)), choice & 1)
            case 2:
                books.update(name, random.choice((0, 100, 700, 1500, 4000)))
            case 3 | 4 | 5 | 6:
                books.allocate(name, pages, account, 1 + (choice & 1), choice % 5 == 0)
            case 7:
                books.allocate_large(name)
            case 8:
                books.free_large(name, choice, random.choice((0, 0, 0, 1)))
            case 9 | 10 | 11 | 12:
                books.free(name, choice, pages, [other] * (choice % 3), account)
            case 13 | 14:
                books.handy(name, choice, other, random.randrange(4), choice % 4 > 0)
            case 15 | 16 | 17 | 18:
                books.check_page(name, random.randrange(PLACES), choice)
            case 19 | 20:
                books.map_unmap(name, choice % (CHUNKS + 2), other % (CHUNKS + 2) if other & 3 else 0)
            case 21:
                (books.charge if choice & 1 else books.release)(name, random.choice((1, 30, 600)), account)
            case 22 if choice & 1:
                books.free_while_broken(name, pages)
            case 22:
                books.balloon(name, random.choice(tuple(BalloonAction)), pages)
            case _ if choice % 3:
                books.fill_store(choice % 3 == 1)
            case _:
                books.end(name, bool(other & 1))
        books.books_agree_with_themselves_and_with_the_model()
        books.the_store_has_what_the_books_say_and_nothing_of_what_is_free()


SEED: Final = 1  # of a walk that meets everything

#: What a walk in shared mode meets, sooner or later: every status that calls on pages can have.
MET: Final = {
    None,
    Status.INVALID_PARAMETER,
    Status.WRONG_ORDER,
    Status.OUT_OF_MEMORY,
    Status.HIT_GLOBAL_LIMIT,
    Status.HIT_VM_ACCOUNT_LIMIT,
    Status.ATTEMPT_TO_FREE_TOO_MUCH,
    Status.ATTEMPT_TO_DEFLATE_TOO_MUCH,
    Status.PAGE_NOT_FOUND,
    Status.PAGE_NOT_PRIVATE,
    Status.PAGE_NOT_SHARED,
    Status.PAGE_ALREADY_FREE,
    Status.NOT_PAGE_OWNER,
    Status.CHUNK_NOT_FOUND,
    Status.CHUNK_NOT_MAPPED,
    Status.MEMORY_RESERVATION_DECLINED,
}


def test_a_long_walk_through_the_books_meets_every_status_and_stays_with_the_model() -> None:
    books = Books()
    walk(books, 800, Random(SEED))
    assert set(books.met) == MET
    assert books.left_behind
    walk(BoundBooks(), 300, Random(SEED))


@pytest.mark.parametrize("books", [Books, BoundBooks])
def test_the_books_do_what_the_model_says_whatever_is_called(books: type[Books]) -> None:
    run_state_machine_as_test(books, settings=settings(max_examples=40, stateful_step_count=25))


@pytest.mark.soak
@pytest.mark.parametrize("books", [Books, BoundBooks])
def test_the_books_do_what_the_model_says_in_long_histories(books: type[Books]) -> None:
    for seed in range(20):
        walk(books(), 3000, Random(seed))
    run_state_machine_as_test(books, settings=settings(max_examples=400, stateful_step_count=80))
