"""A QMP monitor on a unix socket, for any number of clients at once (QEMU docs/interop/qmp-spec).

QEMU serves one client per monitor; this one serves many, each with its own negotiation. All get every event.
"""

import asyncio
import contextlib
import logging
import socket
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dynmem.limits import QMP_CLIENTS_MAX
from dynmem.qmp.command import Command
from dynmem.qmp.framing import encode_line
from dynmem.qmp.introspection import SCHEMA_INFO, schema
from dynmem.qmp.session import NEGOTIATION, NEGOTIATION_ARGUMENTS, Session
from dynmem.qmp.throttle import Throttle
from dynmem.qmp.turns import Turns
from dynmem.qmp.types import INT, STR, Array, Member, Object
from dynmem.sockets import bind_private

FLUSH_S: Final = 0.5  # for the last replies when the monitor closes
_ACCEPTED_AT_ONCE: Final = 8
_LOG: Final = logging.getLogger(__name__)
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
        negotiation = Command(lambda _: {}, NEGOTIATION_ARGUMENTS)  # carried out by each session
        self._schema: Final = schema({**self._commands, NEGOTIATION: negotiation}, events or {})
        self._sessions: set[Session] = set()
        self._turns: Final = Turns()
        self._throttle = Throttle(self._broadcast)
        self._server: asyncio.Server | None = None
        self._listening: socket.socket

    @property
    def clients(self) -> int:
        """The number of connected clients."""
        return len(self._sessions)

    async def listen(self) -> None:
        """Listen; clients that connect wait until `start`.

        Raises ConfigError if the path is unusable or another process listens on it.
        """
        self._listening = _listening_socket(self.path)
        # the backlog is also how many connections asyncio accepts before anything else has its turn
        self._server = await asyncio.get_running_loop().create_unix_server(
            self._session, sock=self._listening, backlog=_ACCEPTED_AT_ONCE, start_serving=False
        )

    async def start(self) -> None:
        """Serve clients. Raises ConfigError as `listen` does, which need not be called before."""
        if self._server is None:
            await self.listen()
        assert self._server is not None
        await self._server.start_serving()
        self._listening.listen(QMP_CLIENTS_MAX)

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
        sessions = list(self._sessions)
        for session in sessions:
            session.hang_up()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                for session in sessions:
                    await session.gone.wait()
        for session in sessions:
            session.end()

    def _session(self) -> Session:
        return Session(
            commands=self._commands,
            version=self.version,
            turns=self._turns,
            joined=self._joined,
            left=self._sessions.discard,
        )

    def _joined(self, session: Session) -> None:
        """Add a client. If there is no room, one of the process that has most of them leaves.

        That is the one that was silent for longest: who holds many does not lock out who needs one.
        """
        if len(self._sessions) >= QMP_CLIENTS_MAX:
            held = Counter(other.peer for other in self._sessions)
            leaving = max(self._sessions, key=lambda other: (held[other.peer], -other.active_at))
            _LOG.warning(
                "%s: a client of process %d was disconnected: it had %d of %d, and another one came",
                self.path,
                leaving.peer,
                held[leaving.peer],
                QMP_CLIENTS_MAX,
            )
            self._sessions.discard(leaving)
            leaving.drop()
        self._sessions.add(session)

    def _broadcast(self, line: bytes) -> None:
        for session in list(self._sessions):
            session.event(line)

    def _names(self) -> list[dict[str, str]]:
        return [{"name": name} for name in (NEGOTIATION, *sorted(self._commands))]


def _listening_socket(path: Path) -> socket.socket:
    """Listen at *path* for this user only."""
    listening = bind_private(path)
    listening.listen(QMP_CLIENTS_MAX)
    return listening
