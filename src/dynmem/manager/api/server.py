"""The manager's own socket: one request a connection, one JSON line each way, for its user only.

A client that hangs up while its reservation or its admission waits withdraws it; any other request is carried
out once it has arrived. `messages` says what can be asked. When there are too many clients, the one that has
kept the server waiting longest leaves.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from dynmem.errors import ConfigError, DynmemError, ExitCode, NotPermittedError
from dynmem.json_errors import NOT_JSON
from dynmem.limits import API_CLIENTS_MAX, API_REQUEST_BYTES_MAX
from dynmem.manager.api.messages import AdmitRequest, Refusal, Reply, Request, ReserveRequest, encode
from dynmem.sockets import bind_private

LOG: Final = logging.getLogger(__name__)
# From connecting to the end of the line.
_REQUEST_TIMEOUT_S: Final = 5.0
# For a client that does not read.
_REPLY_TIMEOUT_S: Final = 5.0


Handler = Callable[[Request], Awaitable[Reply]]
#: What a client withdraws when it hangs up.
_WITHDRAWN: Final = (ReserveRequest, AdmitRequest)


class ApiServer:
    """Listens until `close`; one handler carries out all requests."""

    def __init__(self, path: Path, handler: Handler) -> None:
        self._path = path
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._waited_for: dict[asyncio.Task[None], None] = {}  # the longest first

    async def start(self) -> None:
        """Listen; NotPermittedError if the path is not this manager's to use.

        The caller holds the lock for this path, so a socket that no process listens on is a dead manager's.
        """
        try:
            listening = bind_private(self._path)
        except ConfigError as error:
            raise NotPermittedError(f"manager.socket: {error}") from error
        self._server = await asyncio.start_unix_server(
            self._serve, sock=listening, limit=API_REQUEST_BYTES_MAX
        )

    async def close(self) -> None:
        """Stop listening, disconnect all clients, remove the socket."""
        if self._server is not None:
            self._server.close()
            for client in tuple(self._clients):
                client.cancel()
            if self._clients:
                await asyncio.wait(self._clients, timeout=1.0)
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = asyncio.current_task()
        assert client is not None
        self._clients.add(client)
        try:
            if self._has_room():
                self._waited_for[client] = None
                reply = await self._reply(reader, client)
            else:
                reply = _refusal(
                    f"{API_CLIENTS_MAX} clients are waiting already, the limit: try again later",
                    ExitCode.REFUSED,
                )
            self._waited_for[client] = None
            if reply:
                writer.write(reply)
                async with asyncio.timeout(_REPLY_TIMEOUT_S):
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._clients.discard(client)
            self._waited_for.pop(client, None)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    def _has_room(self) -> bool:
        """Return whether a client that has just come can be served; one that is waited for makes room."""
        if len(self._clients) <= API_CLIENTS_MAX:
            return True
        if not self._waited_for:
            return False
        leaving = next(iter(self._waited_for))
        del self._waited_for[leaving]
        self._clients.discard(leaving)
        leaving.cancel()
        return True

    async def _reply(self, reader: asyncio.StreamReader, client: asyncio.Task[None]) -> bytes:
        """Read the request and return the line that replies to it; empty if the client has gone."""
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                line = await reader.readuntil(b"\n")
            request = _DECODER.decode(line)
        except (TimeoutError, asyncio.IncompleteReadError):
            return b""
        except asyncio.LimitOverrunError:
            return _refusal(f"a request is at most {API_REQUEST_BYTES_MAX} bytes long", ExitCode.USAGE)
        except NOT_JSON as error:
            return _refusal(f"not a request: {error}", ExitCode.USAGE)
        self._waited_for.pop(client, None)
        handling = asyncio.ensure_future(self._handler(request))
        hang_up = asyncio.create_task(reader.read(1))
        awaited = (handling, hang_up) if isinstance(request, _WITHDRAWN) else (handling,)
        try:
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            if not handling.done():
                return b""
            return encode(handling.result())
        except DynmemError as error:
            return _refusal(str(error), error.exit_code)
        finally:
            for task in (handling, hang_up):
                task.cancel()
            await asyncio.wait((handling, hang_up))


_DECODER: Final[msgspec.json.Decoder[Request]] = msgspec.json.Decoder(Request)


def _refusal(sentence: str, code: ExitCode) -> bytes:
    return encode(Refusal(sentence, int(code)))
