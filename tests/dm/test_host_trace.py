"""The host's trace events, beside those that QEMU wrote for the same session with a Linux guest."""

from pathlib import Path

import pytest
from tests.rigs.pages import packed
from tests.rigs.traced_host import BOOT, TracedHost

from dynmem.units import NS_PER_S
from dynmem.wire import dm

CAPTURES = Path(__file__).parent.parent / "captures"


class Session(TracedHost):
    """A host that is traced, and the guest's answers to it."""

    def says(self, *messages: dm.Message) -> None:
        for message in messages:
            self.dm.receive(dm.encode(message), self.now)
            self.send()

    def wants(self, pages: int) -> None:
        self.dm.set_target(pages, self.now)
        self.send()

    def start(self) -> None:
        self.dm.reset(self.now)
        self.dm.channel_opened(self.now)
        self.says(dm.VersionRequest(49, dm.VERSION_WIN10, is_last_attempt=False))
        self.says(dm.CapabilitiesReport(50, 0x1F, 0, (1 << 64) - 1))
        self.now += 50 * NS_PER_S
        self.dm.tick(self.now)


def test_a_session_with_balloon_unballoon_and_hot_adds_is_traced_line_for_line_as_qemu_does() -> None:
    session = Session("hv_balloon*")
    session.start()
    session.wants(BOOT - 24576)
    ranges = packed(*((0x5800 + number * 512, 512) for number in range(48)))
    session.says(dm.BalloonResponse(51, more_pages=False, ranges=ranges))
    session.wants(BOOT)
    session.says(dm.UnballoonResponse(52))
    session.wants(BOOT + 65536)
    session.says(dm.HotAddResponse(54, 65536, 1))
    session.wants(BOOT + 131072)
    session.says(dm.HotAddResponse(55, 65536, 1))
    session.wants(BOOT + 131072 - 119808)
    ranges = packed(*((0x801000 + number * 512, 512) for number in range(234)))
    session.says(dm.BalloonResponse(57, more_pages=False, ranges=ranges))
    log = (CAPTURES / "trace.log").read_text(encoding="ascii")
    qemu = [line.split(":", 1)[1] for line in log.splitlines() if ":hv_balloon_" in line]
    assert session.lines == qemu


def test_every_range_that_is_given_back_is_traced_with_what_then_remains() -> None:
    session = Session("hv_balloon_outgoing*")
    session.start()
    session.wants(BOOT - 60)
    session.says(dm.BalloonResponse(3, more_pages=False, ranges=packed((100, 10), (200, 20), (300, 30))))
    session.wants(BOOT - 15)
    assert session.lines == [
        "hv_balloon_outgoing_balloon posting balloon 0 for 60, remaining 60",
        "hv_balloon_outgoing_unballoon posting unballoon 1 for 10 @ 0x64, remaining 35",
        "hv_balloon_outgoing_unballoon posting unballoon 1 for 20 @ 0xc8, remaining 15",
        "hv_balloon_outgoing_unballoon posting unballoon 1 for 15 @ 0x12c, remaining 0",
    ]


@pytest.mark.parametrize("response", [dm.BalloonResponse(1, False, b""), dm.UnballoonResponse(1)])
def test_an_answer_that_nobody_awaits_is_not_traced(response: dm.Message) -> None:
    session = Session("hv_balloon_incoming*")
    session.start()
    session.lines.clear()
    session.says(response)
    assert session.lines == []
