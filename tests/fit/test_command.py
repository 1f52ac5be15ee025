"""`dynmem fit`: on a history that the manager's own recorder wrote."""

import asyncio
import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from tests.history.test_report import HOST, rows_of
from tests.rigs.pasts import THREE_AM, written

from dynmem.cli.fit import fit, risk_of
from dynmem.errors import ConfigError, ExitCode, UnreachableError
from dynmem.fit import recorded
from dynmem.fit.answer import FitReply
from dynmem.fit.recorded import trace_of
from dynmem.history.past import Past
from dynmem.history.recorder import ROWS, Recorder
from dynmem.history.report import report_of
from dynmem.units import MIB, NS_PER_MS

DAYS, PER_DAY, SPAN_DS = 9, 144, 6000
#: 300 MiB from nine to five, else 200 MiB.
WEB = [300 if 9 <= (at // 6 + 3) % 24 < 17 else 200 for at in range(DAYS * PER_DAY)]
UNTIL_MS = THREE_AM + (DAYS * PER_DAY - 1) * SPAN_DS * 100


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nine days of two VMs, as a manager with a sweep in ten minutes records them."""
    folder = tmp_path_factory.mktemp("state")
    rows = rows_of({"web": WEB, "db": [200] * len(WEB)}, for_ds=SPAN_DS)
    host = msgspec.structs.replace(HOST, period_ds=SPAN_DS)

    async def scenario() -> None:
        recorder = Recorder(folder, print)
        for at, row in enumerate(rows):
            now_ns = at * SPAN_DS * 100 * NS_PER_MS
            recorder.stepped(msgspec.structs.replace(row.sample, now_ns=now_ns, host=host), {})
            if at % ROWS == ROWS - 1:
                await recorder.written()
        await recorder.finish()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dynmem.history.recorder.time.time_ns", lambda: THREE_AM * NS_PER_MS)
        patch.setattr("dynmem.history.recorder.time.monotonic_ns", lambda: 0)
        asyncio.run(scenario())
    return folder


def run(folder: Path, *arguments: str) -> Result:
    """Answer from the nine days, unless the arguments name another time."""
    time = ["--since", "2026-03-02T00:00:00Z", "--until", "2026-03-11T02:50:00Z"]
    return CliRunner().invoke(fit, ["--state", str(folder), *time, *arguments], standalone_mode=False)


def test_what_fits_is_what_was_free_at_the_busiest_hours_and_the_report_agrees(history: Path) -> None:
    reply = json.loads(run(history, "--like", "web", "--json").output)
    found = msgspec.convert({key: reply[key] for key in FitReply.__struct_fields__}, FitReply)
    assert reply["schema_version"] == 1
    assert set(reply) - {"schema_version"} == set(FitReply.__struct_fields__)
    # Of 900 MiB 500 are needed by day, and one more needs 300.
    assert found.fits == 1
    assert found.each_bytes == 300 * MIB
    assert (found.fits_static, found.each_fixed_bytes) == (0, 400 * MIB)
    assert (found.missing_days, round(found.recorded_days, 1)) == (0, 9.0)
    day, week = found.horizons
    assert (day.fits, day.errors.times, day.errors.mean_absolute, day.errors.within_one_share) == (
        1,
        2,
        0.0,
        1.0,
    )
    assert (week.fits, week.errors.times) == (1, 0)
    assert {each.days for each in found.bottleneck.hours} == {9}
    assert [(vm.name, vm.then_bytes, vm.peak_share) for vm in found.bottleneck.vms] == [
        ("web", 300 * MIB, 1.0)
    ]
    assert report_of(Past(history), THREE_AM, UNTIL_MS, "web", 0.01).fits_at_risk == found.fits


def test_the_page_says_all_of_it_and_a_number_of_vms_that_does_not_fit_is_an_exit_code(history: Path) -> None:
    done = run(history, "--like", "web", "--vms", "2")
    assert done.return_value == ExitCode.REFUSED
    for words in (
        "recorded: 9.0 days, in spans of 10 min",
        "one more like web needs 300 MiB in 99 % of the time; at a fixed size 400 MiB",
        "1 more fit in the coming week within the risk of 1.00% of the time (1 in the coming day alone)",
        "0 more would fit if all VMs had fixed sizes",
        "2 more do not fit: in 33.36% of the recorded time up to 200 MiB would have been missing; they would",
        "would have fitted on 0 of 2 held-out days",
        "2 more would not have fitted in 33.36% of the recorded time, most of it from",
        "AHEAD  TIMES  MEAN  WORST  WITHIN 1  TOO MANY  SHORT",
        "1 day      2  0.00      0      100%        0%  0.00%",
    ):
        assert words in done.output
    done = run(history, "--like", "web", "--vms", "1")
    assert done.return_value == ExitCode.OK
    assert "1 more fit: they would have fitted at all times; they would have fitted on 2 of 2" in done.output
    assert run(history, "--like", "web", "--vms", "2", "--risk", "35%").return_value == ExitCode.OK


def test_a_vm_of_a_size_needs_it_at_all_times(history: Path) -> None:
    assert "4 more fit in the coming week" in run(history, "--size", "100M").output
    assert (
        "one more needs 100 MiB at all times: nothing is known of it" in run(history, "--size", "100M").output
    )
    assert "0 more fit in the coming week" in run(history, "--size", "4G").output


def test_with_little_history_it_says_what_is_missing_and_answers_all_the_same(history: Path) -> None:
    done = run(history, "--like", "web", "--since", "2026-03-09T02:51:00Z")
    assert "6 days of history are missing until a day can be held out" in done.output.replace("\n", " ")
    assert "1 more fit in the coming week" in done.output


def test_what_cannot_be_answered_is_a_sentence(history: Path) -> None:
    for arguments, kind, words in (
        (["--like", "nobody"], ConfigError, "no VM 'nobody' was there in that time: there was db, web"),
        (["--like", "web", "--size", "4G"], ConfigError, "leave one of them out"),
        (["--size", "4X"], ConfigError, "--size: '4X' is not a size"),
        (["--size", "1"], ConfigError, "less than a page"),
        (["--risk", "100%"], ConfigError, "not from 0 to below 100 percent"),
        (
            ["--since", "2000-01-01", "--until", "2000-02-01"],
            UnreachableError,
            "nothing is kept of that time",
        ),
    ):
        done = run(history, *arguments)
        assert isinstance(done.exception, kind), (arguments, done.output)
        assert words in str(done.exception)


def test_a_risk_is_written_as_people_write_it() -> None:
    assert [risk_of(text) for text in ("1%", "0.1 %", "0", "5")] == [0.01, 0.001, 0.0, 0.05]


def test_a_history_without_a_vm_asks_for_a_size(tmp_path: Path) -> None:
    rows = rows_of({"web": [100]})
    sample = msgspec.structs.replace(rows[0].sample, vms={})
    written(tmp_path, [rows[0]._replace(sample=sample)])
    how = ["--state", str(tmp_path), "--since", "2026-03-01", "--until", "2026-03-03"]
    assert "say how large one is with --size" in str(CliRunner().invoke(fit, how).exception)
    assert "3 more fit" in CliRunner().invoke(fit, [*how, "--size", "300M"], catch_exceptions=False).output


def test_where_there_are_many_vms_or_days_spans_are_longer_and_needs_no_smaller(
    history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = trace_of(Past(history), THREE_AM, UNTIL_MS)
    monkeypatch.setattr(recorded, "_CELLS_MAX", 500)
    long = trace_of(Past(history), THREE_AM, UNTIL_MS)
    assert (short.span_ms, long.span_ms) == (600_000, 3_600_000)
    assert short.days == long.days == DAYS
    assert short.weights.sum() - 1 == long.weights.sum()  # of the first sweep
    assert (long.need.max(axis=1) == short.need.max(axis=1)).all()
    monkeypatch.setattr(recorded, "_CELLS_MAX", 750_000)
    monkeypatch.setattr(recorded, "_HOURLY_DAYS", 5)  # older rows stand for an hour
    assert trace_of(Past(history), THREE_AM, UNTIL_MS).span_ms == 3_600_000
    monkeypatch.setattr(recorded, "DAYS_MAX", 3)
    assert trace_of(Past(history), THREE_AM, UNTIL_MS).days == 4  # the first in part
    monkeypatch.undo()
    # A date far in the past, as a clock may jump, does not make it large.
    assert trace_of(Past(history), 0, UNTIL_MS).days == DAYS
