"""Metrics over HTTP, for Prometheus: `GET /metrics`, one request a connection, and nothing else.

Every program that reaches the address may read, and none can change anything. A request is short and has to
be complete within a few seconds, a reply has to be read in as many, and `clients` bounds who is served at
once. All who ask within the same second share one rendering, made in a thread: the loop goes on beside it.
"""

import asyncio
import os
import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from dynmem.limits import METRICS_CLIENTS_MAX, METRICS_REQUEST_BYTES_MAX
from dynmem.manager.address import Address
from dynmem.manager.api.clients import REQUEST_TIMEOUT_S, Client, Clients
from dynmem.manager.api.messages import StatusReply

# How long a rendering is given to those who ask for one.
FRESH_S: Final = 1.0
PATH: Final = "/metrics"
_REQUEST: Final = re.compile(rb"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.[01]")
_TEXT: Final = "text/plain; charset=utf-8"


class MetricsServer:
    """Listens where `listen` says, until it says otherwise.

    *status* returns the present status, *render* turns it into the text that is served with *content_type*;
    *report* prints a line for the operator.
    """

    def __init__(
        self,
        status: Callable[[], StatusReply],
        render: Callable[[StatusReply], bytes],
        content_type: str,
        report: Callable[[str], None],
    ) -> None:
        self._status = status
        self._render = render
        self._content_type = content_type
        self._report = report
        self._address: Address | None = None
        self._server: asyncio.Server | None = None
        full = f"{METRICS_CLIENTS_MAX} clients are being served already, the limit: try again later"
        self._clients = Clients(METRICS_CLIENTS_MAX, self._reply, _error("503 Service Unavailable", full))
        self._thread = ThreadPoolExecutor(1, "metrics")
        self._rendering: asyncio.Future[bytes] | None = None
        self._rendered_s = 0.0

    async def listen(self, address: Address | None) -> None:
        """Listen there and nowhere else; None: nowhere. An address that cannot be had is reported.

        VMs are served whether metrics are or not. What cannot be had is tried again at the next call.
        """
        if address == self._address and (self._server is not None or address is None):
            return
        await self._stop()
        self._address = address
        if address is None:
            return
        try:
            listening = socket.create_server(address, family=address.family, backlog=METRICS_CLIENTS_MAX)
        except OSError as error:
            why = os.strerror(error.errno or 0)
            self._report(
                f"manager.metrics: cannot listen on {address} ({why}): no metrics are served until the"
                " configuration is read again with another address, or with this one free"
            )
            return
        self._server = await asyncio.start_server(
            self._clients.serve, sock=listening, limit=METRICS_REQUEST_BYTES_MAX
        )
        taken = Address(*listening.getsockname()[:2])
        self._report(f"metrics are served at http://{taken}{PATH}")

    async def close(self) -> None:
        """Stop listening and disconnect all clients."""
        await self._stop()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            await self._clients.close()

    async def _reply(self, reader: asyncio.StreamReader, client: Client) -> bytes:
        """Read a request and return the reply; empty if the client has gone."""
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
        except (TimeoutError, asyncio.IncompleteReadError):
            return b""
        except asyncio.LimitOverrunError:
            limit = f"a request is at most {METRICS_REQUEST_BYTES_MAX} bytes long"
            return _error("431 Request Header Fields Too Large", limit)
        client.heard()
        found = _REQUEST.fullmatch(head.partition(b"\r\n")[0])
        if found is None:
            return _error("400 Bad Request", "not a request of HTTP/1.1")
        method, path = found[1], found[2].partition(b"?")[0].decode()
        if method not in {b"GET", b"HEAD"}:
            return _error("405 Method Not Allowed", "only GET and HEAD", "Allow: GET, HEAD\r\n")
        if path != PATH:
            return _error("404 Not Found", f"metrics are at {PATH}")
        reply = await self._shared()
        return reply if method == b"GET" else reply[: reply.index(b"\r\n\r\n") + 4]

    async def _shared(self) -> bytes:
        """Return a reply that is rendered now, or was a moment ago for another client."""
        running = self._rendering
        if running is not None and not running.done():
            return await asyncio.shield(running)
        if running is None or running.exception() or time.monotonic() - self._rendered_s > FRESH_S:
            self._rendered_s = time.monotonic()
            loop = asyncio.get_running_loop()
            running = loop.run_in_executor(self._thread, self._rendered, self._status())
            self._rendering = running
        return await asyncio.shield(running)

    def _rendered(self, status: StatusReply) -> bytes:
        return _reply("200 OK", self._content_type, self._render(status))


def _reply(code: str, content_type: str, body: bytes, more: str = "") -> bytes:
    """Return a whole reply, after which the connection ends."""
    head = (
        f"HTTP/1.1 {code}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        f"{more}Connection: close\r\n\r\n"
    )
    return head.encode() + body


def _error(code: str, sentence: str, more: str = "") -> bytes:
    return _reply(code, _TEXT, f"{sentence}\n".encode(), more)
