"""The live table without its drawing: rows, orders, filters, heads, and what has to be drawn again."""

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.rigs.daemon import DAEMON
from tests.rigs.status_double import reply, vm_view

from dynmem.cli import main
from dynmem.errors import UnreachableError
from dynmem.manager.api.client import status_of
from dynmem.manager.api.messages import StatusReply
from dynmem.manager.step.view import LastChangeView, VmView
from dynmem.top.columns import BY_KEY, COLUMNS, ago_text
from dynmem.top.host import alarms, host_line, mode_line
from dynmem.top.table import Table, changed, need, rows_of
from dynmem.top.watch import Lost, Seen, looked
from dynmem.units import GIB, MIB, NS_PER_S

COMING_FROM = Path(__file__).resolve().parent.parent.parent / "docs" / "coming-from.md"


def status(*vms: VmView, **changes: object) -> StatusReply:
    return status_of(reply(*vms, **changes))


def table(*vms: VmView) -> Table:
    made = Table()
    made.show(rows_of(status(*vms)))
    return made


def names(of: Table) -> list[str]:
    return [row.name for row in of.lines]


def test_a_row_has_the_figures_of_its_vm() -> None:
    (row,) = rows_of(status(vm_view()))
    assert row.cells == (
        "vm0",
        "running",
        "300M",
        "512M",
        "512M",
        "411M",
        "212M",
        "59%",
        "12 s: grow to 512 MiB",
    )


def test_what_is_not_known_is_a_dash_and_comes_last_in_either_direction() -> None:
    unknown = vm_view(1, demand_bytes=None, last_change=None)
    made = table(vm_view(0), unknown, vm_view(2))
    assert made.lines[-1].cells[2:] == ("-", "512M", "512M", "411M", "-", "-", "-")
    assert names(made) == ["vm2", "vm0", "vm1"]
    made.sort("d")
    assert names(made) == ["vm0", "vm2", "vm1"]


def test_every_column_has_a_key_that_sorts_by_it_and_the_same_key_inverts() -> None:
    last = vm_view().last_change
    assert last is not None
    small = vm_view(
        name="a",
        run_state="paused",
        demand_bytes=MIB,
        assigned_bytes=2 * MIB,
        actual_bytes=10 * MIB,
        resident_bytes=MIB,
        last_change=msgspec.structs.replace(last, at_ns=0),
    )
    large = vm_view(name="B", actual_bytes=GIB, resident_bytes=GIB)
    first = dict.fromkeys(BY_KEY, "B") | {"n": "a", "s": "a"}
    for key in BY_KEY:
        made = table(small, large)
        if made.order != BY_KEY[key]:
            made.sort(key)
        assert names(made)[0] == first[key], key
        made.sort(key)
        assert names(made)[1] == first[key], key


def test_equal_vms_keep_the_order_of_the_configuration() -> None:
    made = table(*(vm_view(name=name) for name in "zay"))
    made.sort("a")
    assert names(made) == ["z", "a", "y"]


def test_names_are_filtered_whatever_the_case() -> None:
    made = table(vm_view(name="web-1"), vm_view(name="DB"), vm_view(name="web-2"))
    made.filter(" WEB ")
    assert (sorted(names(made)), made.count) == (["web-1", "web-2"], 3)
    made.show(rows_of(status(vm_view(name="web-3"), vm_view(name="mail"))))
    assert names(made) == ["web-3"]
    made.filter("")
    assert len(names(made)) == 2


def test_esxtops_and_hyper_vs_words_stand_below_ours_in_turn_and_are_those_of_the_page() -> None:
    made = table(vm_view())
    assert len(made.heads()) == 1
    made.next_words()
    ours, theirs = made.heads()
    assert ours.index("TARGET") + len("TARGET") == theirs.index("SZTGT") + len("SZTGT")
    made.next_words()
    assert "Assigned Memory" in made.heads()[1]
    made.next_words()
    assert len(made.heads()) == 1
    page = COMING_FROM.read_text()
    for column in COLUMNS[2:]:
        for word in (*column.esxtop.split("-"), column.hyper_v):
            assert word in page


def test_only_what_looks_different_is_drawn_again() -> None:
    before = rows_of(status(*map(vm_view, range(5))))
    now = rows_of(status(*(vm_view(n, resident_bytes=MIB if n == 3 else 411 * MIB) for n in range(5))))
    assert changed(before, before) == []
    assert changed(before, now) == [3]
    assert changed(before, now[:4]) == [3, 4]


def test_a_column_grows_with_its_cells_and_does_not_shrink_again() -> None:
    made = table(vm_view())
    made.show(rows_of(status(vm_view(name="a-rather-long-name"))))
    widths = list(made.widths)
    assert widths[0] == len("a-rather-long-name")
    made.show(rows_of(status(vm_view())))
    assert made.widths == widths
    made.show(rows_of(status(vm_view(name="n" * 64))))
    assert made.widths[0] == 32
    assert len({len(made.line(row.cells)) for row in made.lines} | {len(made.heads()[0])}) == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "met"),
        ({"short_bytes": 1}, "low"),
        ({"demand_bytes": GIB}, "warning"),
        ({"demand_bytes": None}, "met"),
        ({"there": False}, "away"),
    ],
)
def test_what_a_vm_lacks_is_seen_as_hyper_v_has_it(changes: dict[str, Any], expected: str) -> None:
    assert need(vm_view(**changes)) == expected


def test_why_a_vm_is_left_alone_stands_beside_its_state() -> None:
    (row,) = rows_of(status(vm_view(run_state="paused", standing="frozen")))
    assert row.cells[1] == "paused, frozen"


def test_a_move_that_was_not_sent_says_so() -> None:
    last = LastChangeView(
        target_bytes=MIB,
        reason="would shrink to 1 MiB: x",
        measurement="",
        sent=False,
        at_ns=13 * NS_PER_S,
    )
    (row,) = rows_of(status(vm_view(last_change=last)))
    assert row.cells[-1] == "0 s: would shrink to 1 MiB (not sent)"


def test_a_time_that_has_passed_is_in_its_largest_unit() -> None:
    assert [ago_text(s) for s in (-1, 59.9, 60, 7199, 7200, 200_000)] == [
        "0 s",
        "59 s",
        "1 min",
        "1 h",
        "2 h",
        "2 d",
    ]


def test_no_text_of_a_status_controls_a_terminal() -> None:
    evil = "\x1b[2J\x07\r\n\u202e[red]"
    plain = vm_view().last_change
    assert plain is not None
    last = msgspec.structs.replace(plain, reason=evil)
    made = table(vm_view(name=evil, run_state=evil, last_change=last))
    made.next_words()
    host = status(vm_view(name=evil), mode="enforce")
    texts = [*made.heads(), *map(made.line, [made.lines[0].cells]), mode_line(host), host_line(host)]
    assert all(text.isprintable() for text in texts)
    assert "[red]" in made.lines[0].cells[0]


def test_the_host_is_two_lines_and_what_is_wrong() -> None:
    found = status(vm_view(), vm_view(1, there=False), emergency=True, shortage_bytes=MIB)
    assert mode_line(found).startswith(
        "observe (nothing is sent); a sweep every 1 s, the last 0.2 s ago; 2 VMs, 1"
    )
    assert host_line(found).startswith("budget 8 GiB, held 0 B, free 7.75 GiB by the budget, ready 0 B")
    assert [line.split(":")[0] for line in alarms(found)] == ["EMERGENCY", "SHORTAGE"]
    assert list(alarms(status())) == []


def test_a_file_that_the_manager_cannot_use_is_among_what_is_wrong() -> None:
    daemon = msgspec.structs.replace(
        DAEMON, journal_problem="no room", history_problem="damaged\x1b", config_problem="has changed"
    )
    assert list(alarms(status(manager=daemon))) == [
        "JOURNAL: no room",
        "HISTORY: damaged?",
        "CONFIGURATION: has changed",
    ]


def test_a_look_without_a_reply_or_with_another_programs_is_a_result() -> None:
    def unreachable() -> StatusReply:
        raise UnreachableError("it is gone")

    assert looked(unreachable) == Lost("it is gone")
    foreign = looked(lambda: status_of({"schema_version": 1, "ok": True}))
    assert isinstance(foreign, Lost)
    assert foreign.why.startswith("the reply is not a status that this version can show")
    assert isinstance(looked(lambda: status(vm_view())), Seen)


def test_without_textual_a_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith(("textual", "dynmem.top.screen"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "textual", None)
    monkeypatch.setattr("dynmem.cli.top.is_terminal", lambda: True)
    with pytest.raises(SystemExit) as ended:
        main(["top"])
    assert ended.value.code == 1
    assert "run `pip install dynmem[top]`, or `dynmem top --batch`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["-n", "3"], "--count: the table has no last look"), ([], "the table needs a terminal")],
)
def test_the_table_is_for_a_terminal_and_has_no_last_look(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["top", *arguments])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
