"""Guest memory as bus and SynIC see it: all RAM of the address space, boot memory and what was added to it.

A guest may put its rings and pages anywhere in its memory, even across the border of two regions, and may
lose memory that they are in: then their addresses are wrong ones like any other.

Memory comes and goes on the machine's loop. Other threads, such as a processor's, use `shared`: it waits
while memory goes, and memory that goes waits for it.
"""

import bisect
from typing import Final, NamedTuple

from dynmem.fair_lock import FairLock
from dynmem.memory.backend import Backend
from dynmem.space.address_space import Section
from dynmem.vmbus.memory import BadAddressError, FlatMemory, GuestMemory


class _Part(NamedTuple):
    start: int
    end: int
    memory: FlatMemory
    view: memoryview


class MappedMemory:
    """Listens to an address space: a `vmbus.memory.GuestMemory` of all that is mapped in it.

    Attributes:
        shared: The same memory, for any thread.

    """

    def __init__(self) -> None:
        self._starts: list[int] = []  # ascending, of the parts
        self._parts: list[_Part] = []
        self._fence = FlatMemory(memoryview(bytearray(0)))
        self._lock = FairLock()
        self.shared: Final[GuestMemory] = _Shared(self, self._lock)

    def section_added(self, section: Section) -> None:
        assert isinstance(section.backend, Backend)
        view = section.backend.view[section.offset : section.offset + section.size]
        part = _Part(section.address, section.address + section.size, FlatMemory(view, section.address), view)
        with self._lock:
            at = bisect.bisect_right(self._starts, part.start)
            self._starts.insert(at, part.start)
            self._parts.insert(at, part)

    def section_removed(self, section: Section) -> None:
        with self._lock:
            at = self._starts.index(section.address)
            del self._starts[at]
            part = self._parts.pop(at)
            part.memory.release()
            part.view.release()

    def read(self, gpa: int, length: int) -> bytes:
        part = self._part(gpa)
        if gpa + length <= part.end:
            return part.memory.read(gpa, length)
        first = part.end - gpa
        return part.memory.read(gpa, first) + self.read(part.end, length - first)

    def write(self, gpa: int, data: bytes) -> None:
        # all of it, or nothing if a part of it is outside: the later parts come first
        part = self._part(gpa)
        if gpa + len(data) <= part.end:
            part.memory.write(gpa, data)
            return
        first = part.end - gpa
        self.write(part.end, data[first:])
        part.memory.write(gpa, data[:first])

    def load32(self, gpa: int) -> int:
        return self._part(gpa).memory.load32(gpa)

    def store32(self, gpa: int, value: int) -> None:
        self._part(gpa).memory.store32(gpa, value)

    def fence(self) -> None:
        self._fence.fence()

    def _part(self, gpa: int) -> _Part:
        at = bisect.bisect_right(self._starts, gpa) - 1
        if at < 0 or gpa >= self._parts[at].end:
            raise BadAddressError(f"{gpa:#x} is not guest memory")
        return self._parts[at]

    def release(self) -> None:
        """Release all of it, so that it can be unmapped here."""
        with self._lock:
            for part in self._parts:
                part.memory.release()
                part.view.release()
            self._parts.clear()
            self._starts.clear()


class _Shared:
    """Guest memory that stays where it is during each access."""

    def __init__(self, memory: MappedMemory, lock: FairLock) -> None:
        self._memory = memory
        self._lock = lock

    def read(self, gpa: int, length: int) -> bytes:
        with self._lock:
            return self._memory.read(gpa, length)

    def write(self, gpa: int, data: bytes) -> None:
        with self._lock:
            self._memory.write(gpa, data)

    def load32(self, gpa: int) -> int:
        with self._lock:
            return self._memory.load32(gpa)

    def store32(self, gpa: int, value: int) -> None:
        with self._lock:
            self._memory.store32(gpa, value)

    def fence(self) -> None:
        self._memory.fence()
