"""Sharing pages of modules: what each call does, refuses and leaves as it was; what a VM leaves behind."""

from collections.abc import Callable
from dataclasses import asdict

import pytest
from tests.gmm.naive_pages import NaivePages, page_to_check, regions_of

from dynmem.gmm.codes import GmmError, OsFamily, Status
from dynmem.gmm.constants import NIL_GMM_PAGEID
from dynmem.gmm.modules import Region
from dynmem.gmm.sharing import MAX_REFERENCES, Checked, LeftBehind, Outcome, Sharing

BASE = 0x7FF0_0000_0000
OTHER_BASE = 0x7FF1_0000_0000
PAGES = 4


class Host:
    """VMs a, b and c, each stopped, each with the same module of one region of 4 pages, and a page store."""

    def __init__(self) -> None:
        self.pages = NaivePages()
        self.sharing = Sharing(self.pages)
        for vm in "abc":
            self.register(vm, BASE)
            self.sharing.stop(vm)
        for number in range(PAGES):
            self.pages.give("a", 0x200 + number, number)
            self.pages.give("b", 0x300 + number, number)
        self.pages.give("b", 0x3FF, 99)
        self.pages.pages[0x1FF] = self.pages.pages[self.pages.give("c", 0x1FE, 1)].__class__(None, 0)

    def register(self, vm: str, base: int, name: str = "libc.so") -> None:
        self.sharing.modules.register(
            vm, OsFamily.LINUX64, name, "2.36", base, 0x4000, regions_of(Region(base, PAGES << 12))
        )

    def check(self, vm: str, page: int, page_id: int, base: int = BASE) -> tuple[Outcome, int]:
        descriptor = page_to_check(page_id)
        outcome = self.sharing.check_page(vm, base, 0, page, descriptor)
        return outcome, int(descriptor["idPage"])

    def snapshot(self) -> object:
        sharing = self.sharing
        return (
            {page_id: asdict(page) for page_id, page in self.pages.pages.items()},
            {vm: [column.tolist() for column in one.pages()] for vm, one in sharing._references.items()},
            [
                [ids.tolist() for ids in sharing.modules.describe(vm, base).page_ids]
                for vm in "abc"
                for base in sharing.modules.of(vm)
            ],
            (sharing.left_behind_pages, len(sharing.modules)),
        )


def test_the_first_page_of_a_place_is_shared_and_an_equal_one_is_merged_with_it() -> None:
    host = Host()
    first, second = page_to_check(0x201), page_to_check(0x301)
    assert host.sharing.check_page("a", BASE, 0, 1, first) is Outcome.SHARED
    assert (first["idPage"], first["HCPhys"]) == (0x201, 0x201 << 12)
    assert host.pages.references(0x201) == 1
    assert host.sharing.check_page("b", BASE, 0, 1, second) is Outcome.MERGED
    assert (second["idPage"], second["HCPhys"]) == (0x201, 0x201 << 12)
    assert host.pages.references(0x201) == 2
    assert (host.pages.owner(0x301), host.pages.references(0x301)) == (None, 0)
    assert host.sharing.verify() == (1, 1)
    assert (host.sharing.held("a"), host.sharing.held("b"), host.sharing.held("c")) == (1, 1, 0)
    host.sharing.verify()


def test_a_page_of_other_content_is_left_alone() -> None:
    host = Host()
    host.check("a", 0, 0x200)
    before = host.snapshot()
    assert host.check("b", 0, 0x3FF) == (Outcome.LEFT, NIL_GMM_PAGEID)
    assert host.snapshot() == before


def test_a_page_that_is_not_to_be_shared_is_left_alone_even_as_the_first() -> None:
    host = Host()
    host.pages.pages[0x200].may_share = False
    assert host.check("a", 0, 0x200) == (Outcome.LEFT, NIL_GMM_PAGEID)
    assert host.pages.owner(0x200) == "a"
    assert host.check("b", 0, 0x300) == (Outcome.SHARED, 0x300)


def test_a_page_with_as_many_references_as_it_can_have_is_merged_with_no_more() -> None:
    host = Host()
    host.check("a", 0, 0x200)
    host.pages.pages[0x200].references = MAX_REFERENCES
    assert host.check("b", 0, 0x300) == (Outcome.LEFT, NIL_GMM_PAGEID)
    host.pages.pages[0x200].references -= 1
    assert host.check("b", 0, 0x300) == (Outcome.MERGED, 0x200)


def test_a_shared_page_that_is_gone_gives_its_place_to_the_next() -> None:
    host = Host()
    host.check("a", 0, 0x200)
    assert host.sharing.drop("a", 0x200)
    assert host.check("b", 0, 0x300) == (Outcome.SHARED, 0x300)
    assert host.sharing.drop("b", 0x300)
    del host.pages.pages[0x300]
    host.pages.give("b", 0x310, 0)
    assert host.check("b", 0, 0x310) == (Outcome.SHARED, 0x310)
    host.sharing.verify()


def test_a_vm_that_has_a_module_twice_has_two_references_and_drops_each() -> None:
    host = Host()
    host.register("a", OTHER_BASE)
    host.check("a", 1, 0x201)
    host.pages.give("a", 0x210, 1)
    assert host.check("a", 1, 0x210, OTHER_BASE) == (Outcome.MERGED, 0x201)
    assert host.sharing.holds("a", 0x201) == 2
    assert not host.sharing.drop("a", 0x201)
    assert host.sharing.drop("a", 0x201)
    assert host.sharing.verify() == (0, 0)
    host.sharing.verify()


def test_pages_stay_shared_when_their_module_is_unregistered_or_reset() -> None:
    host = Host()
    host.check("a", 1, 0x201)
    host.check("b", 1, 0x301)
    host.sharing.modules.unregister("a", "libc.so", "2.36", BASE, 0x4000)
    assert host.sharing.modules.reset("b") == 1
    assert (host.sharing.held("a"), host.sharing.held("b")) == (1, 1)
    host.sharing.verify()
    assert not host.sharing.drop("b", 0x201)
    assert host.sharing.drop("a", 0x201)


def prepared() -> Host:
    """a shares its pages 0 and 1, b refers to the first; c runs."""
    host = Host()
    host.check("a", 0, 0x200)
    host.check("a", 1, 0x201)
    host.check("b", 0, 0x300)
    host.sharing.resume("c")
    return host


REFUSED: list[tuple[Status, Callable[[Host], object]]] = [
    (Status.WRONG_ORDER, lambda host: host.check("c", 1, 0x1FE)),
    (Status.WRONG_ORDER, lambda host: host.sharing.check("c")),
    (Status.NOT_SUPPORTED, lambda host: host.sharing.check("a")),
    (Status.SHARED_MODULE_NOT_FOUND, lambda host: host.check("b", 1, 0x301, OTHER_BASE)),
    (Status.INVALID_PARAMETER, lambda host: host.check("b", PAGES, 0x301)),
    (Status.INVALID_PARAMETER, lambda host: host.check("b", -1, 0x301)),
    (Status.INVALID_PARAMETER, lambda host: host.sharing.check_page("b", BASE, 1, 0, page_to_check(0x301))),
    (Status.INVALID_PARAMETER, lambda host: host.sharing.check_page("b", BASE, -1, 0, page_to_check(0x301))),
    (
        Status.INVALID_PARAMETER,
        lambda host: host.sharing.check_page("b", BASE, 0, 1, page_to_check(0x301, address=0x1001)),
    ),
    (Status.PAGE_NOT_FOUND, lambda host: host.check("b", 1, NIL_GMM_PAGEID)),
    (Status.PAGE_NOT_FOUND, lambda host: host.check("b", 1, 0x400)),
    (Status.PAGE_NOT_PRIVATE, lambda host: host.check("b", 1, 0x200)),
    (Status.PAGE_NOT_PRIVATE, lambda host: host.check("b", 1, 0x1FF)),
    (Status.NOT_PAGE_OWNER, lambda host: host.check("b", 1, 0x202)),
    (Status.PAGE_NOT_FOUND, lambda host: host.sharing.drop("a", 0x400)),
    (Status.PAGE_NOT_SHARED, lambda host: host.sharing.drop("a", 0x202)),
    (Status.PAGE_NOT_SHARED, lambda host: host.sharing.drop("b", 0x300)),
    (Status.NOT_PAGE_OWNER, lambda host: host.sharing.drop("b", 0x201)),
    (Status.NOT_PAGE_OWNER, lambda host: host.sharing.drop("c", 0x200)),
    (Status.PAGE_NOT_FOUND, lambda host: host.sharing.find_duplicate("a", 0x400)),
    (Status.PAGE_ALREADY_FREE, lambda host: host.sharing.find_duplicate("b", 0x300)),
    (Status.NOT_PAGE_OWNER, lambda host: host.sharing.find_duplicate("b", 0x202)),
    (Status.NOT_PAGE_OWNER, lambda host: host.sharing.find_duplicate("b", 0x201)),
]


@pytest.mark.parametrize(("code", "call"), REFUSED)
def test_a_refused_call_has_its_code_and_changes_nothing(
    code: Status, call: Callable[[Host], object]
) -> None:
    host = prepared()
    before = host.snapshot()
    with pytest.raises(GmmError) as refused:
        call(host)
    assert refused.value.code is code
    assert host.snapshot() == before
    host.sharing.verify()


def test_a_vm_runs_until_it_is_stopped_and_again_when_it_is_resumed() -> None:
    host = Host()
    for running in (lambda: host.sharing.resume("a"), lambda: host.sharing.leave("a")):
        host.sharing.stop("a")
        running()
        with pytest.raises(GmmError, match="stop it") as refused:
            host.check("a", 1, 0x201)
        assert refused.value.code is Status.WRONG_ORDER


def test_what_a_vm_leaves_behind_is_counted_and_reclaimed() -> None:
    host = Host()
    host.register("a", OTHER_BASE)
    host.pages.give("a", 0x210, 0)
    for number in range(PAGES):
        host.check("a", number, 0x200 + number)
    host.check("a", 0, 0x210, OTHER_BASE)
    host.check("b", 0, 0x300)
    host.check("b", 1, 0x301)
    assert host.sharing.verify() == (4, 3)
    assert host.sharing.leave("a") == LeftBehind(references=5, freed=2)
    assert [host.pages.references(0x200 + number) for number in range(PAGES)] == [1, 1, 0, 0]
    assert host.sharing.verify() == (2, 0)
    assert host.sharing.left_behind_pages == 5
    assert host.sharing.held("a") == 0
    assert host.sharing.modules.of("a") == []
    assert host.sharing.leave("b") == LeftBehind(references=2, freed=2)
    assert (host.sharing.verify(), host.sharing.left_behind_pages) == ((0, 0), 7)
    assert host.sharing.leave("b") == LeftBehind(references=0, freed=0)
    host.sharing.verify()


def test_memory_that_cannot_be_returned_stops_a_call_before_it_changes_anything() -> None:
    host = prepared()
    host.pages.stuck = {0x201, 0x301}
    before = host.snapshot()
    for call in (lambda: host.check("b", 1, 0x301), lambda: host.sharing.drop("a", 0x201)):
        with pytest.raises(OSError, match="is stuck"):
            call()
        assert host.snapshot() == before
        host.sharing.verify()
    with pytest.raises(OSError, match="is stuck"):
        host.sharing.leave("a")
    host.sharing.verify()
    assert (host.sharing.holds("a", 0x200), host.sharing.holds("a", 0x201)) == (0, 1)
    host.pages.stuck.clear()
    assert host.sharing.leave("a") == LeftBehind(references=1, freed=1)
    assert host.sharing.left_behind_pages == 2
    host.sharing.verify()


class Guest:
    """A guest whose pages are known by virtual address."""

    def __init__(self, pages: dict[int, int]) -> None:
        self.pages = pages
        self.read_only: set[int] = set()

    def page_at(self, address: int) -> int | None:
        return self.pages.get(address)

    def shared(self, page_id: int, now: int) -> None:
        self.pages = {address: now if own == page_id else own for address, own in self.pages.items()}
        self.read_only.add(now)


def test_a_check_of_all_modules_shares_what_can_be_shared_and_reports_each_page_to_the_guest() -> None:
    host = Host()
    a = Guest({BASE + (number << 12): 0x200 + number for number in range(PAGES)})
    b = Guest({BASE: 0x300, BASE + 0x1000: 0x3FF, BASE + 0x2000: 0x302})
    host.sharing.attach("a", a)
    host.sharing.attach("b", b)
    assert host.sharing.check("a") == Checked(shared=4)
    assert a.read_only == {0x200, 0x201, 0x202, 0x203}
    assert host.sharing.check("b") == Checked(merged=2, left=1, absent=1)
    assert b.pages == {BASE: 0x200, BASE + 0x1000: 0x3FF, BASE + 0x2000: 0x202}
    assert b.read_only == {0x200, 0x202}
    before = host.snapshot()
    assert host.sharing.check("b") == Checked(left=3, absent=1)
    assert host.snapshot() == before
    host.sharing.verify()


def test_a_page_that_a_guest_has_at_two_addresses_is_merged_once() -> None:
    host = Host()
    host.register("b", OTHER_BASE, name="another")
    host.check("a", 0, 0x200)
    b = Guest({BASE: 0x300, OTHER_BASE: 0x300})
    host.sharing.attach("b", b)
    assert host.sharing.check("b") == Checked(merged=1, left=1, absent=6)
    assert b.pages == {BASE: 0x200, OTHER_BASE: 0x200}
    assert host.sharing.holds("b", 0x200) == 1
    host.sharing.verify()


def test_a_check_stops_at_a_page_that_is_not_its_own_and_has_done_the_ones_before() -> None:
    host = Host()
    b = Guest({BASE: 0x300, BASE + 0x1000: 0x202})
    host.sharing.attach("b", b)
    with pytest.raises(GmmError) as refused:
        host.sharing.check("b")
    assert refused.value.code is Status.NOT_PAGE_OWNER
    assert b.read_only == {0x300}
    assert host.sharing.held("b") == 1
    host.sharing.verify()


def test_a_region_that_begins_within_a_page_is_checked_from_that_page_on() -> None:
    host = Host()
    inside = regions_of(Region(OTHER_BASE + 0x800, 0x1000))
    host.sharing.modules.register("a", OsFamily.LINUX64, "odd", "1", OTHER_BASE, 0x2000, inside)
    host.sharing.attach("a", Guest({OTHER_BASE: 0x200, OTHER_BASE + 0x1000: 0x201}))
    assert host.sharing.check("a") == Checked(shared=2, absent=PAGES)


def test_a_duplicate_is_a_private_page_of_another_vm_with_the_same_content() -> None:
    host = Host()
    assert host.sharing.find_duplicate("a", 0x200)
    assert not host.sharing.find_duplicate("b", 0x3FF)
    host.pages.give("b", 0x3FE, 99)
    assert not host.sharing.find_duplicate("b", 0x3FF)
    for page, own in ((0, 0x200), (1, 0x201)):
        host.check("a", page, own)
    host.check("b", 0, 0x300)
    assert not host.sharing.find_duplicate("b", 0x200)
    assert host.sharing.find_duplicate("a", 0x201)
