"""An hv-balloon device with memory to add, plugged as in a machine, and slots that are the test's own."""

import asyncio
from collections.abc import Callable
from typing import Any

from tests.rigs.balloon_device import SIZE, Discards, Rig
from tests.rigs.memory import memory_of

from dynmem.memory.backend import Backend
from dynmem.space.address_space import AddressSpace, Section
from dynmem.space.memory_device import DeviceMemory
from dynmem.space.memslots import Memslots
from dynmem.trace_events import NO_TRACE, Trace
from dynmem.units import GIB, MIB, PAGE_SHIFT
from dynmem.vm.balloon.discards import StartDiscard
from dynmem.vm.balloon.memory_device import HotAddedMemory
from dynmem.wire import dm

BASE = 32 * GIB  # where device memory begins
FIRST = BASE >> PAGE_SHIFT
UNIT = MIB >> PAGE_SHIFT  # pages


class Consumer:
    """Takes a slot for every section, as a guest's hardware does."""

    name = "test"

    def __init__(self, slots_max: int = 509) -> None:
        self.slots_max = slots_max
        self.sections: list[Section] = []
        self.seen: list[tuple[str, int, int]] = []

    @property
    def slots_free(self) -> int:
        return self.slots_max - len(self.sections)

    def section_added(self, section: Section) -> None:
        self.sections.append(section)
        self.seen.append(("map", section.address - BASE, section.size))

    def section_removed(self, section: Section) -> None:
        self.sections.remove(section)
        self.seen.append(("unmap", section.address - BASE, section.size))


class Plugged:
    """A device memory of `room` bytes with one hv-balloon memory of `size`."""

    def __init__(
        self,
        size: int,
        *,
        room: int | None = None,
        slots_max: int = 509,
        address: int = 0,
        trace: Trace = NO_TRACE,
        backend: Backend | None = None,
    ) -> None:
        self.backend = backend or memory_of(self, size)
        self.consumer = Consumer(slots_max)
        self.space = AddressSpace()
        self.space.listen(self.consumer)
        slots = Memslots()
        slots.add(self.consumer)
        self.warnings: list[str] = []
        self.devices = DeviceMemory(self.space, BASE, room or size, slots, self.warnings.append)
        self.is_ready = True  # the guest has acknowledged every slot
        self.asked: list[tuple[int, int]] = []
        self.memory = HotAddedMemory(
            "b",
            self.backend,
            address=address,
            is_mapped=self._is_mapped,
            trace=trace,
        )
        self.devices.pre_plug(self.memory)
        self.devices.plug(self.memory)

    def _is_mapped(self, address: int, size: int) -> bool:
        self.asked.append((address - BASE, size))
        return self.is_ready

    @property
    def slots(self) -> list[tuple[int, int]]:
        """What is in the guest's address space: offset and size."""
        return sorted((section.address - BASE, section.size) for section in self.consumer.sections)


class AddingRig(Rig):
    """A device on a bus that can add memory, and a guest that does what it is asked."""

    def __init__(self, plugged: Plugged, starter: Callable[[Backend], StartDiscard], **options: Any) -> None:
        self.plugged = plugged
        self.discards = starter if isinstance(starter, Discards) else Discards()
        super().__init__(starter, added=plugged.memory, **options)

    def grow(self, size: int, *, result: int = 1) -> list[tuple[int, int]]:
        """Ask for a size; the guest adds all it is offered: the hot adds, start from the first added page."""
        offered = []
        heard = self.ask(size)
        while heard:
            (message,) = heard
            if isinstance(message, dm.UnballoonRequest):
                self.say(dm.UnballoonResponse(9))
            else:
                assert isinstance(message, dm.HotAddRequest)
                assert message.region == message.range
                start, count = message.range & (1 << 40) - 1, message.range >> 40
                offered.append((start - FIRST, count))
                self.say(dm.HotAddResponse(9, count, result))
            heard = self.turn()
        return offered

    def remove(self, pages: int, *spans: tuple[int, int]) -> None:
        """Ask for pages back for good; the guest gives these, counted from the first added page."""
        assert self.device.hot_remove(pages)
        (message,) = self.turn()
        assert isinstance(message, dm.HotRemoveRequest)
        words = b"".join((FIRST + start | count << 40).to_bytes(8, "little") for start, count in spans)
        self.say(dm.HotRemoveResponse(9, int(bool(spans)), more_pages=False, ranges=words))
        self.turn()

    async def reset(self) -> list[dm.Message]:
        """A power cycle: what the next guest is asked at once."""
        self.disconnect()
        resetting = asyncio.create_task(self.device.reset())
        while not resetting.done():
            await asyncio.sleep(0)
            while self.discards.open:
                self.discards.finish()
        await resetting
        return self.connect()

    def shrink(self, pages: int, *spans: tuple[int, int]) -> None:
        """Ask for so many pages less; the guest gives these."""
        self.ask(self.device.actual_bytes - (pages << PAGE_SHIFT))
        self.give(*spans)
        self.turn()


__all__ = ["BASE", "FIRST", "SIZE", "UNIT", "AddingRig", "Consumer", "Discards", "Plugged"]
