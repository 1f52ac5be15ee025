"""Read a VM's balloon: find the device, then its size and its guest's report.

    search --> properties --> size, statistics interval, report --> the same at each look
      ^                                                         |
      +------------------- an error reply <---------------------+

Devices come and go with other people's tools. A device that replies with an error was perhaps replaced by
another one, so it is looked for again at once, and at each look until one replies.
"""

import asyncio
from typing import Final

from dynmem.manager.step.facts import HV_BALLOON, RUNNING, VIRTIO_BALLOON
from dynmem.manager.sweep.demand import (
    DEMAND_SOURCES,
    STATUS_QUERY,
    DemandTracker,
    Device,
    Silence,
    fields,
    find_device,
    size,
    virtio_size,
)
from dynmem.manager.sweep.life import Life
from dynmem.manager.sweep.memory import glance_at_memory
from dynmem.manager.sweep.monitor import SELDOM, Monitor
from dynmem.manager.sweep.properties import read_properties
from dynmem.manager.sweep.quiet import Figures
from dynmem.manager.sweep.sizes import Grown
from dynmem.manager.sweep.statistics import Statistics
from dynmem.qmp.errors import QmpCommandError

# A guest that is asked at once has mostly replied by then (measured: 9 ms, median).
REPLY_S: Final = 0.015
NO_BALLOON: Final = "it has no balloon device: start it with -device virtio-balloon-pci,id=balloon0"
NO_SIGNAL: Final = (
    "it has virtio-mem and no balloon, so nothing reports what its guest needs, and it is left as it is:"
    " start it with -device virtio-balloon-pci,id=balloon0"
)


async def look_at_balloon(
    monitor: Monitor, life: Life, now_ns: int, *, period_s: float, released: bool, held: bool = False
) -> str | None:
    """Read the figures of one look into *life*; return what is wrong with them, and what to do.

    Of a VM that is *held*, the interval of statistics is left to the first look after that.
    """
    for _ in range(2):
        if life.device is None and life.looks >= life.next_search:
            await _find(monitor, life)
        if life.device is None:
            break
        try:
            if life.properties is None:
                life.properties = await read_properties(monitor, life.device)
            problem = await _read_size(monitor, life, life.device)
            if problem is not None:
                return problem
            if not held:
                await _look_at_statistics(monitor, life, now_ns, period_s=period_s, released=released)
            elif life.statistics is not None:
                life.statistics.check_again()
            return await _read_report(monitor, life, life.device, now_ns)
        except QmpCommandError as error:
            life.device, life.next_search = None, life.looks
            life.device_problem = f"its balloon device does not reply: {error.desc}"
    return life.device_problem


async def glance_at_balloon(monitor: Monitor, life: Life, now_ns: int, *, ask: bool) -> bool:
    """Read size and report of a device that is known; return whether its size could be true.

    With *ask*, the guest is asked for a report before, where that is allowed, and has a moment to reply: a
    guest in need cannot wait until the next glance finds what others could give. Raises as QmpClient.execute:
    what it means is for the next look to find out.
    """
    is_asked = ask and life.statistics is not None and await life.statistics.ask_now(monitor, now_ns)
    is_known = await _read_both(monitor, life, now_ns)
    if is_asked and is_known and not life.has_reported_at(now_ns):
        await asyncio.sleep(REPLY_S)
        is_known = await _read_both(monitor, life, now_ns)
    return is_known


async def _read_both(monitor: Monitor, life: Life, now_ns: int) -> bool:
    """Read size and report; return whether the size could be true."""
    assert life.device is not None
    if await _read_size(monitor, life, life.device) is not None:
        return False
    await _read_report(monitor, life, life.device, now_ns)
    return True


async def read_figures(monitor: Monitor) -> Figures:
    """Read the last report of a guest with hv-balloon, its size and whether it runs."""
    report = await monitor.query_now(STATUS_QUERY)
    actual = fields(await monitor.query_now("query-balloon"), "query-balloon").get("actual")
    status = fields(await monitor.query_now("query-status"), "query-status").get("status")
    return Figures(report, actual, is_running=status == RUNNING)


async def _find(monitor: Monitor, life: Life) -> None:
    """Look for a balloon device; the figures of another one before it are not its own."""
    life.tracker = life.statistics = life.properties = None
    try:
        life.device = await find_device(monitor)
    except QmpCommandError as error:
        life.device_problem = f"its monitor does not list its devices: {error.desc}"
        return
    if life.device is None:
        life.next_search = life.looks + SELDOM
        life.is_without_balloon = True
        life.device_problem = NO_SIGNAL if life.virtio_mems else NO_BALLOON
        return
    life.is_without_balloon = False
    life.tracker = DemandTracker(DEMAND_SOURCES[life.device.kind])
    if life.device.kind == VIRTIO_BALLOON:
        life.statistics = Statistics(life.device)


async def _read_size(monitor: Monitor, life: Life, device: Device) -> str | None:
    """Read the VM's size, before its guest's report: see DemandTracker. Return what is wrong with it."""
    assert life.tracker is not None
    assert life.memory is not None
    balloon = fields(await monitor.query("query-balloon"), "query-balloon")
    reported = balloon.get("actual")
    actual = virtio_size(reported) if device.kind == VIRTIO_BALLOON else size(reported, "actual")
    if isinstance(actual, Silence):
        return actual.reason
    before = life.actual_bytes
    if life.deaf and before is not None and actual > max(before, life.target_bytes):
        life.was_reset()  # its balloon is empty again
        life.is_actual_former = False
    if life.deaf:
        life.grown = Grown()  # what was missed may be a reset
    life.deaf = False
    life.saw_actual(actual)
    if device.kind == HV_BALLOON:
        life.grown.saw(actual - life.memory.boot_bytes)
        own = life.memory.without_added(actual, life.grown.bytes)
        life.tracker.saw_size(own, life.memory.limit_bytes + life.memory.plugged_bytes)
    else:
        life.saw_size()
    return None


async def _look_at_statistics(
    monitor: Monitor, life: Life, now_ns: int, *, period_s: float, released: bool
) -> None:
    assert life.tracker is not None
    if life.statistics is None:
        return
    known = life.tracker.demand(now_ns)
    late = known is not None and life.statistics.is_late(known.age_ns)
    await life.statistics.look(monitor, life.looks, period_s=period_s, late=late, released=released)


async def _read_report(monitor: Monitor, life: Life, device: Device, now_ns: int) -> str | None:
    """Read the guest's report; return what is wrong with it or with how often it comes."""
    assert life.memory is not None
    slow = life.statistics.problem if life.statistics is not None else None
    report = await DEMAND_SOURCES[device.kind].read(monitor, device, life.memory.boot_bytes)
    if life.virtio_mems and device.kind == VIRTIO_BALLOON:
        # Hundreds of MiB can come or go between two replies: the report may be from before that or after it.
        await glance_at_memory(monitor, life)
        life.saw_size()
    if isinstance(report, Silence):
        return slow or report.reason
    if life.saw_report(report, now_ns) and life.statistics is not None:
        life.statistics.reported()
    return slow
