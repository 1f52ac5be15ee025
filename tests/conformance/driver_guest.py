"""The embedded guest's own drivers, page allocator and interrupt controller, without its process."""

import mmap

from dynmem.conformance import adapter
from dynmem.conformance.adapter import Hypercalls
from dynmem.guest.allocator import Allocator
from dynmem.guest.driver import Drivers
from dynmem.guest.loop import EVENT_PAGE, INPUT_PAGE, KERNEL_PAGES, MESSAGE_PAGE
from dynmem.guest.synic import Synic
from dynmem.units import MIB, PAGE_SIZE
from dynmem.vmbus.memory import FlatMemory
from dynmem.wire import synic

SIZE = 512 * MIB
SLOT = MESSAGE_PAGE * PAGE_SIZE + synic.VMBUS_SINT * synic.MESSAGE_SLOT_BYTES
FLAGS = EVENT_PAGE * PAGE_SIZE + synic.VMBUS_SINT * synic.EVENT_FLAGS_BYTES


class DriverGuest:
    """A guest of 512 MiB, of which nothing but its drivers uses any."""

    def __init__(self) -> None:
        self.groups = frozenset(adapter.GROUPS)
        self.memory = FlatMemory(memoryview(mmap.mmap(-1, SIZE)))
        self.total_pages = SIZE // PAGE_SIZE
        self._now = 0
        self._allocator = Allocator(seed=4)
        self._allocator.add_kernel(0, KERNEL_PAGES)
        self._allocator.add(KERNEL_PAGES, self.total_pages - KERNEL_PAGES)
        self._allocator.asked_pages = KERNEL_PAGES
        self._hypercalls: Hypercalls | None = None
        self._drivers: Drivers | None = None

    def start(self, hypercalls: Hypercalls) -> None:
        self._hypercalls = hypercalls
        pages = {"message_page": MESSAGE_PAGE, "event_page": EVENT_PAGE, "input_page": INPUT_PAGE}
        interrupts = Synic(self, self.memory, **pages)
        self._drivers = Drivers(self, self.memory, self._allocator, interrupts, self.total_pages)
        self.advance(0)

    def deliver_message(self, payload: bytes) -> None:
        slot = synic.MessageSlot(synic.VMBUS_MESSAGE_TYPE, payload)
        self.memory.write(SLOT, synic.encode_slot(slot))
        self.advance(0)

    def deliver_event(self, flag: int) -> None:
        word = FLAGS + flag // 32 * 4
        self.memory.store32(word, self.memory.load32(word) | 1 << flag % 32)
        self.advance(0)

    def advance(self, ns: int) -> None:
        assert self._drivers is not None
        self._now += ns
        self._drivers.step(self._now)
        while self._drivers.deadline_ns(self._now) == self._now:  # it has not looked at everything
            self._drivers.step(self._now)

    def ballooned_pages(self) -> int | None:
        return self._allocator.ballooned_pages

    # what the guest runs on

    def hypercall(self, control: int, input_gpa: int) -> synic.HvStatus:
        assert self._hypercalls is not None
        assert control == synic.HYPERCALL_POST_MESSAGE
        post = synic.decode_post(self.memory.read(input_gpa, synic.MESSAGE_SLOT_BYTES))
        status = self._hypercalls.post_message(post.connection_id, post.message_type, post.payload)
        return synic.HvStatus(status)

    def write_msr(self, msr: int, value: int) -> synic.HvStatus:
        return synic.HvStatus.SUCCESS

    def signal(self, connection_id: int) -> None:
        assert self._hypercalls is not None
        assert self._hypercalls.signal_event(connection_id, 0) == 0
