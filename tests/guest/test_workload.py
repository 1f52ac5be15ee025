"""The workload: follows its curve within its limits, and notices every page that is not as it left it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynmem.guest.allocator import IN_USE, Allocator
from dynmem.guest.curve import parse_load
from dynmem.guest.pattern import PAGE_WORDS, Memory, Pattern
from dynmem.guest.runs import runs_of
from dynmem.guest.workload import TICK_PAGES, Workload
from dynmem.units import MIB, NS_PER_MS, NS_PER_S, PAGE_SIZE

PAGES = 8192  # 32 MiB


class Guest:
    """A workload over memory of its own."""

    def __init__(self, text: str, pages: int = PAGES) -> None:
        self.memory: Memory = np.zeros((pages, PAGE_WORDS), np.uint64)
        self.allocator = Allocator(seed=1)
        self.allocator.add(0, pages)
        self.workload = Workload(self.memory, self.allocator, parse_load(text), usable_pages=pages, seed=2)
        self.now = 0

    def run(self, duration_ns: int) -> None:
        end = self.now + duration_ns
        while self.now < end:
            self.now = max(self.workload.tick(self.now), self.now + NS_PER_MS)

    def held(self) -> np.ndarray:
        return np.array([page for page in range(PAGES) if self.allocator.state_of(page) == 3])

    def found(self) -> tuple[int, int]:
        self.workload.finish()
        return self.workload.wrong_pages, self.workload.wrong_bytes


@pytest.fixture
def full() -> Guest:
    guest = Guest("steady,high=50%,rate=1G")
    guest.run(NS_PER_S)
    assert guest.workload.held_pages == PAGES // 2
    return guest


def test_undisturbed_memory_checks_out_page_for_page(full: Guest) -> None:
    sampled = full.workload.verified_pages
    assert full.found() == (0, 0)
    assert full.workload.verified_pages - sampled == PAGES // 2
    assert full.allocator.available_pages == PAGES


def test_a_page_that_the_host_discarded_is_noticed(full: Guest) -> None:
    full.memory[full.held()[17]] = 0
    pages, wrong = full.found()
    assert pages == 1
    assert wrong > PAGE_SIZE // 2  # a few bytes of any pattern are zero


def test_one_flipped_bit_is_one_wrong_byte(full: Guest) -> None:
    full.memory[full.held()[100], 511] ^= np.uint64(1 << 63)
    assert full.found() == (1, 1)


def test_a_page_at_the_wrong_address_is_noticed(full: Guest) -> None:
    held = full.held()
    full.memory[held[3]] = full.memory[held[4]].copy()
    assert full.found()[0] == 1


def test_two_pages_that_were_swapped_are_both_noticed(full: Guest) -> None:
    held = full.held()
    full.memory[held[3:5]] = full.memory[held[3:5]][::-1].copy()
    assert full.found()[0] == 2


def test_a_page_with_two_owners_is_noticed(full: Guest) -> None:
    page = int(full.held()[5])
    stolen = runs_of((page,), (1,))
    full.allocator.free_held(stolen)  # the allocator's mistake: its owner still has it
    spare = full.allocator.allocate_held(full.allocator.available_pages)
    assert page in spare.pages()
    Pattern(full.memory).fill(spare.pages(), np.full(spare.page_count, 1_000_000))
    assert full.found()[0] == 1


def test_the_next_generation_of_a_page_is_another_pattern(full: Guest) -> None:
    old = full.memory.copy()
    before = set(full.held().tolist())
    full.workload.finish()
    full.run(NS_PER_S)
    both = before & set(full.held().tolist())
    assert len(both) > 1000
    stale = sorted(both)[7]
    full.memory[stale] = old[stale]
    assert full.found()[0] == 1


@given(st.binary(min_size=1, max_size=64), st.integers(0, PAGE_SIZE - 64), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_wrong_bytes_are_counted_exactly(noise: bytes, offset: int, page: int) -> None:
    memory: Memory = np.zeros((10, PAGE_WORDS), np.uint64)
    pages, generations = np.arange(10), np.arange(10) * 3
    pattern = Pattern(memory)
    pattern.fill(pages, generations)
    row = memory[page].view(np.uint8)
    before = bytes(row[offset : offset + len(noise)])
    row[offset : offset + len(noise)] = np.frombuffer(noise, np.uint8)
    wrong = pattern.check(pages, generations)
    assert wrong.byte_count == sum(a != b for a, b in zip(before, noise, strict=True))
    assert wrong.pages.tolist() == ([page] if wrong.byte_count else [])


def test_a_damaged_page_that_is_kept_is_found_within_a_round_and_counted_once(full: Guest) -> None:
    full.memory[full.held()[1000], 5] ^= np.uint64(0xFF)
    full.run(30 * NS_PER_S)  # a round over 4096 pages takes 13 s
    assert full.workload.wrong_bytes == 1
    assert full.found() == (1, 1)


def test_demand_grows_no_faster_than_its_rate() -> None:
    guest = Guest("steady,high=80%,rate=4M")
    guest.run(NS_PER_S)
    first = guest.workload.wanted_pages * PAGE_SIZE
    guest.run(2 * NS_PER_S)
    assert 0.9 * 4 * MIB <= first <= 1.1 * 4 * MIB
    assert guest.workload.wanted_pages * PAGE_SIZE <= 3.1 * 4 * MIB


def test_a_gap_in_time_is_no_reason_to_jump() -> None:
    guest = Guest("steady,high=80%,rate=4M")
    guest.run(NS_PER_S)
    before = guest.workload.wanted_pages
    guest.now += 3600 * NS_PER_S
    guest.run(20 * NS_PER_MS)
    assert guest.workload.wanted_pages - before <= 2 * 4 * MIB // PAGE_SIZE


def test_a_tick_moves_no_more_than_its_share() -> None:
    guest = Guest("steps,period=2s,rate=64G", pages=4 * TICK_PAGES)
    guest.workload.tick(NS_PER_S - 1)
    moved = []
    for now in range(NS_PER_S, 3 * NS_PER_S, 100 * NS_PER_MS):
        before = guest.workload.held_pages
        guest.workload.tick(now)
        moved.append(abs(guest.workload.held_pages - before))
    assert max(moved) == TICK_PAGES


def test_a_squeezed_workload_keeps_what_it_has_and_grows_when_memory_comes_back() -> None:
    guest = Guest("steady,high=80%,rate=1G")
    given_up = []
    while guest.allocator.available_pages > 3000:
        given_up.append(guest.allocator.allocate_for_balloon(guest.allocator.available_pages - 3000))
    guest.run(NS_PER_S)
    squeezed = guest.workload.held_pages
    assert 3000 - 256 <= squeezed < 3000  # a reserve stays free
    assert guest.workload.wanted_pages == PAGES * 8 // 10
    assert guest.allocator.committed_pages == guest.workload.wanted_pages
    for ranges in given_up:
        guest.allocator.free_from_balloon(ranges)
    guest.run(NS_PER_S)
    assert guest.workload.held_pages == guest.workload.wanted_pages
    assert guest.found() == (0, 0)


def test_a_quiet_workload_asks_to_be_left_alone() -> None:
    guest = Guest("steady,high=20%,rate=1G")
    guest.run(NS_PER_S)
    ticks = 0
    end = guest.now + 2 * NS_PER_S
    while guest.now < end:
        guest.now = guest.workload.tick(guest.now)
        ticks += 1
    assert ticks <= 10


def test_a_tick_that_leaves_work_asks_for_the_next_one_at_once() -> None:
    guest = Guest("steps,period=2s,rate=64G,low=0%", pages=4 * TICK_PAGES)
    guest.workload.tick(0)
    ticks: list[int] = []
    now = NS_PER_S
    while guest.workload.held_pages < guest.workload.wanted_pages or not ticks:
        ticks.append(guest.workload.tick(now))
        now += NS_PER_MS
    assert [at - NS_PER_S for at in ticks[:-1]] == [n * NS_PER_MS for n in range(3)]
    assert ticks[-1] >= now
    now = 2 * NS_PER_S
    assert guest.workload.tick(now) == now  # the load is low again, and most of it is held still
    assert guest.workload.held_pages > TICK_PAGES


def test_held_pages_are_checked_and_move_out_of_memory_that_goes(full: Guest) -> None:
    start, end = 1000, 3000
    inside = [page for page in full.held().tolist() if start <= page < end]
    full.memory[inside[7], 3] ^= np.uint64(1)
    free = full.allocator.take_out(start, end)
    assert full.workload.leave(start, end)
    assert full.allocator.count(start, end, *IN_USE) == 0
    assert full.workload.held_pages == PAGES // 2 == full.held().size
    full.allocator.put_back(free)
    assert full.found() == (1, 1)


def test_held_pages_stay_where_they_are_when_there_is_no_room_elsewhere(full: Guest) -> None:
    full.allocator.take_out(1000, 7000)
    full.allocator.allocate_for_balloon(full.allocator.available_pages)
    before = full.held().tolist()
    assert not full.workload.leave(1000, 7000)
    assert full.held().tolist() == before
    assert full.found() == (0, 0)
