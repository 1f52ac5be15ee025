"""Hot-added blocks: added whole where the hardware has them, removed by the page above a floor."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rigs.pages import pages_of

from dynmem.dm.blocks import Added
from dynmem.dm.habits import balloon_floor
from dynmem.guest.allocator import ABSENT, FREE, HELD, Allocator
from dynmem.guest.blocks import BLOCK_PAGES, WORKING_PAGES, Blocks
from dynmem.limits import DM_HOT_REMOVE_RANGES
from dynmem.pages import ranges as page_ranges

BOOT = 2 * BLOCK_PAGES
FIRST = 256 * BLOCK_PAGES  # 32 GiB


class Guest:
    """An allocator with two blocks at boot, and hardware that has `mapped` blocks from `FIRST` on."""

    def __init__(self, mapped: int = 4) -> None:
        self.allocator = Allocator(seed=6, kernel_below=BOOT)
        self.allocator.add(0, BOOT)
        self.end = FIRST + mapped * BLOCK_PAGES
        self.blocks = Blocks(self.allocator, lambda start, end: start >= FIRST and end <= self.end)

    def add(self, block: int, count: int = 1) -> Added:
        return self.blocks.hot_add(FIRST + block * BLOCK_PAGES, count * BLOCK_PAGES)

    def remove(self, pages: int) -> bytes:
        return self.blocks.hot_remove(pages, 0, 0)


@pytest.fixture
def guest() -> Guest:
    return Guest()


def test_added_blocks_are_used_like_any_other_memory(guest: Guest) -> None:
    assert guest.add(0, 3) == Added(3 * BLOCK_PAGES)
    assert guest.allocator.total_pages == 5 * BLOCK_PAGES
    held = guest.allocator.allocate_held(4 * BLOCK_PAGES)
    assert int((held.pages() >= FIRST).sum()) >= 2 * BLOCK_PAGES


def test_what_the_hardware_has_not_mapped_is_a_barrier(guest: Guest) -> None:
    assert guest.add(2, 3) == Added(2 * BLOCK_PAGES)
    assert guest.add(4) == Added(0)
    assert guest.allocator.total_pages == 4 * BLOCK_PAGES


def test_memory_that_is_there_is_not_added_again(guest: Guest) -> None:
    guest.add(1)
    assert guest.add(0, 2) == Added(BLOCK_PAGES)
    assert guest.allocator.total_pages == 4 * BLOCK_PAGES


def test_a_guest_with_next_to_nothing_free_is_short_and_adds_when_it_is_not(guest: Guest) -> None:
    guest.allocator.allocate_held(BOOT - WORKING_PAGES)
    last = guest.allocator.allocate_held(1)
    assert guest.add(0) == Added(0, is_short=True)
    guest.allocator.free_held(last)
    assert guest.add(0) == Added(BLOCK_PAGES)


def test_whole_blocks_go_first_the_last_one_first_and_may_come_again(guest: Guest) -> None:
    guest.add(0, 4)
    removed = guest.remove(2 * BLOCK_PAGES)
    assert removed == page_ranges.span(FIRST + 2 * BLOCK_PAGES, 2 * BLOCK_PAGES)
    assert guest.allocator.total_pages == 4 * BLOCK_PAGES
    assert guest.add(2, 2) == Added(2 * BLOCK_PAGES)


def test_a_block_of_which_something_is_left_is_not_added_again(guest: Guest) -> None:
    guest.add(0)
    assert page_ranges.page_count(guest.remove(100)) == 100
    assert guest.add(0) == Added(0)
    assert guest.allocator.total_pages == 3 * BLOCK_PAGES - 100


def test_nothing_of_boot_memory_is_removed(guest: Guest) -> None:
    assert guest.remove(BOOT) == b""
    guest.add(0)
    guest.allocator.add(FIRST + BLOCK_PAGES, BLOCK_PAGES)  # a DIMM
    assert guest.remove(3 * BLOCK_PAGES) == page_ranges.span(FIRST, BLOCK_PAGES)


def test_what_is_in_use_stays_and_so_does_the_floor(guest: Guest) -> None:
    guest.add(0, 4)
    held = guest.allocator.allocate_held(3 * BLOCK_PAGES)
    ballooned = guest.allocator.allocate_for_balloon(BLOCK_PAGES)
    before = guest.allocator.total_pages - guest.allocator.ballooned_pages
    spare = guest.allocator.available_pages - balloon_floor(before)
    removed = []
    while ranges := guest.remove(1 << 20):
        assert len(ranges) <= 8 * DM_HOT_REMOVE_RANGES
        removed.append(ranges)
    pages = set(pages_of(b"".join(removed)))
    assert spare - 3000 <= page_ranges.page_count(b"".join(removed)) == len(pages)
    assert not pages & set(held.pages().tolist())
    assert not pages & set(pages_of(ballooned))
    assert all(guest.allocator.state_of(page) == ABSENT for page in list(pages)[:500])
    present = guest.allocator.total_pages - guest.allocator.ballooned_pages
    assert guest.allocator.available_pages >= balloon_floor(present)


def test_another_nodes_memory_is_not_there(guest: Guest) -> None:
    guest.add(0)
    assert guest.blocks.hot_remove(100, 1, 0) == b""


def test_what_was_removed_and_never_told_is_used_again(guest: Guest) -> None:
    guest.add(0)
    removed = guest.remove(1000)
    guest.blocks.put_back(removed)
    assert guest.allocator.available_pages == 3 * BLOCK_PAGES
    assert page_ranges.page_count(guest.remove(BLOCK_PAGES)) == BLOCK_PAGES
    whole = page_ranges.span(FIRST, BLOCK_PAGES)
    guest.blocks.put_back(whole)
    assert guest.remove(BLOCK_PAGES) == whole


@given(
    st.lists(
        st.tuples(st.sampled_from("aarrphHbB"), st.integers(0, 5), st.integers(1, 3 * BLOCK_PAGES)),
        min_size=6,
        max_size=25,
    )
)
@settings(max_examples=25, deadline=None)
def test_memory_comes_and_goes_and_every_page_keeps_its_owner(steps: list[tuple[str, int, int]]) -> None:
    guest = Guest(mapped=5)
    model = np.zeros(6 * BLOCK_PAGES, np.int8)  # states from FIRST on, of a model
    held, ballooned = [], []
    for action, block, pages in steps:
        allocator = guest.allocator
        if action == "a":
            fits = 0
            count = 1 + pages % 3
            while fits < count and block + fits < 5 and not model[span(block + fits)].any():
                fits += 1
            short = allocator.available_pages < WORKING_PAGES
            if short:
                continue
            assert guest.add(block, count) == Added(fits * BLOCK_PAGES)
            model[block * BLOCK_PAGES : (block + fits) * BLOCK_PAGES] = FREE
        elif action in "rp":
            ranges = guest.remove(pages)
            indices = np.array(sorted(pages_of(ranges)), np.int64) - FIRST
            assert (model[indices] == FREE).all()
            if action == "p":
                guest.blocks.put_back(ranges)
            else:
                model[indices] = ABSENT
        elif action == "h":
            held.append(allocator.allocate_held(pages))
            mark(model, held[-1].pages(), HELD)
        elif action == "H" and held:
            runs = held.pop(block % len(held))
            allocator.free_held(runs)
            mark(model, runs.pages(), FREE)
        elif action == "b":
            ballooned.append(allocator.allocate_for_balloon(pages))
            mark(model, np.array(sorted(pages_of(ballooned[-1])), np.int64), 4)
        elif action == "B" and ballooned:
            ranges = ballooned.pop(block % len(ballooned))
            allocator.free_from_balloon(ranges)
            mark(model, np.array(sorted(pages_of(ranges)), np.int64), FREE)
        for state in (FREE, HELD, 4):
            assert allocator.count(FIRST, FIRST + model.size, state) == int((model == state).sum())
        assert allocator.total_pages == BOOT + int((model != ABSENT).sum())


def span(block: int) -> slice:
    return slice(block * BLOCK_PAGES, (block + 1) * BLOCK_PAGES)


def mark(model: np.ndarray, pages: np.ndarray, state: int) -> None:
    model[pages[pages >= FIRST] - FIRST] = state
