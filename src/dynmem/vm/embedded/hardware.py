"""The hardware of the embedded guest, from the machine's side: one socket, interrupt lines, doorbells.

The socket is read only when the machine says so, and calls are taken one at a time: a guest that calls faster
than it is served, or reads no replies, waits.
"""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from dynmem.limits import HARDWARE_DATAGRAM_BYTES_MAX, HARDWARE_UNREAD_BYTES
from dynmem.vm.embedded.lines import Doorbell, InterruptLine
from dynmem.vm.embedded.readiness import Readiness
from dynmem.vm.shortage import is_shortage
from dynmem.wire import hardware as wire
from dynmem.wire.synic import HvStatus

_LOG: Final = logging.getLogger("dynmem.vm")
_DELAY_S: Final = 0.01  # until the next attempt after a shortage of the host; it doubles
_DELAY_S_MAX: Final = 1.0
_CALLS: Final = (wire.Hypercall, wire.WriteMsr)


class Hardware:
    """Both ends of the guest's hardware: `guest_end` is for the guest process, the rest is the machine's.

    Messages wait, in order, until the guest makes room. That is bounded: at most one message per slot is not
    acknowledged, at most one request per DIMM is unread, and there is one reply.

    Attributes:
        calls: The machine's end of the socket; `receive` when ready.
        doorbells: By connection id; `take` each that is ready.

    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.guest_end: socket.socket
        self._socket, self.guest_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        # what a guest does not read holds descriptors of a quota that all of the user's machines share
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, HARDWARE_UNREAD_BYTES)
        self._wake = wake
        self._sints: dict[int, InterruptLine] = {}
        self.calls: Final = Readiness(self._socket.fileno(), wake)
        self.doorbells: dict[int, Doorbell] = {}
        self._unsent: deque[tuple[wire.Message, int | None]] = deque()  # with its descriptor
        self._owes_reply = False  # one waits for room
        self._held: wire.Message | None = None  # a call that came before the last one's reply had left
        self._is_blocked = False  # the guest has no room now
        self._is_gone = False
        self._again: asyncio.TimerHandle | None = None  # the next attempt after a shortage of the host
        self._delay_s = _DELAY_S

    def map_slot(self, slot: wire.MapSlot, fd: int) -> None:
        """Map memory in the guest; `fd` must stay open until `unmap_slot` or `close`."""
        self._send(slot, fd)

    def unmap_slot(self, number: int) -> bool:
        """Unmap a slot; False if the guest has not been sent it, and will not be."""
        waiting = [message for message, _ in self._unsent if _slot_of(message) == number]
        if any(isinstance(message, wire.MapSlot) for message in waiting):
            self._unsent = deque(each for each in self._unsent if _slot_of(each[0]) != number)
            return False
        self._send(wire.UnmapSlot(number))
        return True

    def plug(self, number: int) -> None:
        """Announce a slot to the guest as a DIMM."""
        self._send(wire.PlugMemory(number))

    def unplug(self, number: int) -> None:
        """Ask the guest to release a DIMM; a request that still waits for room is not repeated."""
        request = wire.UnplugMemory(number)
        if all(message != request for message, _ in self._unsent):
            self._send(request)

    def bind_sint(self, sint: int) -> None:
        """Make the interrupt line of a SINT."""
        line = self._sints[sint] = InterruptLine()
        self._send(wire.BindSint(sint), line.guest_end.fileno())

    def bind_doorbell(self, connection_id: int) -> None:
        """Make the doorbell of a connection id."""
        doorbell = self.doorbells[connection_id] = Doorbell(self._wake)
        self._send(wire.BindDoorbell(connection_id), doorbell.guest_end.fileno())

    def start(self) -> None:
        """Report to the guest that its hardware is complete, and listen to it."""
        self._send(wire.Start())
        self.calls.arm()
        for doorbell in self.doorbells.values():
            doorbell.arm()

    def interrupt(self, sint: int) -> None:
        """Raise the line of a SINT, if there is one."""
        if sint in self._sints:
            self._sints[sint].interrupt()

    def receive(self) -> wire.Message | None:
        """Return the guest's next message; None if there is none, or for a call while a reply waits.

        Raises RemoteProtocolError for a malformed message, and EOFError if the guest has closed its end.
        """
        message, self._held = self._held, None
        if message is None:
            message = self._take()
        if isinstance(message, _CALLS) and self._owes_reply:
            self._held = message
            return None
        return message

    def await_call(self) -> None:
        """Wait for the next call, or, if a reply waits for room, until that is sent.

        Until then calls that wait in the socket wake nothing: none of them can be taken.
        """
        self.calls.ready = False
        if self._held is None:
            self.calls.arm()

    def reply(self, sequence: int, status: HvStatus) -> None:
        """Reply to a call; until the guest makes room for the reply, no further call is taken."""
        self._send(wire.Reply(sequence, status))

    def close(self) -> None:
        """Close everything."""
        self.calls.disarm()
        if self._is_blocked:
            asyncio.get_running_loop().remove_writer(self._socket.fileno())
            self._is_blocked = False
        if self._again is not None:
            self._again.cancel()
            self._again = None
        self._unsent.clear()
        for line in (*self.doorbells.values(), *self._sints.values()):
            line.close()
        self.doorbells.clear()
        self._sints.clear()
        self._socket.close()
        self.guest_end.close()

    def _take(self) -> wire.Message | None:
        if self._is_gone:
            raise EOFError
        try:
            data = self._socket.recv(HARDWARE_DATAGRAM_BYTES_MAX)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            raise EOFError from None
        if not data:
            raise EOFError
        return wire.decode(data)

    def _send(self, message: wire.Message, fd: int | None = None) -> None:
        self._unsent.append((message, fd))
        self._owes_reply = self._owes_reply or isinstance(message, wire.Reply)
        if not self._is_blocked:
            self._flush()

    def _flush(self) -> None:
        """Send until the guest has no room; continue when it has."""
        while self._unsent:
            message, fd = self._unsent[0]
            try:
                socket.send_fds(self._socket, [wire.encode(message)], [] if fd is None else [fd])
            except BlockingIOError:
                self._is_blocked = True
                asyncio.get_running_loop().add_writer(self._socket.fileno(), self._room)
                return
            except OSError as error:
                if is_shortage(error.errno or 0):
                    self._wait_for_host(error)
                    return
                self._unsent.clear()  # the guest is gone
                self._is_gone = True
                self._say_ready()
                return
            self._unsent.popleft()
            self._owes_reply = self._owes_reply and not isinstance(message, wire.Reply)
            self._delay_s = _DELAY_S

    def _wait_for_host(self, error: OSError) -> None:
        """Try again later: the host is short of something, of which this guest need not have a part."""
        if self._delay_s == _DELAY_S:
            _LOG.warning("the guest waits for its hardware: %s; trying again", error.strerror)
        self._is_blocked = True
        self._again = asyncio.get_running_loop().call_later(self._delay_s, self._room)
        self._delay_s = min(2 * self._delay_s, _DELAY_S_MAX)

    def _room(self) -> None:
        asyncio.get_running_loop().remove_writer(self._socket.fileno())
        self._is_blocked = False
        self._flush()
        if self._held is not None and not self._owes_reply:
            self._say_ready()

    def _say_ready(self) -> None:
        self.calls.disarm()
        self.calls.ready = True
        self._wake()


def _slot_of(message: wire.Message) -> int | None:
    """Return the slot that a message is about."""
    return getattr(message, "slot", None)
