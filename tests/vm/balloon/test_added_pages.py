"""Which pages were added, against a plain set; and what a guest can make this account cost."""

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rigs.pages import packed, pages_of

from dynmem.limits import VM_ADDED_PIECES_MAX
from dynmem.pages.algebra import Ranges, joined
from dynmem.vm.balloon.added_pages import UNIT_PAGES, AddedPages

UNITS = 12
PAGES = UNITS * UNIT_PAGES - 100  # the last megabyte is no whole one


class Model:
    """The account, and the plain set of pages that the guest has beside it."""

    def __init__(self) -> None:
        self.account = AddedPages(PAGES)
        self.has: set[int] = set()
        self.gone: set[int] = set()  # of megabytes that are added

    def add(self, pages: int, alignment: int, offset: int, end: int) -> None:
        pages = max(pages - pages % alignment, alignment)
        found = self.account.find(pages, alignment, offset, end)
        free = set(range(PAGES)) - self.has - self.gone
        starts = range(-offset % alignment, min(end, PAGES), alignment)
        fits = [
            s for s in starts if s + alignment <= min(end, PAGES) and free.issuperset(range(s, s + alignment))
        ]
        if found is None:
            assert not fits
            return
        start, count = found
        assert (start + offset) % alignment == count % alignment == 0
        assert 0 < count <= pages
        assert start + count <= end
        assert free.issuperset(range(start, start + count))
        taken = count - (count // 3 if end % 2 else 0)  # the guest may take a part
        self.account.add(start, taken)
        self.has.update(range(start, start + taken))
        self.gone.update(range(start + taken, -(-(start + taken) // UNIT_PAGES) * UNIT_PAGES))

    def remove(self, spans: list[tuple[int, int]]) -> None:
        named = set(pages_of(packed(*spans)))
        found = self.account.present(joined(packed(*spans)))
        present = set(pages_of(found.packed()))
        assert present == (set() if named & self.gone else named & self.has)
        if not present:
            return
        self.account.remove(found)
        self.has -= present
        self.gone |= present
        for unit in range(UNITS):
            whole = set(range(unit * UNIT_PAGES, (unit + 1) * UNIT_PAGES))
            if self.gone >= whole:
                self.gone -= whole

    def check(self) -> None:
        assert len(self.account) == len(self.has)
        for unit in range(UNITS):
            span = range(unit * UNIT_PAGES, (unit + 1) * UNIT_PAGES)
            is_added = not self.has.isdisjoint(span)
            assert self.account.overlaps(span.start, span.stop) == is_added
        unused = self.account.unused(Ranges.span(0, PAGES), 2 * UNIT_PAGES)
        assert set(pages_of(unused)) == {
            page
            for block in range(PAGES // (2 * UNIT_PAGES))
            for page in range(block * 2 * UNIT_PAGES, (block + 1) * 2 * UNIT_PAGES)
            if not self.account.overlaps(block * 2 * UNIT_PAGES, (block + 1) * 2 * UNIT_PAGES)
        }


adds = st.tuples(
    st.integers(1, PAGES),
    st.sampled_from((256, 512, 1024)),
    st.sampled_from((0, 256, 1024)),
    st.sampled_from((PAGES, PAGES + 999, 4 * UNIT_PAGES + 1, 0)),
)
at = st.sampled_from((0, 1, 255, 256, 300, 512, 1000, 2048, 2600))
removals = st.lists(st.tuples(at, st.sampled_from((1, 100, 255, 256, 512, 700))), min_size=1, max_size=3)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(adds, removals), max_size=10))
def test_the_account_of_added_pages_does_what_a_plain_set_does(
    steps: list[tuple[int, int, int, int] | list[tuple[int, int]]],
) -> None:
    model = Model()
    for step in steps:
        if isinstance(step, tuple):
            model.add(*step)
        else:
            model.remove(step)
        model.check()


def test_of_free_pieces_the_first_that_is_long_enough_is_taken_or_else_the_longest() -> None:
    account = AddedPages(16 * UNIT_PAGES)
    for unit in (2, 6, 13):  # free: 0-1, 3-5, 7-12, 14-15
        account.add(unit * UNIT_PAGES, UNIT_PAGES)
    end = 16 * UNIT_PAGES
    assert account.find(UNIT_PAGES, UNIT_PAGES, 0, end) == (0, UNIT_PAGES)
    assert account.find(3 * UNIT_PAGES, UNIT_PAGES, 0, end) == (3 * UNIT_PAGES, 3 * UNIT_PAGES)
    assert account.find(9 * UNIT_PAGES, UNIT_PAGES, 0, end) == (7 * UNIT_PAGES, 6 * UNIT_PAGES)


def test_a_guest_cannot_cut_added_memory_into_more_pieces_than_the_limit() -> None:
    units = 4 * VM_ADDED_PIECES_MAX
    account = AddedPages(units * UNIT_PAGES)
    account.add(0, units * UNIT_PAGES)
    for first in range(0, units, 1024):
        spans = [((first + unit) * UNIT_PAGES, UNIT_PAGES) for unit in range(0, 1024, 2)]
        account.remove(joined(packed(*spans)))
    assert len(account) == units * UNIT_PAGES // 2  # counted all the same
    pieces = account.present(Ranges.span(UNIT_PAGES, units * UNIT_PAGES))
    assert pieces.starts.size <= VM_ADDED_PIECES_MAX
    is_free = [not account.overlaps(unit * UNIT_PAGES, (unit + 1) * UNIT_PAGES) for unit in range(units)]
    assert VM_ADDED_PIECES_MAX - 1024 <= sum(is_free) <= VM_ADDED_PIECES_MAX
