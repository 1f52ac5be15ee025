"""Writes captures: one line per VMBus message or ring packet of a machine, in the form that `lines` reads."""

from collections.abc import Callable

from dynmem.dates import format_date
from dynmem.direction import Direction
from dynmem.trace.lines import CAPTURE_HEAD, CAPTURE_VERSION
from dynmem.units import NS_PER_S
from dynmem.wire.packet import Packet


class Capture:
    """A capture, passed to `write` line by line; `now_ns` returns the time since it began."""

    def __init__(
        self,
        title: str,
        write: Callable[[str], None],
        now_ns: Callable[[], int],
        *,
        begun_ns: int | None = None,
    ) -> None:
        """Write the heading; `title` says what is captured, `begun_ns` since when, from the epoch."""
        self._write, self._now_ns = write, now_ns
        since = "" if begun_ns is None else f" since {format_date(begun_ns)}"
        write(f"{CAPTURE_HEAD} {CAPTURE_VERSION} of {_printable(title)}{since}\n")

    def message(self, direction: Direction, payload: bytes) -> None:
        """Record a control message that was posted or put into the guest's message slot."""
        self._write(f"{self._time()} {direction.value} msg {payload.hex()}\n")

    def packet(self, direction: Direction, channel: int, packet: Packet) -> None:
        """Record a packet that was read from a channel's ring or written to it."""
        between = f" words {packet.descriptor.hex()}" if packet.descriptor else ""
        self._write(
            f"{self._time()} {direction.value} pkt type {packet.type} flags {packet.flags}"
            f" channel {channel} id {packet.trans_id}{between} {packet.data.hex()}\n"
        )

    def note(self, text: str) -> None:
        """Record a remark about something that no message shows."""
        self._write(f"# {self._time()} {_printable(text)}\n")

    def _time(self) -> str:
        seconds, rest = divmod(self._now_ns(), NS_PER_S)
        return f"{seconds}.{rest:09}"


def _printable(text: str) -> str:
    return "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in text)
