"""What QEMU's hv-balloon once wrote into its ring is a sound host to the guest of the suite."""

from collections import deque
from pathlib import Path

from dynmem.conformance import layouts as dm
from dynmem.conformance.host.hot_add import GrowingGuest
from dynmem.conformance.host.session import LINUX_CAPS
from dynmem.conformance.ours.host import OurHost

RING_PACKETS = Path(__file__).parent.parent / "captures" / "ring-packets.txt"
BY_HOST = {
    "VERSION_RESPONSE",
    "CAPABILITIES_RESPONSE",
    "BALLOON_REQUEST",
    "UNBALLOON_REQUEST",
    "HOT_ADD_REQUEST",
}
HOST_RING = 0x5746000  # of the recorded guest's memory; an older copy of one packet lies elsewhere


def recorded() -> deque[bytes]:
    """The host's messages in the order of its ring."""
    lines = [line.split() for line in RING_PACKETS.read_text().splitlines() if line.strip()]
    return deque(
        bytes.fromhex(words[-1])
        for words in lines
        if words[1] in BY_HOST and words[-2] == "body" and int(words[0], 16) >= HOST_RING
    )


class RecordedQemu(OurHost):
    """Our bus; what goes over the channel is QEMU's, each message when something calls for it."""

    def __init__(self) -> None:
        super().__init__()
        self.script = recorded()
        self.out: deque[bytes] = deque()

    def receive(self, data: bytes) -> None:
        kind = data[0]
        goes_on = kind == dm.HOT_ADD_RESPONSE and self.script[0][0] == dm.HOT_ADD_REQUEST
        if kind in (dm.VERSION_REQUEST, dm.CAPABILITIES_REPORT) or goes_on:
            self.out.append(self.script.popleft())

    def set_target(self, pages: int) -> None:
        self.out.append(self.script.popleft())
        self._turn()

    def advance(self, ns: int) -> None:
        self._turn()

    def actual_pages(self) -> int | None:
        return None

    def _send(self) -> None:
        while self.out and self.channel is not None and self.channel.send(self.out[0]):
            self.out.popleft()


def test_qemus_recorded_session_is_sound_from_handshake_to_hot_add() -> None:
    host = RecordedQemu()
    guest = GrowingGuest(host)
    guest.connect()
    guest.open()
    assert guest.negotiate()
    assert guest.capabilities(LINUX_CAPS) == 3  # accepted, hot_remove; status reports are wanted
    guest.send(dm.status_report(guest.next_id(), 0xC291, 0x61B5))
    guest.silent("after a status report")

    host.set_target(0)
    assert guest.asked() == 0x6000
    guest.give([(0x5800 + 0x200 * number, 0x200) for number in range(48)])
    host.set_target(0)
    assert len(guest.get_back()) == 0x6000  # in one range, which QEMU has joined
    assert not guest.given

    host.set_target(0)
    for start in (0x80_0000, 0x81_0000):
        span = guest.offered()
        assert span == (start, 0x1_0000)
        guest.answer(span, span[1], 1)
    guest.silent("with everything added")
    host.set_target(0)
    assert guest.asked() == 0x1_D400
    assert not host.script
