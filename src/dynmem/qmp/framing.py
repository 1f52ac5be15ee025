"""Lines of JSON, as a monitor's replies and events travel: one object per line, of bounded length."""

import json
from collections.abc import Mapping
from typing import Final

import msgspec

from dynmem.errors import RemoteProtocolError
from dynmem.limits import QMP_REPLY_BYTES_MAX

_DECODER: Final = msgspec.json.Decoder(dict[str, object])


def encode_line(message: Mapping[str, object]) -> bytes:
    """Return a message as QEMU writes it: ASCII, a space after colons and commas, CR and LF at the end."""
    return json.dumps(message).encode() + b"\r\n"


def decode_line(line: bytes) -> dict[str, object]:
    """Return the object in a received line. Raises RemoteProtocolError for anything else."""
    try:
        return _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        shown = line[:60].decode("utf-8", "replace")
        raise RemoteProtocolError(f"not a line of QMP: {shown!r} ({error})") from None


class LineReader:
    """Splits a stream of bytes into objects, however the pieces arrive, in linear time."""

    def __init__(self, *, message_bytes_max: int = QMP_REPLY_BYTES_MAX) -> None:
        self._limit = message_bytes_max
        self._pending = bytearray()
        self._searched = 0

    def feed(self, data: bytes) -> list[dict[str, object]]:
        """Return the objects that `data` completes. Raises RemoteProtocolError for garbage or a long line."""
        self._pending += data
        messages = []
        start = 0
        while (end := self._pending.find(b"\n", max(start, self._searched))) >= 0:
            line = bytes(self._pending[start:end])
            start = self._searched = end + 1
            if len(line) > self._limit:
                raise self._too_long()
            if line.strip():
                messages.append(decode_line(line))
        del self._pending[:start]
        self._searched = len(self._pending)
        if self._searched > self._limit:
            raise self._too_long()
        return messages

    def _too_long(self) -> RemoteProtocolError:
        return RemoteProtocolError(f"a line of QMP is longer than {self._limit} bytes")
