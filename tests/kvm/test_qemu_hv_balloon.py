"""A stock guest and QEMU's own hv-balloon: what ours is measured by, and the rig's proof of itself.

QEMU's device keeps the first request for 50 s, to let the guest settle.
"""

import asyncio
from pathlib import Path

from tests.kvm.balloon_scenes import agree, grow_beyond_the_boot_size, shrink_and_grow_back
from tests.kvm_rig.guests import qemu_command, running
from tests.kvm_rig.place import GuestKernel


def test_qemus_hv_balloon_takes_memory_returns_it_and_adds_more(folder: Path, kernel: GuestKernel) -> None:
    async def scene() -> None:
        async with running(folder, qemu_command(folder, kernel)) as guest:
            await agree(guest)
            await shrink_and_grow_back(guest)
            await grow_beyond_the_boot_size(guest)
            assert await guest.complaints() == []

    asyncio.run(scene())
