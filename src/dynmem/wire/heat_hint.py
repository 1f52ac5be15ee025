"""The extended hypercalls by which a guest reports free pages: what there is of them, and memory heat hints.

A range is one u64: how many further pages in bits 0 to 10, bit 11 for pages of 2 MiB, and the first page
above: from bit 12 on if it is one of 4 KiB, from bit 21 on if it is a large one.

Source: Hypervisor Top-Level Functional Specification, HvExtCallMemoryHeatHint; Linux
include/asm-generic/hyperv-tlfs.h (union hv_gpa_page_range) and drivers/hv/hv_balloon.c.
"""

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.units import PAGE_SHIFT, PAGE_SIZE

EXT_CALL_QUERY_CAPABILITIES: Final = 0x8001
EXT_CALL_MEMORY_HEAT_HINT: Final = 0x8003
EXT_CAPABILITY_COLD_DISCARD: Final = 1 << 8
#: The pages need not keep what is in them.
COLD_DISCARD: Final = 2
LARGE_PAGES: Final = 512
#: A call's input is within one page, the type of the hint included.
HINT_RANGES_MAX: Final = PAGE_SIZE // 8 - 1
TYPE_BYTES: Final = 8
RANGE_BYTES: Final = 8
SPAN_UNITS_MAX: Final = 1 << 11

_MORE_MASK: Final = SPAN_UNITS_MAX - 1
_LARGE: Final = 1 << 11
_LARGE_SHIFT: Final = 21
_LARGE_RESERVED: Final = (1 << _LARGE_SHIFT) - (1 << PAGE_SHIFT)  # and the size of larger pages
_LARGE_PAGE_SHIFT: Final = _LARGE_SHIFT - PAGE_SHIFT


class Span(NamedTuple):
    """A run of guest pages of 4 KiB."""

    first_page: int
    pages: int


def decode_hint_ranges(data: bytes) -> list[Span]:
    """Return the ranges in `data`. Raises RemoteProtocolError for one of a form that does not exist."""
    if len(data) % RANGE_BYTES:
        raise RemoteProtocolError(f"{len(data)} bytes of ranges are not a multiple of {RANGE_BYTES}")
    return [_span(word) for (word,) in struct.iter_unpack("<Q", data)]


def _span(word: int) -> Span:
    units = (word & _MORE_MASK) + 1
    if not word & _LARGE:
        return Span(word >> PAGE_SHIFT, units)
    if word & _LARGE_RESERVED:
        raise RemoteProtocolError(f"the range {word:#x} is not one of pages of 2 MiB")
    return Span(word >> _LARGE_SHIFT << _LARGE_PAGE_SHIFT, units * LARGE_PAGES)


def encode_hint(kind: int, spans: Sequence[Span]) -> bytes:
    """Return the input of a hint: each span in large pages if it can be, or LocalProtocolError."""
    try:
        return struct.pack(f"<{1 + len(spans)}Q", kind, *(_word(span) for span in spans))
    except struct.error as error:
        raise LocalProtocolError(f"the heat hint cannot be encoded: {error}") from error


def _word(span: Span) -> int:
    is_large = not (span.first_page % LARGE_PAGES or span.pages % LARGE_PAGES)
    units = span.pages // LARGE_PAGES if is_large else span.pages
    if not 1 <= units <= SPAN_UNITS_MAX:
        raise LocalProtocolError(f"a range of a heat hint has 1 to {SPAN_UNITS_MAX} units, not {units}")
    return span.first_page << PAGE_SHIFT | (_LARGE if is_large else 0) | units - 1
