"""Lines of JSON, as a monitor's replies and events travel: one object per line, of bounded length.

A message is split into its members at once; what they hold is decoded when it is read. A monitor that sends
what was not requested thereby costs its bytes, and not the objects that they describe.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from dynmem.errors import RemoteProtocolError
from dynmem.json_errors import NOT_JSON
from dynmem.limits import QMP_NAME_MAX, QMP_REPLY_BYTES_MAX, QMP_VALUES_MAX
from dynmem.qmp.errors import TooMuchError

_NOTHING: Final = msgspec.Raw()
_LINE_BYTES_SHOWN: Final = 60


class Message(msgspec.Struct, frozen=True, gc=False, rename={"greeting": "QMP", "reply": "return"}):
    """One message of a monitor, not decoded any further. A member that is not there is empty.

    Attributes:
        greeting: What the monitor is.
        event: The name of an event.
        reply: What a command returned.
        error: Why a command failed.
        id: The number of the command.
        data: The members of an event.
        timestamp: When the event was.
    """

    greeting: msgspec.Raw = _NOTHING
    event: str = ""
    reply: msgspec.Raw = _NOTHING
    error: msgspec.Raw = _NOTHING
    id: msgspec.Raw = _NOTHING
    data: msgspec.Raw = _NOTHING
    timestamp: msgspec.Raw = _NOTHING

    def number(self) -> int | None:
        """Return the number of the command that this replies to; None if it has no such number."""
        text = bytes(self.id)
        return int(text) if text.isdigit() and len(text) < QMP_NAME_MAX else None


_MESSAGES: Final = msgspec.json.Decoder(Message)
_OBJECTS: Final = msgspec.json.Decoder(dict[str, object])
_REQUESTS: Final = msgspec.json.Encoder()
_VALUES: Final = msgspec.json.Decoder()


def encode_line(message: Mapping[str, object]) -> bytes:
    """Return a message as QEMU writes it: ASCII, a space after colons and commas, CR and LF at the end."""
    return json.dumps(message).encode() + b"\r\n"


def encode_request(command: str, arguments: Mapping[str, object] | None, number: int) -> bytes:
    """Return a command as a line."""
    if arguments is None:
        return _REQUESTS.encode({"execute": command, "id": number}) + b"\n"
    return _REQUESTS.encode({"execute": command, "id": number, "arguments": arguments}) + b"\n"


def decode_line(line: bytes) -> dict[str, object]:
    """Return the object in a received line. Raises RemoteProtocolError for anything else."""
    try:
        return _OBJECTS.decode(line)
    except NOT_JSON as error:
        raise _not_a_line(line, error) from None


def split_line(line: bytes) -> Message:
    """Return the members of the message in a received line. Raises RemoteProtocolError for anything else."""
    try:
        return _MESSAGES.decode(line)
    except NOT_JSON as error:
        raise _not_a_line(line, error) from None


def decode_value(text: bytes, what: str, *, values_max: int = QMP_VALUES_MAX) -> object:
    """Return the value of a member. RemoteProtocolError if it is none, or holds more than *values_max*."""
    # Each value but the first comes after one of these, so a list of lists is refused before it is built.
    if text.count(b",") + text.count(b"[") + text.count(b"{") > values_max:
        raise TooMuchError(f"{what} holds more than {values_max} values ({len(text)} bytes)")
    try:
        return _VALUES.decode(text)
    except NOT_JSON as error:
        raise RemoteProtocolError(f"{what} is not JSON ({error})") from None


class LineReader:
    """Splits a stream of bytes into lines, however the pieces arrive, in linear time."""

    def __init__(self, *, message_bytes_max: int = QMP_REPLY_BYTES_MAX) -> None:
        self._limit = message_bytes_max
        self._pending = bytearray()
        self._searched = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the lines that `data` completes, empty ones too. Raises RemoteProtocolError for a long one.

        Take all of them before the next call.
        """
        self._pending += data
        start = 0
        while (end := self._pending.find(b"\n", max(start, self._searched))) >= 0:
            if end - start > self._limit:
                raise self._too_long()
            line = bytes(self._pending[start:end])
            start = self._searched = end + 1
            yield line
        del self._pending[:start]
        self._searched = len(self._pending)
        if self._searched > self._limit:
            raise self._too_long()

    def _too_long(self) -> RemoteProtocolError:
        return TooMuchError(f"a line of QMP is longer than {self._limit} bytes")


def _not_a_line(line: bytes, error: Exception) -> RemoteProtocolError:
    shown = line[:_LINE_BYTES_SHOWN].decode("utf-8", "replace")
    return RemoteProtocolError(f"not a line of QMP: {shown!r} ({error})")
