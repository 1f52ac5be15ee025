"""Real QEMUs that are migrated, arrive, are backed up or locked: what is seen of that, and what is sent."""

import asyncio
import time
from pathlib import Path

import pytest
from tests.rigs.monitored import BALLOON, look, look_until, qemu
from tests.rigs.scenes import PATIENCE_S, play

from dynmem.manager.step.facts import BACKUP, MIGRATING, RUNNING
from dynmem.manager.sweep.connection import VmConnection
from dynmem.qmp.client import QmpClient
from dynmem.units import MIB

pytestmark = pytest.mark.qemu

INTERVAL = {"path": "/machine/peripheral/balloon0", "property": "guest-stats-polling-interval"}


def other(path: Path) -> tuple[str, str]:
    """A monitor of its owner's."""
    return "-qmp", f"unix:{path},server=on,wait=off"


async def interval_of(owner: QmpClient) -> object:
    return await owner.execute("qom-get", INTERVAL)


async def until_interval_is_set(connection: VmConnection, owner: QmpClient) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while await interval_of(owner) != 1:
        assert time.monotonic() < deadline
        await look(connection)
        await asyncio.sleep(0.02)


def test_a_qemu_that_waits_for_its_memory_counts_and_is_sent_nothing_until_it_runs(tmp_path: Path) -> None:
    """Saved to a file at one end, and read from it at the other; the interval is set again there."""

    async def scenario() -> None:
        saved = tmp_path / "saved"
        with qemu(tmp_path / "from", *BALLOON, *other(tmp_path / "owner"), paused=False):
            connection = VmConnection("web", tmp_path / "from", may_write=True, period_s=0.1)
            async with await QmpClient.connect(tmp_path / "owner") as owner:
                await until_interval_is_set(connection, owner)
                await owner.execute("migrate-set-parameters", {"max-bandwidth": 4096})
                await owner.execute("migrate", {"uri": f"exec:cat > {saved}"})
                facts = await look_until(connection, lambda facts: facts.run_state == MIGRATING)
                await owner.execute("qom-set", {**INTERVAL, "value": 7})
                for _ in range(12):
                    await look(connection)
                facts = await look_until(connection, lambda facts: facts.run_state == MIGRATING)
                assert facts.actual_bytes == 64 * MIB
                assert await interval_of(owner) == 7  # as another program has set it
                await owner.execute("migrate-set-parameters", {"max-bandwidth": 1 << 40})
                await look_until(connection, lambda facts: facts.run_state == "postmigrate")
                assert await interval_of(owner) == 7
            await connection.close()
        with qemu(tmp_path / "to", *BALLOON, *other(tmp_path / "owner"), "-incoming", "defer", paused=False):
            connection = VmConnection("web", tmp_path / "to", may_write=True, period_s=0.1)
            async with await QmpClient.connect(tmp_path / "owner") as owner:
                for _ in range(5):
                    await look(connection)
                facts = await look_until(connection, lambda facts: facts.run_state == "inmigrate")
                assert facts.actual_bytes == 64 * MIB
                assert await interval_of(owner) == 0
                await owner.execute("migrate-incoming", {"uri": f"exec:cat {saved}"})
                await look_until(connection, lambda facts: facts.run_state == RUNNING)
                await until_interval_is_set(connection, owner)
            await connection.close()

    play(scenario())


def test_a_backup_of_a_qemu_is_seen_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    disks = [("-blockdev", f"null-co,node-name={name},size=67108864") for name in ("disk", "copy")]

    async def scenario() -> None:
        options = [word for disk in disks for word in disk]
        with qemu(tmp_path / "qmp", *BALLOON, *options, *other(tmp_path / "owner"), paused=False):
            connection = VmConnection("web", tmp_path / "qmp", may_write=False, period_s=0.1)
            async with await QmpClient.connect(tmp_path / "owner") as owner:
                await look_until(connection, lambda facts: facts.run_state == RUNNING)
                job = {"job-id": "vzdump", "device": "disk", "target": "copy", "sync": "full", "speed": 1}
                await owner.execute("blockdev-backup", job)
                await look_until(connection, lambda facts: facts.run_state == BACKUP)
                await owner.execute("block-job-cancel", {"device": "vzdump", "force": True})
                await look_until(connection, lambda facts: facts.run_state == RUNNING)
            await connection.close()

    play(scenario())


def test_a_qemu_with_locked_memory_is_known_by_its_command_line_and_by_the_kernel(tmp_path: Path) -> None:
    async def scenario() -> None:
        with qemu(tmp_path / "qmp", *BALLOON, "-overcommit", "mem-lock=on"):
            connection = VmConnection("web", tmp_path / "qmp", may_write=False, period_s=0.1)
            facts = await look_until(connection, lambda facts: facts.pinned is not None)
            assert facts.pinned is not None
            assert facts.pinned.reason == "it was started with its memory locked"
            assert facts.node_numbers  # where its memory may come from
            await connection.close()

    play(scenario())
