"""Cases against a guest that can add or remove memory permanently: what it accepts, and how it responds."""

from functools import partial
from typing import Final

from dynmem.conformance import layouts as dm
from dynmem.conformance.adapter import HOT_ADD, GuestUnderTest
from dynmem.conformance.case import Case, CaseTable, NotApplicableError, must
from dynmem.conformance.guest.played_host import PlayedHost
from dynmem.conformance.layouts import Span
from dynmem.units import GIB, MIB, PAGE_SIZE

TABLE: Final = CaseTable()

_BOUNDARY: Final = 32 * GIB // PAGE_SIZE  # the largest alignment of any guest


class GrowingHost(PlayedHost):
    """A host with memory to add."""

    def __init__(self, guest: GuestUnderTest) -> None:
        super().__init__(guest)
        self.begin()
        if not self.caps & dm.CAP_HOT_ADD:
            raise NotApplicableError("the guest cannot hot-add memory")
        self.step: Final = (MIB << (self.caps >> 2 & 0xF)) // PAGE_SIZE
        self.end: int = -(-guest.total_pages // _BOUNDARY) * _BOUNDARY  # where device memory begins

    def next_span(self, steps: int = 1) -> Span:
        """Return new memory, aligned for the guest."""
        span = (self.end, steps * self.step)
        self.end += span[1]
        return span

    def offer_memory(self, span: Span, region: Span | None = None) -> tuple[int, int]:
        """Offer memory. Returns how many pages were added, and the result."""
        self.send(dm.hot_add_request(self.next_id(), span, region))
        pages, result = dm.fields(self.expect(dm.HOT_ADD_RESPONSE), dm.HOT_ADD_RESPONSE, "<II")
        must(result in (0, 1), f"a hot add has result {result}")
        must(pages <= span[1], f"{pages} pages are reported as added, of {span[1]}")
        must(result or not pages, f"{pages} pages are added, and the result is failure")
        return pages, result


def _added(long: int, guest: GuestUnderTest) -> None:
    host = GrowingHost(guest)
    span = host.next_span()
    pages, result = host.offer_memory(span, span if long else None)
    must(result, "a guest that can add memory adds none")
    host.added.append((span[0], pages))
    host.balloon(2000)
    host.alive()


for _name, _long in (("guest-hot-add", 0), ("guest-hot-add-with-region", 1)):
    TABLE.add(
        Case(
            _name,
            HOT_ADD,
            "Aligned new memory is added, reported by its count with result 1, and can be ballooned.",
            "Linux hv_balloon.c, hot_add_req; QEMU hv-balloon.c, hv_balloon_handle_hot_add_response",
            partial(_added, _long),
        )
    )


@TABLE.case(
    "guest-hot-add-inside-region",
    HOT_ADD,
    "If the region is larger than the range, only the range is added.",
    "Linux hv_balloon.c, handle_pg_range: the region is what exists, the range what may be used",
)
def _inside(guest: GuestUnderTest) -> None:
    host = GrowingHost(guest)
    first, length = host.next_span(2)
    pages, _ = host.offer_memory((first, host.step), (first, length))
    host.added.append((first, pages))
    host.balloon(guest.total_pages)


@TABLE.case(
    "guest-hot-add-again",
    HOT_ADD,
    "Memory that was added before, or at boot, is not added again.",
    "Linux hv_balloon.c, hv_mem_hot_add: EEXIST ends it permanently",
)
def _again(guest: GuestUnderTest) -> None:
    host = GrowingHost(guest)
    span = host.next_span()
    pages, _ = host.offer_memory(span)
    host.added.append((span[0], pages))
    must(host.offer_memory(span)[0] == 0, "the same memory is added twice")
    must(host.offer_memory((0, host.step))[0] == 0, "its boot memory is added")
    host.alive()


@TABLE.case(
    "guest-hot-add-in-a-row",
    HOT_ADD,
    "Successive requests get responses, and pages are ballooned and returned in between.",
    "QEMU hv-balloon.c asks for 2 GiB at a time",
)
def _row(guest: GuestUnderTest) -> None:
    host = GrowingHost(guest)
    for _ in range(4):
        span = host.next_span()
        pages, _ = host.offer_memory(span)
        host.added.append((span[0], pages))
        host.alive()


@TABLE.case(
    "guest-hot-add-outside-region",
    HOT_ADD,
    "A range outside its region, or an empty one, is not added, and the guest continues.",
    "the host's two ranges do not agree",
)
def _outside(guest: GuestUnderTest) -> None:
    host = GrowingHost(guest)
    span, region = host.next_span(), host.next_span()
    for request in (dm.hot_add_request(1, span, region), dm.hot_add_request(2, (span[0], 0), span)):
        host.send(request)
        for answer in host.arrived():
            must(dm.fields(answer, dm.HOT_ADD_RESPONSE, "<II")[0] == 0, "it is added")
    host.alive()


def _removed(asked: int, guest: GuestUnderTest) -> None:
    host = PlayedHost(guest).begin()
    if not host.caps & dm.CAP_HOT_REMOVE:
        raise NotApplicableError("the guest cannot hot-remove memory")
    host.send(dm.hot_remove_request(host.next_id(), asked))
    more, parts = True, 0
    while more:
        must(parts < 4096, "the responses to a hot-remove request have no end")
        found = host.arrived()
        must(found, "a hot-remove request gets no final response")
        for response in found:
            must(more, f"{response.name} follows the response with more_pages 0")
            result, gift = dm.read_hot_remove(response)
            must(result in (0, 1), f"a hot remove has result {result}")
            must(result or not gift.spans, "pages are removed, and the result is failure")
            host.take(gift.spans)
            more, parts = gift.more, parts + 1
    must(len(host.given) <= asked, f"{len(host.given)} pages are removed where {asked} are requested")
    host.alive()


for _name, _asked in (("guest-hot-remove", 3000), ("guest-hot-remove-of-nothing", 0)):
    TABLE.add(
        Case(
            _name,
            HOT_ADD,
            "Hot-removed pages belong to the guest, each once, no more than requested; the guest continues.",
            "dynmem-proto.h, dm_hot_remove_response",
            partial(_removed, _asked),
        )
    )
