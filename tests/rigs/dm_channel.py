"""Both ends of one channel, and a wire between them that delivers when it likes."""

from collections import deque
from collections.abc import Callable

from dynmem.dm import DynamicMemoryHost
from dynmem.dm.guest import DynamicMemoryGuest


class Wire:
    """Both ends and a ring of so many messages each way; nothing moves but by `step`."""

    def __init__(self, host: DynamicMemoryHost, guest: DynamicMemoryGuest, *, room: int = 2) -> None:
        self.host = host
        self.guest = guest
        self.room = room
        self.to_host: deque[bytes] = deque()
        self.to_guest: deque[bytes] = deque()
        self.now = 0

    def open(self) -> None:
        self.host.channel_opened(self.now)
        self.guest.channel_opened(self.now)

    def close(self) -> None:
        """Close the channel in order: what is in the rings is read first."""
        while self.to_guest:
            self.guest.receive(self.to_guest.popleft(), self.now)
        while self.to_host:
            self.host.receive(self.to_host.popleft(), self.now)
        self.host.channel_closed(self.now)
        self.guest.channel_closed(self.now)

    def steps(self) -> list[Callable[[], bool]]:
        return [self.host_sends, self.guest_sends, self.host_receives, self.guest_receives, self.time_passes]

    def _send(self, end: DynamicMemoryHost | DynamicMemoryGuest, ring: deque[bytes]) -> bool:
        message = end.next_message()
        if message is None or len(ring) >= self.room:
            return False
        ring.append(message)
        end.message_sent(self.now)
        return True

    def host_sends(self) -> bool:
        return self._send(self.host, self.to_guest)

    def guest_sends(self) -> bool:
        return self._send(self.guest, self.to_host)

    def host_receives(self) -> bool:
        if self.to_host:
            self.host.receive(self.to_host.popleft(), self.now)
            return True
        return False

    def guest_receives(self) -> bool:
        if self.to_guest:
            self.guest.receive(self.to_guest.popleft(), self.now)
            return True
        return False

    def time_passes(self) -> bool:
        """Go to the next moment at which something is due."""
        times = [time for time in (self.host.deadline_ns(), self.guest.deadline_ns()) if time is not None]
        if not times:
            return False
        self.now = max(self.now, min(times))
        self.host.tick(self.now)
        self.guest.tick(self.now)
        return True

    def settle(self) -> None:
        """Deliver until nothing moves; time stands still."""
        moves = (self.host_sends, self.guest_sends, self.host_receives, self.guest_receives)
        while any(move() for move in moves):
            pass
