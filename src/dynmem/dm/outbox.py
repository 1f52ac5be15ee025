"""What the host's end has to send: replies first, and behind them the request of the operation.

One message is on offer at a time, the same one until it is in the ring.
"""

from collections import deque
from collections.abc import Callable

from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.limits import DM_REPLIES_PENDING
from dynmem.wire import dm


class Outbox:
    """The messages of one channel that wait for room."""

    def __init__(self) -> None:
        self._replies: deque[dm.Message] = deque()
        self._message: dm.Message | None = None  # the one on offer
        self._encoded = b""
        self._is_reply = False

    @property
    def is_empty(self) -> bool:
        """Whether a request would be offered next."""
        return self._message is None and not self._replies

    @property
    def offers_request(self) -> bool:
        """Whether a request is on offer."""
        return self._message is not None and not self._is_reply

    def expect_read(self) -> None:
        """Reject a message of a guest that sends requests without end and does not read the replies."""
        if len(self._replies) >= DM_REPLIES_PENDING:
            raise RemoteProtocolError("the guest sends requests and does not read the answers")

    def reply(self, *messages: dm.Message) -> None:
        """Add replies, in this order."""
        self._replies.extend(messages)

    def offer(self, request: Callable[[], dm.Message | None]) -> bytes | None:
        """Return the message on offer; without a reply that is what `request` builds, if anything."""
        if self._message is None:
            self._is_reply = bool(self._replies)
            self._message = self._replies[0] if self._replies else request()
            if self._message is None:
                return None
            self._encoded = dm.encode(self._message)
        return self._encoded

    def withdraw(self) -> None:
        """Take back the request on offer."""
        self._message = None

    def sent(self) -> dm.Message | None:
        """Record that the message on offer is in the ring; return it if it is a request."""
        message, self._message = self._message, None
        if message is None:
            raise LocalProtocolError("no message was offered, so none can have been sent")
        if not self._is_reply:
            return message
        self._replies.popleft()
        return None
