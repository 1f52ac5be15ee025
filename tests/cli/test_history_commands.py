"""``dynmem history``, ``events`` and ``explain --at``: from a file alone, with no manager."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from tests.rigs.daemon import DAEMON
from tests.rigs.pasts import THREE_AM, RecordedHost, written

from dynmem.cli.history import events, history
from dynmem.cli.status import explain
from dynmem.cli.status_text import rendered
from dynmem.errors import ConfigError, DynmemError, NotPermittedError, UnreachableError
from dynmem.history.event import Event
from dynmem.history.past import Past
from dynmem.history.store import Store
from dynmem.manager.api.messages import StatusReply
from dynmem.units import MIB

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A history of ten minutes from three o'clock, UTC."""
    where = tmp_path_factory.mktemp("state")
    recorded = RecordedHost(3, budget=900)
    rows = recorded.sweeps(120)
    spread = [row._replace(at_ms=THREE_AM + 5000 * at, for_ds=50) for at, row in enumerate(rows)]
    dates = {row.at_ms: spread[at].at_ms for at, row in enumerate(rows)}
    written(where, spread, [(dates[at_ms], event) for at_ms, event in recorded.events])
    return where


def iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000).astimezone().isoformat(timespec="seconds")


def between(folder: Path, since: int = 0, until: int = 600) -> list[str]:
    return [
        "--since",
        iso(THREE_AM + since * 1000),
        "--until",
        iso(THREE_AM + until * 1000),
        "--state",
        str(folder),
    ]


def run(command: object, arguments: Sequence[str]) -> str:
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)  # type: ignore[arg-type]
    assert done.exit_code == 0, done.output
    return done.output


def refusal(command: object, arguments: Sequence[str]) -> DynmemError:
    done = CliRunner().invoke(command, arguments)  # type: ignore[arg-type]
    assert isinstance(done.exception, DynmemError), done.output
    return done.exception


def test_a_vm_s_history_is_a_table_whose_means_and_peaks_are_those_of_the_sweeps(folder: Path) -> None:
    reply = json.loads(run(history, ["vm-1", *between(folder), "--json", "--rows", "11"]))
    assert (reply["schema_version"], reply["vm"], reply["step_s"]) == (1, "vm-1", 60)
    demands = [
        demand
        for piece in Past(folder).pieces(0)
        if (block := piece.vm("vm-1"))
        for demand in block.figure("demand_bytes")
        if demand is not None
    ]
    rows = reply["rows"]
    assert sum(row["for_s"] for row in rows) == 600
    assert max(row["levels"]["demand"]["high"] for row in rows) == max(demands)
    assert min(row["levels"]["demand"]["low"] for row in rows) == min(demands)
    total = sum(row["levels"]["demand"]["mean"] * row["for_s"] for row in rows)
    assert total == pytest.approx(5 * sum(demands), rel=1e-6)
    text = run(history, ["vm-1", *between(folder)])
    assert text.splitlines()[0].split() == [
        "UNTIL",
        "DEMAND",
        "PEAK",
        "PRESSURE",
        "ACTUAL",
        "RESIDENT",
        "TARGET",
        "PLAN",
        "SHORT",
        "STATE",
    ]
    assert "What happened:" in text


def test_without_a_name_it_is_the_host_s(folder: Path) -> None:
    text = run(history, between(folder))
    assert text.splitlines()[0].split()[:3] == ["UNTIL", "AVAILABLE", "LEAST"]
    assert len([line for line in text.splitlines() if line.startswith("20")]) > 10


def test_as_many_rows_as_are_kept_can_be_had(folder: Path) -> None:
    assert len(json.loads(run(history, ["vm-1", *between(folder), "--json", "--rows", "0"]))["rows"]) == 120


def test_events_are_lines_of_json_with_a_schema_version(folder: Path) -> None:
    lines = [json.loads(line) for line in run(events, [*between(folder), "--json"]).splitlines()]
    assert {line["schema_version"] for line in lines} == {1}
    assert [line["id"] for line in lines] == sorted(line["id"] for line in lines)
    moved = [line for line in lines if line["kind"] == "moved"]
    assert moved
    assert all(
        line["at"] >= "2026-03-02T03:00:00" and line["text"] and line["target_bytes"] for line in moved
    )
    fields = {field for line in lines for field in line} - {"schema_version"}
    assert fields <= set(Event.__struct_fields__)
    some = run(events, ["vm-1", *between(folder), "--kind", "moved"]).splitlines()
    assert len(some) == len([line for line in moved if line["vm"] == "vm-1"])
    assert all(" vm-1: moved: " in line for line in some)


def test_explain_at_shows_the_sums_of_that_time_and_the_last_move(folder: Path) -> None:
    text = run(explain, ["vm-1", "--at", iso(THREE_AM + 300_500), "--state", str(folder)])
    assert "What it wants" in text
    assert "What the host has" in text
    assert re.search(r"^last move, 2026-03-02 \d\d:0\d:\d\d: ", text, re.MULTILINE)
    reply = json.loads(
        run(explain, ["vm-1", "--at", iso(THREE_AM + 300_500), "--state", str(folder), "--json"])
    )
    assert reply["at"] == "2026-03-02T03:05:00.000000Z"
    assert reply["vm"]["planned_bytes"] == reply["again"]["decision_in_pages"]["target_pages"] * 4096
    assert reply["vm"]["wanted_bytes"] == reply["again"]["decision_in_pages"]["wanted_pages"] * 4096


def test_following_goes_on_with_what_happens_and_survives_a_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def event(text: str) -> tuple[int, Event]:
        return (THREE_AM, Event(kind="moved", vm="web", text=text))

    store = Store(tmp_path)
    store.add([], [event(f"old {number}") for number in range(15)])
    turns = iter(range(5))

    def nap(_: float) -> None:
        match next(turns):
            case 0:
                store.add([], [event("new")])
            case 2:
                store.close()
                for path in tmp_path.iterdir():
                    path.rename(path.with_name(path.name + ".aside-1"))
                other = Store(tmp_path)
                other.add([], [event("of another file")])
                other.close()
            case 4:
                raise KeyboardInterrupt

    monkeypatch.setattr("dynmem.cli.history.time.sleep", nap)
    done = CliRunner().invoke(events, ["--follow", "--json", "--state", str(tmp_path)])
    texts = [json.loads(line)["text"] for line in done.stdout.splitlines()]
    assert texts == [*(f"old {number}" for number in range(5, 15)), "new", "of another file"]


def test_a_reader_holds_no_writer_up_and_sees_whole_batches(tmp_path: Path) -> None:
    store, recorded = Store(tmp_path), RecordedHost(2)
    store.add(recorded.sweeps(20), [])
    past = Past(tmp_path)
    writing = threading.Thread(target=lambda: store.add(recorded.sweeps(20), []))
    writing.start()
    writing.join(100)
    assert not writing.is_alive()
    assert sum(len(piece.rows) for piece in past.pieces(0)) == 20
    assert sum(len(piece.rows) for piece in Past(tmp_path).pieces(0)) == 40
    store.close()


@pytest.mark.parametrize(
    ("command", "arguments", "kind", "words"),
    [
        (history, ["nosuch"], ConfigError, "has no VM nosuch: it has vm-0, vm-1, vm-2"),
        (events, ["nosuch"], ConfigError, "has no VM nosuch"),
        (explain, ["nosuch", "--at", "3am"], ConfigError, "has no VM nosuch"),
        (history, ["--since", "noon"], ConfigError, "--since: 'noon' is not a time: write it like 3am"),
        (
            history,
            ["--since", "1h", "--until", "2h"],
            ConfigError,
            "--since: '1h' is not before --until '2h'",
        ),
        (
            history,
            ["--since", "2026-03-02T03:00:00Z", "--until", "2026-03-02T03:00:00Z"],
            ConfigError,
            "is not before --until",
        ),
        (events, ["--since", "0001-01-01T00:00:00+12:00"], ConfigError, "--since: date value out of range"),
        (history, ["--rows", "-1"], ConfigError, "--rows: -1 is below 0"),
        (
            history,
            ["vm-1", "--since", "2000-01-01", "--until", "2000-01-02"],
            UnreachableError,
            "it begins at 2026-",
        ),
        (explain, ["vm-1", "--at", "2000-01-01"], UnreachableError, "it begins at 2026-"),
        (events, ["--kind", "moves"], ConfigError, "--kind: there is no 'moves': there are started, stopped"),
        (events, ["--follow", "--until", "2h"], ConfigError, "leave out one of the two"),
    ],
)
def test_what_cannot_be_shown_is_a_sentence_with_the_next_step(
    folder: Path, command: object, arguments: list[str], kind: type[DynmemError], words: str
) -> None:
    error = refusal(command, [*arguments, "--state", str(folder)])
    assert isinstance(error, kind)
    assert words in str(error).replace("'nosuch'", "nosuch")


def test_where_there_is_no_history_it_says_who_keeps_one(tmp_path: Path) -> None:
    for command in (history, events):
        error = refusal(command, ["--state", str(tmp_path)])
        assert "`dynmem run` keeps one in the folder that its file calls manager.state" in str(error)


def test_a_history_in_a_folder_of_another_user_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", denied)
    with pytest.raises(NotPermittedError, match=r"history\.sqlite: cannot be read .*: use sudo"):
        Past(tmp_path)


def test_a_time_long_ago_is_the_thin_row_before_it_and_says_so(tmp_path: Path) -> None:
    recorded = RecordedHost(1)
    rows = recorded.sweeps(20)
    long = [row._replace(at_ms=THREE_AM + 10_000 * at, for_ds=100) for at, row in enumerate(rows * 60)]
    written(tmp_path, long)
    text = run(explain, ["vm-0", "--at", iso(THREE_AM + 15_000), "--state", str(tmp_path)])
    assert text.splitlines()[0].endswith(", the sweep that is kept of 10 s, enforce")


def test_the_page_of_fields_is_what_the_classes_say() -> None:
    command = [sys.executable, "-m", "scripts.history", "--print"]
    made = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert made == (ROOT / "docs" / "history-fields.md").read_text(), "run python -m scripts.history"


def test_a_month_of_a_vm_is_read_in_a_few_pieces(tmp_path: Path) -> None:
    recorded = RecordedHost(2, budget=100 * MIB)
    rows = recorded.sweeps(20)
    days = [row._replace(at_ms=THREE_AM + 60_000 * at, for_ds=600) for at, row in enumerate(rows * 150)]
    written(tmp_path, days, size=200)
    past = Past(tmp_path)
    assert len(list(past.pieces(0))) < 80


def test_the_status_says_why_the_history_cannot_be_written() -> None:
    daemon = msgspec.structs.replace(DAEMON, history_problem="/var/lib/dynmem: no room")
    recorded = RecordedHost(1)
    recorded.sweeps(1)
    status = StatusReply(**msgspec.structs.asdict(recorded.host.manager.status()), manager=daemon)
    assert "HISTORY: /var/lib/dynmem: no room" in rendered(status)
