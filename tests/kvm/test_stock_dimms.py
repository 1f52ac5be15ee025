"""DIMMs of stock Linux guests on our own monitor: at the start, while they run, over a reboot and a kexec."""

import asyncio
import time
from pathlib import Path
from typing import Final

from tests.kvm.balloon_scenes import agree
from tests.kvm.figures import Figures
from tests.kvm_rig.guests import BALLOON, MIB, Guest, running, stock_command
from tests.kvm_rig.place import GuestKernel
from tests.kvm_rig.shell import READY_S
from tests.rigs.processes import memory_files
from tests.rigs.scenes import until

_FIRST, _SECOND, _THIRD = 128 * MIB, 256 * MIB, 128 * MIB
_DRIVER: Final = "/sys/bus/vmbus/drivers/hv_balloon"
_ENABLED: Final = "/sys/firmware/acpi/hotplug/memory/enabled"
_OBJECTS: Final = (
    f"--object=memory-backend-memfd,id=dimm-a,size={_FIRST}",
    f"--object=memory-backend-memfd,id=dimm-b,size={_SECOND}",
    "--device=pc-dimm,id=first,memdev=dimm-a",
)


async def add_second(guest: Guest) -> None:
    await guest.execute("device_add", driver="pc-dimm", id="second", memdev="dimm-b")


async def total_is(guest: Guest, total: int) -> None:
    """Wait until the guest has this much memory, within 4 MiB."""

    async def has_it() -> bool:
        guest.check()
        return abs(await guest.meminfo("MemTotal") - total) < 4 * MIB

    await until(has_it, seconds=READY_S)


async def reported(guest: Guest, source: int) -> int:
    """Wait for what the guest reports about a DIMM; return its status."""
    while (info := (await guest.event("ACPI_DEVICE_OST"))["info"])["source"] != source:
        pass
    return int(info["status"])


def test_dimms_come_and_go_by_acpi_and_the_host_has_their_memory_back(
    folder: Path, kernel: GuestKernel, figures: Figures
) -> None:
    async def scene() -> None:
        memory, append = "256M,maxmem=1G,slots=2", "memhp_default_state=online_movable"
        command = stock_command(folder, kernel, memory=memory, device=None, append=append, options=_OBJECTS)
        async with running(folder, command) as guest:
            total = await guest.meminfo("MemTotal")
            assert total > _FIRST + 160 * MIB  # the first one is there
            began = time.monotonic()
            await add_second(guest)
            assert await reported(guest, 1) == 0
            figures.add("a DIMM of 256 MiB added", time.monotonic() - began, "s")
            await total_is(guest, total + _SECOND)

            for _ in range(5):  # into the same slot, faster than the guest looks at that
                await guest.execute("device_del", id="second")
                assert (await guest.event("DEVICE_DELETED"))["device"] == "second"
                await add_second(guest)
                assert await reported(guest, 1) == 0
            await total_is(guest, total + _SECOND)

            await guest.shell.sh("dd if=/dev/urandom of=/tmp/kept bs=1M count=30 2>/dev/null")
            await guest.shell.sh("dd if=/dev/zero of=/tmp/file bs=1M count=300 2>/dev/null; rm /tmp/file")
            before = await guest.shell.sh("md5sum /tmp/kept")
            assert sum(memory_files(guest.process.pid, "dimm-b").values()) > 100 * MIB

            await guest.shell.sh(f"echo 0 >{_ENABLED}")  # it may not be ejected
            await guest.execute("device_del", id="second")
            assert await reported(guest, 3) == 0x80
            refused = await guest.event("DEVICE_UNPLUG_GUEST_ERROR")
            assert refused == {"device": "second", "path": "/machine/peripheral/second"}
            await guest.shell.sh(f"echo 1 >{_ENABLED}")

            began = time.monotonic()
            await guest.execute("device_del", id="second")
            assert (await guest.event("DEVICE_DELETED"))["device"] == "second"
            figures.add("the same removed", time.monotonic() - began, "s")
            assert await reported(guest, 3) == 0
            await total_is(guest, total)
            resident = guest.resident_bytes()
            await guest.execute("object-del", id="dimm-b")
            assert memory_files(guest.process.pid, "dimm-b") == {}
            assert resident - guest.resident_bytes() > 100 * MIB
            await guest.execute("device_del", id="first")
            assert (await guest.event("DEVICE_DELETED"))["device"] == "first"
            await total_is(guest, total - _FIRST)
            assert await guest.shell.sh("md5sum /tmp/kept") == before
            assert await guest.complaints() == []

    asyncio.run(scene())


def test_dimms_stay_over_a_reboot_and_a_kexec(folder: Path, kernel: GuestKernel) -> None:
    async def scene() -> None:
        memory = "384M,maxmem=1G,slots=2"
        command = stock_command(
            folder, kernel, memory=memory, device=None, initrd=kernel.initrd_kexec, options=_OBJECTS
        )
        async with running(folder, command) as guest:
            total = await guest.meminfo("MemTotal")
            await add_second(guest)
            await total_is(guest, total + _SECOND)
            await guest.shell.send("0 reboot -f")
            await guest.event("RESET")
            await guest.shell.ready()
            await total_is(guest, total + _SECOND)
            await guest.shell.send('0 kexec /second/vmlinuz /second/initrd "$(cat /proc/cmdline) second"')
            await guest.shell.ready()
            assert (await guest.shell.sh("cat /proc/cmdline")).endswith("second")
            devices = await guest.execute("query-memory-devices")
            assert [device["data"]["id"] for device in devices] == ["first", "second"]
            assert await guest.complaints() == []

    asyncio.run(scene())


def test_beside_a_balloon_a_dimm_is_memory_unless_it_comes_while_the_driver_is_loaded(
    folder: Path, kernel: GuestKernel
) -> None:
    async def scene() -> None:
        options = [*_OBJECTS, f"--object=memory-backend-memfd,id=dimm-c,size={_THIRD}", f"--device={BALLOON}"]
        command = stock_command(folder, kernel, memory="256M,maxmem=1G,slots=3", device=None, options=options)
        async with running(folder, command) as guest:
            await agree(guest)
            assert await guest.actual() == 256 * MIB + _FIRST
            total = await guest.meminfo("MemTotal")
            assert total > _FIRST + 160 * MIB  # it was there before the driver
            await guest.balloon(256 * MIB)
            await guest.balloon(256 * MIB + _FIRST)

            name = (await guest.shell.sh(f"basename {_DRIVER}/*-*-*")).strip()
            await guest.shell.sh(f"echo {name} >{_DRIVER}/unbind")
            await add_second(guest)
            await total_is(guest, total + _SECOND)
            await guest.order(256 * MIB + _FIRST + _SECOND)  # or the target of before would be pursued
            await guest.shell.sh(f"echo {name} >{_DRIVER}/bind")
            await agree(guest)

            await guest.execute("device_add", driver="pc-dimm", id="third", memdev="dimm-c")
            assert await reported(guest, 1) == 0
            assert "hv_balloon driver is loaded" in guest.log.read_text()
            await total_is(guest, total + _SECOND)  # it is online, and nobody has it
            await guest.execute("device_del", id="third")
            assert (await guest.event("DEVICE_UNPLUG_GUEST_ERROR"))["device"] == "third"
            assert await guest.complaints() == []

    asyncio.run(scene())
