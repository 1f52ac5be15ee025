"""The process of `dynmem web`: it listens, serves until it is ended, and says what it serves."""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Final

import uvicorn

from dynmem.errors import ConfigError, DynmemError, ExitCode, NotPermittedError, RefusedError
from dynmem.limits import WEB_CONNECTIONS_MAX, WEB_HEAD_BYTES_MAX
from dynmem.manager.address import Address
from dynmem.systemd.notify import ServiceManager
from dynmem.web.app import Settings, Site
from dynmem.web.connection import REQUEST_S, Connection

# What the kernel keeps for a client that does not read; it doubles the figure.
_SEND_BYTES: Final = 128 << 10
# A client whose host has gone, such as a laptop that sleeps.
_GONE_MS: Final = 30_000
_IDLE_S: Final = 30
# Streams end at once; a plot that is being read has this long.
_END_S: Final = 3


def listening(address: Address) -> socket.socket:
    """Return a socket that listens there; an error says why not."""
    try:
        made = socket.create_server(address, family=address.family, backlog=WEB_CONNECTIONS_MAX)
    except OSError as error:
        raise _cannot(address, error) from error
    # Each client's socket begins as this one is.
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_S)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _GONE_MS)
    return made


def _cannot(address: Address, error: OSError) -> DynmemError:
    if error.errno == errno.EADDRINUSE:
        return RefusedError(
            f"{address}: another program listens there: end it, or choose another port with --listen"
        )
    if error.errno == errno.EACCES:
        return NotPermittedError(f"{address}: the system denied it: choose a port above 1023 with --listen")
    why = os.strerror(error.errno or 0)
    return ConfigError(f"{address}: cannot listen ({why}): choose an address of this host with --listen")


class _Server(uvicorn.Server):
    """uvicorn's server, whose signals are ours."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def server_of(site: Site, started: Callable[[], None]) -> uvicorn.Server:
    """Return the server of a site; *started* is called once it listens."""
    config = uvicorn.Config(
        site.app,
        http=Connection,
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=WEB_CONNECTIONS_MAX,
        timeout_keep_alive=round(REQUEST_S),
        timeout_graceful_shutdown=_END_S,
        h11_max_incomplete_event_size=WEB_HEAD_BYTES_MAX,
    )
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    return _Server(config, started)


async def serve(settings: Settings, at: socket.socket, started: Callable[[], None]) -> ExitCode:
    """Serve until SIGTERM or Ctrl-C; return the exit code."""
    site, manager = Site(settings), ServiceManager()
    ended_by: list[signal.Signals] = []

    def is_ready() -> None:
        manager.ready()
        started()

    server = server_of(site, is_ready)

    def end(number: signal.Signals) -> None:
        ended_by.append(number)
        site.close()
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end, number)
    await server.serve([at])
    manager.stopping()
    return ExitCode.INTERRUPTED if ended_by[:1] == [signal.SIGINT] else ExitCode.OK
