"""The pieces of the scene: what contradicts what, what fits, and answers that are wrong are found to be."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.accept.daytwo import answers, boards, live, pictures
from tests.accept.daytwo.__main__ import main
from tests.accept.daytwo.answers import NOTICED_S, ROOM, Asked, more_that_fit
from tests.accept.daytwo.beside import Beside
from tests.accept.daytwo.boards import Line, Panel
from tests.accept.daytwo.brackets import Point, Track
from tests.accept.daytwo.diary import Deed, Diary, Look, Seen
from tests.accept.daytwo.script import ACTS, MINIMUM, VMS
from tests.accept.figures import Figures

from dynmem.dates import format_date
from dynmem.units import MIB, NS_PER_S

BEGAN_S, RUN_S = 1_790_000_000.0, 200.0


def test_a_figure_between_what_the_other_has_of_the_seconds_around_it_does_not_contradict() -> None:
    track = Track([Point(10, 100, 120), Point(11, 120, 160), Point(30, 0, 0)])
    assert track.against([(10.5, 99), (10.5, 161), (10.5, 130)], within_s=1, slack=1) == []


def test_a_figure_beyond_it_contradicts_and_so_does_one_of_a_time_of_which_there_is_nothing() -> None:
    track = Track([Point(10, 100, 120), Point(30, 0, 0)])
    beyond, nothing = track.against([(10.5, 122), (20, 100)], within_s=1, slack=1)
    assert (beyond.seen, beyond.low, beyond.high) == (122, 100, 120)
    assert (nothing.at_s, nothing.low == nothing.low) == (20, False)


def test_a_vm_wants_its_buffer_or_its_reserve_and_never_less_than_its_minimum() -> None:
    assert Seen(0, 0, 400 * MIB).wanted == 480 * MIB
    assert Seen(0, 0, 100 * MIB).wanted == 164 * MIB
    assert Seen(0, 0, 0).wanted == MINIMUM


def test_as_many_more_fit_as_do_at_the_worst_look() -> None:
    def look(*used: int) -> Look:
        return Look(0, {str(place): Seen(0, 0, each * MIB) for place, each in enumerate(used)})

    calm, busy = look(36, 36), look(36, 136)  # they want 100 + 100, and 100 + 200
    assert more_that_fit([calm], "0", 500 * MIB) == 3
    assert more_that_fit([calm, busy], "0", 500 * MIB) == 2
    assert more_that_fit([calm, busy], "0", 299 * MIB) == -1


# -- a run that was not played -------------------------------------------------------------------------------


class Told(Asked):
    """A history with one row a second, in which memory was short for a time.

    Attributes:
        short: When.
    """

    def __init__(self, diary: Diary, short: range) -> None:
        super().__init__(Path("/nowhere"), diary)
        self.short = short

    async def rows(self, *_vm: str) -> list[dict[str, Any]]:
        await asyncio.sleep(0)
        levels = [{"shortage": {"low": 0, "high": (second in self.short) * MIB}} for second in range(200)]
        return [
            {"at_ms": 1000 * (BEGAN_S + second), "for_s": 1.0, "levels": each}
            for second, each in enumerate(levels)
        ]

    async def events(self, *_: str) -> list[dict[str, Any]]:
        await asyncio.sleep(0)
        ends = ((self.short.start, "shortage"), (self.short.stop, "shortage over"))
        return [
            {"kind": kind, "at": format_date(round((BEGAN_S + at) * NS_PER_S)), "text": kind}
            for at, kind in ends
        ]


@pytest.fixture
def diary() -> Diary:
    """A run in which the guests wanted more than there was while db was large."""
    made = Diary()
    made.began_s, made.ended_s = BEGAN_S, BEGAN_S + RUN_S
    made.deeds = [Deed(BEGAN_S + act.part * RUN_S, act.vm, act.kind) for act in ACTS]
    grown = range(round(made.when("db", "grow")), round(made.when("db", "fall")))
    for second in range(int(RUN_S)):
        at_s = BEGAN_S + second
        there = [vm for vm in VMS if vm != "batch" or at_s < made.when("batch", "kill")]
        used = {vm: (ROOM if vm == "db" and round(at_s) in grown else 36 * MIB) for vm in there}
        made.looks.append(Look(at_s, {vm: Seen(0, 0, used[vm]) for vm in there}))
    return made


@pytest.fixture
def figures() -> Iterator[Figures]:
    """Figures, of which some were held."""
    made = Figures(print)
    yield made
    assert made.rules


def test_a_history_that_was_short_when_the_guests_wanted_too_much_is_right(
    diary: Diary, figures: Figures
) -> None:
    asyncio.run(answers._was_short(Told(diary, range(68, 112)), diary, figures))
    assert figures.wrong == []


@pytest.mark.parametrize("short", [range(98, 142), range(68, 69), range(68, 190)])
def test_a_history_that_was_short_at_another_time_or_for_another_time_is_wrong(
    diary: Diary, figures: Figures, short: range
) -> None:
    asyncio.run(answers._was_short(Told(diary, short), diary, figures))
    assert figures.wrong


def test_a_restarted_vm_is_new_until_a_while_after_it_was_seen_again(diary: Diary) -> None:
    restarted_s = diary.when("mail", "restart")
    diary.looks = [
        look._replace(vms={vm: seen for vm, seen in look.vms.items() if vm != "mail"})
        if restarted_s <= look.at_s < restarted_s + 9
        else look
        for look in diary.looks
    ]
    new = [second for second in range(-3, 40) if diary.is_new("mail", restarted_s + second)]
    assert new == list(range(24))
    assert not diary.is_new("web", restarted_s)


def test_the_script_does_one_thing_after_the_other_and_leaves_time_to_see_each() -> None:
    parts = [act.part for act in ACTS]
    assert parts == sorted(parts)
    assert {act.vm for act in ACTS} == set(VMS)
    shortest_s = 90 * min(later - part for part, later in zip(parts, [*parts[1:], 1.0], strict=True))
    assert shortest_s > NOTICED_S


def test_a_run_that_is_too_short_for_the_script_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["accept-daytwo", "--minutes", "0.5"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "1.5 or more" in capsys.readouterr().err


# -- readers of a run that was not played --------------------------------------------------------------------


def test_followed_events_are_those_of_the_history_since_the_first_and_one_that_is_missing_is_wrong(
    tmp_path: Path, figures: Figures
) -> None:
    beside = Beside(tmp_path, None)  # type: ignore[arg-type] # no manager runs
    beside.ended_s, beside.codes["events"] = BEGAN_S + 10, 130
    (tmp_path / "events.errors").touch()
    events = [
        {"id": number, "at": format_date(round((BEGAN_S + number) * NS_PER_S))} for number in range(1, 12)
    ]

    def follow(*numbers: int) -> None:
        (tmp_path / "events").write_text("".join(json.dumps({"id": number}) + "\n" for number in numbers))
        live.followed_all(beside, events, figures)

    follow(3, 4, 5, 6, 7)  # what happened in the last moment may not have been printed
    follow(3, 4, 5, 6, 7, 8, 9)
    assert figures.wrong == []
    follow(3, 4, 6, 7)
    assert figures.wrong


def test_the_names_and_a_value_are_read_out_of_metrics() -> None:
    text = '# HELP a_b what\n# TYPE a_b gauge\na_b 1.5\n# TYPE c gauge\nc{vm="a_b"} 2\n'
    assert live.families(text) == {"a_b", "c"}
    assert live.sample(text, "a_b") == 1.5


# -- pictures ------------------------------------------------------------------------------------------------


def test_a_line_of_a_panel_has_the_name_that_grafana_gives_it_without_the_only_hosts_address() -> None:
    found = {"metric": {"vm": "web", "instance": "127.0.0.1:4711"}, "values": [[1.5, "2"], [2.5, "NaN"]]}
    line = boards._line(found, "{{instance}} {{vm}} size")
    assert (line.legend, line.points) == ("web size", [(1.5, 2.0), (2.5, None)])
    assert boards._line(found, "{{instance}}").legend == "this host"
    assert boards._line(found, "").legend == "vm=web"


def test_a_query_without_data_is_wrong(figures: Figures) -> None:
    full = Panel("hosts", "Load", "percentunit", "stat", [Line("this host", [(1.0, 0.5)])], [])
    boards.hold_panels([full], figures)
    assert figures.wrong == []
    boards.hold_panels([full, full._replace(lines=[], empty=["dynmem_host_load"])], figures)
    assert len(figures.wrong) == 1


def test_a_picture_of_a_terminal_asks_for_no_font_from_anywhere() -> None:
    face = '@font-face {\n font-family: "Fira Code";\n src: url("https://example.org/a.woff2");\n }'
    drawn = f"<svg><style>\n{face}\n{face}\n.a {{ font-family: Fira Code, monospace; }}</style></svg>"
    assert "http" not in pictures.alone(drawn)
    assert "Fira" not in pictures.alone(drawn)
    assert pictures.alone(drawn).endswith(".a { font-family: monospace; }</style></svg>")
