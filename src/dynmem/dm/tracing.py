"""The trace events of the host's end, called where QEMU hw/hyperv/hv-balloon.c calls them."""

from collections.abc import Callable, Mapping
from typing import Final

from dynmem import trace_events
from dynmem.limits import GUEST_PAGE_MAX
from dynmem.pages import ranges as page_ranges
from dynmem.pages.ranges import RANGE_BYTES, START_BITS
from dynmem.trace_events import Trace
from dynmem.wire import dm


def received(trace: Trace, message: dm.Message) -> None:
    """Trace a message of the guest that was expected, before anything comes of it."""
    call = _RECEIVED.get(type(message))
    if call is not None:
        call(trace, message)


def posted(trace: Trace, message: dm.Message, remaining: int) -> None:
    """Trace a request that is in the ring.

    `remaining` pages are left of the operation: of a balloon including these (they are not answered), of an
    unballoon without them.
    """
    call = _POSTED.get(type(message))
    if call is not None:
        call(trace, message, remaining)


def _version(trace: Trace, message: dm.VersionRequest) -> None:
    trace(
        trace_events.HV_BALLOON_INCOMING_VERSION, dm.major_version(message.version), message.version & 0xFFFF
    )


def _caps(trace: Trace, message: dm.CapabilitiesReport) -> None:
    trace(trace_events.HV_BALLOON_INCOMING_CAPS, message.caps & 0xFFFF_FFFF)


def _balloon_response(trace: Trace, message: dm.BalloonResponse) -> None:
    count = len(message.ranges) // RANGE_BYTES
    trace(trace_events.HV_BALLOON_INCOMING_BALLOON, message.trans_id, count, int(message.more_pages))


def _unballoon_response(trace: Trace, message: dm.UnballoonResponse) -> None:
    trace(trace_events.HV_BALLOON_INCOMING_UNBALLOON, message.trans_id)


def _hot_add_response(trace: Trace, message: dm.HotAddResponse) -> None:
    trace(trace_events.HV_BALLOON_INCOMING_HOT_ADD, message.trans_id, message.result, message.page_count)


def _balloon(trace: Trace, message: dm.BalloonRequest, remaining: int) -> None:
    trace(trace_events.HV_BALLOON_OUTGOING_BALLOON, message.trans_id, message.num_pages, remaining)


def _unballoon(trace: Trace, message: dm.UnballoonRequest, remaining: int) -> None:
    """Trace one event for each range, as if each were a message of its own, which is how QEMU sends them."""
    if not trace.on(trace_events.HV_BALLOON_OUTGOING_UNBALLOON):
        return
    starts, counts = page_ranges.unpack(message.ranges)
    remaining += int(counts.sum())
    for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
        remaining -= count
        trace(trace_events.HV_BALLOON_OUTGOING_UNBALLOON, message.trans_id, count, start, remaining)


def _hot_add(trace: Trace, message: dm.HotAddRequest, remaining: int) -> None:
    start, count = message.range & GUEST_PAGE_MAX, message.range >> START_BITS
    trace(trace_events.HV_BALLOON_OUTGOING_HOT_ADD, message.trans_id, count, start)


_RECEIVED: Final[Mapping[type, Callable[..., None]]] = {
    dm.VersionRequest: _version,
    dm.CapabilitiesReport: _caps,
    dm.BalloonResponse: _balloon_response,
    dm.UnballoonResponse: _unballoon_response,
    dm.HotAddResponse: _hot_add_response,
}
_POSTED: Final[Mapping[type, Callable[..., None]]] = {
    dm.BalloonRequest: _balloon,
    dm.UnballoonRequest: _unballoon,
    dm.HotAddRequest: _hot_add,
}
