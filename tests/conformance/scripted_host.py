"""A host that is nothing but a capture: it says what the captured host said, when it was said to.

A guest that says anything else than the captured one gets no answer any more. Only what depends on the
guest's memory may differ: the pages of its rings and its monitor pages.
"""

from collections import deque

from tests.conformance.captured import STATUS_REPORT, Line, script

from dynmem.conformance import adapter
from dynmem.units import MIB, PAGE_SIZE
from dynmem.vmbus.memory import FlatMemory, GpadlMemory
from dynmem.vmbus.ring import RingReader, RingWriter
from dynmem.wire.packet import Packet, PacketType
from dynmem.wire.synic import HvStatus

REQUESTS = frozenset({6, 8, 10})  # a host says these by itself, when it has a target
CONTACT, GPADL_HEADER = 14, 8
COMPARED = {CONTACT: 24, GPADL_HEADER: 28}  # bytes before the first address


class ScriptedHost:
    """The host of the capture; what it asks for, it asks for when it is given its next target."""

    def __init__(self) -> None:
        self.groups = frozenset({adapter.SESSION})
        self.memory = FlatMemory(memoryview(bytearray(4 * MIB)))
        self.scratch = range(16, 1024)
        self.boot_pages = 256 * MIB // PAGE_SIZE
        self.post_init_wait_ns = 0
        self.hot_add_pages = 256
        self.lines = deque(line for line in script() if line.number != STATUS_REPORT or not line.is_packet)
        self.said = 0
        self._messages: deque[bytes] = deque()
        self._flags: list[int] = []
        self._targets = 0
        self._pfns: list[int] = []
        self._rings: tuple[RingReader, RingWriter] | None = None

    def post_message(self, connection_id: int, message_type: int, payload: bytes) -> int:
        self._hear(Line(True, False, payload))
        return HvStatus.SUCCESS

    def signal_event(self, connection_id: int, flag: int) -> int:
        self._look()
        return HvStatus.SUCCESS

    def take_message(self) -> bytes | None:
        return self._messages.popleft() if self._messages else None

    def take_event_flags(self) -> list[int]:
        flags, self._flags = self._flags, []
        return flags

    def advance(self, ns: int) -> None:
        self._look()

    def set_target(self, pages: int) -> None:
        self._targets += 1
        self._say()

    def reset(self) -> None:
        raise NotImplementedError("a script has no reset")

    def unplug(self) -> bool:
        return False

    def actual_pages(self) -> int | None:
        return None

    def _look(self) -> None:
        if self._rings is None:
            return
        while (packet := self._rings[0].read()) is not None:
            if packet.data[0] != STATUS_REPORT:
                self._hear(Line(True, True, packet.data))

    def _hear(self, line: Line) -> None:
        """Go on if the guest says what the captured one said."""
        wanted = self.lines[0]
        compared = len(line.data) if line.is_packet else COMPARED.get(line.number, len(line.data))
        if not wanted.by_guest or wanted.is_packet is not line.is_packet:
            return
        if wanted.data[:compared].ljust(compared, b"\0") != line.data[:compared]:
            return
        self.lines.popleft()
        if not line.is_packet and line.number == GPADL_HEADER:
            words = line.data[28:]
            self._pfns = [int.from_bytes(words[i : i + 8], "little") for i in range(0, 80, 8)]
        self._say()

    def _say(self) -> None:
        """Say what the captured host said next, up to where it waited for something."""
        while self.lines and not self.lines[0].by_guest:
            line = self.lines[0]
            if line.is_packet and line.number in REQUESTS:
                if not self._targets:
                    return
                self._targets -= 1
            self.lines.popleft()
            self.said += 1
            if not line.is_packet:
                self._messages.append(line.data)
                if line.number == 6:  # the channel is open
                    memory = GpadlMemory(self.memory, self._pfns)
                    self._rings = RingReader(memory, 0, 5), RingWriter(memory, 5, 5)
            elif self._rings is not None:
                assert self._rings[1].write(Packet(PacketType.INBAND, 0, 0, line.data))
                if self._rings[1].take_signal():
                    self._flags.append(1)
