"""The reports of a real guest's virtio-balloon driver, asked for out of turn."""

import pytest
from tests.rigs import scenes
from tests.rigs.linux_guest import FAST, Boot
from tests.rigs.monitored import look
from tests.rigs.scenes import play

from dynmem.lab.qemu import BALLOON_PATH
from dynmem.lab.workload import Load
from dynmem.manager.sweep import looks
from dynmem.manager.sweep.connection import VmConnection
from dynmem.qmp.client import QmpClient
from dynmem.units import MIB, NS_PER_S

pytestmark = pytest.mark.qemu


def test_a_guest_that_is_asked_once_an_hour_reports_when_it_is_asked_out_of_turn(
    boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "GLANCE_PATIENCE_S", 30.0)
    # What it has available never stays the same: two equal reports within a second are one.
    swaying = Load(
        curve="sine", low_bytes=10 * MIB, high_bytes=50 * MIB, period_ns=2 * NS_PER_S, rate_bytes=FAST
    )
    guest = boot(192, load=swaying)

    async def scenario() -> None:
        connection = VmConnection("g", guest.qmp_path, may_write=True, period_s=3600.0)
        now_ns = 0

        async def has_reported() -> bool:
            """Ask, and return whether a report has come since the last time."""
            nonlocal now_ns
            now_ns += NS_PER_S
            facts = await connection.glance(now_ns, ask=True)
            assert facts is not None
            return facts.demand is not None and facts.demand.age_ns == 0

        for _ in range(4):  # meanwhile the interval is set
            await look(connection, now_ns=now_ns)
        async with await QmpClient.connect(guest.lab_qmp_path) as observer:
            interval = {"path": BALLOON_PATH, "property": "guest-stats-polling-interval"}
            for _ in range(5):
                assert await observer.execute("qom-get", interval) == 3600
                await scenes.until(has_reported)
        await connection.close()

    play(scenario())
