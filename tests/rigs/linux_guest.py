"""What tests ask of a real Linux guest."""

from collections.abc import Callable
from typing import Final

from dynmem.lab.qemu import QemuGuest
from dynmem.lab.workload import Report
from dynmem.units import MIB, PAGE_SIZE

Boot = Callable[..., QemuGuest]
Until = Callable[..., None]
FAST: Final = 2048 * MIB  # of a load, a second


def said(guest: QemuGuest) -> Report:
    """Return what it reported last."""
    report = guest.read_serial()
    assert report is not None
    return report


def holds(guest: QemuGuest, mib: int) -> bool:
    """Whether its load holds so much."""
    return said(guest).held_pages == mib * MIB // PAGE_SIZE
