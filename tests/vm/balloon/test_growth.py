"""A whole machine that starts small: grown past its boot size by hot add, shrunk, reset."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.rigs.processes import is_there
from tests.rigs.scenes import play, until
from tests.rigs.vms import BALLOON, MIB, Vm, running

BOOT = 256 * MIB
TOP = 1536 * MIB
BOTTOM = 128 * MIB
MEMORY = "256M,maxmem=2G"
SLACK = 24 * MIB  # rings, kernel pages, and fragments of pages that the host rounds up


class Driven:
    """A machine whose load holds what it is told."""

    def __init__(self, folder: Path, vm: Vm, client: Any) -> None:
        self.wish = folder / "wish"
        self.vm = vm
        self.client = client

    async def ballooned_to(self, size: int) -> None:
        await self.client.execute("balloon", {"value": size})
        await until(lambda: self.is_size(size))

    async def is_size(self, size: int) -> bool:
        return bool(await self.client.execute("query-balloon") == {"actual": size})

    async def state(self) -> dict[str, Any]:
        return dict(await self.client.execute("x-query-hv-balloon"))

    async def is_in(self, name: str) -> bool:
        return bool((await self.state())["state"] == name)

    async def told(self, text: str, *, least: int, most: int) -> None:
        """Let the load hold as much, and wait until it does."""
        self.wish.write_text(text)
        await until(self.vm.console)
        await until(lambda: least <= self.report()["held_pages"] * 4096 <= most)

    def report(self) -> dict[str, Any]:
        return self.vm.console()[-1]

    async def reports(self, count: int) -> None:
        lines = len(self.vm.console())
        await until(lambda: len(self.vm.console()) >= lines + count)

    async def added(self) -> int:
        """What was hot-added, as the monitor tells it."""
        summary = await self.client.execute("query-memory-size-summary")
        assert summary["base-memory"] == BOOT
        return int(summary["plugged-memory"])


def driven(
    tmp_path: Path, scene: Callable[[Driven], Awaitable[None]], *, memory: str = MEMORY, device: str = BALLOON
) -> None:
    async def play_it() -> None:
        wish = tmp_path / "wish"
        wish.write_text("8M")
        guest = f"embedded,workload=told,path={wish},rate=4GiB"
        async with running(tmp_path, memory=memory, device=device, guest=guest) as (vm, client):
            await scene(Driven(tmp_path, vm, client))

    play(play_it())


def test_a_guest_grows_to_six_times_its_boot_size_and_shrinks_below_it_and_the_host_gets_all_back(
    tmp_path: Path,
) -> None:
    async def scene(machine: Driven) -> None:
        await machine.ballooned_to(TOP)
        assert await machine.added() == TOP - BOOT
        await machine.told("75%", least=int(0.7 * (TOP - BOOT)), most=TOP)
        held = machine.report()["held_pages"] * 4096
        assert held <= machine.vm.resident_bytes() <= TOP + SLACK
        await machine.told("16M", least=1, most=20 * MIB)
        await machine.ballooned_to(BOTTOM)
        await until(lambda: machine.vm.resident_bytes() <= BOTTOM + SLACK)
        assert await machine.added() == TOP - BOOT  # given up, but still the guest's
        await machine.ballooned_to(TOP)
        assert await machine.added() == TOP - BOOT  # what was given up came back first
        await machine.told("75%", least=int(0.7 * (TOP - BOOT)), most=TOP)
        await machine.told("16M", least=1, most=20 * MIB)
        await machine.reports(2)
        report = machine.report()
        assert report["verified_pages"] * 4096 > TOP
        assert (report["wrong_bytes"], report["wrong_pages"]) == (0, 0)
        assert report["total_pages"] * 4096 == TOP

    driven(tmp_path, scene)


async def reset(machine: Driven) -> None:
    (old,) = machine.vm.guest_pids()
    with machine.client.listener("RESET") as listener:
        await machine.client.execute("system_reset")
        await listener.get()
    assert not is_there(old)


def test_after_a_reset_the_guest_has_its_boot_size_and_added_memory_is_free(tmp_path: Path) -> None:
    async def scene(machine: Driven) -> None:
        await machine.ballooned_to(TOP)
        await machine.told("75%", least=int(0.7 * (TOP - BOOT)), most=TOP)
        machine.wish.write_text("8M")
        await reset(machine)
        assert await machine.is_size(BOOT)
        assert await machine.added() == 0
        assert machine.vm.resident_bytes() <= BOOT + SLACK
        # the last lines of the former guest may come after that
        await until(lambda: machine.report()["total_pages"] * 4096 == BOOT)
        await machine.ballooned_to(TOP)  # and it can grow again
        await machine.reports(1)
        assert machine.report()["wrong_bytes"] == 0

    driven(tmp_path, scene)


@pytest.mark.parametrize("target", [TOP, BOTTOM], ids=["above-boot-size", "below-it"])
def test_after_a_reset_the_guest_stays_at_its_boot_size_whatever_its_target_was(
    tmp_path: Path, target: int
) -> None:
    async def scene(machine: Driven) -> None:
        await machine.ballooned_to(target)
        await reset(machine)
        await until(lambda: machine.is_in("S_IDLE"))  # where a target is pursued at once
        state = await machine.state()
        assert (state["actual"], state["target"]) == (BOOT, BOOT)
        assert state["operations"][-1]["outcome"] == "done"
        await machine.reports(2)
        assert await machine.state() == {**state, "resident": (await machine.state())["resident"]}
        assert await machine.added() == 0

    driven(tmp_path, scene)


def test_with_startup_last_the_next_guest_boots_with_what_the_last_one_had(tmp_path: Path) -> None:
    async def scene(machine: Driven) -> None:
        await machine.ballooned_to(TOP)
        await reset(machine)
        assert await machine.added() == TOP - BOOT
        assert await machine.is_size(TOP)
        await machine.reports(1)
        assert machine.report()["total_pages"] * 4096 == TOP
        await machine.told("75%", least=int(0.7 * (TOP - BOOT)), most=TOP)
        await machine.told("16M", least=1, most=20 * MIB)
        await machine.ballooned_to(BOOT)
        await until(lambda: machine.vm.resident_bytes() <= BOOT + SLACK)
        await reset(machine)
        assert await machine.added() == 0
        assert await machine.is_size(BOOT)
        await machine.reports(1)
        assert machine.report()["wrong_bytes"] == 0

    # the protocol begins late, so that what is there after a reset is not of its making
    driven(tmp_path, scene, device=f"{BALLOON},x-startup=last,x-post-init-wait=400")


def test_the_monitor_hears_when_the_added_memory_changes(tmp_path: Path) -> None:
    async def scene(machine: Driven) -> None:
        with machine.client.listener("MEMORY_DEVICE_SIZE_CHANGE") as listener:
            await machine.ballooned_to(BOOT + 128 * MIB)
            event = dict((await listener.get())["data"])
            assert event == {"id": "hvb", "size": 128 * MIB, "qom-path": "/machine/peripheral/hvb"}
            await machine.client.execute("balloon", {"value": BOOT})
            await reset(machine)
            assert dict((await listener.get())["data"])["size"] == 0

    driven(tmp_path, scene)
