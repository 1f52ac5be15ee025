"""The guest's page allocator: every page has one owner, and balloon responses look like a real system's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynmem.errors import LocalProtocolError
from dynmem.guest import allocator as states
from dynmem.guest.allocator import Allocator
from dynmem.guest.runs import Runs, runs_of
from dynmem.limits import DM_RANGES_PER_MESSAGE
from dynmem.pages import ranges as page_ranges
from dynmem.pages.page_set import PageSet

PAGES = 1 << 15


def booted(pages: int = PAGES, seed: int = 3) -> Allocator:
    allocator = Allocator(seed)
    allocator.add(0, pages)
    return allocator


def give_everything(allocator: Allocator) -> list[bytes]:
    responses = []
    while ranges := allocator.allocate_for_balloon(PAGES):
        responses.append(ranges)
    return responses


def counts_of(responses: list[bytes]) -> np.ndarray:
    return np.concatenate([page_ranges.unpack(ranges)[1] for ranges in responses])


def test_a_balloon_response_is_made_of_many_short_and_some_long_ranges() -> None:
    allocator = booted()
    for _ in range(12):  # also after the host gave everything back in few long ranges, again and again
        responses = give_everything(allocator)
        assert allocator.available_pages == 0
        assert 1 < np.median(counts_of(responses)) <= 64
        assert all(len(ranges) // 8 <= DM_RANGES_PER_MESSAGE for ranges in responses)
        allocator.free_from_balloon(page_ranges.merge(b"".join(responses)))
    assert (allocator.given_pages, allocator.regained_pages) == (12 * PAGES, 12 * PAGES)


def test_ranges_stay_longer_than_one_page_after_a_long_life() -> None:
    allocator = booted()
    random = np.random.Generator(np.random.PCG64(5))
    held: list[Runs] = []
    for _ in range(400):
        held.append(allocator.allocate_held(int(random.integers(1, 900))))
        while allocator.held_pages > PAGES // 2:
            allocator.free_held(held.pop(int(random.integers(len(held)))))
    counts = counts_of(give_everything(allocator))
    assert 1 < np.median(counts) <= 64


def test_the_same_seed_hands_out_the_same_pages() -> None:
    assert booted(seed=9).allocate_for_balloon(1000) == booted(seed=9).allocate_for_balloon(1000)
    assert booted(seed=9).allocate_for_balloon(1000) != booted(seed=10).allocate_for_balloon(1000)


def test_a_page_cannot_be_freed_twice() -> None:
    allocator = booted()
    runs = allocator.allocate_held(100)
    allocator.free_held(runs)
    with pytest.raises(AssertionError, match="not all held"):
        allocator.free_held(runs)


def test_a_page_of_the_workload_cannot_be_freed_as_a_ballooned_one() -> None:
    allocator = booted()
    runs = allocator.allocate_held(10)
    ranges = page_ranges.from_pages(runs.pages())
    with pytest.raises(AssertionError, match="not all ballooned"):
        allocator.free_from_balloon(ranges)


def test_a_page_outside_memory_cannot_be_freed() -> None:
    allocator = booted()
    with pytest.raises(AssertionError, match="not all held"):
        allocator.free_held(runs_of((PAGES - 1,), (2,)))


def test_memory_that_is_there_twice_is_refused() -> None:
    allocator = booted()
    with pytest.raises(AssertionError, match="not all absent"):
        allocator.add(PAGES - 1, 1)


def test_a_kernel_gets_exactly_what_it_needs_or_a_sentence() -> None:
    allocator = booted(16)
    assert len(set(allocator.allocate_kernel(16))) == 16
    with pytest.raises(LocalProtocolError, match="the kernel needs 1 pages, but only 0 are free"):
        allocator.allocate_kernel(1)


def test_committed_is_what_was_asked_for_whether_it_is_there_or_not() -> None:
    allocator = booted()
    kernel = allocator.allocate_kernel(20)
    allocator.allocate_held(100)
    allocator.allocate_for_balloon(500)
    assert allocator.committed_pages == 120
    allocator.asked_pages = 5000
    assert allocator.committed_pages == 5020
    allocator.free_kernel(kernel)
    assert allocator.committed_pages == 5000


def test_memory_may_be_added_in_any_order_but_not_over_other_memory() -> None:
    allocator = Allocator(1)
    for start in (1 << 20, 2000, 1000, 0, 1 << 21):
        allocator.add(start, 1000)
    assert sorted(allocator.allocate_held(9999).pages().tolist())[:3000] == list(range(3000))
    for start in (500, (1 << 20) - 1):
        with pytest.raises(AssertionError, match="not all absent"):
            allocator.add(start, 600)


def test_memory_added_far_above_is_used_like_any_other() -> None:
    allocator = booted(1000)
    allocator.add(1 << 20, 500)
    assert allocator.total_pages == 1500
    assert allocator.state_of(5000) == states.ABSENT
    pages = allocator.allocate_held(1500).pages()
    assert set(pages.tolist()) == {*range(1000), *range(1 << 20, (1 << 20) + 500)}


@given(st.lists(st.tuples(st.sampled_from("hHbBkK"), st.integers(1, 700)), max_size=40), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_every_page_has_one_owner_whatever_is_asked_in_whatever_order(
    steps: list[tuple[str, int]], seed: int
) -> None:
    total = 2048
    allocator = booted(total, seed)
    held: list[Runs] = []
    kernel: list[list[int]] = []
    given_up = PageSet(total)
    for action, amount in steps:
        if action == "h":
            held.append(allocator.allocate_held(amount))
        elif action == "H" and held:
            allocator.free_held(held.pop(amount % len(held)))
        elif action == "b":
            assert not given_up.add(allocator.allocate_for_balloon(amount)).duplicates
        elif action == "B":
            allocator.free_from_balloon(given_up.take(amount, 10))
        elif action == "k" and allocator.available_pages >= amount:
            kernel.append(allocator.allocate_kernel(amount))
        elif action == "K" and kernel:
            allocator.free_kernel(kernel.pop(amount % len(kernel)))
        owned = [page for runs in held for page in runs.pages().tolist()]
        assert len(owned) == len(set(owned)) == allocator.held_pages
        assert all(allocator.state_of(page) == states.HELD for page in owned)
        assert sum(map(len, kernel)) == allocator.kernel_pages
        assert len(given_up) == allocator.ballooned_pages
        assert allocator.available_pages == total - len(owned) - allocator.kernel_pages - len(given_up)


def test_the_kernel_stays_where_it_may_be() -> None:
    allocator = Allocator(1, kernel_below=1000)
    allocator.add(0, 1000)
    allocator.add(1 << 20, 100_000)
    assert max(allocator.allocate_kernel(900)) < 1000
    with pytest.raises(LocalProtocolError, match="the kernel needs 200 pages, but only 100 are free"):
        allocator.allocate_kernel(200)
    assert allocator.available_pages == 100_100


def test_pages_that_were_taken_out_are_handed_out_no_more_until_they_come_back() -> None:
    allocator = booted(5000)
    out = allocator.take_out(1000, 2000)
    assert sorted(out.pages().tolist()) == list(range(1000, 2000))
    assert (allocator.total_pages, allocator.available_pages) == (4000, 4000)
    held = allocator.allocate_held(5000)
    assert held.page_count == 4000
    assert not set(range(1000, 2000)) & set(held.pages().tolist())
    allocator.put_back(out)
    assert allocator.allocate_held(5000).page_count == 1000


def test_memory_that_went_may_come_back_in_other_pieces() -> None:
    allocator = Allocator(1)
    far = 1 << 20
    for start in (far, far + 10_000):
        allocator.add(start, 1000)
    for start in (far, far + 10_000):
        allocator.take_out(start, start + 1000)
    assert allocator.total_pages == 0
    allocator.add(far - 500, 12_000)  # over both and what lies between, before and behind
    assert allocator.total_pages == allocator.allocate_held(99_999).page_count == 12_000
    with pytest.raises(AssertionError, match="not all absent"):
        allocator.add(far + 11_000, 1000)


@given(
    st.lists(
        st.tuples(st.sampled_from("aaxxhHb"), st.integers(0, 30_000), st.integers(1, 9000)),
        min_size=3,
        max_size=25,
    )
)
@settings(max_examples=40, deadline=None)
def test_pages_come_and_go_in_any_pieces_and_are_counted(steps: list[tuple[str, int, int]]) -> None:
    allocator = Allocator(5)
    model = np.full(1 << 16, states.ABSENT, np.int8)
    held: list[Runs] = []
    for action, start, count in steps:
        inside = model[start : start + count]
        if action == "a" and not inside.any():
            allocator.add(start, count)
            inside[:] = states.FREE
        elif action == "x":
            out = allocator.take_out(start, start + count)
            assert out.page_count == int((inside == states.FREE).sum())
            inside[inside == states.FREE] = states.ABSENT
        elif action == "h":
            held.append(allocator.allocate_held(count))
            model[held[-1].pages()] = states.HELD
        elif action == "H" and held:
            runs = held.pop()
            allocator.free_held(runs)
            model[runs.pages()] = states.FREE
        elif action == "b":
            starts, counts = page_ranges.unpack(allocator.allocate_for_balloon(count))
            model[runs_of(starts, counts).pages()] = states.BALLOONED
        for state in states.IN_USE:
            assert allocator.count(0, model.size, state) == int((model == state).sum())
        assert allocator.count(start, start + count, *states.IN_USE) == int((inside != states.ABSENT).sum())
        assert allocator.available_pages == int((model == states.FREE).sum())
        assert allocator.total_pages == int((model != states.ABSENT).sum())
