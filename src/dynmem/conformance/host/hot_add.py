"""Cases against a host that can hot-add memory: where, how much at once, and what a response means."""

from functools import partial
from typing import Final

from dynmem.conformance import layouts as dm
from dynmem.conformance.adapter import HOT_ADD, HostUnderTest
from dynmem.conformance.case import Case, CaseTable, NotApplicableError, must
from dynmem.conformance.host.played_guest import PlayedGuest, settle_ns
from dynmem.conformance.layouts import CAP_BALLOON, CAP_HOT_ADD, Span
from dynmem.units import GIB, MIB, PAGE_SIZE

TABLE: Final = CaseTable()

_CAPS: Final = CAP_BALLOON | CAP_HOT_ADD
_STEP: Final = 128 * MIB // PAGE_SIZE


class GrowingGuest(PlayedGuest):
    """A guest that accepts memory, and checks where it lies.

    Attributes:
        added: Ranges that it was offered and has accepted.

    """

    def __init__(self, host: HostUnderTest, alignment: int = 7) -> None:
        super().__init__(host)
        if not host.hot_add_pages:
            raise NotApplicableError("the host cannot hot-add memory")
        self.added: list[Span] = []
        self.alignment = alignment
        self.caps: Final = _CAPS | alignment << 2

    def ask_for(self, pages: int) -> None:
        """Set a target that far above the boot size."""
        self.host.set_target(self.host.boot_pages + pages)

    def offered(self) -> Span:
        """Return the expected hot-add request."""
        return self.checked(dm.read_hot_add(self.expect()))

    def checked(self, request: tuple[Span, Span]) -> Span:
        """Return a range after checking that it fits this guest."""
        (start, count), (first, pages) = request
        step = (MIB << self.alignment) // PAGE_SIZE
        must(count, "no pages are offered")
        must(start >= self.host.boot_pages, f"page {start:#x} lies in the guest's boot memory")
        must(start + count <= 1 << 40, "the range leaves the guest's address space")
        must(
            not start % step and not count % step, f"{start:#x}+{count:#x} is not in steps of {step:#x} pages"
        )
        must(first <= start and start + count <= first + pages, "the range is not inside its region")
        for other, length in self.added:
            must(start + count <= other or other + length <= start, f"page {start:#x} is offered again")
        return start, count

    def answer(self, span: Span, pages: int, result: int) -> None:
        """Accept the first that many pages of `span`."""
        if pages:
            self.added.append((span[0], pages))
        self.send(dm.hot_add_response(self.next_id(), pages, result))


def _growing(host: HostUnderTest, alignment: int = 7) -> GrowingGuest:
    guest = GrowingGuest(host, alignment)
    guest.start(caps=guest.caps)
    return guest


@TABLE.case(
    "hot-add-in-pieces",
    HOT_ADD,
    "A large target is offered completely, in consecutive requests of at most 2 GiB that never overlap.",
    "QEMU hv-balloon.c, HV_BALLOON_HA_CHUNK_PAGES",
)
def _pieces(host: HostUnderTest) -> None:
    guest = _growing(host)
    wanted = host.hot_add_pages - host.hot_add_pages % _STEP
    if not wanted:
        raise NotApplicableError("the host can add less than 128 MiB")
    guest.ask_for(wanted)
    left = wanted
    while left:
        span = guest.offered()
        must(span[1] <= min(left, 2 * GIB // PAGE_SIZE), f"{span[1]} pages are offered, {left} are left")
        guest.silent("before the response to a hot add")
        guest.answer(span, span[1], 1)
        left -= span[1]
    guest.silent("with everything added")
    guest.actual(host.boot_pages + wanted)


def _boundary(alignment: int, host: HostUnderTest) -> None:
    guest = _growing(host, alignment)
    step = (MIB << alignment) // PAGE_SIZE
    if host.hot_add_pages < 2 * step:
        raise NotApplicableError("the host can add less than two such steps")
    guest.ask_for(2 * step - 1)
    span = guest.offered()
    must(span[1] == step, f"{span[1]} pages are offered for a target of just less than two steps")
    guest.answer(span, span[1], 1)
    guest.silent("with less than a step missing")


for _name, _alignment in (("1-MiB", 0), ("128-MiB", 7), ("2-GiB", 11)):
    TABLE.add(
        Case(
            f"hot-add-on-a-boundary-of-{_name}",
            HOT_ADD,
            "Start and length are multiples of the guest's alignment; a remainder is not offered.",
            "dynmem-proto.h, dm_caps.hot_add_alignment; Linux rounds to its memory blocks",
            partial(_boundary, _alignment),
        )
    )


@TABLE.case(
    "hot-add-without-capability",
    HOT_ADD,
    "A guest without the hot-add capability is never offered memory.",
    "dynmem-proto.h, dm_caps.hot_add",
)
def _no_capability(host: HostUnderTest) -> None:
    guest = GrowingGuest(host)
    guest.start(caps=CAP_BALLOON)
    guest.ask_for(2 * _STEP)
    host.advance(settle_ns(host))
    guest.silent("to a guest that cannot hot-add")


@TABLE.case(
    "hot-add-below-last-page",
    HOT_ADD,
    "Nothing above the max_page_number of the guest's capabilities is offered.",
    "dynmem-proto.h, dm_capabilities.max_page_number",
)
def _last_page(host: HostUnderTest) -> None:
    guest = GrowingGuest(host)
    last = host.boot_pages + _STEP - 1
    guest.start(caps=guest.caps, largest=last)
    guest.ask_for(host.hot_add_pages)
    host.advance(settle_ns(host))
    for request in guest.packets():
        start, count = guest.checked(dm.read_hot_add(request))
        must(
            start + count - 1 <= last,
            f"pages up to {start + count - 1:#x} are offered, the last is {last:#x}",
        )


@TABLE.case(
    "hot-add-after-unballoon",
    HOT_ADD,
    "Pages in the balloon are returned before new memory is offered.",
    "QEMU hv-balloon.c, hv_balloon_idle_state_process_target",
)
def _after_unballoon(host: HostUnderTest) -> None:
    guest = _growing(host)
    guest.balloon(1000)
    guest.ask_for(2 * _STEP)
    must(len(guest.get_back()) == 1000, "not everything that was given is returned first")
    host.advance(settle_ns(host))
    span = guest.offered()
    guest.answer(span, span[1], 1)
    guest.actual(host.boot_pages + span[1])


def _never_again(pages: int, host: HostUnderTest) -> None:
    guest = _growing(host)
    guest.ask_for(2 * _STEP)
    guest.answer(guest.offered(), pages, 1)
    for extra in (2, 2, 3):
        guest.ask_for(extra * _STEP)
        host.advance(settle_ns(host))
        guest.silent("to a guest that adds no more memory")
    guest.actual(host.boot_pages + pages)


for _name, _pages in (("never-again", 0), ("fewer-then-never-again", _STEP)):
    TABLE.add(
        Case(
            f"hot-add-{_name}",
            HOT_ADD,
            "Fewer pages than offered, with result 1, count and are the last: no more memory is offered.",
            "dynmem-proto.h, dm_hot_add_response: 'no further hot add'; Linux do_hot_add = false",
            partial(_never_again, _pages),
        )
    )


@TABLE.case(
    "hot-add-not-now",
    HOT_ADD,
    "(0, 0) means 'not now': the memory is offered again later.",
    "Linux hv_balloon.c, hot_add_req: result 0 with count 0 is transient, the host may retry",
)
def _not_now(host: HostUnderTest) -> None:
    guest = _growing(host)
    guest.ask_for(2 * _STEP)
    guest.answer(guest.offered(), 0, 0)
    guest.silent("at once after 'not now'")
    guest.actual(host.boot_pages)
    host.advance(settle_ns(host))
    guest.ask_for(2 * _STEP)
    span = guest.offered()
    guest.answer(span, span[1], 1)
    guest.actual(host.boot_pages + span[1])


@TABLE.case(
    "hot-add-more-than-offered",
    HOT_ADD,
    "A guest that claims to have added more than it was offered has exactly what it was offered.",
    "QEMU hv-balloon.c clamps page_count and warns",
)
def _more_than_offered(host: HostUnderTest) -> None:
    guest = _growing(host)
    guest.ask_for(2 * _STEP)
    span = guest.offered()
    guest.send(dm.hot_add_response(guest.next_id(), 0xFFFF_FFFF, 1))
    host.advance(settle_ns(host))
    guest.silent("with everything added")
    guest.actual(host.boot_pages + span[1])


@TABLE.case(
    "hot-add-then-balloon",
    HOT_ADD,
    "Pages of added memory can be ballooned and returned like those of boot memory.",
    "QEMU hv-balloon.c, our_range's removed_guest and removed_both",
)
def _then_balloon(host: HostUnderTest) -> None:
    guest = _growing(host)
    guest.ask_for(2 * _STEP)
    span = guest.offered()
    guest.answer(span, span[1], 1)
    guest.ask_for(span[1] - 500)
    must(guest.asked() == 500, "not exactly 500 pages are requested")
    guest.give([(span[0] + 100, 500)])
    guest.actual(host.boot_pages + span[1] - 500)
    guest.ask_for(span[1])
    must(len(guest.get_back()) == 500, "not everything that was given is returned")
    guest.actual(host.boot_pages + span[1])
