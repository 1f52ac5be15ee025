"""All that the manager listens on: its own socket, one that only reports the status, metrics over HTTP."""

import os
from collections.abc import Callable

from dynmem.errors import NotPermittedError
from dynmem.manager.address import Address
from dynmem.manager.api.callers import CALLER, request_line
from dynmem.manager.api.messages import READS, Reply, Request
from dynmem.manager.api.scrapes import MetricsServer
from dynmem.manager.api.server import ApiServer, Handler
from dynmem.manager.config import Config
from dynmem.manager.private import private_folder

# A process that can write to a socket can connect to it.
_ANYONE_MODE = 0o666
_GROUP_MODE = 0o660


class Fronts:
    """Started once; only the address of metrics can change."""

    def __init__(
        self, config: Config, handler: Handler, metrics: MetricsServer, report: Callable[[str], None]
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._servers = [ApiServer(config.socket, recorded(handler, report))]
        if config.status_socket is not None:
            self._servers.append(ApiServer(config.status_socket, read_only(handler), "manager.status_socket"))

    async def start(self, started: Callable[[], None]) -> None:
        """Listen; call *started* once the sockets do. NotPermittedError."""
        own, *others = self._servers
        try:
            await own.start()
            for server in others:
                private_folder(server.path.parent)
                await server.start()
                self._open(server)
        except NotPermittedError:
            await self.close()
            raise
        started()
        await self.listen(self._config.metrics)

    async def listen(self, address: Address | None) -> None:
        """Serve metrics at an address; None: nowhere."""
        await self._metrics.listen(address)

    async def close(self) -> None:
        """Disconnect all clients."""
        for server in self._servers:
            await server.close()
        await self._metrics.close()

    def _open(self, server: ApiServer) -> None:
        """Let others connect: everybody who reaches the socket, or the members of a group."""
        group = self._config.status_group
        try:
            if group is not None:
                os.chown(server.path, -1, group)
            server.path.chmod(_ANYONE_MODE if group is None else _GROUP_MODE)
        except OSError as error:
            raise NotPermittedError(
                f"manager.status_socket: {server.path}: cannot be opened to others ({error.strerror}): name a"
                " group of yours as manager.status_group"
            ) from error


def read_only(handler: Handler) -> Handler:
    """Return a handler that passes on nothing but requests for what is known."""

    async def handle(request: Request) -> Reply:
        if not isinstance(request, READS):
            raise NotPermittedError(
                "this socket only reports the status: to change something, use that of manager.socket"
            )
        return await handler(request)

    return handle


def recorded(handler: Handler, report: Callable[[str], None]) -> Handler:
    """Return a handler that reports what was carried out, and for whom."""

    async def handle(request: Request) -> Reply:
        reply = await handler(request)
        if not isinstance(request, READS):
            report(request_line(request, CALLER.get()))
        return reply

    return handle
