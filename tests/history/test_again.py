"""Every number that the history shows follows from others that it keeps."""

from pathlib import Path

import msgspec
import pytest
from tests.rigs.daemon import DAEMON
from tests.rigs.pasts import RecordedHost, written

from dynmem.cli.explain_at import status_of
from dynmem.cli.explain_text import explained
from dynmem.history.again import plan_of, snapshot_of, terms_of
from dynmem.history.past import Moment, Past
from dynmem.manager.api.messages import StatusReply
from dynmem.manager.step.facts import Mode
from dynmem.units import PAGE_SIZE, pages_covering


def numbers(moment: Moment) -> list[tuple[str, int | None, int | None]]:
    """Return each number of a step as it was recorded, and computed from others that were."""
    made = {each.vm: each for each in plan_of(moment).decisions}
    host, plan = moment.host, plan_of(moment)
    found: list[tuple[str, int | None, int | None]] = [
        ("shortage", host.shortage_bytes, plan.shortage_pages * PAGE_SIZE)
    ]
    for name, vm in moment.vms.items():
        decision = made[name]
        assert vm.needed_bytes is not None
        needs = pages_covering(vm.needed_bytes)
        buffer = -(-needs * (vm.buffer_percent or 0) // 100)
        at_hand = max(buffer, (vm.at_hand_bytes or 0) // PAGE_SIZE)
        wanted = max(vm.least_bytes or 0, min(vm.most_bytes or 0, (needs + at_hand) * PAGE_SIZE))
        grown = (vm.believed_bytes or 0) + (vm.expected_bytes or 0)
        found += [
            (f"{name} wanted, by the sum", vm.wanted_bytes, wanted),
            (f"{name} wanted, by the plan", vm.wanted_bytes, decision.wanted_pages * PAGE_SIZE),
            (f"{name} planned", vm.planned_bytes, decision.target_pages * PAGE_SIZE),
            (f"{name} needed", vm.needed_bytes, grown),
            (f"{name} floor", vm.least_bytes, decision.floor_pages * PAGE_SIZE),
        ]
    return found


@pytest.mark.parametrize("budget", [700, 1100, 4000])
def test_a_thousand_numbers_are_computed_again_from_what_is_stored(tmp_path: Path, budget: int) -> None:
    recorded = RecordedHost(6, budget=budget, seed=budget)
    rows = recorded.sweeps(60)
    written(tmp_path, rows)
    past, checked = Past(tmp_path), 0
    for row in rows[4:]:  # until then, sizes are being adopted
        for what, was, computed in numbers(past.moment(row.at_ms)):
            assert was == computed, (what, row.at_ms)
            checked += 1
    assert checked >= 1000


def test_the_policy_is_given_again_what_it_was_given(tmp_path: Path) -> None:
    recorded = RecordedHost(5, budget=900)
    rows = recorded.sweeps(10)
    written(tmp_path, rows)
    seen = recorded.host.manager._seen
    assert seen is not None
    moment = Past(tmp_path).moment(rows[-1].at_ms)
    assert snapshot_of(moment) == msgspec.structs.replace(seen.snapshot, holders=())
    assert terms_of(moment.host).budget_bytes == seen.free.budget_term * PAGE_SIZE
    assert terms_of(moment.host).host_bytes == seen.free.host_term * PAGE_SIZE


@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_the_page_of_a_sweep_has_the_figures_that_the_status_had_then(tmp_path: Path, mode: Mode) -> None:
    recorded = RecordedHost(3, mode, budget=900)
    pages: list[tuple[int, str]] = []
    for _ in range(12):
        (row,) = recorded.sweeps(1)
        status = StatusReply(**msgspec.structs.asdict(recorded.host.manager.status()), manager=DAEMON)
        pages.append((row.at_ms, explained(status, status.vm("vm-1"))))
    written(tmp_path, recorded.rows)
    past = Past(tmp_path)
    for at_ms, page in pages:
        view = status_of(past.moment(at_ms))
        again = explained(StatusReply(**msgspec.structs.asdict(view), manager=DAEMON), view.vm("vm-1"))
        assert [line for line in again.splitlines() if line.startswith("  ")] == [
            line for line in page.splitlines() if line.startswith("  ")
        ]


def test_of_a_thin_row_the_plan_s_sentence_is_made_again(tmp_path: Path) -> None:
    recorded = RecordedHost(3, budget=900)
    rows = recorded.sweeps(20)
    thin = [row._replace(at_ms=row.at_ms + turn * 20_000) for turn in range(230) for row in rows]
    written(tmp_path, thin, size=200)
    past = Past(tmp_path)
    moment = past.moment(thin[500].at_ms)
    assert moment.step == "10 s"
    assert moment.vms["vm-1"].reason == ""
    assert "demand" in status_of(moment).vm("vm-1").reason
