"""Sharing against a naive model, whatever is registered, checked, dropped and ended, in whatever order."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from tests.gmm.naive_pages import NaivePages, page_to_check, regions_of

from dynmem.gmm.codes import GmmError, Status
from dynmem.gmm.modules import Region
from dynmem.gmm.sharing import LeftBehind, Outcome, Sharing

VMS = st.sampled_from(["a", "b", "c"])
NAMES = st.sampled_from(["libc", "libm"])
BASES = st.sampled_from([0x10_0000, 0x20_0000])
PLACES = st.integers(0, 2)  # of the 2 pages of a module, and one beyond
PAGE_IDS = st.integers(0x200, 0x206)


class SharingMachine(RuleBasedStateMachine):
    """The model is plain facts: who has which page, how often, which module is where, who is stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.pages = NaivePages()
        self.sharing = Sharing(self.pages)
        self.private: dict[int, str] = {}
        self.content: dict[int, int] = {}
        self.held: Counter[tuple[str, int]] = Counter()
        self.registered: dict[tuple[str, int], str] = {}
        self.place: dict[tuple[str, int], int] = {}
        self.stopped: set[str] = set()
        self.left_behind = 0
        for vm in "abc":
            self.start(vm)

    def shared(self) -> Counter[int]:
        counts: Counter[int] = Counter()
        for (_, page_id), count in self.held.items():
            counts[page_id] += count
        return +counts

    def forget_unused_modules(self) -> None:
        used = set(self.registered.values())
        self.place = {key: page_id for key, page_id in self.place.items() if key[0] in used}

    @rule(vm=VMS, page_id=PAGE_IDS, content=st.integers(0, 1))
    def allocate_page(self, vm: str, page_id: int, content: int) -> None:
        if page_id not in self.private and not self.shared()[page_id]:
            self.pages.give(vm, page_id, content)
            self.private[page_id], self.content[page_id] = vm, content

    @rule(vm=VMS)
    def start(self, vm: str) -> None:
        """Make sure that a VM can share pages of libc."""
        self.stop_or_resume(vm, True)
        if (vm, 0x10_0000) not in self.registered:
            self.register(vm, "libc", 0x10_0000)

    @rule(vm=VMS, name=NAMES, base=BASES)
    def register(self, vm: str, name: str, base: int) -> None:
        def call() -> Status:
            return self.sharing.modules.register(
                vm, 4, name, "1", base, 0x2000, regions_of(Region(base, 0x2000))
            )

        there = self.registered.get((vm, base))
        if there not in (None, name):
            with pytest.raises(GmmError) as refused:
                call()
            assert refused.value.code is Status.SHARED_MODULE_ADDRESS_CLASH
            return
        assert call() is (Status.SUCCESS if there is None else Status.SHARED_MODULE_ALREADY_REGISTERED)
        self.registered[vm, base] = name

    @rule(vm=VMS, name=NAMES, base=BASES)
    def unregister(self, vm: str, name: str, base: int) -> None:
        if self.registered.get((vm, base)) != name:
            with pytest.raises(GmmError) as refused:
                self.sharing.modules.unregister(vm, name, "1", base, 0x2000)
            assert refused.value.code is Status.SHARED_MODULE_NOT_FOUND
            return
        self.sharing.modules.unregister(vm, name, "1", base, 0x2000)
        del self.registered[vm, base]
        self.forget_unused_modules()

    @rule(vm=VMS, stopped=st.booleans())
    def stop_or_resume(self, vm: str, stopped: bool) -> None:
        (self.sharing.stop if stopped else self.sharing.resume)(vm)
        (self.stopped.add if stopped else self.stopped.discard)(vm)

    @rule(vm=VMS, base=BASES, place=PLACES, page_id=PAGE_IDS)
    def check_page(self, vm: str, base: int, place: int, page_id: int) -> None:
        descriptor = page_to_check(page_id)
        code = self.refusal(vm, base, place, page_id)
        if code is not None:
            with pytest.raises(GmmError) as refused:
                self.sharing.check_page(vm, base, 0, place, descriptor)
            assert refused.value.code is code
            assert descriptor["idPage"] == page_id
            return
        outcome = self.sharing.check_page(vm, base, 0, place, descriptor)
        name = self.registered[vm, base]
        known = self.place.get((name, place), 0)
        if not self.shared()[known]:
            assert (outcome, descriptor["idPage"]) == (Outcome.SHARED, page_id)
            self.place[name, place] = page_id
        elif self.content[known] == self.content[page_id]:
            assert (outcome, descriptor["idPage"]) == (Outcome.MERGED, known)
        else:
            assert (outcome, descriptor["idPage"]) == (Outcome.LEFT, 0)
            return
        del self.private[page_id]
        self.held[vm, int(descriptor["idPage"])] += 1

    @rule(vm=VMS, page_id=PAGE_IDS, content=st.integers(0, 1), place=st.integers(0, 1))
    def allocate_and_check(self, vm: str, page_id: int, content: int, place: int) -> None:
        self.start(vm)
        self.allocate_page(vm, page_id, content)
        self.check_page(vm, 0x10_0000, place, page_id)

    @rule(number=st.integers(0, 10))
    def drop_own(self, number: int) -> None:
        held = sorted(self.held.elements())
        if held:
            self.drop(*held[number % len(held)])

    def refusal(self, vm: str, base: int, place: int, page_id: int) -> Status | None:
        if vm not in self.stopped:
            return Status.WRONG_ORDER
        if (vm, base) not in self.registered:
            return Status.SHARED_MODULE_NOT_FOUND
        if place == 2:
            return Status.INVALID_PARAMETER
        if page_id not in self.content:
            return Status.PAGE_NOT_FOUND
        if page_id not in self.private:
            return Status.PAGE_NOT_PRIVATE
        return None if self.private[page_id] == vm else Status.NOT_PAGE_OWNER

    @rule(vm=VMS, page_id=PAGE_IDS)
    def drop(self, vm: str, page_id: int) -> None:
        code = None
        if page_id not in self.content:
            code = Status.PAGE_NOT_FOUND
        elif not self.shared()[page_id]:
            code = Status.PAGE_NOT_SHARED
        elif not self.held[vm, page_id]:
            code = Status.NOT_PAGE_OWNER
        if code is None:
            assert self.sharing.drop(vm, page_id) is (self.shared()[page_id] == 1)
            self.held[vm, page_id] -= 1
            return
        with pytest.raises(GmmError) as refused:
            self.sharing.drop(vm, page_id)
        assert refused.value.code is code

    @rule(vm=VMS)
    def end(self, vm: str) -> None:
        """End a VM as its cleanup does: its references here, its private pages by the caller."""
        mine = {page_id: count for (owner, page_id), count in self.held.items() if owner == vm and count}
        freed = sum(self.shared()[page_id] == count for page_id, count in mine.items())
        assert self.sharing.leave(vm) == LeftBehind(sum(mine.values()), freed)
        self.left_behind += sum(mine.values())
        for page_id in mine:
            del self.held[vm, page_id]
        for page_id in [page_id for page_id, owner in self.private.items() if owner == vm]:
            self.pages.free(page_id)
            del self.private[page_id]
        self.registered = {key: name for key, name in self.registered.items() if key[0] != vm}
        self.forget_unused_modules()
        self.stopped.discard(vm)

    @rule(vm=VMS, page_id=PAGE_IDS)
    def find_duplicate(self, vm: str, page_id: int) -> None:
        if self.private.get(page_id) == vm or self.held[vm, page_id]:
            others = {self.content[other] for other, owner in self.private.items() if owner != vm}
            assert self.sharing.find_duplicate(vm, page_id) is (self.content[page_id] in others)

    @invariant()
    def every_figure_is_the_models(self) -> None:
        shared = self.shared()
        assert self.sharing.verify() == (len(shared), shared.total() - len(shared))
        assert self.sharing.left_behind_pages == self.left_behind
        assert len(self.sharing.modules) == len(set(self.registered.values()))
        for page_id in self.content:
            assert self.pages.owner(page_id) == self.private.get(page_id)
            assert self.pages.references(page_id) == shared[page_id]
        for vm in "abc":
            assert self.sharing.held(vm) == sum(
                count for (owner, _), count in self.held.items() if owner == vm
            )
            assert self.sharing.modules.of(vm) == sorted(
                base for owner, base in self.registered if owner == vm
            )


def test_sharing_is_what_a_naive_model_says_in_any_order_of_calls() -> None:
    run_state_machine_as_test(
        SharingMachine, settings=settings(max_examples=60, stateful_step_count=60, deadline=None)
    )
