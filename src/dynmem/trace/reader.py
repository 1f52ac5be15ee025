"""Reads a capture or log line by line, and reports malformed lines by number.

Time is linear in the file's bytes, memory in those of one line: a line above the limit is skipped unread.
"""

import codecs
from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from dynmem.errors import RemoteProtocolError
from dynmem.limits import TRACE_LINE_BYTES_MAX
from dynmem.trace.decode import Decoder, Entry
from dynmem.trace.lines import parse


class Problem(msgspec.Struct, frozen=True):
    """What is wrong with a line; lines are counted from 1."""

    line: int
    text: str


def read(stream: BinaryIO) -> Iterator[Entry | Problem]:
    """Yield every message and event of `stream`, and a Problem for every line that should hold one."""
    decoder = Decoder()
    number = 0
    while line := stream.readline(TRACE_LINE_BYTES_MAX + 1):
        number += 1
        whole = line.endswith(b"\n")
        if len(line) > TRACE_LINE_BYTES_MAX and not whole:
            yield Problem(number, f"longer than {TRACE_LINE_BYTES_MAX} bytes, the limit of a line: skipped")
            _skip(stream)
            continue
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        try:
            parsed = parse(line.decode("ascii"))
            entry = None if parsed is None else decoder.decode(parsed)
        except UnicodeDecodeError:
            yield Problem(number, "bytes that are not text")
        except RemoteProtocolError as error:
            yield Problem(number, str(error))
        else:
            if entry is not None:
                yield entry
            if not whole:
                yield Problem(number, "the file ends without a newline: it may have been cut off here")
    if number == 0:
        yield Problem(1, "the file is empty")


def _skip(stream: BinaryIO) -> None:
    """Skip to the end of a line that is too long."""
    while line := stream.readline(TRACE_LINE_BYTES_MAX):
        if line.endswith(b"\n"):
            return
