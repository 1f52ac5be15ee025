"""A guest may do what it likes: its machine goes on, its channel is marked, and the monitor says so."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.rigs.scenes import play, until
from tests.rigs.vms import MIB, Vm, running

FULL = 64 * MIB
ATTACKER = Path(__file__).parents[1] / "rigs" / "hostile_guest.py"
Check = Callable[[Vm, Any, dict[str, Any]], Awaitable[None]]


async def nothing(_client: Any) -> None:
    """Most attacks need nobody's help."""


def attack(
    tmp_path: Path,
    name: str,
    check: Check,
    meanwhile: Callable[[Any], Awaitable[None]] = nothing,
    *,
    memory: str = "64M",
    options: tuple[str, ...] = (),
    target: int = FULL // 2,
) -> None:
    """Run one attack to its end, see that the machine still serves, then `check`."""
    program = tmp_path / "guest"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {ATTACKER} "$@"\n')
    program.chmod(0o755)

    async def scene() -> None:
        guest = f"embedded,program={program},workload={name}"
        async with running(tmp_path, memory=memory, guest=guest, options=options) as (vm, client):

            def finished() -> list[dict[str, Any]]:
                assert vm.process.poll() is None, vm.log.read_text()
                return [line for line in vm.console() if line["t"] == "done"]

            assert await client.execute("balloon", {"value": target}) == {}
            await meanwhile(client)
            (line,) = await until(finished)
            assert await client.execute("query-status") == {"status": "running", "running": True}
            await check(vm, client, line)
            assert await client.execute("query-balloon") == {"actual": FULL}
            await client.execute("quit")
            assert await vm.exit_code() == 0

    play(scene())


async def faults(client: Any) -> dict[str, int]:
    return {fault["kind"]: fault["count"] for fault in await client.execute("x-query-faults")}


async def channel_of(client: Any) -> dict[str, Any]:
    (channel,) = await client.execute("x-query-channels")
    return dict(channel)


def test_datagrams_that_are_no_hardware_messages_are_counted(tmp_path: Path) -> None:
    async def check(vm: Vm, client: Any, line: dict[str, Any]) -> None:
        assert line["found"] == "SUCCESS"
        assert (await faults(client))["hardware"] >= 180
        assert vm.log.read_text().count("hardware:") == 1  # the log is not flooded

    attack(tmp_path, "hardware_garbage", check)


def test_wrong_hypercalls_get_the_status_that_a_hypervisor_gives(tmp_path: Path) -> None:
    async def check(_vm: Vm, client: Any, line: dict[str, Any]) -> None:
        assert line["found"] == {
            "unknown code": "INVALID_HYPERCALL_CODE",
            "fast post": "INVALID_HYPERCALL_CODE",
            "unaligned post": "INVALID_ALIGNMENT",
            "post from outside": "INSUFFICIENT_MEMORY",
            "post across the end": "INSUFFICIENT_MEMORY",
            "post of 241 bytes": "INVALID_HYPERCALL_INPUT",
            "unaligned signal": "INVALID_ALIGNMENT",
            "signal from outside": "INSUFFICIENT_MEMORY",
            "signal of no channel": "INVALID_CONNECTION_ID",
            "signal of a flag": "INVALID_PORT_ID",
            "unknown msr": "INVALID_PARAMETER",
        }
        assert (await faults(client))["call refused"] == 11

    attack(tmp_path, "hypercalls", check)


def test_thousands_of_posts_of_noise_are_survived(tmp_path: Path) -> None:
    async def check(_vm: Vm, client: Any, line: dict[str, Any]) -> None:
        assert line["found"] is True
        assert sum((await faults(client)).values()) > 1000

    attack(tmp_path, "posts", check)


def test_synic_pages_outside_memory_get_no_message(tmp_path: Path) -> None:
    async def check(_vm: Vm, client: Any, _line: dict[str, Any]) -> None:
        assert (await faults(client))["synic page outside memory"] > 0

    attack(tmp_path, "pages_outside", check)


async def is_offered_again(client: Any) -> bool:
    """Whether the guest's channel is to be offered again: a guest that does not look does not release it."""
    return bool((await channel_of(client))["state"] == "reoffered")


def test_noise_on_the_ring_breaks_the_channel_which_is_rescinded_and_to_be_offered_again(
    tmp_path: Path,
) -> None:
    async def check(vm: Vm, client: Any, _line: dict[str, Any]) -> None:
        await until(partial(is_offered_again, client))
        assert (await channel_of(client))["faults"] == 1
        assert "channel faulted: channel 1 (hv-balloon): " in vm.log.read_text()

    attack(tmp_path, "ring_garbage", check)


@pytest.mark.parametrize("name", ["short_message", "hosts_message"])
def test_a_malformed_message_costs_the_message(tmp_path: Path, name: str) -> None:
    async def check(_vm: Vm, client: Any, _line: dict[str, Any]) -> None:
        async def is_counted() -> bool:
            return sum((await faults(client)).values()) > 0

        await until(is_counted)
        channel = await channel_of(client)
        assert (channel["state"], channel["faults"]) == ("open", 0)

    attack(tmp_path, name, check)


def test_a_guest_whose_channel_broke_is_offered_it_again_and_can_use_it(tmp_path: Path) -> None:
    async def check(vm: Vm, client: Any, line: dict[str, Any]) -> None:
        assert line["found"] == 1  # the same relid, and so the same doorbell
        channel = await channel_of(client)
        assert (channel["state"], channel["faults"]) == ("open", 1)
        assert "fault" not in channel
        assert vm.log.read_text().count("channel faulted") == 1

    attack(tmp_path, "ring_index", check)


def test_pages_that_the_guest_does_not_have_are_not_taken(tmp_path: Path) -> None:
    async def check(_vm: Vm, client: Any, _line: dict[str, Any]) -> None:
        assert (await channel_of(client))["state"] == "open"
        assert (await faults(client))["anomaly"] >= 1

    attack(tmp_path, "bogus_ranges", check)


def test_messages_of_noise_over_many_lives_of_a_channel_are_survived(tmp_path: Path) -> None:
    async def check(_vm: Vm, client: Any, _line: dict[str, Any]) -> None:
        channel = await channel_of(client)
        assert (channel["state"], channel["faults"]) == ("open", 0)
        assert (await faults(client))["malformed message"] > 10

    attack(tmp_path, "message_noise", check)


def test_pages_that_a_former_kernel_gave_are_the_next_ones_own(tmp_path: Path) -> None:
    async def check(_vm: Vm, client: Any, _line: dict[str, Any]) -> None:
        state = await client.execute("x-query-hv-balloon")
        assert (state["actual"], state["resets"], state["state"]) == (FULL, 1, "S_VERSION")
        assert (await channel_of(client))["state"] == "open"

    async def some_are_given(client: Any) -> None:
        async def given() -> bool:
            return bool(await client.execute("query-balloon") == {"actual": FULL - 500 * 4096})

        await until(given)
        await client.execute("balloon", {"value": FULL // 4})

    attack(tmp_path, "reboot", check, some_are_given)


def test_memory_is_not_hot_added_before_the_guest_has_said_that_it_mapped_it(tmp_path: Path) -> None:
    async def check(_vm: Vm, client: Any, line: dict[str, Any]) -> None:
        assert line["found"] in ([], ["InfoMessage"])  # how much there may be, and no hot add
        state = await client.execute("x-query-hv-balloon")
        assert (state["state"], state["actual"]) == ("S_HOT_ADD_SETUP", FULL)
        await client.execute("system_reset")

        async def is_reset() -> bool:
            return bool((await client.execute("x-query-hv-balloon"))["resets"] == 1)

        await until(is_reset)

    attack(tmp_path, "no_acknowledgement", check, memory="64M,maxmem=1G", target=512 * MIB)


def test_acknowledgements_that_nobody_asked_for_are_counted_and_nothing_more(tmp_path: Path) -> None:
    async def check(_vm: Vm, client: Any, line: dict[str, Any]) -> None:
        assert line["found"] == "SUCCESS"
        counts = await faults(client)
        assert counts["slot"] > 1000
        assert counts["unplug"] > 500

    attack(tmp_path, "false_acknowledgements", check, memory="64M,maxmem=1G", target=FULL)


def test_rings_in_a_dimm_that_the_guest_gives_back_cost_it_its_channel(tmp_path: Path) -> None:
    async def unplug(client: Any) -> None:
        async def is_open() -> bool:
            return bool((await channel_of(client))["state"] == "open")

        await until(is_open)
        await client.execute("device_del", {"id": "d"})

    async def check(vm: Vm, client: Any, line: dict[str, Any]) -> None:
        assert line["found"] == "UnmapSlot"
        await until(partial(is_offered_again, client))
        assert await client.execute("query-memory-size-summary") == {"base-memory": FULL, "plugged-memory": 0}
        await client.execute("object-del", {"id": "m"})
        assert vm.process.poll() is None

    options = ("--object=memory-backend-ram,id=m,size=32M", "--device=pc-dimm,id=d,memdev=m")
    memory = "64M,maxmem=1G,slots=1"
    attack(tmp_path, "rings_in_a_dimm", check, unplug, memory=memory, options=options, target=FULL)


def test_a_guest_that_reads_no_replies_waits_for_itself(tmp_path: Path) -> None:
    async def check(_vm: Vm, client: Any, line: dict[str, Any]) -> None:
        assert 0 < line["found"] < 10_000  # then the socket was full, and nobody emptied it
        asked = [client.execute("query-status") for _ in range(100)]
        assert await asyncio.gather(*asked) == [{"status": "running", "running": True}] * 100

    attack(tmp_path, "deaf", check)


def test_a_guest_that_closes_its_hardware_is_ended_with_its_machine(tmp_path: Path) -> None:
    program = tmp_path / "guest"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {ATTACKER} "$@"\n')
    program.chmod(0o755)

    async def scene() -> None:
        guest = f"embedded,program={program},workload=hang_up"
        async with running(tmp_path, memory="64M", guest=guest) as (vm, _):
            assert await vm.exit_code() == 1
            assert "the guest of one is gone" in vm.log.read_text()

    play(scene())
