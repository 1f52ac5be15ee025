"""A QMP monitor on a unix socket, for any number of clients at once (QEMU docs/interop/qmp-spec).

QEMU serves one client per monitor; this one serves many, each with its own negotiation. All get every event.
"""

import asyncio
import contextlib
import inspect
import logging
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dynmem.limits import QMP_CLIENTS_MAX, QMP_READ_BYTES, QMP_UNSENT_BYTES_MAX
from dynmem.qmp.command import Command, checked_arguments, find_command, parse_request
from dynmem.qmp.errors import COMMAND_NOT_FOUND, GENERIC_ERROR, QmpCommandError
from dynmem.qmp.framing import encode_line
from dynmem.qmp.introspection import SCHEMA_INFO, schema
from dynmem.qmp.parser import NESTED_TOO_DEEPLY, Malformed, ValueReader
from dynmem.qmp.throttle import Throttle
from dynmem.qmp.types import INT, STR, Array, Enum, Member, Object, read_members
from dynmem.sockets import bind_private

FLUSH_S: Final = 0.5  # for the last replies when the monitor closes
_LOG: Final = logging.getLogger(__name__)
_NEGOTIATION: Final = "qmp_capabilities"
_CAPABILITIES: Final = Array(Enum(("oob",)))
_NEGOTIATION_ARGUMENTS: Final = Object((Member("enable", _CAPABILITIES, is_optional=True),))
_TRIPLE: Final = Object((Member("major", INT), Member("minor", INT), Member("micro", INT)))
_VERSION: Final = Object((Member("qemu", _TRIPLE), Member("package", STR)))
_NAMES: Final = Array(Object((Member("name", STR),)))


class QmpServer:
    """The monitor: `start` listens, `emit` sends an event to every client, `close` ends it.

    The socket has mode 0600; its folder is created with mode 0700 if necessary. The server itself provides
    `qmp_capabilities`, `query-version`, `query-commands` and `query-qmp-schema`, which describes `commands`
    and `events` (the data of each). Everything runs on the loop that called `start`; a command that is not a
    coroutine runs without interruption. `version` is the version of QEMU whose protocol `package` speaks.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        commands: Mapping[str, Command],
        events: Mapping[str, Object] | None = None,
        version: tuple[int, int, int] = (10, 2, 2),
        package: str = "",
    ) -> None:
        major, minor, micro = version
        self.path: Final = Path(path)
        self.version: Final[Mapping[str, object]] = {
            "qemu": {"micro": micro, "minor": minor, "major": major},
            "package": package,
        }
        self._commands: Final = {
            **commands,
            "query-version": Command(lambda _: self.version, returns=_VERSION),
            "query-commands": Command(lambda _: self._names(), returns=_NAMES),
            "query-qmp-schema": Command(lambda _: self._schema, returns=Array(SCHEMA_INFO)),
        }
        negotiation = Command(lambda _: {}, _NEGOTIATION_ARGUMENTS)  # carried out by each session
        self._schema: Final = schema({**self._commands, _NEGOTIATION: negotiation}, events or {})
        self._sessions: set[_Session] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._throttle = Throttle(self._broadcast)
        self._server: asyncio.Server | None = None

    @property
    def clients(self) -> int:
        """The number of connected clients."""
        return len(self._sessions)

    async def listen(self) -> None:
        """Listen; clients that connect wait until `start`.

        Raises ConfigError if the path is unusable or another process listens on it.
        """
        self._server = await asyncio.start_unix_server(
            self._serve, sock=_listening_socket(self.path), limit=QMP_READ_BYTES, start_serving=False
        )

    async def start(self) -> None:
        """Serve clients. Raises ConfigError as `listen` does, which need not be called before."""
        if self._server is None:
            await self.listen()
        assert self._server is not None
        await self._server.start_serving()

    def emit(self, event: str, data: Mapping[str, object] | None = None) -> None:
        """Send an event to every client that has negotiated, within QEMU's rate limits."""
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        message: dict[str, object] = {
            "timestamp": {"seconds": seconds, "microseconds": nanoseconds // 1000},
            "event": event,
        }
        if data is not None:
            message["data"] = dict(data)
        self._throttle.offer(event, encode_line(message), data or {})

    async def close(self) -> None:
        """Stop listening, remove the socket, send what is queued, disconnect. May be called twice."""
        self._throttle.close()
        if self._server is not None:
            self._server.close()
            self._server = None
            self.path.unlink(missing_ok=True)
        for session in list(self._sessions):
            session.hang_up()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=FLUSH_S)
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._sessions) >= QMP_CLIENTS_MAX:
            _LOG.warning(
                "%s: a client was rejected: %d are already connected, the limit", self.path, QMP_CLIENTS_MAX
            )
            writer.transport.abort()
            return
        session = _Session(writer, self._commands)
        self._sessions.add(session)
        self._tasks.add(task)
        try:
            await session.run(reader, self.version)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client went away, or stopped reading while the monitor closes
        finally:
            self._sessions.discard(session)
            self._tasks.discard(task)
            writer.transport.abort()

    def _broadcast(self, line: bytes) -> None:
        for session in list(self._sessions):
            session.event(line)

    def _names(self) -> list[dict[str, str]]:
        return [{"name": name} for name in (_NEGOTIATION, *sorted(self._commands))]


class _Session:
    """One client."""

    def __init__(self, writer: asyncio.StreamWriter, commands: Mapping[str, Command]) -> None:
        self._writer = writer
        self._commands = commands
        self._negotiated = False
        self._closing = asyncio.Event()

    async def run(self, reader: asyncio.StreamReader, version: Mapping[str, object]) -> None:
        """Greet, then serve one request after another until the client or the monitor disconnects."""
        self._write({"QMP": {"version": version, "capabilities": []}})
        values = ValueReader()
        closing = asyncio.create_task(self._closing.wait())
        try:
            while data := await _read_unless(reader, closing):
                for value in values.feed(data):
                    self._write(await self._answer(value))
                    await self._writer.drain()
            self._writer.close()
            await self._writer.wait_closed()
        finally:
            closing.cancel()

    def event(self, line: bytes) -> None:
        """Send an event; drop a client that does not read when too much is queued for it."""
        transport = self._writer.transport
        if not self._negotiated or transport.is_closing():
            return
        if transport.get_write_buffer_size() + len(line) > QMP_UNSENT_BYTES_MAX:
            _LOG.warning(
                "a monitor's client was dropped: %d bytes were queued that it did not read",
                QMP_UNSENT_BYTES_MAX,
            )
            transport.abort()
            return
        self._writer.write(line)

    def hang_up(self) -> None:
        """End `run` after the current request."""
        self._closing.set()

    async def _answer(self, value: object) -> Mapping[str, object]:
        identity: dict[str, object] = {}
        if isinstance(value, dict) and "id" in value:
            identity["id"] = value["id"]
        try:
            return {"return": await self._execute(value), **identity}
        except QmpCommandError as error:
            return {**identity, "error": {"class": error.error_class, "desc": error.desc}}

    async def _execute(self, value: object) -> object:
        if isinstance(value, Malformed):
            raise QmpCommandError(GENERIC_ERROR, value.desc)
        request = parse_request(value)
        if request.command == _NEGOTIATION:
            return self._negotiate(request.arguments)
        if not self._negotiated:
            desc = f"Expecting capabilities negotiation with '{_NEGOTIATION}'"
            raise QmpCommandError(COMMAND_NOT_FOUND, desc)
        command = find_command(self._commands, request.command)
        result = command.run(checked_arguments(command, request.arguments))
        return await result if inspect.isawaitable(result) else result

    def _negotiate(self, arguments: Mapping[str, object]) -> object:
        if self._negotiated:
            desc = "Capabilities negotiation is already complete, command ignored"
            raise QmpCommandError(COMMAND_NOT_FOUND, desc)
        wanted = read_members(_NEGOTIATION_ARGUMENTS, arguments).get("enable", [])
        assert isinstance(wanted, list)
        if wanted:
            raise QmpCommandError(GENERIC_ERROR, f"Capability {', '.join(wanted)} not available")
        self._negotiated = True
        return {}

    def _write(self, message: Mapping[str, object]) -> None:
        if self._writer.transport.is_closing():
            return
        try:
            line = encode_line(message)
        except RecursionError:  # its id was read without recursion, but cannot be written that way
            line = encode_line({"error": {"class": GENERIC_ERROR, "desc": NESTED_TOO_DEEPLY}})
        self._writer.write(line)


async def _read_unless(reader: asyncio.StreamReader, closing: asyncio.Task[bool]) -> bytes:
    """Return bytes from the client; none if it disconnected or `closing` is done first."""
    reading = asyncio.create_task(reader.read(QMP_READ_BYTES))
    try:
        await asyncio.wait((reading, closing), return_when=asyncio.FIRST_COMPLETED)
        return b"" if closing.done() else reading.result()
    finally:
        if not reading.done():
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading


def _listening_socket(path: Path) -> socket.socket:
    """Listen at *path* for this user only."""
    listening = bind_private(path)
    listening.listen(QMP_CLIENTS_MAX)
    return listening
