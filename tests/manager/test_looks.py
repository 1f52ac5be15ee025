"""One look and one glance at a VM at a time: what comes too late goes on, and nothing begins beside it."""

import asyncio
import os
from pathlib import Path

import pytest
from tests.rigs.monitored import look
from tests.rigs.scenes import plays

from dynmem.manager.step.facts import RUNNING, SILENT, VmFacts
from dynmem.manager.sweep import looks as looks_module
from dynmem.manager.sweep.connection import VmConnection
from dynmem.manager.sweep.life import Life
from dynmem.manager.sweep.looks import Looks
from dynmem.manager.sweep.measuring import Measuring
from dynmem.manager.sweep.process import Process
from dynmem.manager.sweep.resident import Resident

FACTS = VmFacts("web", "web.1", RUNNING)


def looks(*, was_late: bool = False) -> Looks:
    return Looks("web", Measuring(), was_late=lambda: was_late)


async def after(gate: asyncio.Event) -> VmFacts:
    await gate.wait()
    return FACTS


@plays
async def test_a_late_look_is_dropped_and_shows_whether_the_vm_is_still_slow() -> None:
    for was_late in (True, False):
        web, gate = looks(was_late=was_late), asyncio.Event()
        web.begin(after(gate))
        assert web.take() is None
        web.is_slow = True
        web.drop_late()
        assert web.is_looking  # it goes on
        gate.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        web.drop_late()
        assert (web.is_looking, web.is_slow) == (False, was_late)
        web.begin(after(gate))
        assert (web.awaited is None) == was_late
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert web.take() is FACTS
        await web.close()


@plays
async def test_a_vm_that_has_kept_a_sweep_waiting_is_waited_for_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web, gate = VmConnection("web", tmp_path / "qmp", may_write=False, period_s=1.0), asyncio.Event()
    monkeypatch.setattr(web, "_look_at_it", lambda _: after(gate))
    assert (await look(web, patience_s=0)).run_state == SILENT
    assert (await asyncio.wait_for(look(web, patience_s=1000), 30)).run_state == SILENT
    await web.close()


@plays
async def test_no_glance_begins_beside_a_look_another_glance_or_at_a_slow_vm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(looks_module, "GLANCE_PATIENCE_S", 60)
    web, gate = looks(), asyncio.Event()
    web.begin(after(gate))
    assert await web.glance(lambda: after(gate)) is None
    gate.set()
    assert web.awaited is not None
    await web.awaited
    assert web.take() is FACTS
    web.is_slow = True
    assert await web.glance(lambda: after(gate)) is None
    web.is_slow = False
    gate.clear()
    monkeypatch.setattr(looks_module, "GLANCE_PATIENCE_S", 0.001)
    assert await web.glance(lambda: after(gate)) is None  # too late, and under way
    monkeypatch.setattr(looks_module, "GLANCE_PATIENCE_S", 60)
    gate.set()
    assert await web.glance(lambda: None) is FACTS
    await web.close()


class SlowMeter:
    """Counts what it is asked to measure."""

    is_quick = False

    def guest_bytes_now(self) -> int:
        """Return what is known at once."""
        return 5


class CountedLife(Life):
    """A life that takes long to measure."""

    measured = 0

    async def measure(self, threads: Measuring) -> None:
        """Count, and never end."""
        self.measured += 1
        await asyncio.Event().wait()


@plays
async def test_a_measurement_that_takes_long_is_not_begun_a_second_time() -> None:
    web, life = looks(), CountedLife(None, "web.1", SlowMeter(), None)  # type: ignore[arg-type]
    for _ in range(3):
        web.measure(life)
        await asyncio.sleep(0)
    assert life.measured == 1
    await web.close()


def test_a_process_was_busy_once_it_has_run_for_two_ticks_since_it_was_asked() -> None:
    process = Process.of(os.getpid())
    assert process is not None
    life = Life(process, process.incarnation, None, None)
    ticks = iter((100, 101, 103, 104))
    process.ticks = lambda: next(ticks)  # type: ignore[method-assign]
    assert [life.was_busy() for _ in range(4)] == [True, False, True, False]
    process.close()
    assert not Life(None, "connection 1", None, None).was_busy()


def test_a_glance_brings_what_a_vm_holds_up_to_date_only_where_it_is_known() -> None:
    life = Life(None, "web.1", SlowMeter(), None)  # type: ignore[arg-type]
    life.measure_now()
    assert life.resident.bytes_held is None
    life.resident = Resident(100, "its files", 7)
    life.measure_now()
    assert life.resident == Resident(12, "its files", 7)
