"""`x-punch-zero-pages`: only while the VM is paused, and never beside a guest that runs."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.rigs.fake_platform import Scene
from tests.rigs.processes import memory_files
from tests.rigs.scenes import play, until
from tests.rigs.vms import running

from dynmem.duplicates.rate import Rate
from dynmem.duplicates.scan import scan_account
from dynmem.duplicates.vms import Vm
from dynmem.qmp.errors import QmpCommandError
from dynmem.qmp.types import read
from dynmem.units import MIB, PAGE_SIZE
from dynmem.vm.monitor import schema
from dynmem.vm.monitor.commands import commands

ZEROS = 8 * MIB


async def punch(scene: Scene) -> Any:
    answer = commands(scene.machine)["x-punch-zero-pages"].run({})
    assert asyncio.iscoroutine(answer)
    result = await answer
    read(schema.ZERO_PAGES, result, "answer")
    return result


def written(scene: Scene) -> np.ndarray:
    """Have the guest write zeros to some memory and a byte to one page; return its memory."""
    memory = np.frombuffer(scene.machine.memory.boot.view, np.uint8)
    memory[40 * MIB : 40 * MIB + ZEROS] = 0
    memory[40 * MIB + PAGE_SIZE] = 7
    return memory


def test_zero_pages_of_a_paused_vm_go_back_to_the_host() -> None:
    async def story() -> None:
        scene = Scene()
        memory = written(scene)
        await scene.machine.start()
        await scene.machine.stop()
        before, resident = memory.copy(), scene.machine.memory.boot.resident_bytes()
        result = await punch(scene)
        assert result["complete"] is True
        assert result["discarded"] == result["zero"] >= ZEROS - PAGE_SIZE
        assert resident - scene.machine.memory.boot.resident_bytes() == result["discarded"]
        assert (memory == before).all()
        del memory
        await scene.machine.close()

    play(story())


def test_a_vm_that_runs_is_refused_and_keeps_its_pages() -> None:
    async def story() -> None:
        scene = Scene()
        await scene.machine.start()
        written(scene)
        resident = scene.machine.memory.boot.resident_bytes()
        with pytest.raises(QmpCommandError, match="the VM is running"):
            await punch(scene)
        assert scene.machine.memory.boot.resident_bytes() >= resident
        await scene.machine.close()

    play(story())


def test_a_vm_that_was_reset_while_paused_is_refused() -> None:
    """Its run state is prelaunch: a new guest was started, and frozen at once."""

    async def story() -> None:
        scene = Scene()
        await scene.machine.start()
        await scene.machine.stop()
        scene.machine.reset()
        await until(lambda: scene.machine.run_state == "prelaunch")
        with pytest.raises(QmpCommandError, match="the VM is prelaunch"):
            await punch(scene)
        await scene.machine.close()

    play(story())


def test_it_ends_early_when_the_vm_continues_and_says_so() -> None:
    async def story() -> None:
        scene = Scene()
        await scene.machine.start()
        await scene.machine.stop()
        written(scene)
        asked = asyncio.create_task(punch(scene))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        scene.machine.resume()
        result = await asked
        assert result["complete"] is False
        assert 0 < result["discarded"] < ZEROS - PAGE_SIZE
        await scene.machine.close()

    play(story())


def test_no_reset_begins_between_two_steps() -> None:
    """Between the start of the new guest and its freeze, the machine is still called paused."""

    async def story() -> None:
        scene = Scene()
        await scene.machine.start()
        await scene.machine.stop()
        seen = []

        def steps() -> Iterator[None]:
            for _ in range(20):
                seen.append(list(scene.guest.calls))
                yield

        taken = asyncio.create_task(scene.machine.while_paused(steps()))
        await asyncio.sleep(0)
        scene.machine.reset()
        assert await taken
        await until(lambda: scene.machine.run_state == "prelaunch")
        assert len(seen) == 20
        assert "power off" not in seen[-1]
        assert "power off" in scene.guest.calls
        await scene.machine.close()

    play(story())


def test_a_guest_finds_every_byte_after_its_zero_pages_were_punched(tmp_path: Path) -> None:
    """A real guest, which checks each page that it holds; duplicates are looked for in it, too."""
    wish = tmp_path / "wish"
    wish.write_text("64M")

    async def story() -> None:
        guest = f"embedded,workload=told,path={wish},rate=4GiB"
        async with running(tmp_path, memory="128M", guest=guest) as (vm, client):

            async def holds(megabytes: int) -> None:
                wish.write_text(f"{megabytes}M")
                await until(vm.console)
                await until(lambda: vm.console()[-1]["held_pages"] * 4096 >= megabytes * MIB)

            await holds(64)
            await client.execute("stop")
            before = sum(memory_files(vm.process.pid, "memfd:guest-ram").values())
            result = await client.execute("x-punch-zero-pages")
            after = sum(memory_files(vm.process.pid, "memfd:guest-ram").values())
            assert result["complete"] is True
            assert before - after == result["discarded"]
            assert after >= 64 * MIB
            with Vm(vm.process.pid) as found:
                figures = scan_account("x", [found], Rate(None), _Silent()).account
            assert (figures.read_bytes, figures.zero_bytes) == (after, 0)
            await client.execute("cont")
            await holds(80)
            await holds(16)
            assert vm.console()[-1]["wrong_bytes"] == 0

    play(story())


class _Silent:
    def expect(self, size: int) -> None: ...

    def did(self, size: int) -> None: ...
