"""A client of the QEMU Machine Protocol, for QEMU's monitors and our own (QEMU docs/interop/qmp-spec)."""

import asyncio
import contextlib
import itertools
import socket
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from dynmem.errors import DeadlineError, NotPermittedError, RemoteProtocolError, UnreachableError
from dynmem.limits import QMP_ERROR_TEXT_MAX, QMP_EVENTS_KEPT, QMP_READ_BYTES, QMP_REPLY_BYTES_MAX
from dynmem.qmp.errors import GENERIC_ERROR, BusyError, QmpCommandError
from dynmem.qmp.framing import LineReader, encode_line
from dynmem.sockets import Peer, peer_of


class QmpEvent(NamedTuple):
    """One asynchronous event.

    Attributes:
        name: QEMU's name of it.
        data: Its members.
        at_us: The sender's wall clock, in microseconds since 1970.

    """

    name: str
    data: Mapping[str, object]
    at_us: int


class QmpClient:
    """One connection to a monitor, capabilities negotiated. Made by `connect`, ended by `close`.

    Several tasks may run commands at once. When the connection ends, every waiting and every later command
    raises UnreachableError (the peer went away) or RemoteProtocolError (it sent garbage).

    `events` keeps what came unasked; what `when` holds for an event's name is called as it arrives.
    """

    def __init__(
        self,
        path: str | Path,
        peer: Peer,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        *,
        message_bytes_max: int,
    ) -> None:
        self.path: Final = str(path)
        self.peer: Final = peer
        self.greeting: Mapping[str, object] = {}
        self.events: Final[deque[QmpEvent]] = deque(maxlen=QMP_EVENTS_KEPT)
        self.events_dropped: int = 0
        self.when: Final[dict[str, Callable[[], None]]] = {}
        self.closed: Final = asyncio.Event()
        self._incoming, self._outgoing = streams
        self._lines = LineReader(message_bytes_max=message_bytes_max)
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[object]] = {}
        self._greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._failure: UnreachableError | RemoteProtocolError | None = None
        self._reader: asyncio.Task[None] | None = None

    @classmethod
    async def connect(
        cls,
        path: str | Path,
        *,
        greeting_timeout_s: float = 1.0,
        message_bytes_max: int = QMP_REPLY_BYTES_MAX,
    ) -> Self:
        """Connect to the monitor at `path` and negotiate.

        Raises UnreachableError (no such file, or no listener), BusyError (no greeting within
        `greeting_timeout_s`: the monitor serves another client), NotPermittedError, RemoteProtocolError (the
        peer is not a monitor) and QmpCommandError (it rejects the negotiation).
        """
        connection = _connect(path)
        peer = peer_of(connection)
        streams = await asyncio.open_unix_connection(sock=connection)
        client = cls(path, peer, streams, message_bytes_max=message_bytes_max)
        client._reader = asyncio.create_task(client._read(), name=f"qmp client {path}")
        try:
            await asyncio.wait_for(asyncio.shield(client._greeted), greeting_timeout_s)
            await client.execute("qmp_capabilities", timeout_s=max(greeting_timeout_s, 1.0))
        except TimeoutError:
            await client.close()
            raise BusyError(
                f"{path}: no greeting within {greeting_timeout_s:g} s: the monitor serves another client; "
                "give dynmem a monitor socket of its own"
            ) from None
        except BaseException:
            await client.close()
            raise
        return client

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, timeout_s: float = 5.0
    ) -> object:
        """Run one command and return its decoded result.

        Raises QmpCommandError for an error reply, DeadlineError when no reply arrives within `timeout_s` (a
        late one is discarded), and what the class says when the connection has ended.
        """
        if self._failure is not None:
            raise type(self._failure)(str(self._failure))
        number = next(self._numbers)
        request: dict[str, object] = {"execute": command, "id": number}
        if arguments is not None:
            request["arguments"] = dict(arguments)
        reply: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._waiting[number] = reply
        try:
            async with asyncio.timeout(timeout_s):
                await self._send(encode_line(request))
                return await reply
        except TimeoutError:
            raise DeadlineError(f"{self.path}: no reply to {command} within {timeout_s:g} s") from None
        finally:
            self._waiting.pop(number, None)

    async def close(self) -> None:
        """Close the connection; waiting commands raise UnreachableError. May be called twice."""
        if self._reader is not None and self._reader is not asyncio.current_task():
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
        self._end(UnreachableError(f"{self.path}: the connection was closed"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _send(self, line: bytes) -> None:
        try:
            self._outgoing.write(line)
            await self._outgoing.drain()
        except OSError as error:
            failure = UnreachableError(f"{self.path}: the monitor is gone ({error.strerror})")
            self._end(failure)
            raise failure from None

    async def _read(self) -> None:
        """Receive until the connection ends, and record why it did."""
        try:
            while data := await self._incoming.read(QMP_READ_BYTES):
                for message in self._lines.feed(data):
                    self._received(message)
            self._end(UnreachableError(f"{self.path}: the monitor closed the connection"))
        except RemoteProtocolError as error:
            self._end(RemoteProtocolError(f"{self.path}: {error}"))
        except OSError as error:
            self._end(UnreachableError(f"{self.path}: the monitor is gone ({error.strerror})"))

    def _received(self, message: dict[str, object]) -> None:
        if not self._greeted.done():
            greeting = message.get("QMP")
            if not isinstance(greeting, dict):
                raise RemoteProtocolError("the first message is not a QMP greeting")
            self.greeting = greeting
            self._greeted.set_result(None)
        elif "event" in message:
            self._keep(message)
        elif "return" in message or "error" in message:
            self._answered(message)
        else:
            raise RemoteProtocolError("a message is neither a reply nor an event")

    def _answered(self, message: dict[str, object]) -> None:
        number = message.get("id")
        waiting = self._waiting.get(number) if type(number) is int else None
        if waiting is None or waiting.done():
            return  # a late reply: its command has timed out
        if "return" in message:
            waiting.set_result(message["return"])
            return
        error = message["error"]
        details = error if isinstance(error, dict) else {}
        waiting.set_exception(
            QmpCommandError(_shown(details.get("class", GENERIC_ERROR)), _shown(details.get("desc", error)))
        )

    def _keep(self, message: dict[str, object]) -> None:
        data, timestamp = message.get("data", {}), message.get("timestamp")
        at_us = 0
        if isinstance(timestamp, dict):
            seconds, microseconds = timestamp.get("seconds"), timestamp.get("microseconds")
            if isinstance(seconds, int) and isinstance(microseconds, int):
                at_us = seconds * 1_000_000 + microseconds
        if len(self.events) == self.events.maxlen:
            self.events_dropped += 1
        name = str(message["event"])
        self.events.append(QmpEvent(name, data if isinstance(data, dict) else {}, at_us))
        if name in self.when:
            self.when[name]()

    def _end(self, failure: UnreachableError | RemoteProtocolError) -> None:
        """End the connection; only the first reason counts."""
        if self._failure is not None:
            return
        self._failure = failure
        self._outgoing.transport.abort()
        self.closed.set()
        if not self._greeted.done():
            self._greeted.set_exception(failure)
            self._greeted.exception()  # mark it as retrieved: no task may be waiting for it
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(type(failure)(str(failure)))


def _shown(text: object) -> str:
    """Return a monitor's error text, cut short and without control characters."""
    return "".join(each if each.isprintable() else "?" for each in str(text)[:QMP_ERROR_TEXT_MAX])


def _connect(path: str | Path) -> socket.socket:
    """Return a connected, non-blocking socket; connecting to a unix socket never blocks."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        connection.connect(str(path))
    except BlockingIOError:
        connection.close()
        raise BusyError(f"{path}: the monitor's queue of clients is full: other clients hold it") from None
    except PermissionError:
        connection.close()
        raise NotPermittedError(f"{path}: this user may not connect to the monitor") from None
    except FileNotFoundError:
        connection.close()
        raise UnreachableError(f"{path}: no such socket") from None
    except OSError as error:
        connection.close()
        reason = error.strerror or str(error)
        raise UnreachableError(f"{path}: nothing is listening ({reason})") from None
    return connection
