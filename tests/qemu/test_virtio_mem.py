"""virtio-mem with real Linux guests: what the manager plugs and unplugs, by the host's figures."""

import signal
import socket
from pathlib import Path

import msgspec
import pytest
from tests.rigs.linux_guest import FAST, Boot, Until, holds, said
from tests.rigs.managed_guests import configuration, manager
from tests.rigs.scenes import play

from dynmem.lab.qemu import PLUG_PATH, QemuGuest
from dynmem.lab.workload import Load
from dynmem.manager.api.messages import StatusReply
from dynmem.manager.step.view import VmView
from dynmem.qmp.client import QmpClient
from dynmem.units import GIB, MIB, STAT_BLOCK_BYTES

pytestmark = [pytest.mark.qemu, pytest.mark.usefixtures("processors"), pytest.mark.timeout(900)]

BOOT, PLUG = 256, 384  # Linux plugs no part of its blocks of 128 MiB at the end of a device


def load(mib: int) -> Load:
    return Load(high_bytes=mib * MIB, rate_bytes=FAST)


def plugged(guest: QemuGuest) -> int:
    """What QEMU says that it has plugged, in MiB: on the monitor that is not the manager's."""

    async def ask() -> int:
        async with await QmpClient.connect(guest.lab_qmp_path) as client:
            size = await client.execute("qom-get", {"path": PLUG_PATH, "property": "size"})
            return int(str(size)) // MIB

    return play(ask())


def host_bytes(guest: QemuGuest, mib: int) -> int:
    """What the host holds behind a memfd of this size, by its blocks."""
    for path in Path(f"/proc/{guest.pid}/fd").iterdir():
        if "/memfd:" in str(path.readlink()) and path.stat().st_size == mib * MIB:
            return path.stat().st_blocks * STAT_BLOCK_BYTES
    raise AssertionError(f"{guest.name} has no memfd of {mib} MiB")


def configure(folder: Path, guests: tuple[QemuGuest, ...], budget: str) -> Path:
    return configuration(folder, guests, budget=budget, maximum_mib=BOOT + PLUG)


def view(folder: Path, guest: QemuGuest) -> VmView:
    """What the manager's status has of a guest."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(f"{folder}/api/socket")
        asking.sendall(b'{"command": "status"}\n')
        with asking.makefile("rb") as reply:
            return msgspec.json.decode(reply.readline(), type=StatusReply).vm(guest.name)


def agrees(seen: VmView, guest: QemuGuest) -> bool:
    """Whether the status has the figures of QEMU and of the host."""
    held = host_bytes(guest, PLUG) + host_bytes(guest, BOOT)
    sizes = (seen.plugged_bytes, seen.actual_bytes) == (plugged(guest) * MIB, (BOOT + plugged(guest)) * MIB)
    return sizes and seen.offline_bytes == 0 and abs((seen.resident_bytes or 0) - held) <= 16 * MIB


def is_unused(seen: VmView) -> bool:
    """Whether the status says that what was plugged is offline, and counts none of it as demand."""
    is_named = "is not online in its guest" in seen.reason
    return is_named and seen.offline_bytes >= 256 * MIB and (seen.demand_bytes or GIB) < 128 * MIB


def test_a_guest_is_plugged_and_unplugged_and_what_it_does_not_put_online_is_named(
    boot: Boot, until: Until, folder: Path
) -> None:
    offline = boot(BOOT, name="b", load=load(16), plug_bytes=PLUG * MIB, onlines=False)
    guest = boot(BOOT, name="a", load=load(16), plug_bytes=PLUG * MIB)
    config = configure(folder, (guest, offline), "1400MiB")
    with manager(config, folder / "log") as process:
        # More than it booted with, and it uses that: the host's pages behind the device show it.
        until(guest, lambda: plugged(guest) >= 256)
        before = host_bytes(guest, PLUG)
        guest.order(load(320))
        until(guest, lambda: holds(guest, 320))
        assert host_bytes(guest, PLUG) - before >= 96 * MIB
        until(guest, lambda: agrees(view(folder, guest), guest))
        # The other one has plugged as much, and its kernel does not use it.
        until(guest, lambda: is_unused(view(folder, offline)))
        assert host_bytes(offline, PLUG) <= 16 * MIB
        # Less than both have, once it needs less: it goes back to the host.
        guest.order(load(16))
        until(guest, lambda: holds(guest, 16))
        configure(folder, (guest, offline), "356MiB")  # less 32 MiB slush: what they booted with
        process.send_signal(signal.SIGHUP)
        until(guest, lambda: plugged(offline) <= 4)
        # Linux cannot always empty a block: then that is said, and the balloon gives the rest.
        until(guest, lambda: plugged(guest) <= 4 or "a: unplugs no more" in (folder / "log").read_text())
        until(guest, lambda: sum(host_bytes(guest, size) for size in (PLUG, BOOT)) <= (BOOT + 4) * MIB)
    for each in (guest, offline):
        assert (each.oom_kills, said(each).wrong_bytes, said(each).load) == (0, 0, "running")
