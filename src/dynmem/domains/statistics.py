"""What a domain's guest reports, in QEMU's words: libvirt asks the same balloon, and has its own."""

from collections.abc import Mapping
from typing import Final

from dynmem.units import KIB

# QEMU's names of what libvirt reports, in KiB and as numbers (virDomainMemoryStatTags).
_SIZES: Final = {
    "usable": "stat-available-memory",
    "unused": "stat-free-memory",
    "disk_caches": "stat-disk-caches",
    "swap_in": "stat-swap-in",
}
_NUMBERS: Final = {"minor_fault": "stat-minor-faults", "major_fault": "stat-major-faults"}


def as_qemu(said: Mapping[str, object]) -> dict[str, object]:
    """Return libvirt's statistics as guest-stats, in bytes; what libvirt does not say is left out."""
    found: dict[str, object] = {}
    for name, theirs in _SIZES.items():
        value = said.get(name)
        if isinstance(value, int):
            found[theirs] = value * KIB
    found.update({theirs: said[name] for name, theirs in _NUMBERS.items() if name in said})
    date = {"last-update": said["last_update"]} if "last_update" in said else {}
    return {**date, "stats": found}
