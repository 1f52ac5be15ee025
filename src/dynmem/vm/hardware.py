"""The hardware of the embedded guest, from the machine's side: one socket, interrupt lines, doorbells.

The socket is only looked at when the machine says so, and calls are taken one at a time: a guest that asks
faster than it is served, or reads no replies, waits.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import Final

from dynmem.limits import HARDWARE_DATAGRAM_BYTES_MAX
from dynmem.wire import hardware as wire
from dynmem.wire.synic import HvStatus

_EVENTFD_FLAGS: Final = os.EFD_CLOEXEC | os.EFD_NONBLOCK


class Readiness:
    """Watches one descriptor on the running loop: once for each `arm` it becomes `ready` and calls `wake`."""

    def __init__(self, fd: int, wake: Callable[[], None]) -> None:
        self.fd = fd
        self.ready = False
        self._wake = wake
        self._armed = False

    def arm(self) -> None:
        """Watch for the next time that there is something to read."""
        self.ready = False
        if not self._armed:
            self._armed = True
            asyncio.get_running_loop().add_reader(self.fd, self._fired)

    def disarm(self) -> None:
        """Watch no longer."""
        if self._armed:
            self._armed = False
            asyncio.get_running_loop().remove_reader(self.fd)

    def _fired(self) -> None:
        self.disarm()
        self.ready = True
        self._wake()


class Hardware:
    """Both ends of the guest's hardware: `guest_end` is for the guest process, the rest is the machine's.

    Attributes:
        calls: The machine's end of the socket; `receive` when ready.
        doorbells: By connection id; `take_doorbell` when ready.

    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._socket, self.guest_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        self._wake = wake
        self._sints: dict[int, int] = {}
        self.calls = Readiness(self._socket.fileno(), wake)
        self.doorbells: dict[int, Readiness] = {}
        self._unsent: bytes | None = None

    def map_slot(self, slot: wire.MapSlot, fd: int) -> None:
        """Give the guest memory."""
        self._send(slot, fd)

    def bind_sint(self, sint: int) -> None:
        """Make the interrupt line of a SINT."""
        self._sints[sint] = os.eventfd(0, _EVENTFD_FLAGS)
        self._send(wire.BindSint(sint), self._sints[sint])

    def bind_doorbell(self, connection_id: int) -> None:
        """Make the doorbell of a connection id."""
        fd = os.eventfd(0, _EVENTFD_FLAGS)
        self.doorbells[connection_id] = Readiness(fd, self._wake)
        self._send(wire.BindDoorbell(connection_id), fd)

    def start(self) -> None:
        """Tell the guest that its hardware is complete, and listen to it."""
        self._send(wire.Start())
        self.calls.arm()
        for doorbell in self.doorbells.values():
            doorbell.arm()

    def interrupt(self, sint: int) -> None:
        """Raise the line of a SINT, if there is one."""
        if sint in self._sints:
            with contextlib.suppress(BlockingIOError):  # the counter is full: it is raised already
                os.eventfd_write(self._sints[sint], 1)

    def take_doorbell(self, connection_id: int) -> None:
        """Count a doorbell that was rung as heard."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.doorbells[connection_id].fd)

    def receive(self) -> wire.Message | None:
        """The guest's next message; None when there is none, or while the guest does not take its last reply.

        Raises RemoteProtocolError for what is no message, and EOFError when the guest has closed its end.
        """
        if self._unsent is not None:
            return None
        try:
            data = self._socket.recv(HARDWARE_DATAGRAM_BYTES_MAX)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            raise EOFError from None
        if not data:
            raise EOFError
        return wire.decode(data)

    def await_call(self) -> None:
        """Look for the next call: when there is one, or, while a reply waits for room, when that is sent.

        Until then calls that wait in the socket are no reason to wake: none of them can be taken.
        """
        self.calls.ready = False
        if self._unsent is None:
            self.calls.arm()

    def reply(self, sequence: int, status: HvStatus) -> None:
        """Answer a call; until the guest makes room for the answer, no further call is taken."""
        self._unsent = wire.encode(wire.Reply(sequence, status))
        self._flush()

    def close(self) -> None:
        """Let go of everything."""
        self.calls.disarm()
        if self._unsent is not None:
            asyncio.get_running_loop().remove_writer(self._socket.fileno())
        for doorbell in self.doorbells.values():
            doorbell.disarm()
            os.close(doorbell.fd)
        for fd in self._sints.values():
            os.close(fd)
        self._socket.close()
        self.guest_end.close()

    def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        assert self._unsent is not None
        try:
            self._socket.send(self._unsent)
        except BlockingIOError:
            loop.add_writer(self._socket.fileno(), self._room)
            return
        except (BrokenPipeError, ConnectionResetError):
            pass  # the guest is gone; the next receive says so
        self._unsent = None

    def _room(self) -> None:
        asyncio.get_running_loop().remove_writer(self._socket.fileno())
        self._flush()
        if self._unsent is None:
            self.calls.ready = True
            self._wake()

    def _send(self, message: wire.Message, fd: int | None = None) -> None:
        data = wire.encode(message)
        if fd is None:
            self._socket.send(data)
        else:
            socket.send_fds(self._socket, [data], [fd])
