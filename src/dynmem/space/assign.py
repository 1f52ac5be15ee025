"""Where a memory device goes: at the requested address, or at the first that fits.

The rules and texts are those of QEMU hw/mem/memory-device.c.
"""

from collections.abc import Iterable
from typing import NamedTuple

from dynmem.space.region import MemoryDeviceError

_ADDRESSES = 1 << 64


class Taken(NamedTuple):
    """The addresses of a plugged device, in bytes, and its name for a message."""

    address: int
    size: int
    identity: str | None


def align_up(value: int, alignment: int) -> int:
    """Return the smallest multiple of `alignment` that is not below `value`."""
    return -(-value // alignment) * alignment


def assign_address(
    base: int, space: int, taken: Iterable[Taken], *, hint: int, size: int, alignment: int
) -> int:
    """Return the address for `size` bytes within the `space` bytes at `base`; `hint` 0 means anywhere.

    `taken` is sorted by address. Raises MemoryDeviceError in QEMU's words.
    """
    if hint:
        return _at_hint(base, space, taken, hint=hint, size=size, alignment=alignment)
    address = align_up(base, alignment)
    if address + size > _ADDRESSES:
        raise MemoryDeviceError("can't add memory device, device too big")
    for other in taken:
        if other.address >= address + size:
            break
        if other.address + other.size > address:
            address = align_up(other.address + other.size, alignment)
    if address + size > base + space:
        raise MemoryDeviceError(
            "could not find position in guest address space for memory device"
            " - memory fragmented due to alignments"
        )
    return address


def _at_hint(base: int, space: int, taken: Iterable[Taken], *, hint: int, size: int, alignment: int) -> int:
    """Return the requested address if it can be used."""
    if hint % alignment:
        raise MemoryDeviceError(f"address must be aligned to {alignment:#x} bytes")
    if hint < base or hint + size > base + space:
        raise MemoryDeviceError(
            f"can't add memory device [{hint:#x}:{size:#x}], "
            f"usable range for memory devices [{base:#x}:{space:#x}]"
        )
    for other in taken:
        if other.address < hint + size and hint < other.address + other.size:
            name = "(unnamed)" if other.identity is None else other.identity
            raise MemoryDeviceError(f"address range conflicts with memory device id='{name}'")
    return hint
