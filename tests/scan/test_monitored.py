"""What replies mean, whatever stands in them."""

import random

import pytest

from dynmem.scan.monitored import VirtioMem, monitored
from dynmem.scan.visit import Answers

MIB = 1 << 20


def test_dimms_and_virtio_mem_are_told_apart() -> None:
    devices = [
        {"type": "dimm", "data": {"size": 128 * MIB}},
        {"type": "nvdimm", "data": {"size": 999 * MIB}},
        {"type": "virtio-mem", "data": {"size": 64 * MIB, "requested-size": 96 * MIB, "block-size": 2 * MIB}},
    ]
    told = monitored(Answers({"query-memory-devices": devices}))
    assert told.dimm_bytes == 128 * MIB
    assert told.virtio_mems == (VirtioMem(64 * MIB, 96 * MIB, 2 * MIB),)


def test_an_hv_balloon_is_known_by_what_it_says_even_when_it_has_no_report() -> None:
    name = "query-hv-balloon-status-report"
    without = monitored(Answers({}, {name: "guest memory status reporting not enabled"}))
    assert without.balloons == ("hv-balloon",)
    absent = monitored(Answers({}, {name: "no hv-balloon device present"}))
    assert absent.balloons == ()
    told = monitored(Answers({name: {"committed": 5 * MIB, "available": 3 * MIB}}))
    assert (told.committed_bytes, told.report.available) == (5 * MIB, 3 * MIB)


@pytest.mark.parametrize("wrong", [-1, 2**64 - 1, 2**63, True, "7", None, 1.5, [], {}])
def test_an_impossible_figure_counts_as_absent(wrong: object) -> None:
    replies = {
        "query-balloon": {"actual": wrong},
        "query-memory-size-summary": {"base-memory": wrong},
        "guest-stats": {"last-update": 5, "stats": {"stat-free-memory": wrong, "stat-available-memory": 7}},
        "guest-stats-polling-interval": wrong,
        "free-page-reporting": wrong if not isinstance(wrong, bool) else 1,
    }
    told = monitored(Answers(replies))
    assert (told.actual_bytes, told.base_bytes, told.interval_s) == (None, None, None)
    assert (told.report.free, told.report.available, told.reports_free_pages) == (None, 7, None)


def test_available_is_free_and_caches_for_an_old_kernel() -> None:
    stats = {"stat-free-memory": 3, "stat-disk-caches": 4, "stat-available-memory": 2**64 - 1}
    assert monitored(Answers({"guest-stats": {"last-update": 5, "stats": stats}})).report.available == 7


def test_whatever_a_monitor_replies_raises_nothing() -> None:
    chance = random.Random(7)
    names = ["query-status", "query-balloon", "query-memory-size-summary", "query-memory-devices"]
    names += ["query-hv-balloon-status-report", "query-migrate", "query-uuid", "/machine/peripheral"]
    names += ["guest-stats", "guest-stats-polling-interval", "free-page-reporting", "deflate-on-oom"]
    keys = ["status", "actual", "type", "name", "data", "size", "stats", "last-update", "committed", "UUID"]

    def value(depth: int) -> object:
        kind = chance.randrange(8 if depth else 6)
        plain: list[object] = [None, True, -1, 2**70, "child<virtio-balloon>", "dimm\x1b"]
        if kind < 6:
            return plain[kind]
        if kind == 6:
            return [value(depth - 1) for _ in range(3)]
        return {chance.choice(keys): value(depth - 1) for _ in range(4)}

    for _ in range(3000):
        monitored(Answers({name: value(3) for name in chance.sample(names, 5)}))
