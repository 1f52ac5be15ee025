"""What a guest's reports tell of its demand, while its size may be moving, and how old that is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.rigs.scenes import play

from dynmem.manager.journal.journal import Action
from dynmem.manager.journal.recovery import Unfinished
from dynmem.manager.step.facts import HV_BALLOON, VIRTIO_BALLOON, Demand, Facts, HostFacts, VmFacts
from dynmem.manager.sweep.demand import (
    DEMAND_SOURCES,
    DemandTracker,
    Device,
    Report,
)
from dynmem.manager.sweep.monitor import Monitor
from dynmem.units import GIB, MIB


def tracker() -> DemandTracker:
    return DemandTracker(DEMAND_SOURCES[VIRTIO_BALLOON])


def committed(demand: Demand | None) -> int:
    assert demand is not None
    return demand.committed_bytes


def test_a_report_that_was_there_before_us_says_nothing() -> None:
    watched = tracker()
    for now in range(5):
        watched.saw_size(GIB)
        watched.saw_report(Report(100, -300 * MIB, 300 * MIB), now)
        assert watched.demand(now) is None


def test_demand_is_size_minus_available_and_ages_until_the_next_report() -> None:
    watched = tracker()
    watched.saw_size(GIB)
    watched.saw_report(Report(100, -300 * MIB, 300 * MIB), 0)
    watched.saw_size(GIB)
    watched.saw_report(Report(101, -400 * MIB, 400 * MIB), 10)
    formula = "actual - stat-available-memory, and 64 MiB in reserve"
    assert watched.demand(25) == Demand(624 * MIB, 400 * MIB, formula, 15, reserve_bytes=64 * MIB)


def test_a_vm_that_shrinks_fast_keeps_its_demand() -> None:
    """The guest uses 500 MiB throughout; each report was made somewhere between two sizes."""
    watched = tracker()
    size = 4 * GIB
    for turn in range(12):
        reported_at = size + 100 * MIB if turn else size  # a little before this look
        watched.saw_size(size)
        watched.saw_report(Report(turn, -(reported_at - 500 * MIB), reported_at - 500 * MIB), turn)
        if turn > 1:
            assert 500 * MIB <= committed(watched.demand(turn)) <= 700 * MIB
        size -= 256 * MIB


def test_growth_shows_at_once_even_while_the_size_moves() -> None:
    watched = tracker()
    for turn, size in enumerate((GIB, GIB)):
        watched.saw_size(size)
        watched.saw_report(Report(turn, -700 * MIB, 700 * MIB), turn)
    assert committed(watched.demand(1)) == 324 * MIB
    watched.saw_size(900 * MIB)
    watched.saw_report(Report(2, -100 * MIB, 100 * MIB), 2)
    assert committed(watched.demand(2)) == 800 * MIB  # at least: the report may be from 900 MiB


class Reporting(Monitor):
    """The monitor of a VM whose guest reports `committed` and `available`."""

    def __init__(self, committed: int, available: int) -> None:
        self.figures = {"committed": committed, "available": available}

    async def query(self, command: str, arguments: dict[str, object] | None = None) -> object:
        assert (command, arguments) == ("query-hv-balloon-status-report", None)
        return self.figures


@pytest.mark.parametrize("ballooned", [0, 300 * MIB])
@pytest.mark.parametrize("used", [100 * MIB, 700 * MIB])
def test_the_demand_of_a_guest_with_hv_balloon_is_what_it_has_committed_less_its_balloon(
    ballooned: int, used: int
) -> None:
    source = DEMAND_SOURCES[HV_BALLOON]
    watched = DemandTracker(source)
    for turn, more in enumerate((0, MIB)):  # what was there before us says nothing
        monitor = Reporting(used + more + ballooned, 50 * MIB)

        async def look(monitor: Monitor = monitor) -> object:
            return await source.read(monitor, Device(HV_BALLOON, ""), GIB)

        report = play(look())
        assert isinstance(report, Report)
        watched.saw_size(GIB - ballooned)
        watched.saw_report(report, turn)
    assert watched.demand(1) == Demand(used + MIB, 50 * MIB, "committed - ballooned", 0)


class Counting(Monitor):
    """The monitor of a VM whose guest sends these statistics, always in the same second."""

    def __init__(self, statistics: dict[str, object]) -> None:
        self.statistics = statistics

    async def query(self, command: str, arguments: dict[str, object] | None = None) -> object:
        assert command == "qom-get"
        return {"stats": dict(self.statistics), "last-update": 1_700_000_000}


def report_of(monitor: Monitor) -> Report:
    async def look() -> object:
        return await DEMAND_SOURCES[VIRTIO_BALLOON].read(monitor, Device(VIRTIO_BALLOON, "/a"), GIB)

    report = play(look())
    assert isinstance(report, Report)
    return report


@pytest.mark.parametrize(
    "name", ["stat-available-memory", "stat-minor-faults", "stat-major-faults", "stat-free-memory"]
)
def test_two_reports_within_one_second_are_told_apart_by_their_figures(name: str) -> None:
    monitor = Counting({"stat-available-memory": 300 * MIB, name: 200 * MIB})
    first = report_of(monitor)
    assert report_of(monitor) == first
    monitor.statistics[name] = 199 * MIB
    assert report_of(monitor).mark != first.mark


@pytest.mark.parametrize("absent", [(1 << 64) - 1, -1])
def test_a_statistic_that_a_guest_does_not_have_is_absent_however_it_is_printed(absent: int) -> None:
    statistics: dict[str, object] = {
        "stat-available-memory": absent,
        "stat-free-memory": 100 * MIB,
        "stat-disk-caches": 50 * MIB,
    }
    assert report_of(Counting(statistics)).available_bytes == 150 * MIB


@pytest.mark.parametrize(
    ("statistics", "faults"),
    [
        ({"stat-major-faults": 7, "stat-swap-in": 12288}, 10),  # bytes, of three pages
        ({"stat-major-faults": 7}, 7),
        ({"stat-major-faults": 7, "stat-swap-in": (1 << 64) - 1}, 7),
        ({"stat-major-faults": (1 << 64) - 1, "stat-swap-in": 4096}, None),
        ({"stat-major-faults": -1}, None),
        ({"stat-major-faults": "many"}, None),
        ({}, None),
    ],
)
def test_pages_that_came_from_a_disk_are_counted_where_the_guest_reports_them(
    statistics: dict[str, object], faults: int | None
) -> None:
    watched = tracker()
    for available in (300 * MIB, 299 * MIB):
        watched.saw_size(GIB)
        watched.saw_report(report_of(Counting(statistics | {"stat-available-memory": available})), 1)
    known = watched.demand(1)
    assert known is not None
    assert known.faults == faults


def test_the_first_report_after_some_may_have_been_missed_is_not_believed() -> None:
    watched = tracker()
    for turn in range(2):
        watched.saw_size(GIB)
        watched.saw_report(Report(turn, -300 * MIB, 300 * MIB), turn)
    watched.missed()
    watched.saw_report(Report(2, -900 * MIB, 900 * MIB), 2)
    assert watched.demand(5) == Demand(
        *(724 * MIB, 300 * MIB, DEMAND_SOURCES[VIRTIO_BALLOON].formula, 4), reserve_bytes=64 * MIB
    )
    watched.saw_report(Report(3, -200 * MIB, 200 * MIB), 5)
    assert committed(watched.demand(5)) == 824 * MIB


def test_no_vm_is_believed_to_need_more_than_it_can_have() -> None:
    watched = DemandTracker(DEMAND_SOURCES[HV_BALLOON])
    for turn in range(2):
        watched.saw_size(GIB - 300 * MIB, 3 * GIB)
        watched.saw_report(Report(turn, (1 << 44) - GIB, 0), turn)
    assert committed(watched.demand(2)) == 3 * GIB
    watched.saw_report(Report(2, 400 * MIB - GIB, 0), 3)
    assert committed(watched.demand(3)) == 100 * MIB


def test_after_a_reset_nothing_is_known_until_the_guest_speaks_again() -> None:
    watched = DemandTracker(DEMAND_SOURCES[HV_BALLOON])
    for turn in range(2):
        watched.saw_size(GIB)
        watched.saw_report(Report(turn, -GIB + 300 * MIB, 0), turn)
    watched.forget()
    assert watched.demand(2) is None
    watched.saw_size(GIB)
    watched.saw_report(Report(1, -GIB + 300 * MIB, 0), 3)
    assert watched.demand(3) is None
    watched.saw_report(Report(2, -GIB + 100 * MIB, 0), 4)
    assert committed(watched.demand(4)) == 100 * MIB


def test_a_report_that_was_not_read_before_a_reset_is_not_the_first_one_after_it() -> None:
    watched = tracker()
    for turn in range(2):
        watched.saw_size(GIB)
        watched.saw_report(Report(turn, -300 * MIB, 300 * MIB), turn)
    watched.forget()
    watched.saw_size(GIB)
    watched.saw_report(Report(2, -900 * MIB, 900 * MIB), 2)  # made by the former guest, perhaps
    assert watched.demand(2) is None
    watched.saw_report(Report(3, -200 * MIB, 200 * MIB), 3)
    assert committed(watched.demand(3)) == 824 * MIB


@given(
    use=st.lists(st.integers(0, 1024), min_size=3, max_size=12),
    sizes=st.lists(st.tuples(st.integers(0, 1024), st.integers(0, 1024)), min_size=12, max_size=12),
)
def test_demand_is_never_below_what_the_sizes_allow_and_never_negative(
    use: list[int], sizes: list[tuple[int, int]]
) -> None:
    """Whatever the sizes do between two looks, demand lies in the range that the last report allows."""
    watched = tracker()
    before = sizes[0][1]
    for turn, (used, (at_report, size)) in enumerate(zip(use, sizes, strict=False)):
        between = min(max(at_report, min(before, size)), max(before, size))  # sizes move without overshoot
        available = between - used
        watched.saw_size(size * MIB)
        watched.saw_report(Report(turn, -available * MIB, max(0, available) * MIB), turn)
        if turn:
            spread = abs(before - size) * MIB
            assert max(0, used * MIB - spread) <= committed(watched.demand(turn)) <= used * MIB + spread
            if before == size:
                assert committed(watched.demand(turn)) == used * MIB
        before = size


def left_open(target: int = GIB) -> Unfinished:
    return Unfinished([Action(7, 0, "web", "17@1", target, "", "", None, None)])


def seen(**changes: object) -> Facts:
    vm = {"name": "web", "incarnation": "17@1", "run_state": "running", "actual_bytes": GIB} | changes
    return Facts(0, HostFacts(1, 1), (VmFacts(**vm),))  # type: ignore[arg-type]


def test_an_action_left_open_is_closed_by_looking() -> None:
    for facts, words in (
        (seen(), "reached, its size is 1 GiB"),
        (seen(actual_bytes=2 * GIB), "not reached yet, its size is 2 GiB"),
        (seen(incarnation="18@2"), "the VM has been started again since"),
        (seen(incarnation="", run_state="absent"), "the VM is gone"),
        (Facts(0, HostFacts(1, 1), ()), "the VM is no longer configured"),
    ):
        ((number, intent, outcome),) = left_open().look(facts)
        assert (number, intent.vm, outcome) == (7, "web", words)


def test_an_action_stays_open_while_its_vm_is_silent() -> None:
    unfinished = left_open()
    assert unfinished.look(seen(run_state="silent")) == []
    assert unfinished.look(seen(actual_bytes=None)) == []
    ((number, _, _),) = unfinished.look(seen())
    unfinished.close(number)
    assert len(unfinished) == 0
    assert unfinished.look(seen()) == []
