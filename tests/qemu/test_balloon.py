"""A real guest's virtio-balloon, driven by plain QMP through our client."""

from collections.abc import Mapping

import pytest
from tests.rigs import scenes
from tests.rigs.linux_guest import FAST, Boot, Until, said
from tests.rigs.scenes import play

from dynmem.lab.qemu import BALLOON_PATH
from dynmem.lab.workload import Load
from dynmem.qmp.client import QmpClient
from dynmem.qmp.errors import BusyError
from dynmem.units import MIB, PAGE_SIZE

pytestmark = pytest.mark.qemu


async def actual(client: QmpClient) -> int:
    reply = await client.execute("query-balloon")
    assert isinstance(reply, dict)
    value = reply["actual"]
    assert isinstance(value, int)
    return value


async def balloon_to(client: QmpClient, size: int) -> None:
    """Set the target and wait until the guest has got there."""
    await client.execute("balloon", {"value": size})

    async def is_there() -> bool:
        return await actual(client) == size

    await scenes.until(is_there)


async def statistics(client: QmpClient) -> tuple[int, Mapping[str, int]]:
    """When the guest last reported, and what."""
    reply = await client.execute("qom-get", {"path": BALLOON_PATH, "property": "guest-stats"})
    assert isinstance(reply, dict)
    return reply["last-update"], reply["stats"]


def test_a_guest_that_dirtied_its_ram_is_shrunk_and_grown_by_plain_qmp(boot: Boot, until: Until) -> None:
    guest = boot(512, load=Load(high_bytes=430 * MIB, rate_bytes=FAST))
    until(guest, lambda: said(guest).held_pages == 430 * MIB // PAGE_SIZE)
    assert guest.resident_bytes() >= 0.7 * guest.memory_bytes
    guest.order(Load(high_bytes=40 * MIB, rate_bytes=FAST))
    until(guest, lambda: said(guest).held_pages == 40 * MIB // PAGE_SIZE)
    full = guest.resident_bytes()
    assert full >= 0.7 * guest.memory_bytes  # what the load let go of is still the guest's

    async def shrink_and_grow() -> None:
        async with await QmpClient.connect(guest.qmp_path) as client:
            assert client.peer.pid == guest.pid
            assert await actual(client) == 512 * MIB
            await balloon_to(client, 192 * MIB)
            assert full - guest.resident_bytes() >= 0.9 * 320 * MIB
            until(guest, lambda: said(guest).ballooned_pages == 320 * MIB // PAGE_SIZE)
            await balloon_to(client, 512 * MIB)
            until(guest, lambda: said(guest).ballooned_pages == 0)

    play(shrink_and_grow())
    guest.order(Load(high_bytes=400 * MIB, rate_bytes=FAST))
    until(guest, lambda: said(guest).held_pages == 400 * MIB // PAGE_SIZE)
    guest.order(Load(high_bytes=0, rate_bytes=FAST))
    until(guest, lambda: said(guest).held_pages == 0)
    assert (said(guest).wrong_bytes, guest.oom_kills) == (0, 0)


def test_a_load_that_holds_its_memory_keeps_it_through_ballooning(boot: Boot, until: Until) -> None:
    guest = boot(256, load=Load(high_bytes=60 * MIB, rate_bytes=FAST))
    until(guest, lambda: said(guest).held_pages == 60 * MIB // PAGE_SIZE)

    async def swing() -> None:
        async with await QmpClient.connect(guest.qmp_path) as client:
            for size in (192, 256, 176, 256):
                await balloon_to(client, size * MIB)

    play(swing())
    assert said(guest).held_pages == 60 * MIB // PAGE_SIZE
    guest.order(Load(high_bytes=0, rate_bytes=FAST))
    until(guest, lambda: said(guest).held_pages == 0)
    assert (said(guest).wrong_bytes, guest.oom_kills) == (0, 0)


def test_guest_statistics_come_and_agree_with_the_guest(boot: Boot, until: Until) -> None:
    guest = boot(256, load=Load(high_bytes=80 * MIB, rate_bytes=FAST))
    until(guest, lambda: said(guest).held_pages == 80 * MIB // PAGE_SIZE)

    async def fresh() -> Mapping[str, int]:
        async with await QmpClient.connect(guest.qmp_path) as client:
            interval = {"path": BALLOON_PATH, "property": "guest-stats-polling-interval", "value": 1}
            await client.execute("qom-set", interval)
            first, _ = await statistics(client)

            async def later() -> Mapping[str, int] | None:
                when, figures = await statistics(client)
                return figures if when >= first + 2 else None

            found: Mapping[str, int] = await scenes.until(later)
            return found

    stats = play(fresh())
    report = said(guest)
    assert stats["stat-total-memory"] == report.total_pages * PAGE_SIZE
    assert abs(stats["stat-available-memory"] - report.available_pages * PAGE_SIZE) < 8 * MIB


def test_whoever_holds_one_monitor_leaves_the_other_free(boot: Boot) -> None:
    guest = boot(128)

    async def meet() -> None:
        async with await QmpClient.connect(guest.qmp_path) as first:
            with pytest.raises(BusyError):
                await QmpClient.connect(guest.qmp_path, greeting_timeout_s=0.3)
            async with await QmpClient.connect(guest.lab_qmp_path) as second:
                assert await actual(first) == await actual(second) == 128 * MIB

    play(meet())
