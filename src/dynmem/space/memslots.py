"""Memory slots: who consumes them, how many are left, and how many a memory device should use.

Every section of RAM that the guest sees takes one slot of every consumer: of the hypervisor, and of each back
end that maps guest memory for itself. The rules are those of QEMU hw/mem/memory-device.c.
"""

from typing import Final, NamedTuple, Protocol

from dynmem.space.region import MemoryDeviceError

SOFT_MEMSLOT_LIMIT: Final = 256  # over all memory devices (MEMORY_DEVICES_SOFT_MEMSLOT_LIMIT)
SAFE_MAX_MEMSLOTS: Final = 509  # what every hypervisor has; with less, devices take one slot each


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
