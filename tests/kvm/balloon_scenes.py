"""What a balloon does to a stock guest, looked at from inside the guest and from the host."""

from typing import Final

import pytest
from qemu.qmp.error import QMPError
from tests.kvm_rig.guests import MIB, Guest
from tests.kvm_rig.shell import READY_S
from tests.rigs.scenes import until

BOOT: Final = 256 * MIB
_SMALL: Final = 160 * MIB
_GROWN: Final = BOOT + 256 * MIB
_SPARED: Final = 24 * MIB


async def agree(guest: Guest) -> None:
    """Wait for a status report: versions and capabilities are agreed on."""

    async def reported() -> bool:
        guest.check()
        try:
            await guest.execute("query-hv-balloon-status-report")
        except QMPError:
            return False
        return True

    await until(reported, seconds=READY_S)


async def shrink_and_grow_back(guest: Guest) -> None:
    """Take memory that the guest has written to, so that the host sees it go; return it.

    A guest gives any free page: all but _SPARED of them are written to first, and so are most that it gives.
    """
    dirtied = (await guest.meminfo("MemFree") - _SPARED) // MIB
    await guest.shell.sh(f"dd if=/dev/zero of=/tmp/file bs=1M count={dirtied} 2>/dev/null; rm /tmp/file")
    free, resident = await guest.meminfo("MemFree"), guest.resident_bytes()
    await guest.balloon(_SMALL)
    assert free - await guest.meminfo("MemFree") > 80 * MIB
    # A discard goes on after the message whose pages it returns.
    await until(lambda: resident - guest.resident_bytes() > 60 * MIB, seconds=READY_S)
    await guest.balloon(BOOT)
    assert free - await guest.meminfo("MemFree") < 40 * MIB


async def grow_beyond_the_boot_size(guest: Guest) -> None:
    """Hot add, use what was added, and take some of it again."""
    total = await guest.meminfo("MemTotal")
    await guest.balloon(_GROWN)
    assert await guest.meminfo("MemTotal") - total == pytest.approx(_GROWN - BOOT, rel=0.05)
    (device,) = await guest.execute("query-memory-devices")
    assert device["type"] == "hv-balloon"
    await guest.shell.sh("dd if=/dev/zero of=/tmp/file bs=1M count=300 2>/dev/null; rm /tmp/file")
    await guest.balloon(BOOT)
