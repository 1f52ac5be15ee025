"""Memory slots in the guest's kernel: RAM at boot, DIMMs that come and go, slots that are removed.

A DIMM may be any number of whole pages, which are used at once. It can be removed if no page in it belongs to
the kernel or the balloon: pages of a load move elsewhere, if there is room.
"""

import logging
from typing import Final

from dynmem.errors import RemoteProtocolError
from dynmem.guest.allocator import BALLOONED, IN_USE, KERNEL, Allocator
from dynmem.guest.driver import Drivers
from dynmem.guest.hardware import Hardware
from dynmem.guest.workload import Workload
from dynmem.wire import hardware as wire

_log: Final = logging.getLogger(__name__)


class Slots:
    """Serves the host's requests about slots."""

    def __init__(
        self, hardware: Hardware, allocator: Allocator, drivers: Drivers, workload: Workload
    ) -> None:
        self._hardware = hardware
        self._allocator = allocator
        self._drivers = drivers
        self._workload = workload

    def serve(self) -> None:
        """Serve every request of the host. Raises RemoteProtocolError for an impossible one."""
        requests = self._hardware.requests
        while requests:
            request = requests.popleft()
            pages = self._hardware.ram.pages(request.slot)
            match request:
                case wire.PlugMemory():
                    self._plug(request.slot, pages)
                case wire.UnplugMemory():
                    is_done = self._unplug(pages)
                    self._hardware.answer_unplug(request.slot, is_done=is_done)
                case wire.UnmapSlot():
                    self._unmap(request.slot, pages)

    def _plug(self, slot: int, pages: range) -> None:
        if self._allocator.count(pages.start, pages.stop, *IN_USE):
            raise RemoteProtocolError(f"slot {slot} was plugged, but part of it is in use already")
        self._allocator.add(pages.start, len(pages))
        self._drivers.memory_plugged(pages)
        _log.info("%d pages were plugged at %#x", len(pages), pages.start)

    def _unplug(self, pages: range) -> bool:
        """Stop using a DIMM's pages, all of them or none."""
        if self._allocator.count(pages.start, pages.stop, KERNEL, BALLOONED):
            return False
        free = self._allocator.take_out(pages.start, pages.stop)
        if not self._workload.leave(pages.start, pages.stop):
            self._allocator.put_back(free)
            return False
        self._drivers.memory_unplugged(pages)
        _log.info("%d pages were unplugged at %#x", len(pages), pages.start)
        return True

    def _unmap(self, slot: int, pages: range) -> None:
        if self._allocator.count(pages.start, pages.stop, *IN_USE):
            raise RemoteProtocolError(f"slot {slot} was removed, but part of it is in use")
        self._hardware.unmap_slot(slot)
