"""Discards held back on real memory, any pages in any order: a guest finds every byte that it wrote."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.rigs.held_back import BLOCK, HOLD, Memory
from tests.rigs.memory import memory_of
from tests.rigs.pages import pages_of

from dynmem.memory.discard import Discarder
from dynmem.pages import ranges as page_ranges
from dynmem.units import PAGE_SIZE

PAGES = 4 * BLOCK + 20
SPANS = st.lists(st.tuples(st.integers(0, PAGES - 1), st.integers(1, 90)), min_size=1, max_size=6)


class HeldBack(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.backend = memory_of(self, PAGES * PAGE_SIZE)
        self.discarder = Discarder(self.backend)
        self.memory = Memory(PAGES, pages_max=150)
        self.gone: set[int] = set()
        self.flight = b""
        self.now = 0
        for page in range(PAGES):
            self.write(page)

    def write(self, page: int) -> None:
        self.backend.view[page * PAGE_SIZE] = 1 + page % 251

    def inside(self, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return [(start, min(count, PAGES - start)) for start, count in spans]

    @rule(spans=SPANS)
    def give(self, spans: list[tuple[int, int]]) -> None:
        spans = self.inside(spans)
        self.memory.give(*spans, now=self.now)
        self.gone |= {page for start, count in spans for page in range(start, start + count)}

    @precondition(lambda self: not self.flight and self.gone)
    @rule(most=st.integers(1, 200), ranges=st.integers(1, 5))
    def take_back(self, most: int, ranges: int) -> None:
        taken = self.memory.given.take(most, ranges)
        self.memory.pending.withdraw(taken)
        for page in pages_of(taken):
            self.gone.remove(page)
            self.write(page)

    @precondition(lambda self: not self.flight)
    @rule(flush=st.booleans())
    def send(self, flush: bool) -> None:
        self.flight = self.memory.pending.next_batch(self.now, flush=flush)

    @precondition(lambda self: self.flight)
    @rule()
    def finish(self) -> None:
        assert self.discarder.discard(self.flight) == page_ranges.page_count(self.flight) * PAGE_SIZE
        self.memory.pending.done()
        self.flight = b""

    @rule(passed=st.integers(1, HOLD))
    def wait(self, passed: int) -> None:
        self.now += passed

    @precondition(lambda self: not self.flight)
    @rule()
    def reset(self) -> None:
        self.memory.given.clear()
        self.memory.pending.clear()
        for page in self.gone:
            self.write(page)
        self.gone = set()

    @invariant()
    def the_guest_finds_every_byte(self) -> None:
        view = self.backend.view  # reading a page that is gone would bring it back
        for page in range(PAGES):
            assert page in self.gone or view[page * PAGE_SIZE] == 1 + page % 251

    def teardown(self) -> None:
        if self.flight:
            self.finish()
        for batch in self.memory.batches(self.now, flush=True):
            self.discarder.discard(batch)
        assert self.backend.resident_bytes() == (PAGES - len(self.gone)) * PAGE_SIZE
        self.the_guest_finds_every_byte()
        self.backend.close()


TestHeldBack = HeldBack.TestCase
TestHeldBack.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
