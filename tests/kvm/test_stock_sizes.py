"""A stock guest whose memory lies on both sides of the hole below 4 GiB."""

import asyncio
from pathlib import Path

from tests.kvm.balloon_scenes import agree
from tests.kvm_rig.guests import MIB, running, stock_command
from tests.kvm_rig.place import guest_kernels

_SIZE = 5120 * MIB


def test_a_guest_of_five_gib_has_memory_above_the_hole_and_gives_some_of_it(folder: Path) -> None:
    kernel = guest_kernels()[-1]  # one is enough: it takes as long as three others

    async def scene() -> None:
        command = stock_command(folder, kernel, memory="5G")
        async with running(folder, command) as guest:
            await agree(guest)
            ram = await guest.shell.sh("grep 'System RAM' /proc/iomem")
            assert "100000000-15fffffff : System RAM" in ram
            assert "dfffffff : System RAM" in ram  # and nothing from there to 4 GiB
            free = await guest.meminfo("MemFree")
            await guest.balloon(_SIZE - 256 * MIB)
            assert free - await guest.meminfo("MemFree") > 240 * MIB
            await guest.balloon(_SIZE)
            assert await guest.complaints() == []

    asyncio.run(scene())
