"""The manager's own socket: one request a connection, one JSON line each way, for its user only.

A client that hangs up while its reservation or its admission waits withdraws it; any other request is carried
out once it has arrived. `messages` says what can be asked, `clients` who is served when there are too many.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from dynmem.errors import ConfigError, DynmemError, ExitCode, NotPermittedError
from dynmem.json_errors import NOT_JSON
from dynmem.limits import API_CLIENTS_MAX, API_REQUEST_BYTES_MAX
from dynmem.manager.api.callers import CALLER, caller_of
from dynmem.manager.api.clients import REQUEST_TIMEOUT_S, Client, Clients
from dynmem.manager.api.messages import AdmitRequest, Refusal, Reply, Request, ReserveRequest, encode
from dynmem.sockets import bind_private

Handler = Callable[[Request], Awaitable[Reply]]
#: What a client withdraws when it hangs up.
_WITHDRAWN: Final = (ReserveRequest, AdmitRequest)


class ApiServer:
    """Listens at *path* until `close`; one handler carries out all requests.

    *key* is where the configuration names the path.
    """

    def __init__(self, path: Path, handler: Handler, key: str = "manager.socket") -> None:
        self.path: Final = path
        self._key = key
        self._handler = handler
        self._server: asyncio.Server | None = None
        full = f"{API_CLIENTS_MAX} clients are waiting already, the limit: try again later"
        self._clients = Clients(API_CLIENTS_MAX, self._reply, _refusal(full, ExitCode.REFUSED))

    async def start(self) -> None:
        """Listen; NotPermittedError if the path is not this manager's to use.

        The caller holds the lock for this path, so a socket that no process listens on is a dead manager's.
        """
        try:
            listening = bind_private(self.path)
        except ConfigError as error:
            raise NotPermittedError(f"{self._key}: {error}") from error
        self._server = await asyncio.start_unix_server(
            self._clients.serve, sock=listening, limit=API_REQUEST_BYTES_MAX
        )

    async def close(self) -> None:
        """Stop listening, disconnect all clients, remove the socket."""
        if self._server is not None:
            self._server.close()
            await self._clients.close()
            self.path.unlink(missing_ok=True)

    async def _reply(self, reader: asyncio.StreamReader, client: Client) -> bytes:
        """Read the request and return the line that replies to it; empty if the client has gone."""
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                line = await reader.readuntil(b"\n")
            request = _DECODER.decode(line)
        except (TimeoutError, asyncio.IncompleteReadError):
            return b""
        except asyncio.LimitOverrunError:
            return _refusal(f"a request is at most {API_REQUEST_BYTES_MAX} bytes long", ExitCode.USAGE)
        except NOT_JSON as error:
            return _refusal(f"not a request: {error}", ExitCode.USAGE)
        client.heard()
        CALLER.set(caller_of(client.connection))
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
