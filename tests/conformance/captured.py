"""A captured session as a script: what a Linux 6.12 guest and a host said to each other, in order."""

from pathlib import Path
from typing import Final, NamedTuple

CAPTURE: Final = Path(__file__).parent.parent / "captures" / "wire.log"
STATUS_REPORT: Final = 5


class Line(NamedTuple):
    """One thing that one end said."""

    by_guest: bool
    is_packet: bool
    data: bytes

    @property
    def number(self) -> int:
        """The message's type, of VMBus or of the Dynamic Memory Protocol."""
        return int.from_bytes(self.data[:2], "little")


def script() -> list[Line]:
    """Every line of the capture: ``SECONDS G>H|H>G msg|pkt [type N flags N] HEX``."""
    lines = []
    for text in CAPTURE.read_text().splitlines():
        words = text.split()
        lines.append(Line(words[1] == "G>H", words[2] == "pkt", bytes.fromhex(words[-1])))
    return lines
