"""The guest kernel's drivers: VMBus over the SynIC, and the balloon on its channel.

Nothing here waits: a post for which the host has no buffers is repeated a little later, a full ring is tried
again when the host signals. Mistakes of the host are logged and counted, and the guest continues.

Source: Linux drivers/hv/connection.c (vmbus_post_msg) and hv_balloon.c (balloon_connect_vsp).
"""

import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from dynmem import vmbus
from dynmem.dm.blocks import MemoryBlocks
from dynmem.dm.events import Anomaly, Crashed, ServiceFailed
from dynmem.dm.guest import DynamicMemoryGuest
from dynmem.dm.habits import LINUX, Habits
from dynmem.dm.options import GuestOptions
from dynmem.errors import DynmemError, RemoteProtocolError
from dynmem.guest.allocator import Allocator
from dynmem.guest.synic import Hypervisor, Synic
from dynmem.limits import GUEST_ADDRESS_BYTES_MAX, GUEST_POST_ATTEMPTS_MAX, GUEST_WARNINGS_MAX
from dynmem.pages.ranges import span
from dynmem.units import NS_PER_MS, PAGE_SHIFT
from dynmem.vmbus.memory import GuestMemory
from dynmem.wire.dm import BALLOON_DEVICE_TYPE
from dynmem.wire.packet import PacketType
from dynmem.wire.synic import HvStatus
from dynmem.wire.versions import VERSION_WIN8, format_version

RING_PAGES: Final = 10  # Linux: 16 KiB and a control page each way
DOWNSTREAM_PAGE: Final = 5

GUEST_PAGES_MAX: Final = GUEST_ADDRESS_BYTES_MAX >> PAGE_SHIFT

_PACKETS_AT_ONCE: Final = 64
_POST_PAUSE_NS: Final = NS_PER_MS
_POST_PAUSE_DOUBLINGS: Final = 6
_FOR_NOW: Final = frozenset({HvStatus.INSUFFICIENT_MEMORY, HvStatus.INSUFFICIENT_BUFFERS})

_log: Final = logging.getLogger(__name__)


class CrashError(DynmemError):
    """The guest has crashed, as those that it plays do."""


class Drivers:
    """VMBus and the balloon. Every `now` is in nanoseconds of the guest's clock.

    `faults` counts the host's mistakes.
    """

    def __init__(
        self,
        hypervisor: Hypervisor,
        memory: GuestMemory,
        allocator: Allocator,
        synic: Synic,
        total_pages: int,
        blocks: MemoryBlocks | None = None,
        habits: Habits = LINUX,
    ) -> None:
        self._hypervisor = hypervisor
        self._allocator = allocator
        self._synic = synic
        versions = [version for version in habits.bus_versions if version >= VERSION_WIN8]
        self._client = vmbus.Client(memory, versions=versions)
        self._balloon = DynamicMemoryGuest(
            pages=allocator,
            total_pages=total_pages,
            blocks=blocks,
            options=GuestOptions(page_limit=GUEST_PAGES_MAX, habits=habits),
        )
        self._channel: vmbus.GuestChannel | None = None
        self._ring_pages: list[int] = []
        self._posts: deque[vmbus.Post] = deque()
        self._attempts = 0
        self._post_at: int | None = None
        self._looked_at_all = True
        self.faults: int = 0
        self._client.connect()

    @property
    def floor_pages(self) -> int:
        """Free pages that the balloon leaves to the guest."""
        return self._balloon.floor_pages

    @property
    def pages_max(self) -> int:
        """The most pages that this guest can have, as far as the host has said."""
        return max(self._balloon.total_pages, self._balloon.max_page_count or 0)

    def memory_plugged(self, pages: range) -> None:
        """Report memory to the balloon that was added by anything but a hot add."""
        self._balloon.memory_changed(come=span(pages.start, len(pages)))

    def memory_unplugged(self, pages: range) -> None:
        """Report to the balloon that plugged memory was removed."""
        self._balloon.memory_changed(gone=span(pages.start, len(pages)))

    def deadline_ns(self, now: int) -> int | None:
        """Return when to call `step` next if the host is silent."""
        if not self._looked_at_all:
            return now
        times = [time for time in (self._balloon.deadline_ns(), self._post_at) if time is not None]
        return min(times, default=None)

    def step(self, now: int) -> None:
        """Process everything the host may have written, and do everything that is due.

        Raises CrashError when that is the end of this guest.
        """
        self._looked_at_all = True
        for payload in self._synic.take_messages():
            self._guarded(self._client.receive_message, payload)
        self._take_events(now)
        self._balloon.tick(now)
        self._exchange(now)
        self._post(now)
        for event in self._balloon.take_events():
            if isinstance(event, Crashed):
                raise CrashError(f"the guest has crashed: {event.reason}")
            if isinstance(event, Anomaly):
                self._warn(event.text)
            elif isinstance(event, ServiceFailed):
                self._warn(f"the balloon stopped working: {event.reason}")

    def _guarded(self, take: Callable[..., None], *arguments: object) -> bool:
        """Pass something from the host to `take`. Returns False if it was rejected."""
        try:
            take(*arguments)
        except RemoteProtocolError as error:
            self._warn(str(error))
            return False
        return True

    def _warn(self, text: str) -> None:
        self.faults += 1
        if self.faults <= GUEST_WARNINGS_MAX:
            _log.warning("%s", text)

    def _take_events(self, now: int) -> None:
        for event in self._client.take_events():
            _EVENTS[type(event)](self, event, now)

    def _exchange(self, now: int) -> None:
        """Read the ring, reply, and signal."""
        channel = self._channel
        if channel is None:
            return
        self._synic.clear_flag(channel.relid)
        try:
            self._send(channel, now)
            for _ in range(_PACKETS_AT_ONCE):
                packet = channel.receive()
                if packet is None:
                    break
                if packet.type == PacketType.INBAND:
                    self._guarded(self._balloon.receive, packet.data, now)
                self._send(channel, now)
            else:
                self._looked_at_all = False
        except RemoteProtocolError as error:  # the ring itself is damaged
            self._warn(f"{error}: the channel is closed")
            channel.close()
        self._signal()

    def _send(self, channel: vmbus.GuestChannel, now: int) -> None:
        """Send the balloon's messages, as far as there is room; signal at once, so the host can start."""
        while (message := self._balloon.next_message()) is not None:
            if not channel.send(message):
                break
            self._balloon.message_sent(now)
            self._signal()

    def _signal(self) -> None:
        for connection_id in self._client.take_doorbells():
            self._hypervisor.signal(connection_id)

    def _post(self, now: int) -> None:
        """Post the queued messages in order; repeat later if the host has no buffers."""
        self._posts.extend(self._client.take_posts())
        if self._post_at is not None and now < self._post_at:
            return
        self._post_at = None
        while self._posts:
            post = self._posts[0]
            status = self._synic.post(post.connection_id, post.payload)
            if status in _FOR_NOW and self._attempts < GUEST_POST_ATTEMPTS_MAX:
                self._post_at = now + (_POST_PAUSE_NS << min(self._attempts, _POST_PAUSE_DOUBLINGS))
                self._attempts += 1
                return
            self._attempts = 0
            self._posts.popleft()
            if status is not HvStatus.SUCCESS:
                self._client.post_refused(status)
                self._take_events(now)
                self._posts.extend(self._client.take_posts())

    def _on_connected(self, event: vmbus.Connected, now: int) -> None:
        _log.info("connected to VMBus %s", format_version(event.version))

    def _on_offered(self, event: vmbus.Offered, now: int) -> None:
        if event.channel.offer.interface == BALLOON_DEVICE_TYPE and self._channel is None:
            self._channel = event.channel
            self._ring_pages = self._allocator.allocate_kernel(RING_PAGES)
            event.channel.open(self._ring_pages, DOWNSTREAM_PAGE)

    def _on_opened(self, event: vmbus.Opened, now: int) -> None:
        _log.info("the balloon's channel %d is open", event.channel.relid)
        self._balloon.channel_opened(now)

    def _on_closed(self, event: vmbus.Closed, now: int) -> None:
        self._allocator.free_kernel(self._ring_pages)
        self._ring_pages = []
        self._channel = None
        self._balloon.channel_closed(now)

    def _on_failed(self, event: vmbus.Failed, now: int) -> None:
        self._warn(event.reason)
        if event.channel is not None and event.channel is self._channel:
            self._allocator.free_kernel(self._ring_pages)
            self._ring_pages = []
            self._channel = None

    def _on_nothing_to_do(self, event: vmbus.ClientEvent, now: int) -> None:
        """Ignore an event that needs no reply."""


_EVENTS: Final[dict[type, Callable[[Drivers, Any, int], None]]] = {
    vmbus.Connected: Drivers._on_connected,
    vmbus.Offered: Drivers._on_offered,
    vmbus.OffersDelivered: Drivers._on_nothing_to_do,
    vmbus.Opened: Drivers._on_opened,
    vmbus.Closed: Drivers._on_closed,
    vmbus.Rescinded: Drivers._on_nothing_to_do,
    vmbus.Failed: Drivers._on_failed,
    vmbus.Unloaded: Drivers._on_nothing_to_do,
}
