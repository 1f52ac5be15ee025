"""What happened, as programs read it: one JSON object a line, with the version of its schema.

Fields are added and never renamed, removed or given another meaning; a reader ignores those that it does not
know, and kinds that it does not know.
"""

from typing import Final, Literal

import msgspec

SCHEMA: Final = 1

Kind = Literal[
    "started",
    "stopped",
    "lost",
    "reload",
    "mode",
    "came",
    "went",
    "restarted",
    "reset",
    "standing",
    "problem",
    "stalled",
    "stall over",
    "moved",
    "would move",
    "refused",
    "interrupted",
    "request",
    "shortage",
    "shortage over",
    "emergency",
    "emergency over",
]


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event.

    Attributes:
        kind: What kind of event.
        text: What happened, as a sentence.
        vm: The VM; null: the host.
        target_bytes: The new target of a move.
        before_bytes: The size before it.
        measurement: The term of measured free that pays for a growth.
        command: What an operator would type to make the move; in advise mode.
        at: When, in UTC.
        id: Its number: later events have higher ones.
    """

    kind: Kind
    text: str
    vm: str | None = None
    target_bytes: int | None = None
    before_bytes: int | None = None
    measurement: str = ""
    command: str = ""
    at: str = ""
    id: int = 0

    @property
    def moved_bytes(self) -> int:
        """How far a move goes; negative where it takes memory."""
        if self.target_bytes is None or self.before_bytes is None:
            return 0
        return self.target_bytes - self.before_bytes


def encoded(event: Event) -> bytes:
    """Return an event as its line of JSON Lines, without the end of the line."""
    fields = msgspec.to_builtins(event)
    return msgspec.json.encode({"schema_version": SCHEMA, "at": fields.pop("at"), **fields})
