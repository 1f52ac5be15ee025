"""How the kernels, drivers and processors of stock guests on our own monitor come and go."""

import asyncio
from pathlib import Path

import pytest
from tests.kvm.balloon_scenes import BOOT, agree
from tests.kvm_rig.guests import MIB, Guest, running, stock_command
from tests.kvm_rig.place import GuestKernel

_CHANNEL = "/sys/bus/vmbus/drivers/hv_balloon/*-*-*"  # the device that the driver is bound to


async def balloons(guest: Guest) -> None:
    """The driver works: it reports, gives memory and gets it back."""
    await agree(guest)
    await guest.balloon(BOOT - 64 * MIB)
    await guest.balloon(BOOT)


def test_a_kernel_as_debian_ships_it_boots(folder: Path, kernel: GuestKernel) -> None:
    async def scene() -> None:
        packed = kernel._replace(vmlinux=kernel.vmlinuz)
        async with running(folder, stock_command(folder, packed)) as guest:
            await balloons(guest)
            assert await guest.complaints() == []

    asyncio.run(scene())


def test_a_guest_of_two_processors_may_move_its_channel_to_the_second(
    folder: Path, kernel: GuestKernel
) -> None:
    async def scene() -> None:
        async with running(folder, stock_command(folder, kernel, processors=2)) as guest:
            assert await guest.shell.sh("nproc") == "2"
            await agree(guest)
            await guest.shell.sh(f"for each in {_CHANNEL}/channels/*/cpu; do echo 1 >$each; done")
            assert await guest.shell.sh(f"cat {_CHANNEL}/channels/*/cpu") == "1"
            before = await interrupts_of_second(guest)
            await balloons(guest)
            assert await interrupts_of_second(guest) > before
            assert await guest.complaints() == []

    asyncio.run(scene())


async def interrupts_of_second(guest: Guest) -> int:
    """Hypervisor interrupts that the second processor has taken."""
    return int((await guest.shell.sh("grep ^.*HYP: /proc/interrupts")).split()[2])


def test_a_driver_that_is_unbound_and_bound_again_works_again(folder: Path, kernel: GuestKernel) -> None:
    async def scene() -> None:
        async with running(folder, stock_command(folder, kernel)) as guest:
            await agree(guest)
            await guest.balloon(BOOT - 64 * MIB)
            name = (await guest.shell.sh(f"basename {_CHANNEL}")).strip()
            await guest.shell.sh(f"echo {name} >/sys/bus/vmbus/drivers/hv_balloon/unbind")
            await guest.shell.sh(f"echo {name} >/sys/bus/vmbus/drivers/hv_balloon/bind")
            await balloons(guest)
            (complaint,) = await guest.complaints()
            assert complaint.endswith("hv_balloon: Ballooned pages: 16384")  # as always at an unbind

    asyncio.run(scene())


def test_other_drivers_are_unloaded_and_loaded_again_beside_the_balloon(
    folder: Path, kernel: GuestKernel
) -> None:
    async def scene() -> None:
        async with running(folder, stock_command(folder, kernel)) as guest:
            await agree(guest)
            await guest.shell.sh("rmmod hv_utils && insmod /modules/*hv_utils.ko")
            await balloons(guest)
            assert await guest.complaints() == []

    asyncio.run(scene())


def test_a_guest_that_reboots_starts_at_its_boot_size_and_works_again(
    folder: Path, kernel: GuestKernel
) -> None:
    async def scene() -> None:
        async with running(folder, stock_command(folder, kernel, memory="256M,maxmem=1G")) as guest:
            await agree(guest)
            await guest.balloon(BOOT + 128 * MIB)
            await guest.shell.send("0 reboot -f")
            assert (await guest.event("RESET"))["guest"] is True
            await guest.shell.ready()
            await balloons(guest)
            assert await guest.complaints() == []

    asyncio.run(scene())


def test_a_second_kernel_started_by_kexec_takes_the_devices_over(folder: Path, kernel: GuestKernel) -> None:
    async def scene() -> None:
        command = stock_command(folder, kernel, memory="384M", initrd=kernel.initrd_kexec)
        async with running(folder, command) as guest:
            await agree(guest)
            await guest.shell.send('0 kexec /second/vmlinuz /second/initrd "$(cat /proc/cmdline) second"')
            await guest.shell.ready()
            assert (await guest.shell.sh("cat /proc/cmdline")).endswith("second")
            await agree(guest)
            await guest.balloon(BOOT)
            assert await guest.complaints() == []

    asyncio.run(scene())


def test_memory_that_was_added_is_still_the_guests_after_kexec_and_more_can_be_added(
    folder: Path, kernel: GuestKernel
) -> None:
    async def scene() -> None:
        command = stock_command(folder, kernel, memory="384M,maxmem=1G", initrd=kernel.initrd_kexec)
        async with running(folder, command) as guest:
            await agree(guest)
            await guest.balloon(512 * MIB)
            await guest.shell.send('0 kexec /second/vmlinuz /second/initrd "$(cat /proc/cmdline) second"')
            await guest.shell.ready()
            await agree(guest)
            assert await guest.actual() == 512 * MIB
            before = await guest.meminfo("MemTotal")
            await guest.balloon(640 * MIB)
            assert await guest.meminfo("MemTotal") >= before + 96 * MIB
            assert await guest.complaints() == []

    asyncio.run(scene())


def test_the_kernel_that_waits_for_a_crash_takes_the_devices_over_and_reads_the_crashed_ones_memory(
    folder: Path, kernel: GuestKernel
) -> None:
    async def scene() -> None:
        command = stock_command(
            folder,
            kernel,
            memory="640M",
            initrd=kernel.initrd_kexec,
            append="crashkernel=192M",
            options=("--action", "panic=none"),
        )
        async with running(folder, command) as guest:
            await agree(guest)
            await guest.balloon(576 * MIB)
            line = '"$(cat /proc/cmdline) nr_cpus=1 reset_devices second"'
            await guest.shell.sh(f"kexec -p /second/vmlinuz /second/initrd {line}")
            await guest.shell.send("0 echo c >/proc/sysrq-trigger")
            assert (await guest.event("GUEST_PANICKED"))["action"] == "run"
            await guest.shell.ready()
            assert "second" in (await guest.shell.sh("cat /proc/cmdline")).split()
            assert await guest.shell.sh("head -c 4 /proc/vmcore | tail -c 3") == "ELF"
            await guest.shell.sh("cat /proc/vmcore >/dev/null")  # also what was ballooned
            await agree(guest)
            assert await guest.meminfo("MemTotal") < 192 * MIB
            assert await guest.complaints() == []

    asyncio.run(scene())


# two for the gate, two more for who has the time
_VERSIONS = ["4.0", "2.4", *(pytest.param(each, marks=pytest.mark.soak) for each in ("5.0", "3.0"))]


@pytest.mark.parametrize("version", _VERSIONS)
def test_a_guest_that_is_held_back_speaks_an_older_version_of_the_bus(
    version: str, folder: Path, kernel: GuestKernel
) -> None:
    async def scene() -> None:
        command = stock_command(folder, kernel, options=("--vmbus-version", version))
        async with running(folder, command) as guest:
            await agree(guest)
            assert f"Vmbus version:{version}" in await guest.shell.sh("dmesg")
            await balloons(guest)
            assert await guest.complaints() == []

    asyncio.run(scene())


def test_a_guest_that_powers_off_ends_its_monitor(folder: Path, kernel: GuestKernel) -> None:
    async def scene() -> None:
        async with running(folder, stock_command(folder, kernel)) as guest:
            await guest.shell.send("0 poweroff -f")
            assert await guest.event("SHUTDOWN") == {"guest": True, "reason": "guest-shutdown"}
            assert await guest.exit_code() == 0

    asyncio.run(scene())


def test_a_guest_that_panics_is_reported_with_the_last_words_of_its_kernel(
    folder: Path, kernel: GuestKernel
) -> None:
    async def scene() -> None:
        command = stock_command(folder, kernel, options=("--action", "panic=exit-failure"))
        async with running(folder, command) as guest:
            await guest.shell.send("0 echo c >/proc/sysrq-trigger")
            panicked = await guest.event("GUEST_PANICKED")
            assert panicked["info"]["type"] == "hyper-v"
            assert await guest.exit_code() == 1
            assert "Kernel Offset: disabled" in guest.log.read_text()

    asyncio.run(scene())
