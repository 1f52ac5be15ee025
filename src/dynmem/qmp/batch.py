"""Commands that are sent to a monitor as one, and the replies to them."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from dynmem.errors import DynmemError
from dynmem.qmp.framing import Message

#: A command and its arguments.
Command = tuple[str, Mapping[str, object] | None]


class Batch:
    """Commands that were sent as one, and their replies as they come.

    Attributes:
        commands: Each with its arguments.
        numbers: The numbers that they were sent with.
        replied: Done when all replies have come; or why they will not.
    """

    def __init__(self, commands: Sequence[Command], first: int, replied: asyncio.Future[None]) -> None:
        self.commands: Final = commands
        self.numbers: Final = range(first, first + len(commands))
        self.replied: Final = replied
        self._replies: dict[int, Message] = {}

    @property
    def unanswered(self) -> str:
        """The first command that has not been answered."""
        pairs = zip(self.numbers, self.commands, strict=True)
        return next((command for number, (command, _) in pairs if number not in self._replies), "")

    def reply_to(self, place: int) -> Message:
        """Return the reply to one of the commands, when all have come."""
        return self._replies[self.numbers[place]]

    def take(self, number: int, reply: Message) -> None:
        """Take in the reply to one of the commands."""
        self._replies[number] = reply
        if len(self._replies) == len(self.numbers) and not self.replied.done():
            self.replied.set_result(None)

    def fail(self, error: DynmemError) -> None:
        """Take in why replies will not come."""
        if not self.replied.done():
            self.replied.set_exception(error)
            self.replied.exception()  # mark it as retrieved: no task may be waiting for it
