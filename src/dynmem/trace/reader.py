"""Reads a capture or log line by line: what is wrong is reported with its line's number, the rest is read.

Time and memory are those of the file's bytes and of one line: a line above the limit is skipped unread.
"""

from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from dynmem.errors import RemoteProtocolError
from dynmem.limits import TRACE_LINE_BYTES_MAX
from dynmem.trace.decode import Decoder, Entry
from dynmem.trace.lines import parse


class Problem(msgspec.Struct, frozen=True):
    """What is wrong with a line, in a sentence; lines are counted from 1."""

    line: int
    text: str


def read(stream: BinaryIO) -> Iterator[Entry | Problem]:
    """Every message and event of `stream`, and every line that holds none though it should."""
    decoder = Decoder()
    number = 0
    while line := stream.readline(TRACE_LINE_BYTES_MAX + 1):
        number += 1
        whole = line.endswith(b"\n")
        if len(line) > TRACE_LINE_BYTES_MAX and not whole:
            yield Problem(number, f"a line above {TRACE_LINE_BYTES_MAX} bytes")
            _skip(stream)
            continue
        try:
            parsed = parse(line.decode("ascii"))
            entry = None if parsed is None else decoder.decode(parsed)
        except UnicodeDecodeError:
            yield Problem(number, "bytes that are no text")
        except RemoteProtocolError as error:
            yield Problem(number, str(error))
        else:
            if entry is not None:
                yield entry
            if not whole:
                yield Problem(number, "the file ends without a line's end: it may have been cut here")
    if number == 0:
        yield Problem(1, "there is no such line: the file is empty")


def _skip(stream: BinaryIO) -> None:
    """Read on to the end of a line that is too long."""
    while line := stream.readline(TRACE_LINE_BYTES_MAX):
        if line.endswith(b"\n"):
            return
