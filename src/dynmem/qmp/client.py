"""A client of the QEMU Machine Protocol, for QEMU's monitors and our own (QEMU docs/interop/qmp-spec)."""

import asyncio
import contextlib
import itertools
import socket
from collections import deque
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import msgspec

from dynmem.errors import DeadlineError, NotPermittedError, RemoteProtocolError, UnreachableError
from dynmem.limits import (
    QMP_ERROR_TEXT_MAX,
    QMP_EVENTS_BYTES_MAX,
    QMP_EVENTS_KEPT,
    QMP_LINES_PER_TURN,
    QMP_NAME_MAX,
    QMP_READ_BYTES,
    QMP_REPLY_BYTES_MAX,
    QMP_VALUES_MAX,
)
from dynmem.qmp.allowance import BYTE_NS, MESSAGE_NS, READ_NS, SHARE, Allowance
from dynmem.qmp.errors import GENERIC_ERROR, BusyError, NotListeningError, QmpCommandError
from dynmem.qmp.framing import LineReader, Message, decode_value, encode_line, split_line
from dynmem.sockets import peer_of

# Values in a greeting, an error or a timestamp: QEMU's have ten.
_DETAILS_MAX: Final = 256


class QmpEvent(NamedTuple):
    """One asynchronous event.

    Attributes:
        name: QEMU's name of it.
        text: Its members as they came, in JSON.
        at_us: The sender's wall clock, in microseconds since 1970; 0 if it sent none.

    """

    name: str
    text: bytes
    at_us: int

    @property
    def data(self) -> Mapping[str, object]:
        """Its members; none if the monitor sent something else."""
        try:
            data = decode_value(self.text, self.name) if self.text else None
        except RemoteProtocolError:
            data = None
        return data if isinstance(data, dict) else {}


class Unasked(NamedTuple):
    """What a monitor has sent without being asked.

    Attributes:
        messages: Events and replies to no command.
        bytes: Their length.
        replies: Those that were replies: no monitor sends them.
    """

    messages: int = 0
    bytes: int = 0
    replies: int = 0


#: A command and its arguments.
Command = tuple[str, Mapping[str, object] | None]


class Sent(NamedTuple):
    """A command that was sent, and whose reply is to be taken with `QmpClient.result`.

    Attributes:
        command: The command and its arguments.
        reply: The message that answers it, once it has come.
    """

    command: Command
    reply: asyncio.Future[Message]


class QmpClient:
    """One connection to a monitor, capabilities negotiated. Made by `connect`, ended by `close`.

    Several tasks may run commands at once. When the connection ends, every waiting and every later command
    raises UnreachableError (the peer went away) or RemoteProtocolError (it sent garbage).

    `events` keeps what came unasked; what `when` holds for an event's name is called as it arrives.

    A monitor that floods is read slowly: what it sends unasked has an allowance, and the event loop serves
    others in between. Then its replies come late, and no other's.
    """

    def __init__(
        self,
        path: str | Path,
        connection: socket.socket,
        *,
        message_bytes_max: int,
        events: Container[str] | None = None,
        share: float = SHARE,
    ) -> None:
        self.path: Final = str(path)
        self.peer: Final = peer_of(connection)
        self.greeting: Mapping[str, object] = {}
        self.events: Final[deque[QmpEvent]] = deque()
        self.events_dropped: int = 0
        self.when: Final[dict[str, Callable[[], None]]] = {}
        self.unasked: Unasked = Unasked()
        self.closed: Final = asyncio.Event()
        self._wanted = events
        self._connection = connection
        self._lines = LineReader(message_bytes_max=message_bytes_max)
        self._allowance = Allowance(share)
        self._events_bytes = 0
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._sending = asyncio.Lock()
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
        events: Container[str] | None = None,
        share: float = SHARE,
    ) -> Self:
        """Connect to the monitor at `path` and negotiate.

        Of events only those named in `events` are kept (None: all). `share` is the part of a processor that
        the monitor may use without being asked.

        Raises UnreachableError (no such file, or no listener), BusyError (no greeting within
        `greeting_timeout_s`: the monitor serves another client), NotPermittedError, RemoteProtocolError (the
        peer is not a monitor) and QmpCommandError (it rejects the negotiation).
        """
        client = cls(path, _connect(path), message_bytes_max=message_bytes_max, events=events, share=share)
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
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        timeout_s: float = 5.0,
        values_max: int = QMP_VALUES_MAX,
    ) -> object:
        """Run one command and return its decoded result.

        Raises QmpCommandError for an error reply, DeadlineError when no reply arrives within `timeout_s` (a
        late one is discarded), RemoteProtocolError for a result of more than `values_max` values, and what
        the class says when the connection has ended.
        """
        (result,) = await self.execute_together(
            [(command, arguments)], timeout_s=timeout_s, values_max=values_max
        )
        return result

    async def execute_together(
        self,
        commands: Sequence[Command],
        *,
        timeout_s: float = 5.0,
        values_max: int = QMP_VALUES_MAX,
    ) -> list[object]:
        """Run commands, each with its arguments, that must all arrive or none; return their results.

        They are sent as one, so that whoever is killed meanwhile has sent all of them or none, and a monitor
        runs each in turn, also after one that fails. Raises as `execute`; of several errors the first.
        """
        waiting: dict[int, Sent] = {}
        try:
            async with asyncio.timeout(timeout_s):
                await self._begin(commands, waiting)
                messages = [await each.reply for each in waiting.values()]
        except TimeoutError:
            names = " and ".join(command for command, _ in commands)
            raise DeadlineError(f"{self.path}: no reply to {names} within {timeout_s:g} s") from None
        finally:
            for number in waiting:
                self._waiting.pop(number, None)
        pairs = zip(messages, commands, strict=True)
        return [self._result(message, command, values_max) for message, (command, _) in pairs]

    async def send_ahead(self, commands: Sequence[Command]) -> list[Sent]:
        """Send commands as one before their results are wanted; those that never are wanted are dropped.

        Raises what the class says when the connection has ended.
        """
        waiting: dict[int, Sent] = {}
        await self._begin(commands, waiting)
        return list(waiting.values())

    async def result(self, sent: Sent, *, timeout_s: float, values_max: int = QMP_VALUES_MAX) -> object:
        """Return the result of a command that was sent ahead. Raises as `execute`."""
        command, _ = sent.command
        try:
            async with asyncio.timeout(timeout_s):
                message = await asyncio.shield(sent.reply)
        except TimeoutError:
            raise DeadlineError(f"{self.path}: no reply to {command} within {timeout_s:g} s") from None
        return self._result(message, command, values_max)

    async def _begin(self, commands: Sequence[Command], waiting: dict[int, Sent]) -> None:
        """Send commands; what waits for their replies is in *waiting*, by number, also where that fails."""
        if self._failure is not None:
            raise type(self._failure)(str(self._failure))
        lines: list[bytes] = []
        for command, arguments in commands:
            number = next(self._numbers)
            request: dict[str, object] = {"execute": command, "id": number}
            if arguments is not None:
                request["arguments"] = dict(arguments)
            lines.append(encode_line(request))
            reply = self._waiting[number] = asyncio.get_running_loop().create_future()
            waiting[number] = Sent((command, arguments), reply)
        await self._send(b"".join(lines))

    async def close(self) -> None:
        """Close the connection; waiting commands raise UnreachableError. May be called twice."""
        if self._reader is not None and self._reader is not asyncio.current_task():
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
        self._end(UnreachableError(f"{self.path}: the connection was closed"))
        self._connection.close()

    def take_events(self) -> list[QmpEvent]:
        """Return the events since the last call, oldest first."""
        taken = list(self.events)
        self.events.clear()
        self._events_bytes = 0
        return taken

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _send(self, line: bytes) -> None:
        try:
            async with self._sending:
                await asyncio.get_running_loop().sock_sendall(self._connection, line)
        except OSError as error:
            failure = UnreachableError(f"{self.path}: the monitor is gone ({error.strerror})")
            self._end(failure)
            raise failure from None

    async def _read(self) -> None:
        """Receive until the connection ends, and record why it did."""
        loop = asyncio.get_running_loop()
        try:
            while data := await loop.sock_recv(self._connection, QMP_READ_BYTES):
                self._allowance.spend(READ_NS + len(data) * BYTE_NS)
                for number, line in enumerate(self._lines.feed(data), 1):
                    if number % QMP_LINES_PER_TURN == 0:
                        await asyncio.sleep(self._allowance.pause_s())
                    self._allowance.spend(MESSAGE_NS)
                    if line.strip():
                        self._received(split_line(line), len(line))
                del data
                await asyncio.sleep(self._allowance.pause_s())
            self._end(UnreachableError(f"{self.path}: the monitor closed the connection"))
        except RemoteProtocolError as error:
            self._end(type(error)(f"{self.path}: {error}"))
        except OSError as error:
            self._end(UnreachableError(f"{self.path}: the monitor is gone ({error.strerror})"))

    def _received(self, message: Message, length: int) -> None:
        if not self._greeted.done():
            greeting = _decoded(message.greeting, "the greeting")
            if not isinstance(greeting, dict):
                raise RemoteProtocolError("the first message is not a QMP greeting")
            self.greeting = greeting
            self._greeted.set_result(None)
        elif message.event:
            self._count_unasked(length)
            self._keep(message)
        elif bytes(message.reply) or bytes(message.error):
            self._answered(message, length)
        else:
            raise RemoteProtocolError("a message is neither a reply nor an event")

    def _count_unasked(self, length: int, *, replies: int = 0) -> None:
        before = self.unasked
        self.unasked = Unasked(before.messages + 1, before.bytes + length, before.replies + replies)

    def _answered(self, message: Message, length: int) -> None:
        number = message.number()
        waiting = self._waiting.pop(number, None) if number is not None else None
        if waiting is None or waiting.done():
            # Late, because its command has timed out, or to no command at all.
            self._count_unasked(length, replies=1)
            return
        self._allowance.spend(-(READ_NS + MESSAGE_NS + length * BYTE_NS))
        waiting.set_result(message)

    def _result(self, message: Message, command: str, values_max: int) -> object:
        """Return what a command returned, decoded where it was requested. Raises as `execute`."""
        try:
            if text := bytes(message.reply):
                return decode_value(text, f"the reply to {command}", values_max=values_max)
            error = _decoded(message.error, f"the error of {command}")
        except RemoteProtocolError as wrong:
            failure = type(wrong)(f"{self.path}: {wrong}")
            self._end(failure)
            raise failure from None
        details = error if isinstance(error, dict) else {}
        raise QmpCommandError(_shown(details.get("class", GENERIC_ERROR)), _shown(details.get("desc", error)))

    def _keep(self, message: Message) -> None:
        """Keep an event that is wanted; the oldest go when there are too many, or too large ones."""
        name = message.event[:QMP_NAME_MAX]
        if self._wanted is not None and name not in self._wanted:
            return
        event = QmpEvent(name, bytes(message.data), _microseconds(message.timestamp))
        self.events.append(event)
        self._events_bytes += len(event.text)
        while len(self.events) > QMP_EVENTS_KEPT or self._events_bytes > QMP_EVENTS_BYTES_MAX:
            self.events_dropped += 1
            self._events_bytes -= len(self.events.popleft().text)
        if name in self.when:
            self.when[name]()

    def _end(self, failure: UnreachableError | RemoteProtocolError) -> None:
        """End the connection; only the first reason counts."""
        if self._failure is not None:
            return
        self._failure = failure
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self.closed.set()
        if not self._greeted.done():
            self._greeted.set_exception(failure)
            self._greeted.exception()  # mark it as retrieved: no task may be waiting for it
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(type(failure)(str(failure)))
                waiting.exception()  # likewise: its command may have failed while it was sent


def _decoded(member: msgspec.Raw, what: str) -> object:
    """Return the value of a member that is small, and None if it is not there. RemoteProtocolError."""
    text = bytes(member)
    return decode_value(text, what, values_max=_DETAILS_MAX) if text else None


def _microseconds(timestamp: msgspec.Raw) -> int:
    """Return an event's time; 0 if it has none that can be one."""
    try:
        moment = _decoded(timestamp, "a timestamp")
    except RemoteProtocolError:
        return 0
    fields = moment if isinstance(moment, dict) else {}
    seconds, microseconds = fields.get("seconds"), fields.get("microseconds")
    if isinstance(seconds, int) and isinstance(microseconds, int):
        return seconds * 1_000_000 + microseconds
    return 0


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
        raise NotListeningError(f"{path}: no such socket") from None
    except OSError as error:
        connection.close()
        reason = error.strerror or str(error)
        raise NotListeningError(f"{path}: nothing is listening ({reason})") from None
    return connection
