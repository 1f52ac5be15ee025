"""The manager and real guests: two virtual machines under QEMU share a budget that is less than both want."""

import time
from pathlib import Path

import pytest
from tests.rigs.linux_guest import FAST, Boot, Until, holds, said
from tests.rigs.managed_guests import configuration, manager, process_of_manager
from tests.rigs.scenes import play

from dynmem.history.again import plan_of
from dynmem.history.past import Past
from dynmem.history.report import report_of
from dynmem.lab.qemu import BALLOON_PATH, QemuGuest
from dynmem.lab.workload import Load
from dynmem.qmp.client import QmpClient
from dynmem.units import MIB, PAGE_SIZE

pytestmark = [pytest.mark.qemu, pytest.mark.usefixtures("processors"), pytest.mark.timeout(900)]

STEP = 16
STEADILY = 64 * MIB  # a load without mercy: it touches its memory and is killed where there is none


def grow(guest: QemuGuest, until: Until, mib: int) -> None:
    """Raise the load step by step, each step when the manager has made room for more than it takes."""
    held = said(guest).held_pages * PAGE_SIZE // MIB
    for step in [*range(held + STEP, mib, STEP), mib]:
        until(guest, lambda: said(guest).available_pages * PAGE_SIZE >= 2 * STEP * MIB)
        guest.order(load(step, STEADILY))
        until(guest, lambda step=step: holds(guest, step))


def load(mib: int, rate: int) -> Load:
    return Load(high_bytes=mib * MIB, rate_bytes=rate)


def size(guest: QemuGuest) -> int:
    """What QEMU says the guest has, asked on the monitor that the manager does not use."""

    async def ask() -> int:
        async with await QmpClient.connect(guest.lab_qmp_path) as client:
            reply = await client.execute("query-balloon")
            assert isinstance(reply, dict)
            actual = reply["actual"]
            assert isinstance(actual, int)
            return actual

    return play(ask())


def switch_statistics_on(guest: QemuGuest) -> None:
    """What a manager that may write does itself."""

    async def tell() -> None:
        async with await QmpClient.connect(guest.lab_qmp_path) as client:
            interval = {"path": BALLOON_PATH, "property": "guest-stats-polling-interval", "value": 1}
            await client.execute("qom-set", interval)

    play(tell())


def test_the_manager_moves_memory_to_the_guest_whose_demand_rises_and_back(
    boot: Boot, until: Until, folder: Path
) -> None:
    first = boot(512, name="a", load=load(400, FAST))
    second = boot(512, name="b", load=load(16, FAST))
    until(first, lambda: holds(first, 400))
    assert first.resident_bytes() >= 0.7 * first.memory_bytes
    config = configuration(folder, (first, second), budget="800MiB")
    with manager(config, folder / "log"):
        # `a` is busy: `b` gives, the sum fits the budget.
        until(first, lambda: size(first) + size(second) <= 768 * MIB)
        assert holds(first, 400)
        # `a` becomes idle, and only then `b` busy: what `a` gives really leaves it.
        first.order(load(24, FAST))
        until(first, lambda: holds(first, 24))
        before, resident = size(first), first.resident_bytes()
        grow(second, until, 320)
        until(first, lambda: size(first) <= before - 100 * MIB)
        given = before - size(first)
        assert resident - first.resident_bytes() >= 0.9 * given
        # And back.
        shrunk = size(first)
        second.order(load(24, FAST))
        until(second, lambda: holds(second, 24))
        grow(first, until, 360)
        assert size(first) >= shrunk + 60 * MIB
        assert size(first) + size(second) <= 800 * MIB
        at_rest = AtRest()  # or a guest would go on to its target after the last look at it
        until(first, lambda: at_rest(size(first), size(second)))
    for guest in (first, second):
        assert (guest.oom_kills, said(guest).wrong_bytes, said(guest).load) == (0, 0, "running")
    _history_tells_it(folder / "state", size(first), size(second))


class AtRest:
    """Whether the same was seen for three seconds, which is more than two sweeps."""

    def __init__(self) -> None:
        self._seen: tuple[int, ...] = ()
        self._since = 0.0

    def __call__(self, *seen: int) -> bool:
        """Return whether it was, by now."""
        if seen != self._seen:
            self._seen, self._since = seen, time.monotonic()
        return time.monotonic() - self._since >= 3


def _history_tells_it(state: Path, first: int, second: int) -> None:
    """What was seen above, from the file alone, when guests and manager are done."""
    past = Past(state)
    span = past.span_ms()
    assert span is not None
    report = report_of(past, *span)
    peaks = {vm.name: vm.demand_peak_bytes for vm in report.vms}
    assert (peaks["a"] or 0) >= 400 * MIB
    assert (peaks["b"] or 0) >= 320 * MIB
    assert report.static_bytes == 1024 * MIB
    assert report.resident_peak_bytes > report.resident_mean_bytes > 0
    assert report.moved == sum(event.kind == "moved" for event in past.events()) > 3
    checked = 0
    for piece in past.pieces(0):
        for at_ms in piece.at_ms[::10]:  # every tenth decision about them, made again from the file
            moment = past.moment(at_ms)
            for each in plan_of(moment).decisions:
                vm = moment.vms[each.vm]
                made = each.wanted_pages * PAGE_SIZE, each.target_pages * PAGE_SIZE
                assert made == (vm.wanted_bytes, vm.planned_bytes)
                checked += 1
    assert checked >= 10
    last = past.moment(span[1]).vms
    assert {name: vm.actual_bytes for name, vm in last.items()} == {"a": first, "b": second}


def test_an_observing_manager_says_what_it_would_do_and_changes_no_guest(
    boot: Boot, until: Until, folder: Path
) -> None:
    guests = (boot(512, name="a"), boot(512, name="b"))
    for guest in guests:
        switch_statistics_on(guest)
    config = configuration(folder, guests, budget="800MiB", mode="observe")
    log = folder / "log"
    with manager(config, log):
        until(guests[0], lambda: "(not sent: observe)" in log.read_text())
    assert [size(guest) for guest in guests] == [512 * MIB, 512 * MIB]


@pytest.mark.parametrize("has_parachute", [True, False], ids=["parachute", "none"])
def test_a_guest_that_grows_while_its_manager_is_killed_lives_by_its_parachute_and_dies_without(
    has_parachute: bool, boot: Boot, until: Until, folder: Path
) -> None:
    """It is shrunk to what the budget has, and needs more when nobody is there to give it."""
    guest = boot(384, name="a", deflate_on_oom=has_parachute)
    config = configuration(folder, (guest,), budget="288MiB")
    with process_of_manager(config, folder / "log") as process:
        until(guest, lambda: size(guest) <= 256 * MIB)
        guest.order(load(192, 32 * MIB))
        until(guest, lambda: said(guest).held_pages * PAGE_SIZE >= 16 * MIB)
        process.kill()
        process.wait()
    shrunk = size(guest)
    if has_parachute:
        until(guest, lambda: holds(guest, 192))
        assert (guest.oom_kills, said(guest).load) == (0, "running")
        assert size(guest) > shrunk
    else:
        until(guest, lambda: said(guest).load == "killed")
        assert (guest.oom_kills, size(guest)) == (1, shrunk)
