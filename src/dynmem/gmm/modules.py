"""Shared modules: where each VM has which, and which modules of several VMs are one and the same.

A module is what a guest loads read-only (a library, a driver): VMs that loaded the same one have pages of
equal content. A VM registers each of its modules under its base address; modules that agree in name,
version, size, OS family and regions are one global module, which knows the shared page of each of its
pages. (VirtualBox, GMMR0.cpp: GMMR0RegisterSharedModule, GMMR0UnregisterSharedModule,
GMMR0ResetSharedModules.)
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dynmem.gmm.codes import GmmError, Status
from dynmem.gmm.constants import (
    GMM_MAX_SHARED_GLOBAL_MODULES,
    GMM_MAX_SHARED_PER_VM_MODULES,
    MAX_MODULE_SIZE,
    PAGE_SIZE,
    VMMDEVSHAREDREGIONDESC_MAX,
)
from dynmem.gmm.structures import (
    GMMSHAREDMODULE,
    GMMSHAREDREGIONDESC,
    MODULE_NAME,
    MODULE_VERSION,
    Records,
)

_ADDRESS_END: Final = 1 << 64


class Region(NamedTuple):
    """A part of a module whose pages may be shared.

    Attributes:
        address: Where the guest has it, a guest virtual address.
        size: Bytes.
    """

    address: int
    size: int

    @property
    def pages(self) -> int:
        """Pages that it touches, the first and the last perhaps in part."""
        return -(-(self.address % PAGE_SIZE + self.size) // PAGE_SIZE)


class ModuleKey(NamedTuple):
    """What makes modules of several VMs one and the same: all but where they lie.

    Attributes:
        name: As bytes, without the terminator.
        version: As bytes, without the terminator.
        size: Bytes.
        os_family: VBOXOSFAMILY, as the caller has it.
        regions: The offset of each region in its first page, and its size.
    """

    name: bytes
    version: bytes
    size: int
    os_family: int
    regions: tuple[Region, ...]


class SharedModule:
    """A global module (GMMSHAREDMODULE).

    Attributes:
        key: What it is known by.
        users: Registrations of it, in all VMs; it ends with the last.
        page_ids: By region, once it was checked: the shared page of each of its pages, 0 (NIL) if none was
            seen.
    """

    __slots__ = ("key", "page_ids", "users")

    def __init__(self, key: ModuleKey) -> None:
        self.key: ModuleKey = key
        self.users: int = 0
        self.page_ids: list[NDArray[np.uint32] | None] = [None] * len(key.regions)

    def shared_pages(self, region: int) -> NDArray[np.uint32]:
        """Return the page ids of a region, to read and to write; made when they are first wanted."""
        ids = self.page_ids[region]
        if ids is None:
            ids = self.page_ids[region] = np.zeros(self.key.regions[region].pages, np.uint32)
        return ids


class Registration(NamedTuple):
    """A module in one VM.

    Attributes:
        module: Which.
        regions: Where this VM has its regions.
    """

    module: SharedModule
    regions: tuple[Region, ...]


class ModuleDescription(NamedTuple):
    """A registered module, as copies: nothing in them is a pointer.

    Attributes:
        module: One GMMSHAREDMODULE, up to its first region.
        regions: GMMSHAREDREGIONDESC, where this VM has them.
        page_ids: By region, what its `paidPages` refers to in the original: the shared page of each page, 0
            if none was seen.
    """

    module: Records
    regions: Records
    page_ids: list[NDArray[np.uint32]]


class ModuleRegistry:
    """The modules of all VMs, by VM and base address, and the global ones."""

    def __init__(self) -> None:
        self._global: dict[ModuleKey, SharedModule] = {}
        self._by_vm: dict[str, dict[int, Registration]] = {}

    def __len__(self) -> int:
        """Return the number of global modules (GMMSTATS.cShareableModules)."""
        return len(self._global)

    def register(
        self,
        vm: str,
        os_family: int,
        name: str,
        version: str,
        base: int,
        size: int,
        regions: Records,
    ) -> Status:
        """Register a module that a VM has at *base*: SUCCESS, or SHARED_MODULE_ALREADY_REGISTERED there.

        *regions* is an array of VMMDEVSHAREDREGIONDESC or GMMSHAREDREGIONDESC. A failed call changes nothing.

        Raises:
            GmmError: TOO_MANY_REGIONS, BAD_SHARED_MODULE_SIZE, SHARED_MODULE_BAD_REGIONS_SIZE,
                MODULE_NAME_TOO_LONG, MODULE_VERSION_TOO_LONG (the original has the former for both),
                INVALID_PARAMETER, SHARED_MODULE_ADDRESS_CLASH, TOO_MANY_PER_VM_MODULES,
                TOO_MANY_GLOBAL_MODULES.
        """
        places = [Region(int(one["GCRegionAddr"]), int(one["cbRegion"])) for one in regions]
        _check_sizes(base, size, places)
        if not 0 <= os_family < 1 << 31:
            raise GmmError(Status.INVALID_PARAMETER, f"{os_family} is not an OS family: it has 31 bits")
        key = ModuleKey(
            MODULE_NAME.encode(name),
            MODULE_VERSION.encode(version),
            size,
            os_family,
            tuple(Region(place.address % PAGE_SIZE, place.size) for place in places),
        )
        own = self._by_vm.get(vm, {})
        if base in own:
            if own[base].module.key == key:
                return Status.SHARED_MODULE_ALREADY_REGISTERED
            raise GmmError(
                Status.SHARED_MODULE_ADDRESS_CLASH,
                f"{vm} has another module at {base:#x}: unregister that one first",
            )
        if len(own) >= GMM_MAX_SHARED_PER_VM_MODULES:
            raise GmmError(
                Status.TOO_MANY_PER_VM_MODULES,
                f"{vm} has {len(own)} modules, as many as a VM may: unregister one first",
            )
        module = self._global.get(key)
        if module is None and len(self._global) >= GMM_MAX_SHARED_GLOBAL_MODULES:
            raise GmmError(
                Status.TOO_MANY_GLOBAL_MODULES,
                f"there are {len(self._global)} different modules, as many as there may be",
            )
        if module is None:
            module = self._global[key] = SharedModule(key)
        module.users += 1
        self._by_vm.setdefault(vm, {})[base] = Registration(module, tuple(places))
        return Status.SUCCESS

    def unregister(self, vm: str, name: str, version: str, base: int, size: int) -> None:
        """Unregister the module that a VM has at *base*; its pages stay as they are.

        Name, version and size are compared; the original looks at the base alone.

        Raises:
            GmmError: MODULE_NAME_TOO_LONG, MODULE_VERSION_TOO_LONG, INVALID_PARAMETER,
                SHARED_MODULE_NOT_FOUND.
        """
        named = (MODULE_NAME.encode(name), MODULE_VERSION.encode(version), size)
        key = self.find(vm, base).module.key
        if named != (key.name, key.version, key.size):
            raise GmmError(
                Status.SHARED_MODULE_NOT_FOUND,
                f"the module of {vm} at {base:#x} has another name, version or size",
            )
        self._remove(self._by_vm[vm].pop(base))

    def reset(self, vm: str) -> int:
        """Unregister all modules of a VM, which may have none; return how many there were."""
        own = self._by_vm.pop(vm, {})
        for registration in own.values():
            self._remove(registration)
        return len(own)

    def find(self, vm: str, base: int) -> Registration:
        """Return what a VM registered at *base*, or raise GmmError (SHARED_MODULE_NOT_FOUND)."""
        registration = self._by_vm.get(vm, {}).get(base)
        if registration is None:
            raise GmmError(Status.SHARED_MODULE_NOT_FOUND, f"{vm} has no module at {base:#x}")
        return registration

    def of(self, vm: str) -> list[int]:
        """Return the bases of a VM's modules, lowest first."""
        return sorted(self._by_vm.get(vm, ()))

    def pages_of(self, vm: str) -> int:
        """Return the pages of all modules of a VM together."""
        own = self._by_vm.get(vm, {}).values()
        return sum(region.pages for registration in own for region in registration.regions)

    def describe(self, vm: str, base: int) -> ModuleDescription:
        """Return what is known of the module that a VM has at *base*, or raise GmmError as `find`."""
        module, places = self.find(vm, base)
        record = np.zeros(1, GMMSHAREDMODULE)
        record["Core"]["Key"] = base
        record["cbModule"], record["enmGuestOS"] = module.key.size, module.key.os_family
        record["cRegions"], record["cUsers"] = len(places), module.users
        record["szName"], record["szVersion"] = module.key.name, module.key.version
        regions = np.zeros(len(places), GMMSHAREDREGIONDESC)
        regions["GCRegionAddr"] = np.array([place.address for place in places], np.uint64)
        regions["cbRegion"] = [place.size for place in places]
        record["aRegions"][0, : len(places)] = regions[:1]
        return ModuleDescription(
            record, regions, [ids.copy() for ids in map(module.shared_pages, range(len(places)))]
        )

    def verify(self) -> None:
        """Assert that every global module has the users that the VMs' registrations say."""
        users: dict[ModuleKey, int] = {}
        for registration in self._registrations():
            key = registration.module.key
            assert self._global[key] is registration.module
            users[key] = users.get(key, 0) + 1
        assert users == {key: module.users for key, module in self._global.items()}

    def _registrations(self) -> Iterator[Registration]:
        for own in self._by_vm.values():
            yield from own.values()

    def _remove(self, registration: Registration) -> None:
        module = registration.module
        module.users -= 1
        if not module.users:
            del self._global[module.key]


def _check_sizes(base: int, size: int, regions: Sequence[Region]) -> None:
    if len(regions) > VMMDEVSHAREDREGIONDESC_MAX:
        raise GmmError(
            Status.TOO_MANY_REGIONS,
            f"a module has at most {VMMDEVSHAREDREGIONDESC_MAX} regions, not {len(regions)}",
        )
    if not 1 <= size <= MAX_MODULE_SIZE:
        raise GmmError(Status.BAD_SHARED_MODULE_SIZE, f"a module has 1 byte to 1 GiB, not {size} bytes")
    if not 0 <= base < _ADDRESS_END:
        raise GmmError(Status.INVALID_PARAMETER, f"{base:#x} is not an address of 64 bits")
    for region in regions:
        if not 1 <= region.size <= MAX_MODULE_SIZE:
            raise GmmError(
                Status.SHARED_MODULE_BAD_REGIONS_SIZE,
                f"a region has 1 byte to 1 GiB, not {region.size} bytes",
            )
        if not 0 <= region.address <= _ADDRESS_END - region.size:
            raise GmmError(
                Status.INVALID_PARAMETER,
                f"a region of {region.size} bytes at {region.address:#x} is not within 64 bits of address",
            )
    total = sum(region.size for region in regions)
    if total > MAX_MODULE_SIZE:
        raise GmmError(
            Status.SHARED_MODULE_BAD_REGIONS_SIZE,
            f"the regions of a module have at most 1 GiB together, not {total} bytes",
        )
