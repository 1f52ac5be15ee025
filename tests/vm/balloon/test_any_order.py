"""Growing, shrinking, DIMMs, pauses and resets in any order: both sides agree, and no byte is wrong."""

import asyncio
import contextlib
import random
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp.qmp_client import ExecuteError
from tests.rigs.scenes import play, until
from tests.rigs.vms import BALLOON, MIB, Vm, running

BOOT = 256 * MIB
LARGEST = 1280 * MIB
DIMM = 128 * MIB
DIMMS = 2
SLACK = 24 * MIB  # rings, kernel pages, and fragments of pages that the host rounds up


class Walk:
    """One machine and what is done to it, by a seed."""

    def __init__(self, vm: Vm, client: Any, wish: Path, seed: int) -> None:
        self.vm = vm
        self.client = client
        self.wish = wish
        self.random = random.Random(seed)
        self.paused = False

    async def balloon(self) -> None:
        size = self.random.choice((64, 128, 200, 256, 512, 777, 1024, 1280)) * MIB
        await self.client.execute("balloon", {"value": size})

    async def load(self) -> None:
        self.wish.write_text(self.random.choice(("8M", "20%", "50%", "80%")))

    async def pause(self) -> None:
        await self.client.execute("cont" if self.paused else "stop")
        self.paused = not self.paused

    async def reset(self) -> None:
        with self.client.listener("RESET") as listener:
            await self.client.execute("system_reset")
            await listener.get()

    async def dimm(self) -> None:
        name = self.random.randrange(DIMMS)
        with contextlib.suppress(ExecuteError):  # it is there already, or was not
            if self.random.random() < 0.5:
                plugged = {"driver": "pc-dimm", "id": f"d{name}", "memdev": f"m{name}"}
                await self.client.execute("device_add", plugged)
            else:
                await self.client.execute("device_del", {"id": f"d{name}"})

    async def remove(self) -> None:
        with contextlib.suppress(ExecuteError):  # the guest is not ready for it
            await self.client.execute("x-hot-remove", {"size": self.random.choice((1, 64, 300)) * MIB})

    async def step(self) -> None:
        steps = (self.balloon, self.load, self.pause, self.reset, self.dimm, self.remove)
        (step,) = self.random.choices(steps, (8, 4, 3, 1, 3, 2))
        await step()
        await asyncio.sleep(self.random.choice((0, 0.02, 0.1, 0.3)))

    async def come_to_rest(self) -> None:
        """Let it run without a load to a size of its own, and compare what guest and machine count."""
        if self.paused:
            await self.pause()
        self.wish.write_text("8M")
        await self.client.execute("balloon", {"value": LARGEST})

        async def agrees() -> bool:
            state = await self.client.execute("x-query-hv-balloon")
            told = await self.client.execute("query-memory-size-summary")
            actual = (await self.client.execute("query-balloon"))["actual"]
            report = self.vm.console()[-1]
            total = told["base-memory"] + told["plugged-memory"]
            return bool(
                state["state"] == "S_IDLE"
                and report["total_pages"] * 4096 == total
                and (report["total_pages"] - report["ballooned_pages"]) * 4096 == actual
                and (actual >= LARGEST or not report["ballooned_pages"])  # some is gone in single pages
                and report["held_pages"] * 4096 <= 8 * MIB
            )

        await until(agrees)
        assert {report["wrong_bytes"] for report in self.vm.console()} == {0}
        state = await self.client.execute("x-query-hv-balloon")
        assert state["resident"] <= state["actual"] + SLACK


@pytest.mark.parametrize(
    ("seed", "steps"), [(1, 25), *[pytest.param(seed, 200, marks=pytest.mark.soak) for seed in range(2, 12)]]
)
def test_whatever_is_done_to_it_guest_and_machine_agree_in_the_end(
    tmp_path: Path, seed: int, steps: int
) -> None:
    wish = tmp_path / "wish"
    wish.write_text("8M")
    objects = [f"--object=memory-backend-ram,id=m{number},size={DIMM}" for number in range(DIMMS)]
    objects.append("--object=memory-backend-memfd,id=mem,size=1G")

    async def scene() -> None:
        async with running(
            tmp_path,
            memory="256M,maxmem=2G,slots=2",
            device=f"{BALLOON},memdev=mem",
            guest=f"embedded,workload=told,path={wish},rate=2GiB",
            options=tuple(objects),
        ) as (vm, client):
            await until(vm.console)
            walk = Walk(vm, client, wish, seed)
            for _ in range(steps):
                await walk.step()
            await walk.come_to_rest()

    play(scene())
