"""One client of a monitor: what it sends is read in small pieces, and answered in turn with the others'.

What a client can make its monitor keep is bounded: one piece that was read, one unfinished request, and what
it does not read itself.
"""

import asyncio
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Final, cast

from dynmem.limits import QMP_PIECE_BYTES, QMP_READ_AHEAD_BYTES, QMP_UNSENT_BYTES_MAX
from dynmem.qmp.command import Command, checked_arguments, find_command, parse_request
from dynmem.qmp.errors import COMMAND_NOT_FOUND, GENERIC_ERROR, QmpCommandError
from dynmem.qmp.framing import encode_line
from dynmem.qmp.parser import NESTED_TOO_DEEPLY, Malformed, ValueReader
from dynmem.qmp.turns import Share, Turns
from dynmem.qmp.types import Array, Enum, Member, Object, read_members
from dynmem.sockets import peer_of

NEGOTIATION: Final = "qmp_capabilities"
NEGOTIATION_ARGUMENTS: Final = Object((Member("enable", Array(Enum(("oob",))), is_optional=True),))
_LOG: Final = logging.getLogger(__name__)
_UNSENT_BYTES_HIGH: Final = 16_384  # of replies: then the client is not read until it reads


class Session(asyncio.BufferedProtocol):
    """One client, from its connection to its end.

    Attributes:
        peer: The process that connected.
        active_at: When it connected or last sent something, in the loop's time.
        gone: Set when it is disconnected, and everything is sent.

    """

    def __init__(
        self,
        *,
        commands: Mapping[str, Command],
        version: Mapping[str, object],
        turns: Turns,
        joined: Callable[["Session"], None],
        left: Callable[["Session"], None],
    ) -> None:
        self._commands = commands
        self._version = version
        self._turns = turns
        self._joined = joined
        self._left = left
        self._share = Share()
        self._negotiated = False
        self._buffer: Final = bytearray(QMP_READ_AHEAD_BYTES)
        self._received = 0
        self._news = asyncio.Event()  # something was received, or nothing more will be
        self._room = asyncio.Event()  # for replies
        self._room.set()
        self._is_ending = False
        self._transport: asyncio.Transport
        self._task: asyncio.Task[None]
        self.peer: int = -1
        self.active_at: float = 0.0
        self.gone: Final = asyncio.Event()

    # what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_UNSENT_BYTES_HIGH)
        self.peer = peer_of(transport.get_extra_info("socket")).pid
        self.active_at = asyncio.get_running_loop().time()
        self._task = asyncio.create_task(self._serve())
        self._joined(self)

    def get_buffer(self, _sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._received = nbytes
        self.active_at = asyncio.get_running_loop().time()
        self._transport.pause_reading()
        self._news.set()

    def eof_received(self) -> bool:
        """Send what is due before the connection is closed."""
        self.hang_up()
        return True

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def connection_lost(self, _error: Exception | None) -> None:
        self._room.set()  # what was received is still carried out
        self.hang_up()
        self.gone.set()
        self._left(self)

    # what the monitor calls

    def event(self, line: bytes) -> None:
        """Send an event; drop a client that does not read when too much is queued for it."""
        if not self._negotiated or self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() + len(line) > QMP_UNSENT_BYTES_MAX:
            _LOG.warning(
                "a monitor's client was dropped: %d bytes were queued that it did not read",
                QMP_UNSENT_BYTES_MAX,
            )
            self.drop()
            return
        self._transport.write(line)

    def hang_up(self) -> None:
        """End after the current request."""
        self._is_ending = True
        self._news.set()

    def drop(self) -> None:
        """Disconnect it at once."""
        self._transport.abort()

    def end(self) -> None:
        """Disconnect it at once, in the middle of a request if need be."""
        self._task.cancel()
        self.drop()

    # requests

    async def _serve(self) -> None:
        """Greet, then serve one request after another until the client or the monitor disconnects."""
        self._write({"QMP": {"version": self._version, "capabilities": []}})
        values = ValueReader()
        while True:
            await self._news.wait()
            self._news.clear()
            data = bytes(self._buffer[: self._received])
            self._received = 0
            for start in range(0, len(data), QMP_PIECE_BYTES):
                await self._serve_piece(values, data[start : start + QMP_PIECE_BYTES])
            if self._is_ending:
                break
            self._transport.resume_reading()
        self._transport.close()  # when everything is sent

    async def _serve_piece(self, values: ValueReader, piece: bytes) -> None:
        await self._turns.next(self._share)
        self._share.used += len(piece)
        for value in values.feed(piece):
            await self._turns.next(self._share)
            self._share.used += self._write(await self._answer(value))
            await self._room.wait()

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
        if request.command == NEGOTIATION:
            return self._negotiate(request.arguments)
        if not self._negotiated:
            desc = f"Expecting capabilities negotiation with '{NEGOTIATION}'"
            raise QmpCommandError(COMMAND_NOT_FOUND, desc)
        command = find_command(self._commands, request.command)
        result = command.run(checked_arguments(command, request.arguments))
        return await result if inspect.isawaitable(result) else result

    def _negotiate(self, arguments: Mapping[str, object]) -> object:
        if self._negotiated:
            desc = "Capabilities negotiation is already complete, command ignored"
            raise QmpCommandError(COMMAND_NOT_FOUND, desc)
        wanted = read_members(NEGOTIATION_ARGUMENTS, arguments).get("enable", [])
        assert isinstance(wanted, list)
        if wanted:
            raise QmpCommandError(GENERIC_ERROR, f"Capability {', '.join(wanted)} not available")
        self._negotiated = True
        return {}

    def _write(self, message: Mapping[str, object]) -> int:
        """Send a message; return how long it is."""
        try:
            line = encode_line(message)
        except RecursionError:  # its id was read without recursion, but cannot be written that way
            line = encode_line({"error": {"class": GENERIC_ERROR, "desc": NESTED_TOO_DEEPLY}})
        if not self._transport.is_closing():
            self._transport.write(line)
        return len(line)
