"""Hosts and guests that do nothing, or have no end."""

from dynmem.conformance import adapter
from dynmem.conformance.adapter import Hypercalls
from dynmem.units import GIB, MIB, PAGE_SIZE
from dynmem.vmbus.memory import FlatMemory
from dynmem.wire import vmbus as wire
from dynmem.wire.versions import VERSION_5_3


class SilentHost:
    """Never says anything."""

    def __init__(self) -> None:
        self.groups = frozenset(adapter.GROUPS)
        self.memory = FlatMemory(memoryview(bytearray(4 * MIB)))
        self.scratch = range(16, 1024)
        self.boot_pages = 4 * GIB // PAGE_SIZE
        self.post_init_wait_ns = 1
        self.hot_add_pages = 1 << 21

    def post_message(self, connection_id: int, message_type: int, payload: bytes) -> int:
        return 0

    def signal_event(self, connection_id: int, flag: int) -> int:
        return 0

    def take_message(self) -> bytes | None:
        return None

    def take_event_flags(self) -> list[int]:
        return []

    def advance(self, ns: int) -> None: ...

    def set_target(self, pages: int) -> None: ...

    def reset(self) -> None: ...

    def unplug(self) -> bool:
        return True

    def actual_pages(self) -> int | None:
        return None


class ChatteringHost(SilentHost):
    """Has another message whenever one was taken."""

    def take_message(self) -> bytes | None:
        return b"\x04\0\0\0\0\0\0\0"


class SilentGuest:
    """Never says anything."""

    def __init__(self) -> None:
        self.groups = frozenset(adapter.GROUPS)
        self.memory = FlatMemory(memoryview(bytearray(4 * MIB)))
        self.total_pages = 512 * MIB // PAGE_SIZE

    def start(self, hypercalls: Hypercalls) -> None: ...

    def deliver_message(self, payload: bytes) -> None: ...

    def deliver_event(self, flag: int) -> None: ...

    def advance(self, ns: int) -> None: ...

    def ballooned_pages(self) -> int | None:
        return None


class ChatteringGuest(SilentGuest):
    """Posts another contact whenever time passes."""

    def start(self, hypercalls: Hypercalls) -> None:
        self._hypercalls = hypercalls

    def advance(self, ns: int) -> None:
        contact = wire.InitiateContact(VERSION_5_3, 0, wire.contact_target(2), 0, 0)
        self._hypercalls.post_message(4, 1, wire.encode(contact))
