"""A neighbour with Proxmox's habits on the monitors of real QEMUs, while managers run."""

import asyncio
import contextlib
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.rigs.managers import RunningManager, configured, managing
from tests.rigs.monitored import BALLOON, MEBIBYTE, look, look_until, qemu
from tests.rigs.neighbour import STATUS, STATUS_S, Neighbour
from tests.rigs.scenes import plays

from dynmem.errors import DynmemError
from dynmem.manager.step.facts import SILENT
from dynmem.manager.sweep.borrowed import Borrowed, Visits
from dynmem.manager.sweep.connection import VmConnection

NAMES = ("web", "db")


def table(kind: str) -> str:
    return f'minimum = "32MiB"\nmaximum = "64MiB"\nmonitor = "{kind}"'


def manager_of(folder: Path, state: str, mode: str, kind: str) -> Path:
    """A configuration of its own for the same VMs."""
    (folder / state).mkdir()
    config = configured(folder / state, mode, **dict.fromkeys(NAMES, table(kind)))
    config.write_text(config.read_text().replace(f"{folder / state}/web.qmp", f"{folder}/web.qmp"))
    config.write_text(config.read_text().replace(f"{folder / state}/db.qmp", f"{folder}/db.qmp"))
    return config


async def seen(manager: RunningManager) -> None:
    """Wait until the manager has seen both VMs."""
    await manager.until(lambda status: all(status.vm(name).actual_bytes for name in NAMES))


@pytest.mark.qemu
@plays
async def test_no_batch_of_proxmoxs_times_out_where_its_monitor_is_borrowed_and_all_do_where_it_is_kept(
    tmp_path: Path,
) -> None:
    paths = [tmp_path / f"{name}.qmp" for name in NAMES]
    neighbour = Neighbour(paths)
    with qemu(paths[0], *BALLOON), qemu(paths[1], *BALLOON):
        async with managing(manager_of(tmp_path, "first", "enforce", "borrowed")) as first:
            await seen(first)
            sweeps = (await first.status()).manager.sweeps
            await neighbour.run(12, 0.1)
            assert neighbour.counted.timeouts == 0
            assert neighbour.counted.batches > 24
            status = await first.until(
                lambda status: [status.vm(name).run_state for name in NAMES] == ["prelaunch"] * 2
            )
            assert status.manager.sweeps > sweeps
            async with managing(manager_of(tmp_path, "second", "enforce", "borrowed")) as second:
                told = f"is managed by another `dynmem run` (process {first.process.pid} of user "
                await second.until(lambda status: told in (status.vm("web").problem or ""))
        staying = [VmConnection(path.name, path, may_write=False, period_s=1.0) for path in paths]
        for each in staying:
            await look_until(each, lambda facts: facts.run_state == "prelaunch")
        shut_out = Neighbour(paths, patience=0.1)
        await shut_out.ask(paths, STATUS, STATUS_S)
        assert (shut_out.counted.batches, shut_out.counted.timeouts) == (0, 2)
        for each in staying:
            await each.close()


@pytest.mark.qemu
@plays
async def test_a_vm_whose_owner_never_leaves_counts_with_what_its_process_holds(tmp_path: Path) -> None:
    path = tmp_path / "web.qmp"
    with qemu(path, *BALLOON) as process:
        owner = VmConnection("theirs", path, may_write=False, period_s=1.0)
        await look_until(owner, lambda facts: facts.run_state == "prelaunch")
        ours = VmConnection("web", path, may_write=False, period_s=1.0, access=Borrowed(path, Visits()))
        used = "another program uses its monitor"
        facts = await look_until(
            ours, lambda facts: facts.resident_bytes is not None and used in (facts.problem or "")
        )
        assert (facts.run_state, facts.incarnation.partition("@")[0]) == (SILENT, str(process.pid))
        assert (facts.resident_bytes or 0) > 10 * MEBIBYTE
        await ours.close()
        await owner.close()


async def send_targets(connections: Sequence[VmConnection], seed: int) -> int:
    """Look at VMs and send targets, as often as visits may be made; return how many were sent."""
    rng, sent = random.Random(seed), 0
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(rng.uniform(0, 0.5))
            connection = rng.choice(connections)
            await look(connection)
            with contextlib.suppress(DynmemError):
                await connection.set_balloon(rng.randrange(32, 64) * MEBIBYTE)
                sent += 1
    return sent


@pytest.mark.soak
@pytest.mark.qemu
@pytest.mark.timeout(900)
def test_for_ten_minutes_no_batch_of_proxmoxs_times_out(tmp_path: Path) -> None:
    async def scene() -> None:
        paths = [tmp_path / f"{name}.qmp" for name in NAMES]
        neighbour, visits = Neighbour(paths), Visits()
        ours = [
            VmConnection(path.name, path, may_write=True, period_s=1.0, access=Borrowed(path, visits))
            for path in paths
        ]
        with qemu(paths[0], *BALLOON, paused=False), qemu(paths[1], *BALLOON, paused=False):
            async with managing(manager_of(tmp_path, "first", "observe", "borrowed")) as observer:
                await seen(observer)
                sending = asyncio.create_task(send_targets(ours, 1))
                await neighbour.run(60, 10.0)
                sending.cancel()
                sent = await sending
                for each in ours:
                    await each.close()
        print(neighbour.counted, f"{sent} targets")
        assert neighbour.counted.timeouts == 0
        assert neighbour.counted.batches >= 2 * 55
        assert sent > 500

    asyncio.run(scene())
