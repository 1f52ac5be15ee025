"""Memory moves between real guests over monitors that a neighbour with Proxmox's habits owns."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.rigs.linux_guest import Boot, holds
from tests.rigs.managers import managing
from tests.rigs.neighbour import Neighbour
from tests.rigs.scenes import play, until

from dynmem.lab.qemu import QemuGuest
from dynmem.lab.workload import Load
from dynmem.units import MIB

pytestmark = [pytest.mark.qemu, pytest.mark.soak]

HOST = """
[host]
budget = "380MiB"
slush = "16MiB"
[manager]
mode = "enforce"
socket = "{folder}/run/api.sock"
state = "{folder}/state"
"""
VM = """
[[vm]]
name = "{name}"
qmp = "{path}"
monitor = "borrowed"
minimum = "64MiB"
maximum = "256MiB"
"""


def configured(guests: Sequence[QemuGuest], folder: Path) -> Path:
    path = folder / "hosts.toml"
    vms = "".join(VM.format(name=guest.name, path=guest.qmp_path) for guest in guests)
    path.write_text(HOST.format(folder=folder) + vms)
    return path


def test_a_guest_grows_by_what_an_idle_one_gives_and_the_owner_of_their_monitors_is_never_late(
    boot: Boot, folder: Path
) -> None:
    guests = [boot(256, name=name, deflate_on_oom=True) for name in ("idle", "busy")]
    neighbour = Neighbour([guest.qmp_path for guest in guests])

    async def scene() -> None:
        async with managing(configured(guests, folder)) as manager:
            beside = asyncio.create_task(neighbour.run(60, 1.0))
            await manager.until(lambda status: all(vm.standing == "movable" for vm in status.vms))
            await manager.until(lambda status: sum(vm.actual_bytes or 0 for vm in status.vms) < 364 * MIB)
            guests[1].order(Load(high_bytes=170 * MIB, rate_bytes=64 * MIB))
            await until(lambda: holds(guests[1], 170))
            await manager.until(lambda status: (status.vm("busy").actual_bytes or 0) >= 220 * MIB)
            status = await manager.until(
                lambda status: (status.vm("idle").actual_bytes or 999 * MIB) < 150 * MIB
            )
            assert not status.emergency
            await beside

    play(scene())
    assert guests[1].oom_kills == 0
    assert neighbour.counted.timeouts == 0
    assert neighbour.counted.batches > 120
