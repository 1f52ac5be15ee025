"""The guest's physical address space: which RAM is seen where, reported to listeners section by section.

The changes of a transaction are reported together when it ends: first what went, from the highest address
down, then what came, from the lowest up. Sections that touch are never merged: each is one memory slot.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from dynmem.errors import LocalProtocolError
from dynmem.space.region import Container, MemoryDeviceError, RamRegion, Region, RegionBackend
from dynmem.units import PAGE_SIZE

_ADDRESSES = 1 << 64


class Section(NamedTuple):
    """RAM that the guest sees: `size` bytes at guest address `address`, from `offset` of `backend` on."""

    address: int
    size: int
    backend: RegionBackend
    offset: int
    readonly: bool
    name: str


class Listener(Protocol):
    """Receives every section; must not raise, and must not change the address space meanwhile."""

    def section_added(self, section: Section) -> None:
        """Record that the guest sees `section` from now on."""

    def section_removed(self, section: Section) -> None:
        """Record that the guest does not see `section` any more."""


class AddressSpace:
    """Regions by guest address. Two of them never overlap."""

    def __init__(self) -> None:
        """Begin with nothing mapped."""
        self._regions: dict[int, Region] = {}
        self._listeners: list[Listener] = []
        self._sections: tuple[Section, ...] = ()
        self._depth = 0
        self._is_reporting = False

    @property
    def sections(self) -> tuple[Section, ...]:
        """The sections as the listeners know them, by address."""
        return self._sections

    def map(self, region: Region, address: int) -> None:
        """Map `region` at `address` (bytes). Raises MemoryDeviceError; then nothing has changed."""
        if not isinstance(region, RamRegion | Container):
            raise MemoryDeviceError(
                f"only RAM or a container of RAM can be mapped, not {type(region).__name__}"
            )
        if region.is_mapped:
            raise MemoryDeviceError(f"region {region.name!r} is mapped already")
        if address < 0 or address % PAGE_SIZE or address + region.size > _ADDRESSES:
            raise MemoryDeviceError(
                f"region {region.name!r} of {region.size:#x} bytes cannot be at {address:#x}"
            )
        for begin, other in self._regions.items():
            if address < begin + other.size and begin < address + region.size:
                raise MemoryDeviceError(
                    f"region {region.name!r} at {address:#x} would overlap {other.name!r} at {begin:#x}"
                )
        with self.transaction():
            self._regions[address] = region
            self._attach(region)

    def unmap(self, region: Region) -> None:
        """Unmap `region`. Raises MemoryDeviceError unless it is mapped here itself."""
        address = next((begin for begin, other in self._regions.items() if other is region), None)
        if address is None:
            raise MemoryDeviceError(f"region {region.name!r} is not mapped here")
        with self.transaction():
            del self._regions[address]
            self._detach(region)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Report all changes inside together, at the end. Transactions may be nested.

        If an exception leaves the outermost one, everything is as before and nothing is reported.
        """
        if self._is_reporting:
            raise LocalProtocolError("a listener may not change the address space while it receives a change")
        if self._depth:
            yield
            return
        before = dict(self._regions)
        contents = {region: region.subregions for region in before.values() if isinstance(region, Container)}
        self._depth = 1
        try:
            yield
        except BaseException:
            self._restore(before, contents)
            raise
        finally:
            self._depth = 0
        self._report()

    def listen(self, listener: Listener) -> None:
        """Report every present section to `listener`, and every change from now on."""
        self._listeners.append(listener)
        for section in self._sections:
            listener.section_added(section)

    def forget(self, listener: Listener) -> None:
        """Report to `listener` that every section goes, and nothing after that."""
        self._listeners.remove(listener)
        for section in reversed(self._sections):
            listener.section_removed(section)

    def _attach(self, region: Region) -> None:
        region.is_mapped = True
        if isinstance(region, Container):
            region.on_change = self._container_changed

    @staticmethod
    def _detach(region: Region) -> None:
        region.is_mapped = False
        if isinstance(region, Container):
            region.on_change = None

    def _container_changed(self) -> None:
        """Report what a container that is mapped here has mapped or unmapped."""
        with self.transaction():
            pass

    def _restore(
        self, before: dict[int, Region], contents: dict[Container, tuple[tuple[int, RamRegion], ...]]
    ) -> None:
        """Restore the regions from before a transaction, with what was in them."""
        for region in self._regions.values():
            self._detach(region)
        self._regions = before
        for region in before.values():
            self._attach(region)
        for container, subregions in contents.items():
            container.restore(subregions)

    def _report(self) -> None:
        """Update the sections and report what went and what came."""
        now = tuple(self._look())
        gone = set(self._sections).difference(now)
        come = set(now).difference(self._sections)
        removed = [section for section in reversed(self._sections) if section in gone]
        added = [section for section in now if section in come]
        self._sections = now
        self._is_reporting = True
        try:
            for listener in self._listeners:
                for section in removed:
                    listener.section_removed(section)
            for listener in self._listeners:
                for section in added:
                    listener.section_added(section)
        finally:
            self._is_reporting = False

    def _look(self) -> Iterator[Section]:
        """Yield every section of the present regions, by address."""
        for address, region in sorted(self._regions.items(), key=lambda item: item[0]):
            for offset, ram in region.stretches():
                yield Section(address + offset, ram.size, ram.backend, ram.offset, ram.readonly, ram.name)
