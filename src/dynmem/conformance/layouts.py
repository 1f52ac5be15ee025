"""The Dynamic Memory Protocol's messages, laid out by hand, as this suite writes and reads them.

Nothing here comes from the tables of `dynmem.wire`: these bytes test every implementation, ours included.
Reading a message checks everything that the other end may rely on: the size in the header, that no field is
cut off, and that the count matches the ranges.

Source: QEMU include/hw/hyperv/dynmem-proto.h; the bytes of Linux and QEMU on the wire.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from dynmem.conformance.case import fail, must

VERSION_REQUEST: Final = 1
VERSION_RESPONSE: Final = 2
CAPABILITIES_REPORT: Final = 3
CAPABILITIES_RESPONSE: Final = 4
STATUS_REPORT: Final = 5
BALLOON_REQUEST: Final = 6
BALLOON_RESPONSE: Final = 7
UNBALLOON_REQUEST: Final = 8
UNBALLOON_RESPONSE: Final = 9
HOT_ADD_REQUEST: Final = 10
HOT_ADD_RESPONSE: Final = 11
INFO_MESSAGE: Final = 12
HOT_REMOVE_REQUEST: Final = 13
HOT_REMOVE_RESPONSE: Final = 14

NAMES: Final = {
    0: "DM_ERROR",
    1: "DM_VERSION_REQUEST",
    2: "DM_VERSION_RESPONSE",
    3: "DM_CAPABILITIES_REPORT",
    4: "DM_CAPABILITIES_RESPONSE",
    5: "DM_STATUS_REPORT",
    6: "DM_BALLOON_REQUEST",
    7: "DM_BALLOON_RESPONSE",
    8: "DM_UNBALLOON_REQUEST",
    9: "DM_UNBALLOON_RESPONSE",
    10: "DM_MEM_HOT_ADD_REQUEST",
    11: "DM_MEM_HOT_ADD_RESPONSE",
    12: "DM_INFO_MESSAGE",
    13: "DM_MEM_HOT_REMOVE_REQUEST",
    14: "DM_MEM_HOT_REMOVE_RESPONSE",
}
DM_2_0: Final = 0x0002_0000
DM_1_0: Final = 0x0001_0000
DM_0_3: Final = 0x0000_0003
CAP_BALLOON: Final = 0x01
CAP_HOT_ADD: Final = 0x02
CAP_HOT_REMOVE: Final = 0x40
MESSAGE_BYTES_MAX: Final = 4096
RANGES_MAX: Final = 510

_HEADER: Final = struct.Struct("<HHI")
_PAGE_BITS: Final = (1 << 40) - 1

Span = tuple[int, int]  # first page, number of pages


class Dm(NamedTuple):
    """One message: its header and what follows it."""

    kind: int
    trans_id: int
    body: bytes

    @property
    def name(self) -> str:
        """Its name in the protocol's header file."""
        return NAMES.get(self.kind, f"message {self.kind}")


def message(kind: int, trans_id: int, body: bytes = b"") -> bytes:
    """Return a message with a correct header."""
    return _HEADER.pack(kind, 8 + len(body), trans_id) + body


def ranges_of(spans: Iterable[Span]) -> bytes:
    """Return page ranges: start in the low 40 bits of a word, count in the high 24."""
    return b"".join(struct.pack("<Q", start | count << 40) for start, count in spans)


def spans_of(ranges: bytes) -> list[Span]:
    """Return the spans of page ranges: the inverse of `ranges_of`."""
    return [(word & _PAGE_BITS, word >> 40) for (word,) in struct.iter_unpack("<Q", ranges)]


def version_request(trans_id: int, version: int, *, last: bool = False) -> bytes:
    """Return the guest's request for a version."""
    return message(VERSION_REQUEST, trans_id, struct.pack("<II", version, last))


def capabilities_report(trans_id: int, caps: int, least: int = 0, largest: int = (1 << 64) - 1) -> bytes:
    """Return the guest's report of its capabilities."""
    return message(CAPABILITIES_REPORT, trans_id, struct.pack("<QQQ", caps, least, largest))


def status_report(trans_id: int, available: int, committed: int) -> bytes:
    """Return the guest's status report, as Linux sends it: the other fields are 0."""
    return message(STATUS_REPORT, trans_id, struct.pack("<QQQQII", available, committed, 0, 0, 0, 0))


def balloon_response(trans_id: int, spans: Sequence[Span], *, more: bool = False) -> bytes:
    """Return the guest's balloon response: first the reserved word, then the flag with the count."""
    return message(
        BALLOON_RESPONSE, trans_id, struct.pack("<II", 0, more | len(spans) << 1) + ranges_of(spans)
    )


def unballoon_response(trans_id: int) -> bytes:
    """Return the guest's reply to an unballoon transaction."""
    return message(UNBALLOON_RESPONSE, trans_id)


def hot_add_response(trans_id: int, pages: int, result: int) -> bytes:
    """Return the guest's reply to a hot add."""
    return message(HOT_ADD_RESPONSE, trans_id, struct.pack("<II", pages, result))


def version_response(trans_id: int, *, accepted: bool) -> bytes:
    """Return the host's reply to a version request."""
    return message(VERSION_RESPONSE, trans_id, struct.pack("<Q", accepted))


def capabilities_response(trans_id: int, *, accepted: bool = True, suppress: bool = False) -> bytes:
    """Return the host's reply to the capabilities; hot_remove is set, as QEMU does."""
    return message(CAPABILITIES_RESPONSE, trans_id, struct.pack("<Q", accepted | 2 | suppress << 2))


def balloon_request(trans_id: int, pages: int) -> bytes:
    """Return the host's request for pages."""
    return message(BALLOON_REQUEST, trans_id, struct.pack("<II", pages, 0))


def unballoon_request(trans_id: int, spans: Sequence[Span], *, more: bool = False) -> bytes:
    """Return the host's unballoon request: here the flag comes first, then the count."""
    return message(UNBALLOON_REQUEST, trans_id, struct.pack("<II", more, len(spans)) + ranges_of(spans))


def hot_add_request(trans_id: int, span: Span, region: Span | None = None) -> bytes:
    """Return the host's hot-add request, in the short or the long form."""
    return message(HOT_ADD_REQUEST, trans_id, ranges_of([span] if region is None else [span, region]))


def info_message(trans_id: int, kind: int, data: bytes) -> bytes:
    """Return information from the host; info_size is that of the two words and the data."""
    return message(INFO_MESSAGE, trans_id, struct.pack("<IIII", 0, 8 + len(data), kind, len(data)) + data)


def read(data: bytes) -> Dm:
    """Return the message in a packet's body, which may be padded to 8 bytes, but not further."""
    must(len(data) >= 8, f"a packet of {len(data)} bytes is too short for a message header")
    kind, size, trans_id = _HEADER.unpack_from(data)
    must(8 <= size <= len(data), f"message {kind} says {size} bytes in a packet of {len(data)}")
    must(size <= MESSAGE_BYTES_MAX, f"message {kind} of {size} bytes is longer than a page")
    must(len(data) - size < 8, f"message {kind} of {size} bytes is padded to {len(data)}")
    return Dm(kind, trans_id, data[8:size])


def fields(dm: Dm, kind: int, layout: str) -> tuple[int, ...]:
    """Return the fields of `dm`, which must be of `kind` and exactly as long as `layout`."""
    must(dm.kind == kind, f"expected {NAMES[kind]}, received {dm.name}")
    size = struct.calcsize(layout)
    must(len(dm.body) == size, f"{dm.name} has {len(dm.body) + 8} bytes, not {size + 8}")
    return struct.unpack(layout, dm.body)


class Gift(NamedTuple):
    """Pages that change owner."""

    spans: list[Span]
    more: bool

    @property
    def pages(self) -> int:
        """The number of pages; one named twice counts twice."""
        return sum(count for _, count in self.spans)


def read_gift(dm: Dm) -> Gift:
    """Return the pages of a balloon response or unballoon request; their first two words differ in order."""
    if dm.kind not in (BALLOON_RESPONSE, UNBALLOON_REQUEST):
        fail(f"{dm.name} carries no pages")
    must(len(dm.body) >= 8, f"{dm.name} of {len(dm.body) + 8} bytes has no count")
    first, second = struct.unpack_from("<II", dm.body)
    if dm.kind == BALLOON_RESPONSE:
        must(first == 0, f"the reserved first word of {dm.name} is {first:#x}")
        more, count = bool(second & 1), second >> 1
    else:
        must(first in (0, 1), f"the first word of {dm.name}, more_pages, is {first:#x}")
        more, count = bool(first), second
    must(len(dm.body) == 8 + 8 * count, f"{dm.name} claims {count} ranges in {len(dm.body) - 8} bytes")
    spans = spans_of(dm.body[8:])
    for start, pages in spans:
        must(pages, f"{dm.name} has an empty range at {start:#x}")
    return Gift(spans, more)


def read_hot_add(dm: Dm) -> tuple[Span, Span]:
    """Return the range and the region of a hot-add request; the short form's region is the range."""
    must(dm.kind == HOT_ADD_REQUEST, f"expected DM_MEM_HOT_ADD_REQUEST, received {dm.name}")
    must(len(dm.body) in (8, 16), f"{dm.name} has {len(dm.body) + 8} bytes, neither 16 nor 24")
    spans = spans_of(dm.body)
    return spans[0], spans[-1]


def hot_remove_request(trans_id: int, pages: int, *, node: int = 0, qos: int = 0) -> bytes:
    """Return the host's hot-remove request."""
    return message(HOT_REMOVE_REQUEST, trans_id, struct.pack("<IIII", node, pages, qos, 0))


def read_hot_remove(dm: Dm) -> tuple[int, Gift]:
    """Return the result and the pages of a hot-remove response."""
    must(dm.kind == HOT_REMOVE_RESPONSE, f"expected DM_MEM_HOT_REMOVE_RESPONSE, received {dm.name}")
    must(len(dm.body) >= 16, f"{dm.name} of {len(dm.body) + 8} bytes has no count")
    result, count, more = struct.unpack_from("<IIQ", dm.body)
    must(more in (0, 1), f"reserved bits of {dm.name} are set: {more:#x}")
    must(len(dm.body) == 16 + 8 * count, f"{dm.name} claims {count} ranges in {len(dm.body) - 16} bytes")
    return result, Gift(spans_of(dm.body[16:]), bool(more))


def read_info(dm: Dm) -> tuple[int, bytes]:
    """Return the type and the data of information, whose two sizes must agree; a page count has 8 bytes."""
    must(len(dm.body) >= 16, f"{dm.name} of {len(dm.body) + 8} bytes is too short")
    _, info_size, kind, data_size = struct.unpack_from("<IIII", dm.body)
    must(
        info_size == 8 + data_size,
        f"{dm.name} claims {info_size} bytes of information, but {data_size} of data",
    )
    must(len(dm.body) == 16 + data_size, f"{dm.name} claims {data_size} bytes, but has {len(dm.body) - 16}")
    must(kind or data_size == 8, f"the largest page count has {data_size} bytes, not 8")
    return kind, dm.body[16:]


def pages_in(spans: Iterable[Span]) -> list[int]:
    """Return every page, as often as it is named."""
    return [page for start, count in spans for page in range(start, start + count)]
