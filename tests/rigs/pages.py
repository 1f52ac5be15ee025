"""Page ranges as a test writes and reads them: spans of (first page, pages), and the pages one by one."""

from dynmem.pages import ranges as page_ranges

Span = tuple[int, int]


def packed(*spans: Span) -> bytes:
    """Encode the spans as the wire has them."""
    return b"".join((start | count << 40).to_bytes(8, "little") for start, count in spans)


def spans_of(ranges: bytes) -> list[Span]:
    """Return the ranges as spans."""
    starts, counts = page_ranges.unpack(ranges)
    return list(zip(starts.tolist(), counts.tolist(), strict=True))


def pages_of(ranges: bytes) -> list[int]:
    """Return every page that the ranges name, as often as they name it."""
    return [page for start, count in spans_of(ranges) for page in range(start, start + count)]


def bounds_of(ranges: bytes) -> list[tuple[int, int]]:
    """Return the ranges as (first page, page behind the last)."""
    return [(start, start + count) for start, count in spans_of(ranges)]
