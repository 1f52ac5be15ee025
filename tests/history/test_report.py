"""The report: what fixed sizes hold, what was needed, and how many more would fit, each by its formula."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.rigs.pasts import THREE_AM, RecordedHost, written

from dynmem.cli.report import report
from dynmem.errors import ConfigError, UnreachableError
from dynmem.history.event import Event
from dynmem.history.past import Past
from dynmem.history.report import HostReport, report_of
from dynmem.history.store import Row
from dynmem.manager.step.sample import HostSample, Sample, VmSample
from dynmem.units import GIB, MIB

HOST = HostSample(
    mode="observe",
    budget_bytes=1000 * MIB,
    slush_bytes=100 * MIB,
    reserved_bytes=0,
    ready_bytes=0,
    occupied_bytes=500 * MIB,
    mem_available_bytes=GIB,
)


def rows_of(
    demands: Mapping[str, Sequence[int | None]], host: HostSample = HOST, *, buffer: int = 0, for_ds: int = 10
) -> list[Row]:
    """Return a row for each demand, in MiB; None: the guest reports nothing."""
    count = max(map(len, demands.values()))
    return [
        Row(
            THREE_AM + at * for_ds * 100,
            for_ds,
            Sample(
                0,
                True,
                host,
                {
                    name: VmSample(
                        name=name,
                        minimum_bytes=64 * MIB,
                        maximum_bytes=400 * MIB,
                        boot_bytes=400 * MIB,
                        actual_bytes=400 * MIB,
                        buffer_percent=buffer,
                        demand_bytes=None if need is None else need * MIB,
                        resident_bytes=300 * MIB,
                    )
                    for name, needs in demands.items()
                    if at < len(needs)
                    for need in (needs[at],)
                },
                (),
            ),
        )
        for at in range(count)
    ]


def at_second(
    folder: Path, rows: Sequence[Row], *, like: str | None = None, risk: float = 0.01
) -> HostReport:
    """Return the report of the time of these rows, in spans as short as the time allows."""
    written(folder, rows)
    return report_of(Past(folder), THREE_AM, rows[-1].at_ms, like, risk)


def test_needs_are_summed_where_they_met_and_not_at_their_peaks(tmp_path: Path) -> None:
    found = at_second(tmp_path, rows_of({"web": [100, 300, 100, 100], "db": [100, 100, 100, 300]}))
    assert found.need_peak_bytes == 400 * MIB
    assert found.sum_of_peaks_bytes == 600 * MIB
    assert found.need_mean_bytes == 300 * MIB
    assert found.met_share == 0
    assert found.static_bytes == 800 * MIB
    assert found.resident_peak_bytes == found.resident_mean_bytes == 600 * MIB
    assert found.recorded_s == 4


def test_more_fit_by_what_was_needed_than_by_fixed_sizes_and_the_risk_is_the_time_that_is_missing(
    tmp_path: Path,
) -> None:
    web = [100] * 99 + [300]
    found = at_second(tmp_path, rows_of({"web": web, "db": [200] * 100}), like="web", risk=0.01)
    assert found.capacity_bytes == 900 * MIB
    assert found.fits_static == 0  # 100 MiB are left of 900, and it takes 400
    assert found.fits == 1  # 300 + 200, and 300 more
    assert found.fits_at_risk == 6  # 100 + 200, and 600 more, but for the second of the peak
    by_number = {each.more: each for each in found.fit}
    assert (by_number[1].seconds, by_number[2].seconds, by_number[6].share) == (0, 1, 0.01)
    assert by_number[2].worst_bytes == 200 * MIB
    assert by_number[7].share == 1.0


def test_a_new_vm_like_one_that_was_away_for_a_while_is_there_all_the_time(tmp_path: Path) -> None:
    demands = {"web": [300] * 3, "db": [100] * 3 + [400] * 3, "shop": [100] * 3 + [300] * 3}
    found = at_second(tmp_path, rows_of(demands), like="web")
    assert found.need_peak_bytes == 700 * MIB  # without web, which leaves too little for another 300
    assert found.fits == 0


def test_the_buffer_the_bounds_and_what_is_kept_ready_count(tmp_path: Path) -> None:
    host = msgspec.structs.replace(HOST, ready_bytes=50 * MIB)
    found = at_second(tmp_path, rows_of({"web": [10, 200, 390]}, host, buffer=25))
    (web,) = found.vms
    assert web.need_peak_bytes == 400 * MIB  # 390 and a quarter is above its maximum
    assert found.need_mean_bytes == (64 + 250 + 400) * MIB // 3 // 4096 * 4096
    assert found.capacity_bytes == 850 * MIB


def test_what_the_host_could_not_give_is_no_capacity(tmp_path: Path) -> None:
    host = msgspec.structs.replace(HOST, mem_available_bytes=200 * MIB)
    assert at_second(tmp_path, rows_of({"web": [10]}, host)).capacity_bytes == (500 + 200 - 100) * MIB


def test_a_guest_that_never_reports_needs_its_whole_size_and_one_that_starts_the_most_of_its_reports(
    tmp_path: Path,
) -> None:
    found = at_second(tmp_path, rows_of({"web": [None] * 3, "db": [None, 80, 100]}))
    web, db = found.vms
    assert (web.signal_s, web.need_peak_bytes, web.demand_peak_bytes) == (0, 400 * MIB, None)
    assert (db.signal_s, db.there_s, db.need_peak_bytes) == (2, 3, 100 * MIB)
    assert found.need_mean_bytes == (3 * 400 + 100 + 80 + 100) * MIB // 3 // 4096 * 4096
    assert found.like == "db"  # of those that report


def test_the_model_is_the_median_unless_one_is_named(tmp_path: Path) -> None:
    rows = rows_of({"small": [70], "middle": [100], "large": [300]})
    written(tmp_path, rows)
    past = Past(tmp_path)
    assert report_of(past, THREE_AM, THREE_AM + 1).like == "middle"
    assert report_of(past, THREE_AM, THREE_AM + 1, like="large").like_need_bytes == 300 * MIB
    with pytest.raises(
        ConfigError, match="no VM 'huge' was there in that time: there was small, middle, large"
    ):
        report_of(past, THREE_AM, THREE_AM + 1, like="huge")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=30), st.floats(0, 0.9)
)
def test_it_is_what_counting_span_by_span_gives(
    tmp_path_factory: pytest.TempPathFactory, needs: list[tuple[int, int]], risk: float
) -> None:
    demands = {"web": [web for web, _ in needs], "db": [db for _, db in needs]}
    found = at_second(tmp_path_factory.mktemp("state"), rows_of(demands), like="web", risk=risk)
    clamped = [[max(64, min(400, need)) for need in demands[name]] for name in ("web", "db")]
    sums = [web + db for web, db in zip(*clamped, strict=True)]
    for each in found.fit:
        missing = [total + each.more * web - 900 for total, web in zip(sums, clamped[0], strict=True)]
        assert each.seconds == sum(one > 0 for one in missing)
        assert each.worst_bytes == max(0, *missing) * MIB
    shares = [each.share for each in found.fit]
    assert shares == sorted(shares)
    assert found.fits <= found.fits_at_risk < len(found.fit)
    assert found.need_peak_bytes == max(sums) * MIB


def test_thin_rows_give_the_same_peaks_as_the_sweeps(tmp_path: Path) -> None:
    needs = [100 + (at * 37) % 200 for at in range(3000)]
    rows = rows_of({"web": needs, "db": needs[::-1]}, for_ds=600)
    found = at_second(tmp_path, rows)
    assert {piece.step for piece in Past(tmp_path).pieces(0)} >= {"10 s", "1 min"}
    web, _ = found.vms
    assert web.demand_peak_bytes == max(needs) * MIB
    assert web.there_s == 3000 * 60
    assert web.demand_mean_bytes == sum(needs) * MIB // 3000 // 4096 * 4096


def test_in_observe_mode_it_lists_every_move_that_would_have_been_made(tmp_path: Path) -> None:
    recorded = RecordedHost(3, "observe", budget=700)
    rows = recorded.sweeps(40)
    written(tmp_path, rows, recorded.events)
    found = report_of(Past(tmp_path), THREE_AM, rows[-1].at_ms)
    said = [event for _, event in recorded.events if event.kind == "would move"]
    assert said
    assert (found.moved, found.would_move) == (0, len(said))
    assert [event.text for event in found.moves] == [event.text for event in said]
    assert sum(vm.moves for vm in found.vms) == len(said)
    assert sum(vm.got_bytes + vm.given_bytes for vm in found.vms) == 0
    most = max(-event.moved_bytes for event in said)
    assert max(vm.would_give_bytes for vm in found.vms) == most > 0


def test_the_page_names_all_of_it_and_the_json_has_a_version(tmp_path: Path) -> None:
    rows = rows_of({"web": [100] * 99 + [300], "db": [200] * 100})
    move = Event(kind="would move", vm="web", text="would shrink to 300 MiB: nobody", target_bytes=300 * MIB)
    written(tmp_path, rows, [(rows[5].at_ms, move)])
    how = ["--since", "2026-03-02T03:00:00Z", "--until", "2026-03-02T03:01:39Z", "--state", str(tmp_path)]
    text = CliRunner().invoke(report, [*how, "--like", "web"], catch_exceptions=False).output
    for words in (
        "fixed sizes hold   800 MiB",
        "needed             500 MiB at most, 300 MiB in 99 % of the time, 302 MiB on average",
        "held by the host   600 MiB at most",
        "more VMs like web (which needs 100 MiB in 99 % of the time): 0 at fixed sizes",
        "1 would have fitted at all times",
        "6 within the risk of 1.00%: for 1 s (1.00%) up to 1400 MiB was missing",
        "moves: 1 that would have been made",
        "web: would move: would shrink to 300 MiB: nobody",
    ):
        assert words in text
    reply = json.loads(CliRunner().invoke(report, [*how, "--json"], catch_exceptions=False).output)
    assert reply["schema_version"] == 1
    assert set(reply) - {"schema_version"} == set(HostReport.__struct_fields__)


def test_what_cannot_be_reported_is_a_sentence(tmp_path: Path) -> None:
    written(tmp_path, rows_of({"web": [1]}))
    for arguments, kind, words in (
        (["--risk", "100"], ConfigError, "--risk: 100 is not from 0 to below 100"),
        (["--since", "1h", "--until", "2h"], ConfigError, "swap or correct them"),
        (["--since", "2000-01-01", "--until", "2000-01-02"], UnreachableError, "it begins at 2026-"),
    ):
        done = CliRunner().invoke(report, [*arguments, "--state", str(tmp_path)])
        assert isinstance(done.exception, kind)
        assert words in str(done.exception)
