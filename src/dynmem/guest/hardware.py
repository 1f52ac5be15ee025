"""The guest's side of its hardware: memory slots, interrupt lines, doorbells and calls to the host.

Everything travels over one SOCK_SEQPACKET socket (`dynmem.wire.hardware`). The guest makes one call at a time
and waits for its reply; anything else that arrives meanwhile is processed in order. When the host goes away,
the guest ends.
"""

import contextlib
import os
import select
import socket
from collections import deque
from typing import Final

from dynmem.errors import DynmemError, RemoteProtocolError
from dynmem.guest.ram import GuestRam
from dynmem.limits import HARDWARE_DATAGRAM_BYTES_MAX, HARDWARE_REQUESTS_MAX
from dynmem.units import NS_PER_MS
from dynmem.wire import hardware as wire
from dynmem.wire.synic import (
    HYPERCALL_FAST,
    HYPERCALL_SIGNAL_EVENT,
    SINT_COUNT,
    HvStatus,
    SignalEventInput,
    encode_signal,
)

_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(4 * 4)
_DESCRIPTOR_BYTES: Final = 4
_SEQUENCE_MASK: Final = 0xFFFF_FFFF
_RAISED: Final = b"\1"
_LINE_BYTES: Final = 4096  # more than a line holds

Request = wire.UnmapSlot | wire.PlugMemory | wire.UnplugMemory


class HostGoneError(DynmemError):
    """The VM that this guest ran in is gone."""


class Hardware:
    """One virtual machine as its guest sees it.

    `requests` are the host's requests to add or remove memory, oldest first, for the kernel to serve.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._socket = channel
        self._poll = select.poll()
        self._poll.register(channel.fileno(), select.POLLIN)
        self._lines: dict[int, int] = {}  # descriptor -> SINT
        self._doorbells: dict[int, int] = {}  # connection id -> descriptor
        self._sequence = 0
        self._reply: wire.Reply | None = None
        self._started = False
        self.ram: Final = GuestRam()
        self.requests: Final[deque[Request]] = deque()

    def wait_for_start(self) -> None:
        """Accept what the host sets up until it reports that the hardware is complete."""
        while not self._started:
            self._receive()

    def wait(self, timeout_ns: int | None) -> set[int]:
        """Sleep until an interrupt, a message or the deadline. Returns the SINTs that were raised."""
        timeout_ms = None if timeout_ns is None else max(0, -(-timeout_ns // NS_PER_MS))
        raised = set()
        for descriptor, _ in self._poll.poll(timeout_ms):
            if descriptor == self._socket.fileno():
                self._receive()
            else:
                os.read(descriptor, _LINE_BYTES)
                raised.add(self._lines[descriptor])
        return raised

    def hypercall(self, control: int, input_gpa: int) -> HvStatus:
        """Make a hypercall and wait for its status."""
        return self._call(wire.Hypercall(self._next(), control, input_gpa))

    def write_msr(self, msr: int, value: int) -> HvStatus:
        """Write a synthetic MSR and wait until that is done."""
        return self._call(wire.WriteMsr(self._next(), msr, value))

    def signal(self, connection_id: int) -> None:
        """Signal the host, by the connection's doorbell if it has one, else by HvSignalEvent.

        A status that says the connection is gone is not an error: the message that says why is on its way.
        """
        doorbell = self._doorbells.get(connection_id)
        if doorbell is not None:
            with contextlib.suppress(BlockingIOError, BrokenPipeError):  # it is raised, or the VM gone
                os.write(doorbell, _RAISED)
            return
        parameter = int.from_bytes(encode_signal(SignalEventInput(connection_id, 0)), "little")
        self.hypercall(HYPERCALL_SIGNAL_EVENT | HYPERCALL_FAST, parameter)

    def unmap_slot(self, slot: int) -> None:
        """Remove a slot from guest memory and acknowledge it."""
        self.ram.unmap_slot(slot)
        self._send(wire.SlotUnmapped(slot))

    def answer_unplug(self, slot: int, *, is_done: bool) -> None:
        """Reply to the host whether a DIMM may be removed."""
        self._send(wire.UnplugAnswered(slot, is_done))

    def _next(self) -> int:
        self._sequence = (self._sequence + 1) & _SEQUENCE_MASK
        return self._sequence

    def _call(self, call: wire.Hypercall | wire.WriteMsr) -> HvStatus:
        self._send(call)
        self._reply = None
        while self._reply is None:
            self._receive()
        if self._reply.sequence != call.sequence:
            raise RemoteProtocolError("the host replied to a call that was never made")
        try:
            return HvStatus(self._reply.status)
        except ValueError:
            raise RemoteProtocolError(f"the host replied with status {self._reply.status}") from None

    def _send(self, message: wire.Message) -> None:
        try:
            self._socket.send(wire.encode(message))
        except (BrokenPipeError, ConnectionResetError):
            raise HostGoneError("the VM is gone") from None

    def _receive(self) -> None:
        """Receive one datagram of the host, with its descriptor if it has one."""
        try:
            data, ancillary, _, _ = self._socket.recvmsg(
                HARDWARE_DATAGRAM_BYTES_MAX, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            data, ancillary = b"", []
        descriptors = _descriptors(ancillary)
        try:
            if not data:
                raise HostGoneError("the VM is gone")
            message = wire.decode(data)
            if len(descriptors) != isinstance(message, wire.WITH_DESCRIPTOR):
                raise RemoteProtocolError(f"{len(descriptors)} descriptors with {type(message).__name__}")
            if self._take(message, descriptors[0] if descriptors else -1):
                descriptors.clear()
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _take(self, message: wire.Message, descriptor: int) -> bool:
        """Carry out `message`. Returns whether its descriptor is kept."""
        match message:
            case wire.MapSlot(slot, gpa, size, offset):
                self.ram.map_slot(slot, gpa, size, descriptor, offset)
                if self._started:
                    self._send(wire.SlotMapped(slot))
                return False
            case wire.BindSint(sint) if sint < SINT_COUNT and sint not in self._lines.values():
                self._lines[descriptor] = sint
                self._poll.register(descriptor, select.POLLIN)
                return True
            case wire.BindDoorbell(connection_id) if connection_id not in self._doorbells:
                os.set_blocking(descriptor, False)
                self._doorbells[connection_id] = descriptor
                return True
            case wire.Start():
                self._started = True
            case wire.UnmapSlot() | wire.PlugMemory() | wire.UnplugMemory() if self._started:
                if len(self.requests) >= HARDWARE_REQUESTS_MAX:
                    raise RemoteProtocolError("the host sends requests without waiting for replies")
                self.requests.append(message)
            case wire.Reply():
                self._reply = message
            case _:
                raise RemoteProtocolError(f"the host may not send {message}")
        return False


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors that came with a datagram."""
    return [
        int.from_bytes(data[at : at + _DESCRIPTOR_BYTES], "little")
        for level, kind, data in ancillary
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        for at in range(0, len(data) - _DESCRIPTOR_BYTES + 1, _DESCRIPTOR_BYTES)
    ]
