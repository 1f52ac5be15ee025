"""One connection: uvicorn's, with an end to everything that a client can make it wait for.

A request has to be there, whole, within a few seconds, and what is sent has to be read in as many. When there
are too many connections, the one that has kept the server waiting longest leaves.
"""

import asyncio
import time
from typing import Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from dynmem.limits import WEB_CONNECTIONS_MAX
from dynmem.web.guard import HEADERS

#: From the beginning of a connection, or the end of a reply, to the end of a request.
REQUEST_S: Final = 10.0
#: For a client that does not read.
READ_S: Final = 20.0
#: What waits to be sent in this process, beyond what the kernel holds.
_BUFFER_BYTES: Final = 1 << 16
_HEADERS: Final = b"".join(b"%s: %s\r\n" % each for each in HEADERS.items())
_SENTENCE: Final = b'{"error":"this is not a request of HTTP"}'
_BAD_REQUEST: Final = (
    b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: application/json\r\n%b"
    b"content-length: %d\r\n\r\n%b" % (_HEADERS, len(_SENTENCE), _SENTENCE)
)


class Connection(H11Protocol):
    """A client."""

    transport: asyncio.Transport
    _limit: asyncio.TimerHandle | None = None
    _waited_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=_BUFFER_BYTES)
        self._wait(REQUEST_S)
        if len(self.connections) > WEB_CONNECTIONS_MAX:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._go_on()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # or the connection is kept in memory until then

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._go_on()
        self._wait(READ_S)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._go_on()
        self._look()

    def send_400_response(self, msg: str) -> None:
        """Reply to what is no request, unless a reply is being sent already."""
        del msg
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(_BAD_REQUEST)
            self.transport.close()
        else:
            self.transport.abort()

    def _look(self) -> None:
        """Wait for the client, or for ourselves."""
        if self.flow.write_paused:
            return
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            if self._limit is None:
                self._wait(REQUEST_S)
        else:
            self._go_on()

    def _wait(self, seconds: float) -> None:
        if self.transport.is_closing():
            return
        self._waited_since = time.monotonic()
        self._limit = self.loop.call_later(seconds, self.transport.abort)

    def _go_on(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
        self._limit = self._waited_since = None

    def _make_room(self) -> None:
        waited = [
            (each._waited_since, at, each)
            for at, each in enumerate(self.connections)
            if isinstance(each, Connection) and each._waited_since is not None and each is not self
        ]
        leaving = min(waited)[2] if waited else self
        self.connections.discard(leaving)
        leaving.transport.abort()
