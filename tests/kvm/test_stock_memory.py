"""The memory of stock Linux guests on our own monitor, looked at from inside the guest and from the host."""

import asyncio
from pathlib import Path

from tests.kvm.balloon_scenes import agree, grow_beyond_the_boot_size, shrink_and_grow_back
from tests.kvm_rig.guests import BALLOON, MIB, running, stock_command
from tests.kvm_rig.place import GuestKernel


def test_a_stock_guest_gives_memory_gets_it_back_and_grows_beyond_its_boot_size(
    folder: Path, kernel: GuestKernel
) -> None:
    async def scene() -> None:
        device = f"{BALLOON},free-page-reporting=off"  # or what was written and freed would be gone before
        command = stock_command(folder, kernel, memory="256M,maxmem=1G", device=device)
        async with running(folder, command) as guest:
            await agree(guest)
            await shrink_and_grow_back(guest)
            await grow_beyond_the_boot_size(guest)
            assert await guest.complaints() == []

    asyncio.run(scene())


def test_no_byte_of_a_guest_changes_while_its_memory_comes_and_goes(
    folder: Path, kernel: GuestKernel
) -> None:
    async def scene() -> None:
        async with running(folder, stock_command(folder, kernel, memory="512M,maxmem=1G")) as guest:
            await agree(guest)
            await guest.shell.sh("dd if=/dev/urandom of=/tmp/kept bs=1M count=40 2>/dev/null")
            before = await guest.shell.sh("md5sum /tmp/kept")
            await guest.shell.sh(
                "(while :; do dd if=/dev/zero of=/tmp/$$ bs=1M count=20; rm /tmp/$$; done >/dev/null 2>&1) &"
            )
            for mib in (416, 640, 448, 512):
                await guest.balloon(mib * MIB)
            assert await guest.shell.sh("md5sum /tmp/kept") == before
            assert await guest.complaints() == []

    asyncio.run(scene())
