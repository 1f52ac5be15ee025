"""One direction of a channel: a ring of packets in shared pages, its writing end and its reading end.

The first page is the control page: write index @0, read index @4, interrupt mask @8, pending send size @12,
feature bits @64. Packets lie in the pages behind it and wrap around. Equal indices mean empty, so a ring
never fills completely.

Each end keeps its own index to itself and only publishes it: it never reads back what the peer may have
written there. The peer's index is loaded once for each decision and checked. Every byte of a packet is copied
out once and checked afterwards. A fence stands between publishing an index (or the pending size) and looking
at what the peer published, since either side could otherwise miss the other's last step and sleep forever.

Source: Linux drivers/hv/ring_buffer.c; OpenVMM vmbus_ring.
"""

from typing import Final, NamedTuple, Protocol

from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.units import PAGE_SHIFT, PAGE_SIZE
from dynmem.wire import packet as wire_packet
from dynmem.wire.packet import DESCRIPTOR_BYTES, Packet

WRITE_INDEX: Final = 0
READ_INDEX: Final = 4
INTERRUPT_MASK: Final = 8
PENDING_SEND_SIZE: Final = 12
FEATURE_BITS: Final = 64
FEATURE_PENDING_SEND_SIZE: Final = 1


class RingMemory(Protocol):
    """What a ring needs of the pages it lies in, by offset; see `dynmem.vmbus.memory.GpadlMemory`."""

    def read(self, offset: int, length: int) -> bytes:
        """Copy bytes out; each is read once."""
        ...

    def write(self, offset: int, data: bytes) -> None:
        """Copy bytes in."""
        ...

    def load32(self, offset: int) -> int:
        """Load an aligned word whole."""
        ...

    def store32(self, offset: int, value: int) -> None:
        """Store an aligned word whole."""
        ...

    def fence(self) -> None:
        """Order what comes before against what comes after."""
        ...


def initialize(memory: RingMemory, first_page: int) -> None:
    """Make an empty ring: the guest does this to both rings before it opens a channel."""
    start = first_page << PAGE_SHIFT
    memory.write(start, bytes(PAGE_SIZE))
    memory.store32(start + FEATURE_BITS, FEATURE_PENDING_SEND_SIZE)


class WriterSnapshot(NamedTuple):
    """What a writer keeps to itself.

    Attributes:
        position: Where it writes next.
        pending: The size of the packet that found no room, or 0.
        signals: Whether the reader has to be signalled.

    """

    position: int
    pending: int
    signals: bool


class ReaderSnapshot(NamedTuple):
    """What a reader keeps to itself.

    Attributes:
        position: Where it reads next.
        signals: Whether the writer has to be signalled.

    """

    position: int
    signals: bool


class _Ring:
    """What both ends share: where the words and the data are, and how the peer's index is checked."""

    __slots__ = ("_control", "_data", "_memory", "_signal", "size")

    def __init__(self, memory: RingMemory, first_page: int, pages: int) -> None:
        if pages < 2:
            raise RemoteProtocolError(f"a ring of {pages} pages has no room for a control page and data")
        self._memory = memory
        self._control = first_page << PAGE_SHIFT
        self._data = self._control + PAGE_SIZE
        self.size: Final = (pages - 1) << PAGE_SHIFT
        self._signal = False

    def _load_index(self, which: int) -> int:
        index = self._memory.load32(self._control + which)
        if index >= self.size or index & 7:
            raise RemoteProtocolError(f"a ring of {self.size} bytes has an index of {index}")
        return index

    def take_signal(self) -> bool:
        """Return whether the peer has to be signalled for what was done since the last call."""
        signal, self._signal = self._signal, False
        return signal


class RingWriter(_Ring):
    """The writing end of the ring in `pages` pages from `first_page` on.

    It begins at the index in the control page, or continues from what another writer has `kept`. Raises
    RemoteProtocolError when the words in the control page are not a ring's.
    """

    __slots__ = ("_pending", "_write")

    def __init__(
        self, memory: RingMemory, first_page: int, pages: int, kept: WriterSnapshot | None = None
    ) -> None:
        super().__init__(memory, first_page, pages)
        if kept is None:
            kept = WriterSnapshot(self._load_index(WRITE_INDEX), 0, signals=False)
        self._write, self._pending, self._signal = kept

    def snapshot(self) -> WriterSnapshot:
        """Return what another writer over the same memory needs to go on from here."""
        return WriterSnapshot(self._write, self._pending, self._signal)

    def _free(self) -> int:
        """Return the bytes that the reader has left free, by its index of this moment."""
        return self.size - (self._write - self._load_index(READ_INDEX)) % self.size

    @property
    def waiting_for_room(self) -> bool:
        """Whether the last packet did not fit and there is still no room for it."""
        return self._pending > 0 and self._free() <= self._pending

    def write(self, packet: Packet) -> bool:
        """Put `packet` into the ring; False if it does not fit now (the reader will signal when it does).

        Raises:
            LocalProtocolError: the packet is larger than the whole ring or cannot be encoded.
            RemoteProtocolError: the reader's index is not one.

        """
        data = wire_packet.encode(packet, self._write)
        if len(data) >= self.size:
            raise LocalProtocolError(f"a packet of {len(data)} bytes never fits a ring of {self.size}")
        memory, control = self._memory, self._control
        if len(data) >= self._free():
            self._pending = len(data)
            memory.store32(control + PENDING_SEND_SIZE, len(data))
            memory.fence()  # a reader that missed the size has moved its index before this second look
            if len(data) >= self._free():
                return False
        if self._pending:
            self._pending = 0
            memory.store32(control + PENDING_SEND_SIZE, 0)
        old, head = self._write, self.size - self._write
        memory.write(self._data + old, data[:head])
        if len(data) > head:
            memory.write(self._data, data[head:])
        self._write = (old + len(data)) % self.size
        memory.store32(control + WRITE_INDEX, self._write)
        memory.fence()
        if not memory.load32(control + INTERRUPT_MASK) and self._load_index(READ_INDEX) == old:
            self._signal = True  # the reader had seen everything before this packet and may sleep
        return True


class RingReader(_Ring):
    """The reading end of the ring in `pages` pages from `first_page` on.

    It begins at the index in the control page, or continues from what another reader has `kept`. Raises
    RemoteProtocolError when the words in the control page are not a ring's.
    """

    __slots__ = ("_read",)

    def __init__(
        self, memory: RingMemory, first_page: int, pages: int, kept: ReaderSnapshot | None = None
    ) -> None:
        super().__init__(memory, first_page, pages)
        if kept is None:
            kept = ReaderSnapshot(self._load_index(READ_INDEX), signals=False)
        self._read, self._signal = kept

    def snapshot(self) -> ReaderSnapshot:
        """Return what another reader over the same memory needs to go on from here."""
        return ReaderSnapshot(self._read, self._signal)

    def _copy(self, start: int, length: int) -> bytes:
        """Copy `length` bytes of the data from index `start` on, around the end if need be."""
        start %= self.size
        head = self.size - start
        if length <= head:
            return self._memory.read(self._data + start, length)
        return self._memory.read(self._data + start, head) + self._memory.read(self._data, length - head)

    def read(self) -> Packet | None:
        """Take the next packet, None if the ring is empty.

        Raises RemoteProtocolError for a wrong index or a malformed packet; the reader then stays where it is.
        """
        available = (self._load_index(WRITE_INDEX) - self._read) % self.size
        if available == 0:
            return None
        if available < DESCRIPTOR_BYTES:
            raise RemoteProtocolError(f"{available} bytes in a ring are not a packet")
        header = self._copy(self._read, DESCRIPTOR_BYTES)
        length = wire_packet.peek_length(header)
        if length > available:
            raise RemoteProtocolError(f"a packet of {length} bytes where the ring holds {available}")
        rest = self._copy(self._read + DESCRIPTOR_BYTES, length - DESCRIPTOR_BYTES)
        packet = wire_packet.decode(header + rest)
        self._advance(length)
        return packet

    def _advance(self, length: int) -> None:
        """Free `length` bytes for the writer, and note whether that is what it waits for.

        The write index is loaded again, behind the pending size: by the one that `read` saw, the ring may
        seem to have had room all along, although the writer has filled it since and gone to sleep.
        """
        memory, control = self._memory, self._control
        self._read = (self._read + length) % self.size
        memory.store32(control + READ_INDEX, self._read)
        memory.fence()
        pending = memory.load32(control + PENDING_SEND_SIZE) & ~7
        if pending:
            free = self.size - (self._load_index(WRITE_INDEX) - self._read) % self.size
            if free - length <= pending < free:
                self._signal = True

    def mask_interrupts(self, masked: bool) -> None:
        """Ask the writer for no signals; after unmasking read again: what came meanwhile is not signalled."""
        self._memory.store32(self._control + INTERRUPT_MASK, int(masked))
        self._memory.fence()
