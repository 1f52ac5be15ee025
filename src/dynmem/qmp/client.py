"""A client of the QEMU Machine Protocol, for QEMU's monitors and our own (QEMU docs/interop/qmp-spec)."""

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
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
from dynmem.qmp.batch import Batch, Command
from dynmem.qmp.errors import GENERIC_ERROR, BusyError, NotListeningError, QmpCommandError
from dynmem.qmp.framing import LineReader, Message, decode_value, encode_request, split_line
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


class QmpClient:
    """One connection to a monitor, capabilities negotiated. Made by `connect`, ended by `close`.

    Several tasks may run commands at once. When the connection ends, every waiting and every later command
    raises UnreachableError (the peer went away) or RemoteProtocolError (it sent garbage).

    `events` keeps what came unasked; what `when` holds for an event's name is called as it arrives.

    It is read by a callback of the event loop for as long as it is open. A monitor that floods is read
    slowly: what it sends unasked has an allowance, and the event loop serves others in between. Then its
    replies come late, and no other's.
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
        self._descriptor = connection.fileno()
        self._loop = asyncio.get_running_loop()
        self._lines = LineReader(message_bytes_max=message_bytes_max)
        self._allowance = Allowance(share)
        self._events_bytes = 0
        self._first_line = b""  # of what is sent next
        self._next_number = 1
        self._has_given_up = False
        self._waiting: dict[int, Batch] = {}
        self._sending = asyncio.Lock()
        self._greeted: asyncio.Future[None] = self._loop.create_future()
        self._failure: UnreachableError | RemoteProtocolError | None = None
        self._resting: asyncio.TimerHandle | None = None  # while nothing is read
        self._loop.add_reader(self._descriptor, self._receive)

    @classmethod
    async def connect(
        cls,
        path: str | Path,
        *,
        greeting_timeout_s: float = 1.0,
        message_bytes_max: int = QMP_REPLY_BYTES_MAX,
        events: Container[str] | None = None,
        share: float = SHARE,
        together: bool = False,
    ) -> Self:
        """Connect to the monitor at `path` and negotiate.

        Of events only those named in `events` are kept (None: all). `share` is the part of a processor that
        the monitor may use without being asked. Negotiating `together` with the first commands saves whoever
        stays for a moment a round trip; a monitor that rejects it rejects them, too.

        Raises UnreachableError (no such file, or no listener), BusyError (no greeting within
        `greeting_timeout_s`: the monitor serves another client), NotPermittedError, RemoteProtocolError (the
        peer is not a monitor) and QmpCommandError (it rejects the negotiation).
        """
        client = cls(path, _connect(path), message_bytes_max=message_bytes_max, events=events, share=share)
        try:
            async with asyncio.timeout(greeting_timeout_s):
                await client._greeted
            if together:
                client._first_line = client._begun([("qmp_capabilities", None)])[1]
            else:
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
        batch = await self.send(commands, timeout_s=timeout_s)
        await self.wait(batch, timeout_s=timeout_s)
        return [self.result(batch, place, values_max=values_max) for place in range(len(commands))]

    async def send(self, commands: Sequence[Command], *, timeout_s: float) -> Batch:
        """Send commands as one; `wait` and `result` have their results, which need not be wanted.

        Raises DeadlineError if the monitor does not take them within `timeout_s`, and what the class says
        when the connection has ended.
        """
        if self._failure is not None:
            raise type(self._failure)(str(self._failure))
        batch, lines = self._begun(commands)
        first, self._first_line = self._first_line, b""
        await self._send(first + lines, timeout_s)
        return batch

    def _begun(self, commands: Sequence[Command]) -> tuple[Batch, bytes]:
        """Return a batch whose replies are waited for, and what is to be sent."""
        if not self._waiting and not self._has_given_up:
            # No reply is due that could be taken for another. QEMU reads its monitors a byte at a time, each
            # with four system calls and more: short numbers spare its host more time than all else here.
            self._next_number = 1
        batch = Batch(commands, self._next_number, self._loop.create_future())
        self._next_number = batch.numbers.stop
        lines: list[bytes] = []
        for number, (command, arguments) in zip(batch.numbers, commands, strict=True):
            self._waiting[number] = batch
            lines.append(encode_request(command, arguments, number))
        return batch, b"".join(lines)

    async def wait(self, batch: Batch, *, timeout_s: float) -> None:
        """Wait until all replies to a batch have come. Raises as `execute`."""
        if batch.replied.done():
            batch.replied.result()
            return
        late = self._loop.call_later(timeout_s, self._give_up, batch, timeout_s)
        try:
            await batch.replied
        except asyncio.CancelledError:
            self._forget(batch)
            raise
        finally:
            late.cancel()

    def result(self, batch: Batch, place: int, *, values_max: int = QMP_VALUES_MAX) -> object:
        """Return what one command of a batch returned, decoded as requested. Raises as `execute`."""
        message, (command, _) = batch.reply_to(place), batch.commands[place]
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

    async def close(self) -> None:
        """Close the connection; waiting commands raise UnreachableError. May be called twice."""
        if self._failure is None:
            self._fail(UnreachableError(f"{self.path}: the connection was closed"))
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

    async def _send(self, data: bytes, timeout_s: float) -> None:
        try:
            if not self._sending.locked():
                with contextlib.suppress(BlockingIOError):
                    data = data[self._connection.send(data) :]
            if data:  # it takes no more just now
                async with asyncio.timeout(timeout_s), self._sending:
                    await self._loop.sock_sendall(self._connection, data)
        except TimeoutError:
            self._end(UnreachableError(f"{self.path}: the monitor has stopped reading"))
            raise DeadlineError(f"{self.path}: the monitor reads nothing within {timeout_s:g} s") from None
        except OSError as error:
            failure = UnreachableError(f"{self.path}: the monitor is gone ({error.strerror})")
            self._end(failure)
            raise failure from None

    def _give_up(self, batch: Batch, timeout_s: float) -> None:
        self._forget(batch)
        batch.fail(DeadlineError(f"{self.path}: no reply to {batch.unanswered} within {timeout_s:g} s"))

    def _forget(self, batch: Batch) -> None:
        """Count what still comes of a batch as what was not requested."""
        self._has_given_up = True
        for number in batch.numbers:
            self._waiting.pop(number, None)

    def _receive(self) -> None:
        """Receive what has come, and take it in; record why the connection has ended."""
        try:
            data = self._connection.recv(QMP_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(UnreachableError(f"{self.path}: the monitor is gone ({error.strerror})"))
            return
        if not data:
            self._end(UnreachableError(f"{self.path}: the monitor closed the connection"))
            return
        self._allowance.spend(READ_NS + len(data) * BYTE_NS)
        self._take_in(self._lines.feed(data))

    def _take_in(self, lines: Iterator[bytes]) -> None:
        """Take in what was received, but for what is more than a turn's worth; rest where that is due."""
        count = 0
        try:
            for count, line in enumerate(lines, 1):
                self._allowance.spend(MESSAGE_NS)
                if line.strip():
                    self._received(split_line(line), len(line))
                if count == QMP_LINES_PER_TURN:
                    break
        except RemoteProtocolError as error:
            self._end(type(error)(f"{self.path}: {error}"))
            return
        pause_s = self._allowance.pause_s()
        if pause_s or count == QMP_LINES_PER_TURN:
            self._loop.remove_reader(self._descriptor)
            self._resting = self._loop.call_later(pause_s, self._read_on, lines)

    def _read_on(self, lines: Iterator[bytes]) -> None:
        """Take in what was left, and read again."""
        self._resting = None
        self._loop.add_reader(self._descriptor, self._receive)
        self._take_in(lines)

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
        batch = self._waiting.pop(number, None) if number is not None else None
        if number is None or batch is None:
            # Late, because its command has timed out, or to no command at all.
            self._count_unasked(length, replies=1)
            return
        self._allowance.spend(-(READ_NS + MESSAGE_NS + length * BYTE_NS))
        batch.take(number, message)

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
        """End the connection, which is closed later; only the first reason counts."""
        if self._failure is None:
            self._fail(failure)
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)

    def _fail(self, failure: UnreachableError | RemoteProtocolError) -> None:
        """Read no more, and let fail what waits."""
        self._failure = failure
        self._loop.remove_reader(self._descriptor)
        self._loop.remove_writer(self._descriptor)  # or it would be another connection's, once this is closed
        if self._resting is not None:
            self._resting.cancel()
        self.closed.set()
        if not self._greeted.done():
            self._greeted.set_exception(failure)
            self._greeted.exception()  # mark it as retrieved: no task may be waiting for it
        for batch in set(self._waiting.values()):
            batch.fail(type(failure)(str(failure)))


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
