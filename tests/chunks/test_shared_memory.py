"""Sharing in real memory: what is merged is really returned, and every guest reads what it wrote."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from tests.chunks.sharing_guests import MODULES, Guest

from dynmem.chunks.memfd_store import MemfdStore
from dynmem.gmm import GlobalMemoryManager, GmmError, Status
from dynmem.gmm.sharing import Checked

PAGES = 3  # of each module
NAMES = st.sampled_from(["a", "b", "c"])


def test_equal_pages_of_two_vms_are_one_in_memory_until_one_writes_and_go_with_the_last_vm() -> None:
    with MemfdStore(last_chunk=8) as store:
        gmm = GlobalMemoryManager(4096, store, spare_chunks=0)
        guests = [Guest(gmm, store, name, pages=100) for name in "ab"]
        for guest in guests:
            for page in range(100):
                guest.fill("libc", page, 1 + page)
                guest.fill("libm", page, 1 + page if guest.name == "a" else 200 - page)
        before, resident = gmm.query_statistics(), store.resident_pages
        assert guests[0].check() == Checked(shared=200)
        assert guests[1].check() == Checked(merged=100, left=100)
        stats = gmm.verify().query_statistics("b")
        assert (stats.shared_pages, stats.duplicate_pages) == (200, 100)
        assert stats.allocated_pages == before.allocated_pages - 100
        assert store.resident_pages == resident - 100
        assert stats.vm is not None
        assert (stats.vm.private_pages, stats.vm.shared_pages, stats.vm.allocated.base_pages) == (
            100,
            100,
            200,
        )

        guests[1].fill("libc", 7, 250)
        assert all(guest.reads_what_it_wrote() for guest in guests)
        assert gmm.verify().query_statistics().duplicate_pages == 99

        gmm.cleanup_vm("a")
        stats = gmm.verify().query_statistics()
        assert (stats.left_behind_shared_pages, stats.shared_pages) == (200, 99)
        assert guests[1].reads_what_it_wrote()
        gmm.cleanup_vm("b")
        stats = gmm.verify().query_statistics()
        assert (stats.left_behind_shared_pages, stats.shared_pages, stats.allocated_pages) == (299, 0, 0)
        assert store.resident_pages == 0


def test_a_running_guest_is_never_merged() -> None:
    with MemfdStore(last_chunk=2) as store:
        gmm = GlobalMemoryManager(1024, store)
        guest = Guest(gmm, store, "a", pages=1)
        guest.fill("libc", 0, 1)
        with pytest.raises(GmmError) as refused:
            gmm.check_shared_modules("a")
        assert refused.value.code is Status.WRONG_ORDER
        assert gmm.verify().query_statistics().shared_pages == 0


class SharedMemory(RuleBasedStateMachine):
    """Guests that write, free, share and end; what each reads is the model."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemfdStore(last_chunk=4)
        self.gmm = GlobalMemoryManager(2048, self.store, spare_chunks=0)
        self.guests: dict[str, Guest] = {}
        self.left_behind = 0

    def guest(self, name: str) -> Guest:
        if name not in self.guests:
            guest = self.guests[name] = Guest(self.gmm, self.store, name, PAGES)
            for module in MODULES:
                for page in range(PAGES):
                    guest.fill(module, page, 1 + page)
        return self.guests[name]

    @rule(name=NAMES, module=st.sampled_from(MODULES), page=st.integers(0, PAGES - 1), byte=st.integers(1, 3))
    def write(self, name: str, module: str, page: int, byte: int) -> None:
        self.guest(name).fill(module, page, byte)

    @rule(name=NAMES)
    def check(self, name: str) -> None:
        guest = self.guest(name)
        checked = guest.check()
        assert checked.shared + checked.merged + checked.left + checked.absent == len(MODULES) * PAGES

    @rule(name=NAMES, number=st.integers(0, 9))
    def free(self, name: str, number: int) -> None:
        guest = self.guest(name)
        if guest.page_ids:
            guest.free(sorted(guest.page_ids)[number % len(guest.page_ids)])

    @rule(name=NAMES, module=st.sampled_from(MODULES))
    def forget_and_register(self, name: str, module: str) -> None:
        guest = self.guest(name)
        self.gmm.reset_shared_modules(name)
        assert guest.register(module) is Status.SUCCESS
        assert guest.register(module) is Status.SHARED_MODULE_ALREADY_REGISTERED
        for other in MODULES:
            guest.register(other)

    @rule(name=NAMES)
    def end(self, name: str) -> None:
        if self.guests.pop(name, None):
            self.left_behind += self.gmm.sharing.held(name)
            self.gmm.cleanup_vm(name)

    @invariant()
    def each_guest_reads_what_it_wrote_and_the_books_say_what_there_is(self) -> None:
        assert all(guest.reads_what_it_wrote() for guest in self.guests.values())
        stats = self.gmm.verify().query_statistics()
        holders = Counter(page_id for guest in self.guests.values() for page_id in guest.page_ids.values())
        assert stats.allocated_pages == len(holders)
        assert stats.duplicate_pages == holders.total() - len(holders)
        assert stats.left_behind_shared_pages == self.left_behind

    def teardown(self) -> None:
        for name in list(self.guests):
            self.gmm.cleanup_vm(name)
        assert self.gmm.verify().query_statistics().shared_pages == 0
        assert self.store.resident_pages == 0
        self.store.close()


def test_every_guest_reads_what_it_wrote_whatever_is_shared() -> None:
    run_state_machine_as_test(
        SharedMemory, settings=settings(max_examples=25, stateful_step_count=40, deadline=None)
    )


@pytest.mark.soak
def test_every_guest_reads_what_it_wrote_whatever_is_shared_for_long() -> None:
    run_state_machine_as_test(
        SharedMemory, settings=settings(max_examples=500, stateful_step_count=80, deadline=None)
    )
