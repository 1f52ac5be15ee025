"""The caller's end of the socket: requests of one VM, and the chunks that it has mapped.

`RequestClient.perform` is the transport of `gmm.batches` and `gmm.calls`: an operation and a request buffer
go out, a reply comes back. The one request that concerns this process's own memory is carried out on the way:
what VMMR0_DO_GMM_MAP_UNMAP_CHUNK maps is mapped here when `perform` returns, at the address in the buffer.
"""

import os
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from dynmem.chunks.messages import REPLY_BYTES_MAX, Greeting, Welcome, encode_request
from dynmem.chunks.window import Window, WindowError
from dynmem.errors import (
    DeadlineError,
    DynmemError,
    LocalProtocolError,
    RemoteProtocolError,
    UnreachableError,
)
from dynmem.gmm.codes import GmmError, Status
from dynmem.gmm.constants import NIL_GMM_CHUNKID
from dynmem.gmm.replies import Reply, parse_reply
from dynmem.gmm.requests import Operation, new_request

_TIMEOUT_S: Final = 30.0


class RequestClient:
    """A VM's connection to the process that keeps the books, which closes them when it ends.

    Attributes:
        vm: The name of the VM.
        handle: Its number in the books (hGVM).
    """

    def __init__(self, path: Path, vm: str, *, numa_node: int = 0, timeout_s: float = _TIMEOUT_S) -> None:
        """Connect, and have the books of `vm` opened.

        Raises GmmError if the books refuse the VM; LocalProtocolError for a name that cannot be sent;
        UnreachableError, DeadlineError, RemoteProtocolError, WindowError.
        """
        self.vm: Final = vm
        self._path: Final = path
        self._lock: Final = threading.Lock()
        self._mapped: Final[set[int]] = set()
        self._fd = -1
        self._window: Final = Window()
        self._socket: Final = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._socket.settimeout(timeout_s)
            self.handle: Final = self._greet(Greeting(vm, self._window.base, numa_node))
        except BaseException:
            self.close()
            raise

    def perform(self, operation: int, buffer: bytes) -> bytes:
        """Perform one request; return its buffer with the outputs.

        The reply says whether the call succeeded (`gmm.replies`); INVALID_PARAMETER, from here, if the buffer
        is longer than CHUNK_REQUEST_BYTES_MAX. Raises UnreachableError, DeadlineError, RemoteProtocolError,
        and then the connection is closed: a late reply would be taken for that of the next request.
        """
        try:
            packet = encode_request(operation, buffer)
        except LocalProtocolError as error:
            return Reply(Status.INVALID_PARAMETER, None, str(error)).encode()
        with self._lock:
            reply = self._exchange(packet)
            return self._mapped_here(reply) if operation == Operation.MAP_UNMAP_CHUNK else reply

    def view(self, chunk_id: int) -> memoryview:
        """Return the bytes of a chunk that is mapped, until it is unmapped. Raises KeyError."""
        if chunk_id not in self._mapped:
            raise KeyError(chunk_id)
        return self._window.view(chunk_id)

    def close(self) -> None:
        """Unmap all chunks, then disconnect; the VM's books are closed."""
        self._mapped.clear()
        self._window.close()
        self._socket.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _mapped_here(self, reply: bytes) -> bytes:
        """Map and unmap in this process what the books have mapped and unmapped; return the reply.

        If the system refuses, the books undo it, and the reply says that memory is short. A chunk is unmapped
        here last, when the books no longer count it: it may be another VM's then, but is not touched.
        """
        parsed = parse_reply(Operation.MAP_UNMAP_CHUNK, reply)
        if parsed.status < 0:
            return reply
        request = parsed.outputs()
        map_id, unmap_id = request["idChunkMap"], request["idChunkUnmap"]
        try:
            if map_id != NIL_GMM_CHUNKID:
                if request["pvR3"] != self._window.address(map_id):
                    raise self._misled(f"chunk {map_id} is mapped at another address than its own")
                if map_id not in self._mapped:
                    self._window.map(self._fd, map_id)
                self._mapped.add(map_id)
        except WindowError as error:
            undo = new_request(Operation.MAP_UNMAP_CHUNK, idChunkMap=unmap_id, idChunkUnmap=map_id)
            self._exchange(encode_request(Operation.MAP_UNMAP_CHUNK, undo.encode()))
            return Reply(Status.OUT_OF_MEMORY, request, str(error)).encode()
        if unmap_id != NIL_GMM_CHUNKID:
            self._window.unmap(unmap_id)
            self._mapped.discard(unmap_id)
        return reply

    def _misled(self, what: str) -> RemoteProtocolError:
        self._socket.close()
        return RemoteProtocolError(f"{self._path}: {what}")

    def _greet(self, greeting: Greeting) -> int:
        try:
            self._socket.connect(os.fspath(self._path))
        except OSError as error:
            raise UnreachableError(
                f"{self._path}: no Global Memory Manager listens: {error.strerror}: check the path"
            ) from None
        self._send(greeting.encode())
        packet, fds = self._receive()
        self._fd = fds[0] if fds else -1
        for extra in fds[1:]:
            os.close(extra)
        welcome = Welcome.decode(packet)
        if welcome.status:
            raise GmmError(welcome.status, f"the VM {self.vm!r} is refused")
        if self._fd < 0:
            raise RemoteProtocolError("the welcome came without the memory file")
        return welcome.handle

    def _exchange(self, packet: bytes) -> bytes:
        """Send a request and return the reply to it; the connection is closed if either fails."""
        try:
            self._send(packet)
            reply, fds = self._receive()
        except BaseException:
            self._socket.close()
            raise
        for fd in fds:
            os.close(fd)
        return reply

    def _send(self, packet: bytes) -> None:
        try:
            self._socket.send(packet)
        except OSError as error:
            raise self._lost(error) from None

    def _receive(self) -> tuple[bytes, list[int]]:
        try:
            packet, fds, _, _ = socket.recv_fds(self._socket, REPLY_BYTES_MAX, 1)
        except OSError as error:
            raise self._lost(error) from None
        if not packet:
            raise UnreachableError(
                f"{self._path}: the server ended the connection of {self.vm!r}: connect again"
            )
        return packet, fds

    def _lost(self, error: OSError) -> DynmemError:
        if isinstance(error, TimeoutError):
            return DeadlineError(
                f"{self._path}: no reply for {self._socket.gettimeout()} s: look at the process that listens"
            )
        return UnreachableError(f"{self._path}: the connection of {self.vm!r} is lost: {error.strerror}")
