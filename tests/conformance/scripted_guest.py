"""A guest that is nothing but a capture: a Linux 6.12 driver's bytes, each said when its turn comes."""

from collections import deque

from tests.conformance.captured import STATUS_REPORT, Line, script

from dynmem.conformance import adapter
from dynmem.conformance.adapter import Hypercalls
from dynmem.units import MIB, NS_PER_S, PAGE_SIZE
from dynmem.vmbus.memory import FlatMemory, GpadlMemory
from dynmem.vmbus.ring import RingReader, RingWriter, initialize
from dynmem.wire.packet import Packet, PacketType
from dynmem.wire.synic import MESSAGE_CONNECTION_ID_4, VMBUS_MESSAGE_TYPE

FIRST_RING_PAGE = 0x53F0  # as the captured GPADL says
CONNECTION_ID = 17


class ScriptedGuest:
    """The guest of the capture; a message of the captured type lets it go on."""

    def __init__(self) -> None:
        self.groups = frozenset({adapter.SESSION})
        self.memory = FlatMemory(memoryview(bytearray(10 * PAGE_SIZE)), FIRST_RING_PAGE * PAGE_SIZE)
        self.total_pages = 256 * MIB // PAGE_SIZE
        self.lines = deque(script())
        self._hypercalls: Hypercalls | None = None
        self._rings: tuple[RingWriter, RingReader] | None = None
        self._now = 0
        self._status_at = NS_PER_S

    def start(self, hypercalls: Hypercalls) -> None:
        self._hypercalls = hypercalls
        memory = GpadlMemory(self.memory, range(FIRST_RING_PAGE, FIRST_RING_PAGE + 10))
        initialize(memory, 0)
        initialize(memory, 5)
        self._rings = RingWriter(memory, 0, 5), RingReader(memory, 5, 5)
        self._say()

    def deliver_message(self, payload: bytes) -> None:
        self._hear(Line(False, False, payload))

    def deliver_event(self, flag: int) -> None:
        assert self._rings is not None
        while (packet := self._rings[1].read()) is not None:
            self._hear(Line(False, True, packet.data))

    def advance(self, ns: int) -> None:
        self._now += ns
        if self.lines and self._is_status() and self._now >= self._status_at:
            self._status_at = self._now + NS_PER_S
            self._send(self.lines.popleft())
            self._say()

    def ballooned_pages(self) -> int | None:
        return None

    def _is_status(self) -> bool:
        return self.lines[0].is_packet and self.lines[0].by_guest and self.lines[0].number == STATUS_REPORT

    def _hear(self, line: Line) -> None:
        while self.lines and self._is_status():  # asked before its next report was due
            self.lines.popleft()
        wanted = self.lines[0]
        if (wanted.by_guest, wanted.is_packet, wanted.number) == (False, line.is_packet, line.number):
            self.lines.popleft()
            self._say()

    def _say(self) -> None:
        while self.lines and self.lines[0].by_guest and not self._is_status():
            self._send(self.lines.popleft())

    def _send(self, line: Line) -> None:
        assert self._rings is not None
        assert self._hypercalls is not None
        if not line.is_packet:
            assert not self._hypercalls.post_message(MESSAGE_CONNECTION_ID_4, VMBUS_MESSAGE_TYPE, line.data)
            return
        assert self._rings[0].write(Packet(PacketType.INBAND, 0, 0, line.data))
        if self._rings[0].take_signal():
            self._hypercalls.signal_event(CONNECTION_ID, 0)
