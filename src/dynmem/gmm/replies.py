"""Replies to requests: the status of the call, the request buffer with its outputs, and what failed.

The original copies the buffer back over the caller's and returns the status beside it. A reply carries both,
little-endian: 4 bytes with the status, signed; 4 with the size of the buffer, which is 0 if the request could
not be read; the buffer; and, if the call failed, a sentence in UTF-8 up to the end. The buffer is there on
failure too: it says which pages of a batch were freed.
"""

import struct
from typing import Final, NamedTuple

from dynmem.gmm.codes import GmmError, Status
from dynmem.gmm.requests import Operation, Request, parse

_HEAD: Final = struct.Struct("<iI")
_SENTENCE_BYTES_MAX: Final = 1024

#: Bytes by which a reply can be longer than its request.
REPLY_EXTRA_BYTES_MAX: Final = _HEAD.size + _SENTENCE_BYTES_MAX


class Reply(NamedTuple):
    """What became of a request.

    Attributes:
        status: The status of the call.
        request: The request with its outputs; None if the other side could not read it.
        sentence: What happened, if the call failed.
    """

    status: Status
    request: Request | None
    sentence: str = ""

    def encode(self) -> bytes:
        """Return the reply as bytes."""
        buffer = b"" if self.request is None else self.request.encode()
        sentence = self.sentence.encode(errors="replace")[:_SENTENCE_BYTES_MAX]
        return _HEAD.pack(self.status, len(buffer)) + buffer + sentence

    def outputs(self) -> Request:
        """Return the request with its outputs; raise GmmError with the status if the call failed."""
        if self.status < 0:
            raise GmmError(self.status, self.sentence or "the call failed")
        if self.request is None:
            raise _unfit("carries no request")
        return self.request


def parse_reply(operation: Operation, data: bytes) -> Reply:
    """Return the reply to a request of *operation*; raise GmmError (INVALID_PARAMETER) if it is not one."""
    if len(data) < _HEAD.size:
        raise _unfit(f"is {len(data)} bytes long, less than its head")
    number, size = _HEAD.unpack_from(data)
    try:
        status = Status(number)
    except ValueError:
        raise _unfit(f"carries the unknown status {number}") from None
    rest = data[_HEAD.size :]
    if size > len(rest) or len(rest) - size > _SENTENCE_BYTES_MAX:
        raise _unfit(f"says that its buffer is {size} bytes long, and {len(rest)} follow")
    # an operation without a buffer has an empty one, on success
    request = parse(operation, rest[:size]) if size or status >= 0 else None
    return Reply(status, request, rest[size:].decode(errors="replace"))


def _unfit(what: str) -> GmmError:
    return GmmError(Status.INVALID_PARAMETER, f"the reply {what}")
