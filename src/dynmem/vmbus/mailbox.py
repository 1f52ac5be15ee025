"""The host's messages to a guest that wait for a free slot in a virtual processor's message page.

A slot holds one message, and it is the guest that empties it: so messages queue here, in order.
"""

from collections import deque

import msgspec

from dynmem import trace_events
from dynmem.limits import VMBUS_QUEUE_MAX
from dynmem.trace_events import Trace
from dynmem.vmbus.contact import Connection
from dynmem.wire import vmbus as wire
from dynmem.wire.synic import VMBUS_SINT


class OutgoingMessage(msgspec.Struct, frozen=True):
    """A message for the slot of one SINT of a virtual processor.

    Attributes:
        vp: The virtual processor.
        sint: The interrupt source; 2 for VMBus.
        payload: At most 240 bytes.

    """

    vp: int
    sint: int
    payload: bytes


class Mailbox:
    """The messages of one bus that are not in a slot yet.

    Attributes:
        connection: What the two ends have agreed on; None before any contact.

    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._queue: deque[OutgoingMessage] = deque()
        self.connection: Connection | None = None

    def post(self, message: wire.Message, target: tuple[int, int] | None = None) -> None:
        """Queue a message for the VP that made contact, or for a reserved channel's own (VP, SINT)."""
        assert self.connection is not None
        vp, sint = target or (self.connection.vp, VMBUS_SINT)
        self.post_to(message, vp, sint, version=self.connection.version)

    def post_to(self, message: wire.Message, vp: int, sint: int, *, version: int) -> None:
        """Queue a message for a guest of `version` (0 before any is agreed on), which must know it."""
        payload = wire.encode(message, version)
        self._trace(trace_events.VMBUS_POST_MSG, wire.TABLE.of(message).number, len(payload))
        self._queue.append(OutgoingMessage(vp, sint, payload))

    @property
    def is_full(self) -> bool:
        """Whether too many messages wait for the guest to get more replies."""
        return len(self._queue) >= VMBUS_QUEUE_MAX

    @property
    def first(self) -> OutgoingMessage | None:
        """The message for the slot, the same one until `delivered`."""
        return self._queue[0] if self._queue else None

    def delivered(self) -> None:
        """Record that the first message is in its slot."""
        self._queue.popleft()
        self._trace(trace_events.VMBUS_MSG_CB, 0)

    def disconnect(self) -> None:
        """Drop the connection and all messages."""
        self._queue.clear()
        self.connection = None

    def snapshot(self) -> tuple[OutgoingMessage, ...]:
        """Return the messages, in order."""
        return tuple(self._queue)

    def restore(self, connection: Connection | None, queue: tuple[OutgoingMessage, ...]) -> None:
        """Make the mailbox what it was when the snapshot was taken, on the connection of that time."""
        self.connection = connection
        self._queue = deque(queue)
