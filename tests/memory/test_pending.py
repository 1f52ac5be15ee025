"""Discards that are held back: every order of giving, taking back, sending and finishing, against a model.

The invariant: no batch ever holds a page that the guest has, and what was given is discarded in the end.
"""

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from tests.rigs.held_back import BLOCK, HOLD, Memory
from tests.rigs.pages import packed, pages_of

from dynmem.errors import LocalProtocolError
from dynmem.limits import DISCARD_BATCH_BLOCKS, DISCARD_BATCH_RANGES
from dynmem.memory.backend import MemfdBackend
from dynmem.memory.discard import Discarder
from dynmem.memory.pending import PendingDiscards
from dynmem.pages import ranges as page_ranges
from dynmem.units import PAGE_SIZE

# what is due when


def test_a_page_waits_until_its_time_is_over() -> None:
    memory = Memory(256)
    memory.give((3, 2), now=1000)
    assert memory.pending.deadline_ns() == 1000 + HOLD
    assert memory.pending.next_batch(1000 + HOLD - 1) == b""
    assert memory.pending.next_batch(1000 + HOLD) == packed((3, 2))


def test_the_oldest_page_sets_the_time_for_all() -> None:
    memory = Memory(256)
    memory.give((3, 2), now=1000)
    memory.give((9, 1), now=1050)
    assert memory.pending.next_batch(1000 + HOLD) == packed((3, 2), (9, 1))


def test_a_block_is_due_at_once_when_all_of_it_was_given() -> None:
    memory = Memory(256)
    for start in range(BLOCK, 2 * BLOCK - 2, 2):
        memory.give((start, 2))
        assert memory.pending.next_batch(0) == b""
    memory.give((2 * BLOCK - 2, 3))
    assert memory.pending.deadline_ns() == 0
    assert list(memory.batches()) == [packed((BLOCK, BLOCK))]
    assert len(memory.pending) == 1


def test_a_block_is_discarded_whole_though_a_part_of_it_was_before() -> None:
    memory = Memory(256)
    memory.give((0, 10))
    assert list(memory.batches(flush=True)) == [packed((0, 10))]
    memory.give((10, BLOCK - 10))
    assert list(memory.batches()) == [packed((0, BLOCK))]


def test_a_block_that_loses_a_page_again_is_no_longer_whole() -> None:
    memory = Memory(256)
    memory.give((0, BLOCK))
    memory.take_back((7, 1))
    assert memory.pending.next_batch(0) == b""
    assert memory.pending.next_batch(HOLD) == packed((0, 7), (8, BLOCK - 8))


def test_a_flush_while_a_batch_is_in_flight_is_not_forgotten() -> None:
    memory = Memory(256)
    memory.give((0, BLOCK), (100, 1))
    assert memory.pending.next_batch(0) == packed((0, BLOCK))
    assert memory.pending.next_batch(0, flush=True) == b""
    memory.pending.done()
    assert memory.pending.next_batch(0) == packed((100, 1))


def test_more_pages_than_may_wait_are_due_at_once() -> None:
    memory = Memory(4 * BLOCK, pages_max=8)
    memory.give(*((page, 1) for page in range(0, 16, 2)))
    assert memory.pending.next_batch(0) == b""
    memory.give((20, 1))
    assert memory.pending.deadline_ns() == 0
    assert sum(page_ranges.page_count(batch) for batch in memory.batches()) == 9


def test_blocks_that_the_host_has_as_one_page_are_never_given_in_part() -> None:
    memory = Memory(4 * BLOCK, whole_only=True, pages_max=8)
    memory.give((1, BLOCK - 1), (BLOCK, BLOCK))
    assert list(memory.batches(10 * HOLD, flush=True)) == [packed((BLOCK, BLOCK))]
    assert memory.pending.deadline_ns() is None
    assert len(memory.pending) == BLOCK - 1
    memory.give((0, 1))
    assert list(memory.batches()) == [packed((0, BLOCK))]


def test_a_part_of_a_block_at_the_end_of_memory_is_given_by_time() -> None:
    memory = Memory(BLOCK + 10)
    memory.give((BLOCK, 10))
    assert memory.pending.next_batch(0) == b""
    assert memory.pending.next_batch(HOLD) == packed((BLOCK, 10))


def test_pages_given_twice_wait_once() -> None:
    memory = Memory(256)
    memory.give((3, 2))
    memory.give((3, 2), (4, 1))
    assert len(memory.pending) == 2


def test_what_many_small_messages_bring_is_not_kept_message_by_message() -> None:
    memory = Memory(1 << 20, pages_max=1 << 20)
    for base in range(0, 1 << 18, 512):
        memory.give(*((page, 1) for page in range(base, base + 512, 2)))
        assert memory.pending._new_bytes <= 1 << 16
    assert len(memory.pending) == 1 << 17


def test_one_batch_is_bounded_and_the_rest_follows() -> None:
    pages = (DISCARD_BATCH_BLOCKS + 3) * BLOCK
    memory = Memory(pages)
    memory.give((0, pages))
    first, second = memory.batches()
    assert page_ranges.page_count(first) == DISCARD_BATCH_BLOCKS * BLOCK
    assert page_ranges.page_count(second) == 3 * BLOCK
    scattered = Memory(4 * DISCARD_BATCH_RANGES)
    for base in range(0, 4 * DISCARD_BATCH_RANGES, 1024):
        scattered.give(*((page, 1) for page in range(base, base + 1024, 2)))
    sizes = [len(batch) // 8 for batch in scattered.batches(flush=True)]
    assert max(sizes) <= DISCARD_BATCH_RANGES
    assert sum(sizes) == 2 * DISCARD_BATCH_RANGES


def test_done_without_a_flight_and_clear_in_flight_are_bugs_of_ours() -> None:
    memory = Memory(256)
    with pytest.raises(LocalProtocolError):
        memory.pending.done()
    memory.give((0, BLOCK))
    memory.pending.next_batch(0)
    with pytest.raises(LocalProtocolError):
        memory.pending.clear()


# where long ranges do not wait


def test_long_ranges_go_at_once_and_short_ones_wait() -> None:
    memory = Memory(1024, long_pages=16)
    memory.give((3, 15), (100, 16), (200, 40))
    assert memory.pending.deadline_ns() == 0
    assert list(memory.batches()) == [packed((100, 16), (200, 40))]
    assert memory.pending.deadline_ns() == HOLD
    assert len(memory.pending) == 15
    assert list(memory.batches(HOLD)) == [packed((3, 15))]


def test_a_page_that_comes_in_a_long_and_in_a_short_range_is_discarded_once() -> None:
    memory = Memory(1024, long_pages=16)
    memory.give((100, 4))
    memory.give((96, 20))
    assert len(memory.pending) == 20
    memory.give((110, 2))
    assert len(memory.pending) == 20
    assert list(memory.batches(flush=True)) == [packed((96, 14), (112, 4)), packed((110, 2))]


def test_a_long_range_that_goes_back_is_not_discarded() -> None:
    memory = Memory(1024, long_pages=16)
    memory.give((100, 20))
    memory.take_back((105, 10))
    assert list(memory.batches()) == [packed((100, 5), (115, 5))]


def test_a_long_range_that_completes_a_block_goes_with_it() -> None:
    memory = Memory(1024, long_pages=16)
    memory.give((0, 20))
    memory.give((20, BLOCK - 20), (BLOCK, 17))
    assert list(memory.batches()) == [packed((0, BLOCK)), packed((BLOCK, 17))]
    assert len(memory.pending) == 0


def test_of_blocks_that_the_host_has_as_one_page_no_range_is_long_enough() -> None:
    memory = Memory(1024, whole_only=True, long_pages=16)
    memory.give((0, 40))
    assert list(memory.batches(flush=True)) == []


# every order of events on three spans of half a block: one block, and a part of one at the end of memory

UNIT = BLOCK // 2
UNITS = 3


class WrongError(AssertionError):
    """The discards do what the model does not."""


@dataclass(frozen=True)
class Model:
    """What the rules say, in plain words."""

    whole_only: bool
    given: frozenset[int] = frozenset()
    waiting: frozenset[int] = frozenset()  # given, and the host does not have it back
    flight: frozenset[int] = frozenset()
    due: int = 0  # from now; 0: due; at most HOLD
    no_wait: bool = False  # every span is a long one

    def batch(self, *, flush: bool) -> "Model":
        due = 0 if flush else self.due
        over = not due or self.no_wait
        if self.flight:
            return replace(self, due=due)
        if self.given >= {0, 1} and self.waiting & {0, 1}:
            return replace(self, due=due, flight=frozenset({0, 1}), waiting=self.waiting - {0, 1})
        if self.waiting and over and not self.whole_only:
            return replace(self, due=due, flight=self.waiting, waiting=frozenset())
        return replace(self, due=due)

    def deadline(self, now: int) -> int | None:
        if self.flight or not self.waiting:
            return None
        if self.given >= {0, 1} and self.waiting & {0, 1}:
            return now
        return None if self.whole_only else now if self.no_wait else now + self.due

    def give(self, units: frozenset[int]) -> "Model":
        due = self.due if self.waiting else HOLD
        given = self.given | units
        if units & {0, 1} and given >= {0, 1}:
            units |= {0, 1}  # the whole block waits, also what was discarded before
        return replace(self, due=due, given=given, waiting=self.waiting | units)

    def take_back(self, units: frozenset[int]) -> "Model":
        return replace(self, given=self.given - units, waiting=self.waiting - units)


@dataclass
class Pair:
    """The real thing beside its model; `steps` led here."""

    model: Model
    make: type[PendingDiscards]
    steps: tuple[str, ...] = ()
    now: int = 0
    memory: Memory = field(init=False)

    def __post_init__(self) -> None:
        self.memory = Memory(
            UNITS * UNIT,
            self.make,
            whole_only=self.model.whole_only,
            long_pages=UNIT if self.model.no_wait else 0,
        )

    def copy(self) -> "Pair":
        other = Pair(self.model, self.make, self.steps, self.now)
        other.memory.given.add(self.memory.given.intersect(packed((0, UNITS * UNIT))))
        other.memory.pending.restore(self.memory.pending.snapshot())
        return other

    def step(self, action: str, units: frozenset[int]) -> None:
        """Do one thing on both sides and compare."""
        self.steps = (*self.steps, f"{action}{sorted(units) if units else ''}")
        model, memory = self.model, self.memory
        spans = [(unit * UNIT, UNIT) for unit in sorted(units)]
        if action == "give":
            self.model = model.give(units)
            memory.give(*spans, now=self.now)
        elif action == "take back":
            self.take_back(units, spans)
        elif action in {"batch", "flush"}:
            self.model = model.batch(flush=action == "flush")
            memory.pending.next_batch(self.now, flush=action == "flush")
        elif action == "done":
            self.model = replace(model, flight=frozenset())
            memory.pending.done()
        elif action == "time":
            self.model = replace(model, due=max(0, model.due - HOLD // 2))
            self.now += HOLD // 2
        elif action == "reset":
            self.model = Model(model.whole_only, no_wait=model.no_wait)
            memory.given.clear()
            memory.pending.clear()
        self.compare()

    def take_back(self, units: frozenset[int], spans: list[tuple[int, int]]) -> None:
        if units & self.model.flight:  # refused, and nothing is changed
            try:
                self.memory.pending.withdraw(packed(*spans))
            except LocalProtocolError:
                return
            self.memory.given.remove(packed(*spans))
        else:
            self.memory.take_back(*spans)
        self.model = self.model.take_back(units)

    def compare(self) -> None:
        model, pending = self.model, self.memory.pending
        state = pending.snapshot()
        in_flight = frozenset(page // UNIT for page in pages_of(state.flight))
        waiting = frozenset(page // UNIT for page in pages_of(state.parts + state.long + state.blocks))
        if in_flight - model.given:
            raise WrongError(f"the guest loses {sorted(in_flight - model.given)} after {self.steps}")
        if (in_flight, waiting) != (model.flight, model.waiting):
            raise WrongError(f"in flight {in_flight}, waiting {waiting}, not {model} after {self.steps}")
        if len(pending) != UNIT * len(waiting) or pending.in_flight != bool(in_flight):
            raise WrongError(f"wrong counts after {self.steps}")
        if self.make is not PendingDiscards:
            return  # one with a safeguard taken out: what becomes of the pages is what matters
        deadline = pending.deadline_ns()
        if deadline is not None:
            deadline = max(deadline, self.now)
        if deadline != model.deadline(self.now):
            raise WrongError(f"due at {deadline}, not {model.deadline(self.now)}, after {self.steps}")

    def settle(self) -> None:
        """With a flush, everything that was given is discarded, but for parts of the host's own blocks."""
        for _ in range(4):
            if self.model.flight:
                self.step("done", frozenset())
            self.step("flush", frozenset())
        left = self.model.waiting
        if self.model.flight or (left and not self.model.whole_only) or left >= {0, 1}:
            raise WrongError(f"{self.model} is never discarded: {self.steps}")

    def actions(self) -> Iterator[tuple[str, frozenset[int]]]:
        model = self.model
        for count in (1, 2):
            for units in map(frozenset, itertools.combinations(range(UNITS), count)):
                if not units & model.given or (count == 1 and units <= model.given - model.flight):
                    yield "give", units  # pages that the guest has, or one that it gave before
                if units <= model.given:
                    yield "take back", units
        yield from ((action, frozenset()) for action in ("batch", "flush", "time"))
        yield ("done" if model.flight else "reset"), frozenset()


def explore(make: type[PendingDiscards], *, whole_only: bool, no_wait: bool = False) -> int:
    """Go every way from every state that can be reached: how many there are. Raises WrongError."""
    seen = {Model(whole_only, no_wait=no_wait)}
    front = deque([Pair(Model(whole_only, no_wait=no_wait), make)])
    while front:
        pair = front.popleft()
        for action, units in pair.actions():
            after = pair.copy()
            after.step(action, units)
            if after.model not in seen:
                seen.add(after.model)
                front.append(after)
        pair.settle()
    return len(seen)


@pytest.mark.parametrize(("whole_only", "no_wait"), [(False, False), (True, False), (False, True)])
def test_in_every_state_that_can_be_reached_every_step_does_what_the_model_does(
    whole_only: bool, no_wait: bool
) -> None:
    assert explore(PendingDiscards, whole_only=whole_only, no_wait=no_wait) > 40


# what each safeguard is for: the same walk with it taken out finds the damage


class NothingWithdrawn(PendingDiscards):
    def withdraw(self, ranges: bytes) -> None:
        if self._flight:
            super().withdraw(ranges)


class LongNotWithdrawn(PendingDiscards):
    def withdraw(self, ranges: bytes) -> None:
        long = self._long.intersect(packed((0, 1 << 20)))
        super().withdraw(ranges)
        self._long.add(long)


class BlocksNotWithdrawn(PendingDiscards):
    def withdraw(self, ranges: bytes) -> None:
        ready = self._ready.intersect(packed((0, 1 << 20)))
        super().withdraw(ranges)
        self._ready.add(ready)


class FlightNotGuarded(PendingDiscards):
    def withdraw(self, ranges: bytes) -> None:
        flight, self._flight = self._flight, b""
        super().withdraw(ranges)
        self._flight = flight


class TwoFlights(PendingDiscards):
    def next_batch(self, now_ns: int, *, flush: bool = False) -> bytes:
        self._flight = b""
        return super().next_batch(now_ns, flush=flush)


class FlushForgotten(PendingDiscards):
    def next_batch(self, now_ns: int, *, flush: bool = False) -> bytes:
        return super().next_batch(now_ns, flush=flush and not self._flight)


class BlocksForgotten(PendingDiscards):
    def add(self, ranges: bytes, now_ns: int) -> None:
        super().add(ranges, now_ns)
        self._ready.clear()


@pytest.mark.parametrize(
    ("without", "damage"),
    [
        (NothingWithdrawn, "waiting"),
        (LongNotWithdrawn, "waiting"),
        (BlocksNotWithdrawn, "waiting"),
        (FlightNotGuarded, "the guest loses"),
        (TwoFlights, "in flight"),
        (FlushForgotten, "in flight"),
        (BlocksForgotten, "in flight"),
    ],
)
def test_the_walk_finds_what_each_safeguard_prevents(without: type[PendingDiscards], damage: str) -> None:
    with pytest.raises(WrongError, match=damage):
        explore(without, whole_only=False, no_wait=without is LongNotWithdrawn)


@pytest.mark.parametrize("make", [PendingDiscards, NothingWithdrawn])
def test_a_page_that_goes_back_while_it_waits_keeps_what_the_guest_writes_only_if_it_is_withdrawn(
    make: type[PendingDiscards],
) -> None:
    with MemfdBackend(BLOCK * PAGE_SIZE) as backend:
        memory = Memory(BLOCK, make)
        memory.give((5, 3))
        memory.take_back((6, 1))
        backend.view[6 * PAGE_SIZE] = 77
        for batch in memory.batches(flush=True):
            Discarder(backend).discard(batch)
        assert backend.view[6 * PAGE_SIZE] == (77 if make is PendingDiscards else 0)


@pytest.mark.parametrize("make", [PendingDiscards, FlightNotGuarded])
def test_a_page_that_goes_back_while_its_discard_is_in_flight_is_lost_so_it_is_refused(
    make: type[PendingDiscards],
) -> None:
    with MemfdBackend(BLOCK * PAGE_SIZE) as backend:
        memory = Memory(BLOCK, make)
        memory.give((5, 3))
        batch = memory.pending.next_batch(HOLD)
        if make is PendingDiscards:
            with pytest.raises(LocalProtocolError, match="in flight"):
                memory.pending.withdraw(packed((6, 1)))
            return
        memory.take_back((6, 1))
        backend.view[6 * PAGE_SIZE] = 77
        Discarder(backend).discard(batch)
        assert backend.view[6 * PAGE_SIZE] == 0
