"""The end of the socket at which the books are kept: callers in other processes, each standing for one VM.

One thread serves all callers, a packet at a time in turns, so the books need no lock. A caller belongs to
this user, which the kernel confirms, and is watched: when its connection or its process ends, its VM's books
are closed and its pages are free. The bytes that a caller sends can cost only itself: a malformed packet ends
that connection, and a malformed request gets a status in reply.

What a connection can take is bounded: one packet is read at a time, into one buffer for all, and a caller
that does not read its replies is disconnected.
"""

import contextlib
import logging
import os
import selectors
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from dynmem.chunks.messages import PACKET_BYTES_MAX, Greeting, Welcome, decode_request
from dynmem.errors import DynmemError
from dynmem.gmm.codes import GmmError, Status
from dynmem.limits import CHUNK_CLIENTS_MAX
from dynmem.procfs import is_shortage
from dynmem.sockets import bind_private, peer_of

LOG: Final = logging.getLogger(__name__)
_SO_PEERPIDFD: Final = 77  # of Linux 6.5 and later
# How long a shortage of descriptors, or a cleanup that failed, is left alone while nothing else happens.
_PAUSE_S: Final = 1.0


class Books(Protocol):
    """What the server needs of the books itself; everything else arrives as a request."""

    def register_vm(self, vm: str, *, process: int = 0, numa_node: int = 0) -> int:
        """Return the handle of a VM whose books are opened. Raises GmmError."""

    def cleanup_vm(self, vm: str) -> int:
        """Close the books of a VM that is gone; return the pages that it held."""


class Memory(Protocol):
    """What the server needs of the store: its file, and a number for each process that maps chunks."""

    @property
    def fd(self) -> int:
        """The memory file."""

    def attach(self, window: int) -> int:
        """Return a number for a process that maps chunk 0 at the address `window`."""

    def detach(self, process: int) -> None:
        """Forget a process that has ended."""


#: Perform a request of a VM: its name, an operation, a buffer; return the buffer with its outputs.
Perform = Callable[[str, int, bytes], bytes]


class _Caller:
    """One connection.

    Attributes:
        connection: Its socket.
        pidfd: Becomes readable when its process ends.
        pid: The number of its process.
        vm: The VM that it stands for; "" until it has greeted.
        process: The store's number of it.
    """

    __slots__ = ("connection", "pid", "pidfd", "process", "vm")

    def __init__(self, connection: socket.socket, pid: int, pidfd: int) -> None:
        self.connection = connection
        self.pid = pid
        self.pidfd = pidfd
        self.vm = ""
        self.process = 0


class RequestServer:
    """Listens at a path from `start` to `close`; `turn` serves whatever has arrived.

    An event loop can have `turn` called when `fileno` is readable, and once a second; a program that does
    nothing else calls it in a loop.
    """

    def __init__(self, path: Path, books: Books, memory: Memory, perform: Perform) -> None:
        self._path: Final = path
        self._books: Final = books
        self._memory: Final = memory
        self._perform: Final = perform
        self._selector: Final = selectors.DefaultSelector()
        self._callers: Final[dict[_Caller, None]] = {}  # the longest connected first
        self._buffer: Final = bytearray(PACKET_BYTES_MAX + 1)
        self._ended: Final[dict[str, int]] = {}  # VMs that are to be cleaned up, with their processes
        self._listening: socket.socket | None = None
        self._is_paused = False

    def start(self) -> None:
        """Listen. Raises ConfigError if the path cannot be used."""
        listening = bind_private(self._path, socket.SOCK_SEQPACKET)
        listening.setblocking(False)
        listening.listen(CHUNK_CLIENTS_MAX)
        self._listening = listening
        self._selector.register(listening, selectors.EVENT_READ, None)

    def fileno(self) -> int:
        """Return a descriptor that is readable when there is something to serve."""
        return self._selector.fileno()

    def turn(self, timeout_s: float | None = None) -> None:
        """Wait until a caller has sent something, `timeout_s` at most; serve one packet of each that has."""
        if self._is_paused or self._ended:
            timeout_s = min(_PAUSE_S, _PAUSE_S if timeout_s is None else timeout_s)
        ready = self._selector.select(timeout_s)
        self._pause(False)
        self._clean_up()
        for key, _ in ready:
            caller = key.data
            if caller is None:
                self._accept()
            elif caller not in self._callers:
                continue  # it was dropped in this turn
            elif key.fileobj == caller.pidfd:
                self._drop(caller, "its process has ended")
            else:
                self._serve(caller)

    def end(self, vm: str) -> None:
        """Disconnect the caller that stands for a VM, if one does; the VM's books are closed.

        Whoever ends a VM of a caller calls this, and not `cleanup_vm`: the caller must not go on.
        """
        for caller in tuple(self._callers):
            if caller.vm == vm:
                self._drop(caller, "its VM was ended here")

    def close(self) -> None:
        """Stop listening, disconnect all callers, close their VMs' books, remove the socket."""
        for caller in tuple(self._callers):
            self._drop(caller, "the server ends")
        if self._listening is not None:
            self._listening.close()
            self._listening = None
            self._path.unlink(missing_ok=True)
        self._selector.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        assert self._listening is not None
        try:
            connection, _ = self._listening.accept()
        except OSError as error:
            # a client that hung up again, or no descriptor
            if is_shortage(error):
                LOG.warning("no caller is accepted for now: %s", error.strerror)
                self._pause(True)
            return
        caller = self._checked(connection)
        if caller is None:
            connection.close()
            return
        self._callers[caller] = None
        self._selector.register(connection, selectors.EVENT_READ, caller)
        self._selector.register(caller.pidfd, selectors.EVENT_READ, caller)

    def _checked(self, connection: socket.socket) -> _Caller | None:
        """Return a caller that may stay: of this user, alive, watched, and not one too many."""
        try:
            peer = peer_of(connection)
            if peer.uid != os.geteuid():
                LOG.warning("process %d of user %d is refused: only this user may call", peer.pid, peer.uid)
                return None
            if not self._has_room():
                LOG.warning("process %d is refused: there are %d callers", peer.pid, CHUNK_CLIENTS_MAX)
                return None
            connection.setblocking(False)
            return _Caller(connection, peer.pid, _pidfd(connection, peer.pid))
        except OSError as error:
            LOG.warning("a caller is refused: its process cannot be watched: %s", error.strerror)
            return None

    def _has_room(self) -> bool:
        """Return whether another caller may stay; the oldest one that stands for no VM makes room."""
        if len(self._callers) < CHUNK_CLIENTS_MAX:
            return True
        silent = next((caller for caller in self._callers if not caller.vm), None)
        if silent is None:
            return False
        self._drop(silent, "it has not greeted, and its place is needed")
        return True

    def _serve(self, caller: _Caller) -> None:
        """Receive one packet and reply to it, or drop the caller."""
        try:
            length = caller.connection.recv_into(self._buffer)
            if not 0 < length < len(self._buffer):
                what = f"a packet is longer than {PACKET_BYTES_MAX} bytes" if length else "it hung up"
                self._drop(caller, what)
                return
            packet = bytes(memoryview(self._buffer)[:length])
            if caller.vm:
                caller.connection.send(self._perform(caller.vm, *decode_request(packet)))
            else:
                self._greet(caller, Greeting.decode(packet))
        except BlockingIOError:
            self._drop(caller, "it does not read its replies")
        except DynmemError as error:
            # a malformed packet, or a store that the kernel fails
            self._drop(caller, str(error))
        except OSError as error:
            self._drop(caller, error.strerror or str(error))

    def _greet(self, caller: _Caller, greeting: Greeting) -> None:
        if any(other.vm == greeting.vm for other in self._callers):
            # whatever the books say: a VM is one caller's
            caller.connection.send(Welcome(Status.WRONG_ORDER).encode())
            return
        process = self._memory.attach(greeting.window)
        try:
            handle = self._books.register_vm(greeting.vm, process=process, numa_node=greeting.numa_node)
        except GmmError as error:
            self._memory.detach(process)
            caller.connection.send(Welcome(error.code).encode())
            return
        caller.vm, caller.process = greeting.vm, process
        socket.send_fds(caller.connection, [Welcome(Status.SUCCESS, handle).encode()], [self._memory.fd])

    def _drop(self, caller: _Caller, reason: str) -> None:
        """Disconnect a caller; its VM's books are closed."""
        LOG.info("process %d, VM %r, is disconnected: %s", caller.pid, caller.vm, reason)
        del self._callers[caller]
        self._selector.unregister(caller.connection)
        self._selector.unregister(caller.pidfd)
        caller.connection.close()
        os.close(caller.pidfd)
        if caller.vm:
            self._ended[caller.vm] = caller.process
            self._clean_up()

    def _clean_up(self) -> None:
        """Close the books of VMs whose callers are gone; what the kernel fails is tried again."""
        for vm, process in tuple(self._ended.items()):
            try:
                pages = self._books.cleanup_vm(vm)
                LOG.info("VM %r is cleaned up: it held %d pages", vm, pages)
            except GmmError as error:
                LOG.warning("VM %r was cleaned up before: %s", vm, error)
            except DynmemError as error:
                LOG.warning("VM %r is not cleaned up yet: %s", vm, error)
                continue
            self._memory.detach(process)
            del self._ended[vm]

    def _pause(self, is_paused: bool) -> None:
        """Stop or go on accepting: a listener that cannot be served would be ready all the time."""
        if self._listening is None or is_paused == self._is_paused:
            return
        self._is_paused = is_paused
        if is_paused:
            self._selector.unregister(self._listening)
        else:
            self._selector.register(self._listening, selectors.EVENT_READ, None)


def _pidfd(connection: socket.socket, pid: int) -> int:
    """Return a descriptor of the process at the other end. Raises OSError.

    Before Linux 6.5 it is opened by the number, which may be another process's by now: that one is watched in
    vain, and the end of the connection still counts.
    """
    with contextlib.suppress(OSError):
        return connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    return os.pidfd_open(pid)
