"""Deadlines are for the whole of an order: what a little progress buys, and what a stream of orders does."""

from hypothesis import given
from hypothesis import strategies as st

from dynmem.manager.step.deadlines import ORDERS_MAX, Deadlines
from dynmem.manager.step.safeguards import ARRIVED_PAGES, PAGES_PER_S_MIN, PROGRESS_PAGES
from dynmem.units import MIB, NS_PER_S, PAGE_SIZE

GRACE_NS = 3 * NS_PER_S
PAGES = 1024 * MIB // PAGE_SIZE


def due_ns(amount: int) -> int:
    return GRACE_NS + amount * NS_PER_S // PAGES_PER_S_MIN


def test_a_deadline_grows_with_the_amount_and_not_with_a_little_progress() -> None:
    for amount in (PAGES // 8, PAGES):
        deadlines = Deadlines(GRACE_NS)
        deadlines.order(2 * PAGES, 2 * PAGES - amount, 0)
        for turn in range(20):
            now_ns = turn * due_ns(amount) // 19
            deadlines.see(2 * PAGES - turn * PROGRESS_PAGES, 2 * PAGES - amount, now_ns)
            assert not deadlines.passed(now_ns)
        assert deadlines.passed(due_ns(amount) + 1)


def test_a_target_missed_by_a_few_pages_is_reached() -> None:
    deadlines = Deadlines(GRACE_NS)
    deadlines.order(PAGES, PAGES // 2, 0)
    deadlines.see(PAGES // 2 + ARRIVED_PAGES, PAGES // 2, 1)
    assert not deadlines.passed(1 << 62)
    deadlines.order(PAGES, PAGES // 2, 0)
    deadlines.see(PAGES // 2 + ARRIVED_PAGES + 1, PAGES // 2, 1)
    assert deadlines.passed(1 << 62)


def test_a_guest_that_lags_behind_a_stream_of_small_orders_is_not_late_and_one_that_stands_still_is() -> None:
    step = PAGES // 64
    for lag, is_late in ((2, False), (100, True)):
        deadlines = Deadlines(GRACE_NS)
        late = []
        for turn in range(50):
            now_ns = turn * NS_PER_S
            deadlines.see(PAGES - max(0, turn - lag) * step, PAGES - turn * step, now_ns)
            late.append(deadlines.passed(now_ns))
            deadlines.order(PAGES - max(0, turn - lag) * step, PAGES - (turn + 1) * step, now_ns)
        assert late[-1] is is_late


def test_what_is_no_longer_asked_is_no_longer_due() -> None:
    deadlines = Deadlines(GRACE_NS)
    deadlines.order(PAGES, PAGES // 2, 0)
    deadlines.order(PAGES, PAGES, NS_PER_S)
    assert not deadlines.passed(1 << 62)
    deadlines.order(PAGES, PAGES // 2, 0)
    deadlines.order(PAGES, 2 * PAGES, NS_PER_S)  # the other way: due by its own amount
    assert not deadlines.passed(NS_PER_S + due_ns(PAGES))
    assert deadlines.passed(NS_PER_S + due_ns(PAGES) + 1)


def test_a_guest_that_went_elsewhere_by_itself_owes_the_way_back_from_then_on() -> None:
    deadlines = Deadlines(GRACE_NS)
    deadlines.order(PAGES, PAGES // 2, 0)
    deadlines.see(PAGES // 4, PAGES // 2, 100 * NS_PER_S)  # it gave more than it was asked
    assert not deadlines.passed(100 * NS_PER_S + due_ns(PAGES // 4))
    assert deadlines.passed(100 * NS_PER_S + due_ns(PAGES // 4) + 1)


@given(st.lists(st.tuples(st.integers(0, PAGES), st.integers(0, PAGES), st.integers(0, 5)), max_size=40))
def test_whatever_is_asked_the_orders_are_few_lead_one_way_and_end_at_the_target(
    turns: list[tuple[int, int, int]],
) -> None:
    deadlines = Deadlines(GRACE_NS)
    now_ns = 0
    for size, target, pause in turns:
        now_ns += pause * NS_PER_S
        deadlines.see(size, target, now_ns)
        deadlines.order(size, target, now_ns)
        ends = [due.at_pages for due in deadlines.open]
        assert len(ends) <= ORDERS_MAX
        assert (ends == []) == (size == target)
        assert ends[-1:] in ([], [target])
        assert len(set(ends)) == len(ends)
        assert ends == sorted(ends, reverse=target < size)
        assert deadlines.open == sorted(deadlines.open, key=lambda due: due.by_ns)
