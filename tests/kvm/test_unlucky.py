"""A host that answers a stock driver late, in another order or with a failure, or breaks off in the middle.

Linux and the virtual machine come back each time, and Linux has no fault to report but what it was refused.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.kvm.balloon_scenes import agree
from tests.kvm_rig.guests import MIB, Guest, running, stock_command
from tests.kvm_rig.place import GuestKernel
from tests.kvm_rig.shell import READY_S
from tests.rigs.scenes import until

from dynmem.wire import dm


def unlucky_command(folder: Path, kernel: GuestKernel, **options: Any) -> list[str]:
    """The command of a stock guest whose host a test makes unlucky."""
    command = stock_command(folder, kernel, **options)
    command[command.index("dynmem")] = "tests.kvm_rig.unlucky_host"
    return command


def test_a_driver_whose_host_answers_late_in_another_order_or_with_a_failure_works_at_the_next_offer(
    folder: Path, kernel: GuestKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        async with running(folder, unlucky_command(folder, kernel, memory="256M,maxmem=1G")) as guest:
            await _is_offered_after_the_end_of_all_offers(guest)
            for times, refused in enumerate(("GpadlCreated", "OpenChannelResult"), 1):
                await guest.execute("x-refuse", message=refused)
                await _offer_again(guest)
                await _gives_up(guest, times)
                await _offer_again(guest)
                await _works(guest)
            await guest.execute("x-hold", what="packets")
            await _offer_again(guest)
            await _gives_up(guest, 3)  # after the 5 s that Linux waits for a version
            await guest.execute("x-release", what="packets")
            await _offer_again(guest)
            await _works(guest)
            await _gets_capabilities_refused_before_its_version_is_accepted(guest)
            await _offer_again(guest)
            await _works(guest)
            await _has_no_fault(guest)

    monkeypatch.setenv("DYNMEM_RIG_HOLD", "OfferChannel")
    asyncio.run(scene())


async def _is_offered_after_the_end_of_all_offers(guest: Guest) -> None:
    await _until_held(guest, ["OfferChannel", "AllOffersDelivered"])
    await guest.execute("x-release", what="messages", reversed=True)
    await _works(guest)


async def _gives_up(guest: Guest, times: int) -> None:
    """Wait until the driver has given its device up this often in all."""

    async def given_up() -> bool:
        guest.check()
        log = await guest.shell.sh("dmesg | grep -c 'probe failed for device'", check=False)
        return log == str(times)

    await until(given_up, seconds=READY_S)


async def _gets_capabilities_refused_before_its_version_is_accepted(guest: Guest) -> None:
    await guest.execute("x-hold", what="packets")
    await _offer_again(guest)
    await _until_channel(guest, "open")
    refusal = dm.CapabilitiesResponse(1, is_accepted=False, hot_remove=False, suppress_pressure_reports=False)
    await guest.execute("x-say", packet=dm.encode(refusal).hex())
    await guest.execute("x-release", what="packets")


def test_a_channel_that_is_rescinded_in_mid_operation_and_offered_again_goes_on(
    folder: Path, kernel: GuestKernel
) -> None:
    async def scene() -> None:
        command = unlucky_command(folder, kernel, memory="384M,maxmem=1G", initrd=kernel.initrd_kexec)
        async with running(folder, command) as guest:
            await agree(guest)
            boot = await guest.actual()
            for target in (boot - 64 * MIB, boot, boot + 256 * MIB):
                await _begin(guest, target)
                await _offer_again(guest)
                await guest.execute("x-release", what="hearing")
                await agree(guest)
                await guest.balloon(target)
            await _begin(guest, boot - 64 * MIB)
            await guest.execute("x-hold", **{"from": "UnloadResponse"})
            await guest.shell.send('0 kexec /second/vmlinuz /second/initrd "$(cat /proc/cmdline) second"')
            await _until_held(guest, ["UnloadResponse"])
            await guest.execute("x-release", what="hearing")
            await guest.execute("x-release", what="messages")
            await guest.shell.ready()
            await _works(guest)
            await _has_no_fault(guest)

    asyncio.run(scene())


async def _begin(guest: Guest, target: int) -> None:
    """Ask for a size with a host that is deaf to the answer, and wait until the guest has done it."""
    await guest.execute("x-hold", what="hearing")
    await guest.execute("balloon", value=target)

    async def asked() -> bool:
        guest.check()
        state: dict[str, Any] = await guest.execute("x-query-hv-balloon")
        return str(state["state"]).endswith("REPLY_WAIT")

    await until(asked, seconds=READY_S)


async def _offer_again(guest: Guest) -> None:
    """Rescind the channel and offer it again, at once."""
    await guest.execute("x-rescind")
    await guest.execute("x-offer")


async def _works(guest: Guest) -> None:
    """The driver gives memory and gets it back."""
    await agree(guest)
    size = await guest.actual()
    await guest.balloon(size - 32 * MIB)
    await guest.balloon(size)


async def _has_no_fault(guest: Guest) -> None:
    """Linux has met nothing that it calls a fault of its own."""
    pattern = "WARNING|BUG|Oops|Call Trace|blocked for more than|soft lockup"
    assert await guest.shell.sh(f"dmesg | grep -E '{pattern}'", check=False) == ""


async def _until_held(guest: Guest, names: list[str]) -> None:
    async def held() -> bool:
        guest.check()
        return bool(await guest.execute("x-query-luck") == names)

    await until(held, seconds=READY_S)


async def _until_channel(guest: Guest, state: str) -> None:
    async def reached() -> bool:
        guest.check()
        return any(channel["state"] == state for channel in await guest.execute("x-query-channels"))

    await until(reached, seconds=READY_S)
