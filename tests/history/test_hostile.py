"""Whatever VMs say, taking it down raises nothing, and what is read again is what was decided by."""

from pathlib import Path

import msgspec
import pytest
from tests.manager.test_step_hostile import Liars
from tests.rigs.pasts import THREE_AM, written

from dynmem.cli.explain_at import status_of
from dynmem.cli.explain_text import explained
from dynmem.history.again import plan_of, snapshot_of
from dynmem.history.happenings import Happenings
from dynmem.history.past import Past
from dynmem.history.report import report_of
from dynmem.history.spans import spans_of
from dynmem.history.store import Row
from dynmem.policy import Plan, Snapshot


@pytest.mark.parametrize("seed", range(8))
def test_the_history_of_liars_is_kept_read_explained_and_reported(seed: int, tmp_path: Path) -> None:
    liars, happenings = Liars(seed), Happenings()
    rows, events = [], []
    given: list[tuple[Snapshot, Plan]] = []
    for at in range(40):
        liars.ask()
        liars.sweep()
        sample = liars.manager.sample()
        seen = liars.manager._seen
        assert sample is not None
        assert seen is not None
        row = Row(THREE_AM + at * 1000, 10, sample)
        rows.append(row)
        events += [(row.at_ms, event) for event in happenings.see(sample, {"v0": "no"} if at == 9 else {})]
        given.append((msgspec.structs.replace(seen.snapshot, holders=()), seen.plan))
    written(tmp_path, rows, events)
    past = Past(tmp_path)
    for row, (snapshot, plan) in zip(rows, given, strict=True):
        moment = past.moment(row.at_ms)
        assert moment.vms == row.sample.vms
        assert snapshot_of(moment) == snapshot
        again = [msgspec.structs.replace(each, reason="") for each in plan_of(moment).decisions]
        assert again == [msgspec.structs.replace(each, reason="") for each in plan.decisions]
        view = status_of(moment)
        for name in moment.vms:
            assert explained(view, view.vm(name))
    assert [event.text for event in past.events()] == [event.text[:500] for _, event in events]
    assert report_of(past, THREE_AM, rows[-1].at_ms).vms
    assert spans_of(past, None, THREE_AM)
