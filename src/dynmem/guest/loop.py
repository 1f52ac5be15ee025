"""The guest's single thread: sleep until something happens or falls due, do it, sleep again.

The process is one boot of the guest: it ends with its VM, or when the machine is reset. The guest's physical
memory at boot is every slot that is mapped when the hardware is complete. Pages 0 to 15 belong to the kernel
(0 stays empty, 1 is the message page, 2 the event page, 3 the input page of hypercalls). Ring pages are
allocated in slot 0, and everything else is free.
"""

import os
import time
from typing import Final, NoReturn

from dynmem.errors import RemoteProtocolError
from dynmem.guest.allocator import Allocator
from dynmem.guest.blocks import Blocks
from dynmem.guest.console import REPORT_NS, Console, report_of
from dynmem.guest.driver import RING_PAGES, Drivers
from dynmem.guest.hardware import Hardware
from dynmem.guest.options import Options
from dynmem.guest.slots import Slots
from dynmem.guest.synic import Synic
from dynmem.guest.workload import Workload
from dynmem.units import NS_PER_MS, NS_PER_S
from dynmem.vmbus.memory import FlatMemory

KERNEL_PAGES: Final = 16
MESSAGE_PAGE: Final = 1
EVENT_PAGE: Final = 2
INPUT_PAGE: Final = 3

_LIFE_BYTES: Final = 4  # random bits that tell this boot's patterns from those of earlier boots
_GENERATION_BITS: Final = 30
_KERNEL_USES: Final = KERNEL_PAGES + RING_PAGES
_PAGES_MIN: Final = 1024  # 4 MiB: anything smaller would hold only the kernel area
_JUMP_NS_MAX: Final = NS_PER_S // 2  # no sleep is longer: if more time has passed, the process was stopped
_SLACK_NS: Final = 5 * NS_PER_MS  # what falls due this soon is done now: one wake-up instead of two


class GuestClock:
    """Nanoseconds since boot that stand still while the process is stopped."""

    def __init__(self) -> None:
        self._read = time.monotonic_ns()
        self._now = 0

    def now(self) -> int:
        """Return the guest's time."""
        read = time.monotonic_ns()
        self._now += min(read - self._read, _JUMP_NS_MAX)
        self._read = read
        return self._now


class Kernel:
    """The guest from its boot on."""

    def __init__(self, hardware: Hardware, options: Options, seed: int, console: Console) -> None:
        ram = hardware.ram
        boot = ram.pages(0)
        if boot.start or len(boot) < _PAGES_MIN:
            raise RemoteProtocolError("slot 0 must be RAM from address 0 on, at least 4 MiB")
        # a slot that arrives from here on, while the guest boots, is not RAM yet
        more = [ram.pages(slot) for slot in sorted(ram.slots) if slot]
        self._hardware = hardware
        self._console = console
        self._clock = GuestClock()
        self._allocator = Allocator(seed, kernel_below=len(boot))
        self._allocator.add_kernel(0, KERNEL_PAGES)
        self._allocator.add(KERNEL_PAGES, len(boot) - KERNEL_PAGES)
        memory = FlatMemory(ram.view(0))
        synic = Synic(
            hardware, memory, message_page=MESSAGE_PAGE, event_page=EVENT_PAGE, input_page=INPUT_PAGE
        )
        blocks = Blocks(self._allocator, ram.is_mapped)
        self._drivers = Drivers(hardware, memory, self._allocator, synic, len(boot), blocks, options.habits)
        for pages in more:
            self._allocator.add(pages.start, len(pages))
            self._drivers.memory_plugged(pages)
        self._first_pages = len(boot)
        self._workload = Workload(
            ram.memory,
            self._allocator,
            options.load,
            usable_pages=self._allocator.total_pages - _KERNEL_USES,
            seed=seed + 1,
            generation=int.from_bytes(os.urandom(_LIFE_BYTES), "little") << _GENERATION_BITS,
        )
        self._slots = Slots(hardware, self._allocator, self._drivers, self._workload)
        self._tick_at = 0
        self._report_at = 0

    def run(self) -> NoReturn:
        """Run until the host is gone, then raise HostGoneError."""
        while True:
            now = self._clock.now()
            self._slots.serve()
            self._drivers.step(now)
            self._workload.pages_max = self._drivers.pages_max - _KERNEL_USES
            due = now + _SLACK_NS
            reports = self._report_at <= due
            if reports or self._tick_at <= due or self._workload.can_grow:
                self._tick_at = self._workload.tick(now)
            if reports:
                self._report(now)
            self._hardware.wait(self._sleep_ns())

    def _sleep_ns(self) -> int:
        if self._hardware.requests:  # that arrived during a call to the host
            return 0
        now = self._clock.now()
        times = [self._tick_at, self._report_at, self._drivers.deadline_ns(now)]
        return max(0, min(time for time in times if time is not None) - now)

    def _report(self, now: int) -> None:
        self._report_at = now + REPORT_NS
        self._console.write_line(
            report_of(
                self._allocator,
                self._workload,
                now_ns=now,
                first_pages=self._first_pages,
                mapped_pages=self._hardware.ram.mapped_pages,
                floor_pages=self._drivers.floor_pages,
                faults=self._drivers.faults,
                dropped_lines=self._console.dropped_lines,
            )
        )


def run(hardware: Hardware, options: Options, seed: int, console: Console) -> NoReturn:
    """Boot when the hardware is complete, run until the host is gone, then raise HostGoneError."""
    hardware.wait_for_start()
    Kernel(hardware, options, seed, console).run()
