"""The accounts of given-up pages, memory by memory, against plain sets."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rigs.pages import packed, pages_of

from dynmem.dm.stores import GivenUp
from dynmem.errors import RemoteProtocolError
from dynmem.pages import ranges as page_ranges
from dynmem.pages.algebra import Ranges, within
from dynmem.units import MIB, PAGE_SIZE
from dynmem.vm.balloon.accounts import GuestPages, Memory

BOOT, DIMM_AT, DIMM, ADDED_AT, ADDED = 100, 160, 30, 200, 80
WHOLE = ((0, BOOT),)
LAYOUTS = (WHOLE, ((0, 60), (110, 40)), ((0, 1), (2, 98), (120, 1)))  # of boot memory


Layout = tuple[tuple[int, int], ...]


def second_half(ranges: Ranges) -> Ranges:
    """What is present of added memory of which the guest has only the second half."""
    return within(ranges, Ranges.span(ADDED // 2, ADDED))


def guest_pages_of(memory: Memory) -> list[int]:
    """What the guest calls each page of a memory."""
    return [
        page for piece in memory.pieces for page in range(piece.first_page, piece.first_page + piece.pages)
    ]


class Accounts:
    """The accounts under test, and the plain sets beside them."""

    def __init__(self, boot: Layout = WHOLE) -> None:
        self.pages = GuestPages(lambda: 0)
        self.boot, self.dimm = Memory(boot), Memory([(DIMM_AT, DIMM)])
        self.added = Memory([(ADDED_AT, ADDED)], present=second_half)
        self.pages.plug(self.added, is_added=True)
        self.pages.plug(self.dimm)
        self.pages.plug(self.boot)
        self.owned = {
            *guest_pages_of(self.boot),
            *range(DIMM_AT, DIMM_AT + DIMM),
            *range(ADDED_AT + ADDED // 2, ADDED_AT + ADDED),
        }
        self.given: set[int] = set()
        self.guest_only: set[int] = set()

    def add_given(self, ranges: bytes) -> None:
        new = duplicates = rejected = 0
        seen: set[int] = set()
        for page in pages_of(ranges):
            if page in seen or page in self.given:
                duplicates += 1
            elif page in self.owned:
                new += 1
                self.given.add(page)
            else:
                rejected += 1
            seen.add(page)
        assert self.pages.add_given(ranges) == GivenUp(new, duplicates, rejected)

    def remove_for_guest(self, pages: int, ranges: int) -> None:
        taken = self.pages.remove_for_guest(pages, ranges)
        back = pages_of(taken)
        assert len(taken) // 8 <= ranges
        assert len(back) <= pages
        assert bool(back) == bool(self.given and pages and ranges)
        assert len(set(back)) == len(back)
        assert set(back) <= self.owned
        assert set(back) <= self.given
        is_later = [(page >= ADDED_AT, page not in self.guest_only) for page in back]
        assert is_later == sorted(is_later)
        self.given -= set(back)
        self.guest_only -= set(back)

    def discard(self, *, flush: bool, failed: bool) -> None:
        for discard in self.pages.due(flush=flush):
            known_as = guest_pages_of(discard.memory)
            hit = {known_as[page] for page in pages_of(discard.ranges)}
            assert hit <= self.given
            assert self.pages.is_discarding
            discard.memory.done(discard, failed=failed)
            self.guest_only = self.guest_only | hit if failed else self.guest_only - hit

    def check(self) -> None:
        assert self.pages.removed_pages == len(self.given)
        assert self.pages.removed_guest_pages == len(self.guest_only)
        assert not self.pages.is_discarding


spans = st.lists(st.tuples(st.integers(0, 320), st.integers(0, 90)), max_size=6)
steps = st.one_of(
    st.tuples(st.just("give"), spans),
    st.tuples(st.just("take"), st.tuples(st.integers(0, 60), st.integers(0, 4))),
    st.tuples(st.just("discard"), st.tuples(st.booleans(), st.booleans())),
)


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(LAYOUTS), st.lists(steps, max_size=12))
def test_accounts_of_several_memories_in_one_piece_or_more_do_what_plain_sets_of_pages_do(
    boot: Layout, done: list[tuple[str, list[int]]]
) -> None:
    accounts = Accounts(boot)
    for step, arguments in done:
        if step == "give":
            accounts.add_given(packed(*arguments))  # type: ignore[arg-type]
        elif step == "take":
            accounts.remove_for_guest(*arguments)
        else:
            accounts.discard(flush=bool(arguments[0]), failed=bool(arguments[1]))
        accounts.check()


def test_a_range_that_runs_over_several_memories_and_the_gaps_between_them_counts_for_what_is_there() -> None:
    accounts = Accounts()
    given = accounts.pages.add_given(packed((90, 200)))
    assert given == GivenUp(10 + DIMM + ADDED // 2, 0, 200 - 10 - DIMM - ADDED // 2)


def test_no_range_that_goes_back_covers_the_hole_between_two_pieces_nor_is_one_too_many() -> None:
    accounts = Accounts(((0, 60), (110, 40)))
    accounts.add_given(packed((50, 70)))
    assert accounts.pages.remove_for_guest(100, 1) == packed((50, 10))
    assert accounts.pages.remove_for_guest(100, 1) == packed((110, 10))
    assert accounts.pages.removed_pages == 0


def test_pages_of_both_pieces_are_discarded_where_they_are_in_the_backend() -> None:
    accounts = Accounts(((0, 60), (110, 40)))
    accounts.add_given(packed((110, 3), (58, 1)))
    (discard,) = accounts.pages.due(flush=True)
    assert discard.ranges == packed((58, 1), (60, 3))


def test_a_huge_page_that_lies_in_two_pieces_is_discarded_when_the_guest_has_given_all_of_it() -> None:
    pages = GuestPages(lambda: 0)
    memory = Memory([(0, 768), (1024, 768)], 2 * MIB)  # its second huge page lies on both sides of the hole
    pages.plug(memory)
    pages.add_given(packed((512, 256), (1280, 512)))
    (discard,) = pages.due(flush=True)
    assert discard.ranges == packed((1024, 512))
    memory.done(discard, failed=False)
    pages.add_given(packed((1024, 256)))
    (discard,) = pages.due(flush=False)
    assert discard.ranges == packed((512, 512))
    memory.done(discard, failed=False)
    assert pages.remove_for_guest(4096, 9) == packed((512, 256), (1024, 768))


def test_a_dimm_takes_what_was_given_up_of_it_along() -> None:
    accounts = Accounts()
    accounts.pages.add_given(packed((95, 1), (DIMM_AT, 10)))
    accounts.pages.unplug(accounts.dimm)
    assert accounts.pages.removed_pages == 1
    assert accounts.pages.remove_for_guest(100, 100) == packed((95, 1))
    assert accounts.pages.add_given(packed((DIMM_AT, 10))).rejected == 10


def test_nothing_is_taken_back_while_a_discard_of_any_memory_is_in_flight() -> None:
    accounts = Accounts()
    accounts.pages.add_given(packed((10, 5), (DIMM_AT, 1)))
    for discard in accounts.pages.due(flush=True):
        assert not accounts.pages.may_remove
        with pytest.raises(AssertionError):
            accounts.pages.remove_for_guest(1, 1)
        discard.memory.done(discard, failed=False)
    assert accounts.pages.remove_for_guest(9, 9) == packed((10, 5), (DIMM_AT, 1))


def test_a_page_whose_discard_failed_is_the_hosts_when_a_later_one_succeeds() -> None:
    accounts = Accounts()
    accounts.add_given(packed((10, 5)))
    accounts.discard(flush=True, failed=True)
    accounts.add_given(packed((10, 6)))
    accounts.discard(flush=True, failed=False)
    accounts.check()
    assert accounts.pages.removed_guest_pages == 0


def test_pages_of_huge_backing_are_discarded_only_as_whole_huge_pages() -> None:
    pages = GuestPages(lambda: 0)
    memory = Memory([(0, 2048)], 2 * MIB)
    pages.plug(memory)
    pages.add_given(packed((0, 511), (600, 5)))
    assert pages.due(flush=True) == []
    assert pages.deadline_ns() is None  # nothing but the guest changes that
    pages.add_given(packed((511, 1)))
    (discard,) = pages.due(flush=False)
    assert discard.ranges == packed((0, 512))


def test_pages_that_only_wait_to_be_discarded_may_go_back_and_are_not_discarded_then() -> None:
    pages = GuestPages(lambda: 0)
    pages.plug(Memory([(0, 2048)]))
    pages.add_given(packed((0, 3), (600, 5)))
    assert pages.remove_for_guest(3, 9) == packed((0, 3))
    (discard,) = pages.due(flush=True)
    assert discard.ranges == packed((600, 5))


def test_half_a_range_is_the_peers_fault() -> None:
    with pytest.raises(RemoteProtocolError):
        Accounts().pages.add_given(b"12345678abc")


def test_a_long_range_over_many_dimms_costs_a_piece_a_dimm_however_often_it_is_named() -> None:
    pages = GuestPages(lambda: 0)
    for number in range(256):
        pages.plug(Memory([(number << 16, 1 << 15)]))
    whole = (0, (1 << 24) - 1)
    named = 500 * whole[1]
    given = pages.add_given(packed(*[whole] * 500))
    assert given == GivenUp(256 << 15, named - whole[1], whole[1] - (256 << 15))
    assert sum(len(discard.ranges) for discard in pages.due(flush=True)) <= 8 * 256


class Pool:
    """Memory of blocks of 512 pages, and a host that has so many left."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.bare: set[int] = set()  # blocks that were discarded

    def reserve(self, ranges: bytes) -> bytes:
        refused = []
        for block in sorted({page // 512 for page in pages_of(ranges)} & self.bare):
            if self.left:
                self.left -= 1
                self.bare.remove(block)
            else:
                refused.append((block * 512, 512))
        return page_ranges.merge(packed(*refused))


def in_a_pool(left: int, blocks: int = 8) -> tuple[GuestPages, Pool]:
    """A memory whose guest has given all but the end of the last block, the whole blocks discarded."""
    pool = Pool(left)
    pages = GuestPages(lambda: 0)
    memory = Memory([(1000, blocks * 512)], 512 * PAGE_SIZE, reserve=pool.reserve)
    pages.plug(memory)
    pages.add_given(packed((1000, blocks * 512 - 12)))
    (discard,) = pages.due(flush=True)
    pool.bare = {page // 512 for page in pages_of(discard.ranges)}
    assert pool.bare == set(range(blocks - 1))
    memory.done(discard, failed=False)
    return pages, pool


def test_huge_pages_that_the_host_has_not_stay_in_the_balloon_and_what_is_behind_them_goes_back() -> None:
    pages, pool = in_a_pool(left=2)
    back = pages_of(pages.remove_for_guest(3000, 10))
    assert len(back) == 2 * 512 + 500  # two that were had, and the one that was never discarded
    assert {page - 1000 for page in back} >= set(range(7 * 512, 7 * 512 + 500))
    assert pages.removed_pages == 5 * 512
    assert pages.remove_for_guest(3000, 10) == b""
    assert pages.unreserved_pages() == 5 * 512
    pool.left = 5
    assert pages.unreserved_pages() == 0
    assert len(pages_of(pages.remove_for_guest(3000, 10))) == 5 * 512
    assert pages.removed_pages == 0


def test_no_more_ranges_go_back_than_a_message_has_room_for_though_refusals_cut_them() -> None:
    pages, pool = in_a_pool(left=0)
    pool.bare = {1, 3, 5}
    first = pages.remove_for_guest(8 * 512, 2)
    assert first == packed((1000, 512), (1000 + 1024, 512))
    assert pages.remove_for_guest(8 * 512, 2) == packed((1000 + 2048, 512), (1000 + 3072, 1012))
    assert pages.removed_pages == 3 * 512


def in_a_pool_beside_a_hole(left: int) -> tuple[GuestPages, Pool]:
    """A memory of three huge pages, the second one on both sides of the hole, all of them discarded."""
    pool = Pool(left)
    pages = GuestPages(lambda: 0)
    memory = Memory([(0, 768), (1024, 768)], 512 * PAGE_SIZE, reserve=pool.reserve)
    pages.plug(memory)
    pages.add_given(packed((0, 768), (1024, 768)))
    (discard,) = pages.due(flush=True)
    memory.done(discard, failed=False)
    pool.bare = {0, 1, 2}
    return pages, pool


def test_what_is_left_beside_a_refusal_is_parted_at_the_hole_and_no_range_is_one_too_many() -> None:
    pages, pool = in_a_pool_beside_a_hole(left=0)
    pool.bare = {0}
    assert pages.remove_for_guest(4096, 2) == packed((512, 256), (1024, 768))
    assert pages.removed_pages == 512


def test_what_the_host_lacks_on_either_side_of_a_hole_stays_and_each_range_lies_in_one_piece() -> None:
    pages, pool = in_a_pool_beside_a_hole(left=2)
    assert pages.remove_for_guest(4096, 1) == packed((0, 768))
    assert pages.remove_for_guest(4096, 9) == packed((1024, 256))  # the rest of the second huge page
    assert pages.removed_pages == 512
    pool.left = 1
    assert pages.remove_for_guest(4096, 9) == packed((1280, 512))


def test_what_is_refused_of_pages_whose_discard_failed_stays_in_both_accounts() -> None:
    pages, pool = in_a_pool(left=0)
    pages.add_given(packed((1000 + 8 * 512 - 12, 12)))
    (discard,) = pages.due(flush=True)
    discard.memory.done(discard, failed=True)
    pool.bare.add(7)
    assert pages.remove_for_guest(10000, 10) == b""
    assert (pages.removed_pages, pages.removed_guest_pages) == (8 * 512, 512)
