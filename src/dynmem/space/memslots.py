"""Memory slots: who consumes them, how many are left, and how many a memory device should use.

Every section of RAM that the guest sees takes one slot of every consumer: of the hypervisor, and of each back
end that maps guest memory for itself. The rules are those of QEMU hw/mem/memory-device.c.
"""

import fcntl
import os
from typing import Final, NamedTuple, Protocol

from dynmem.errors import NotPermittedError, UnreachableError
from dynmem.space.address_space import Section
from dynmem.space.region import MemoryDeviceError

SOFT_MEMSLOT_LIMIT: Final = 256  # over all memory devices (MEMORY_DEVICES_SOFT_MEMSLOT_LIMIT)
SAFE_MAX_MEMSLOTS: Final = 509  # what every hypervisor has; with less, devices take one slot each

_KVM_CHECK_EXTENSION: Final = 0xAE03  # linux/kvm.h
_KVM_CAP_NR_MEMSLOTS: Final = 10


class SlotConsumer(Protocol):
    """Something that takes one of its own slots for each section of RAM that the guest sees."""

    @property
    def name(self) -> str:
        """Its name in messages."""

    @property
    def slots_max(self) -> int:
        """All its slots."""

    @property
    def slots_free(self) -> int:
        """Its slots that are not in use."""


class Memslots:
    """The registry of consumers. The one with the fewest slots decides what a device can use."""

    def __init__(self) -> None:
        """Begin without consumers: slots are unlimited."""
        self._hypervisors: list[SlotConsumer] = []
        self._backends: list[SlotConsumer] = []

    @property
    def consumers(self) -> tuple[SlotConsumer, ...]:
        """All of them, hypervisors first."""
        return (*self._hypervisors, *self._backends)

    def add(self, consumer: SlotConsumer, *, is_vhost: bool = False) -> None:
        """Register a hypervisor, or with `is_vhost` a back end that maps the guest's memory beside it."""
        (self._backends if is_vhost else self._hypervisors).append(consumer)

    def remove(self, consumer: SlotConsumer) -> None:
        """Remove `consumer`. Raises ValueError if it is not registered."""
        (self._backends if consumer in self._backends else self._hypervisors).remove(consumer)

    @property
    def slots_max(self) -> int | None:
        """The smallest maximum of all consumers; None without a consumer."""
        return min((consumer.slots_max for consumer in self.consumers), default=None)

    @property
    def slots_free(self) -> int | None:
        """The smallest number of free slots of all consumers; None without a consumer."""
        return min((consumer.slots_free for consumer in self.consumers), default=None)

    def check_free(self, slots: int) -> None:
        """Raise MemoryDeviceError, in QEMU's words, if a consumer has fewer than `slots` left."""
        if any(consumer.slots_free < slots for consumer in self._hypervisors):
            raise MemoryDeviceError("hypervisor has not enough free memory slots left")
        if any(consumer.slots_free < slots for consumer in self._backends):
            raise MemoryDeviceError("a used vhost backend has not enough free memory slots left")


class SlotUse(NamedTuple):
    """The slots of memory devices.

    Attributes:
        used: Sections that are mapped now.
        required: The most that the plugged devices will use.
    """

    used: int
    required: int

    @property
    def reserved(self) -> int:
        """Slots that devices may still use, so others must not."""
        return max(self.required - self.used, 0)


def decide_limit(memslots: Memslots, use: SlotUse, *, size: int, space: int, space_used: int) -> int:
    """Return how many slots a device of `size` bytes may decide to use; at least 1.

    `space` bounds all memory devices together (maxmem minus boot memory), `space_used` is what plugged ones
    use of it, in bytes.
    """
    if memslots.slots_max is not None and memslots.slots_max < SAFE_MAX_MEMSLOTS:
        return 1
    left = SOFT_MEMSLOT_LIMIT - use.required
    if memslots.slots_free is not None:
        left = min(left, memslots.slots_free - use.reserved)
    if left < 1:
        return 1
    if size == space:
        return left
    if size >= space - space_used:  # never more than all, whatever was asked
        return left
    return max(left * size // (space - space_used), 1)


class KvmSlots:
    """KVM's slots of one virtual machine: counts the sections of the address space that it listens to."""

    name: Final = "KVM"

    def __init__(self, path: str = "/dev/kvm") -> None:
        """Ask the kernel how many slots a machine has. Raises UnreachableError, NotPermittedError."""
        try:
            kvm = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except PermissionError as error:
            raise NotPermittedError(f"{path} may not be opened: {error.strerror}") from error
        except OSError as error:
            raise UnreachableError(f"{path} cannot be opened: {error.strerror}; is KVM there?") from error
        try:
            self._slots_max: Final = int(fcntl.ioctl(kvm, _KVM_CHECK_EXTENSION, _KVM_CAP_NR_MEMSLOTS))
        except OSError as error:
            raise UnreachableError(f"{path} is not KVM: {error.strerror}") from error
        finally:
            os.close(kvm)
        self._used = 0

    @property
    def slots_max(self) -> int:
        """Slots of one machine (KVM_CAP_NR_MEMSLOTS)."""
        return self._slots_max

    @property
    def slots_free(self) -> int:
        """Slots that no section has taken."""
        return self._slots_max - self._used

    def section_added(self, section: Section) -> None:
        del section
        self._used += 1

    def section_removed(self, section: Section) -> None:
        del section
        self._used -= 1
