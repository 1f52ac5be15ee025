"""The clients of a server, as many as it serves at once: one request a connection, and one reply.

A client that sends nothing, or does not read, is dropped after a while. When there are too many, the one that
has kept the server waiting longest leaves; if none does, the one that came last is refused.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

# From connecting to the end of the request.
REQUEST_TIMEOUT_S: Final = 5.0
# For a client that does not read.
REPLY_TIMEOUT_S: Final = 5.0
# What is handed to a connection at a time: the rest stays in the one reply that all clients share.
_PIECE_BYTES: Final = 1 << 16


class Client(NamedTuple):
    """One client.

    Attributes:
        heard: Says that its request has arrived: from then on it waits for the server.
        connection: Its socket, to find out who it is.
    """

    heard: Callable[[], None]
    connection: socket.socket


#: Reads one request and returns the reply; empty if the client has gone.
Answer = Callable[[asyncio.StreamReader, Client], Awaitable[bytes]]


class Clients:
    """Serves up to *limit* clients at once; *full* is the reply to those beyond."""

    def __init__(self, limit: int, answer: Answer, full: bytes) -> None:
        self._limit = limit
        self._answer = answer
        self._full = full
        self._clients: set[asyncio.Task[None]] = set()
        self._waited_for: dict[asyncio.Task[None], None] = {}  # the longest first

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection from its beginning to its end."""
        client = asyncio.current_task()
        assert client is not None
        self._clients.add(client)
        writer.transport.set_write_buffer_limits(0)  # what is drained is out of our memory
        try:
            if self._has_room():
                self._waited_for[client] = None
                connection = writer.get_extra_info("socket")
                reply = await self._answer(reader, Client(lambda: self._heard(client), connection))
            else:
                reply = self._full
            self._waited_for[client] = None
            async with asyncio.timeout(REPLY_TIMEOUT_S):
                for begin in range(0, len(reply), _PIECE_BYTES):
                    writer.write(reply[begin : begin + _PIECE_BYTES])
                    await writer.drain()
                writer.write_eof()
                while await reader.read(_PIECE_BYTES):
                    pass  # a connection that ends with something unread takes the reply with it
        except (OSError, TimeoutError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._clients.discard(client)
            self._waited_for.pop(client, None)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def close(self) -> None:
        """Disconnect all of them."""
        for client in tuple(self._clients):
            client.cancel()
        if self._clients:
            await asyncio.wait(self._clients, timeout=1.0)

    def _heard(self, client: asyncio.Task[None]) -> None:
        self._waited_for.pop(client, None)

    def _has_room(self) -> bool:
        """Return whether a client that has just come can be served; one that is waited for makes room."""
        if len(self._clients) <= self._limit:
            return True
        if not self._waited_for:
            return False
        leaving = next(iter(self._waited_for))
        del self._waited_for[leaving]
        leaving.cancel()
        return True
