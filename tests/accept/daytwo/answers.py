"""What a history answers when the manager and the VMs are gone, held against what the scene did and saw.

what happened to a VM, and why    dynmem history, events, explain --at
when was memory short             the host's history, and its events
how many more fit                 dynmem report
"""

import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from tests.accept.daytwo.brackets import Against, Point, Track
from tests.accept.daytwo.diary import Diary, Look
from tests.accept.daytwo.script import BOOT, BUDGET, SLUSH, VMS, Kind
from tests.accept.figures import Figures, in_bytes
from tests.rigs.managers import cli

from dynmem.dates import format_date, parse_date
from dynmem.units import MIB, NS_PER_S, PAGE_SIZE, format_size

#: A guest reports once a second, and is looked at once a second.
WITHIN_S: Final = 3.5
SIZE_SLACK: Final = MIB
#: What a size moves, and moves back, between two looks of a reader that looks once a second.
MOVED_SLACK: Final = 64 * MIB
#: What guests touch and free while two sources are read.
HELD_SLACK: Final = 16 * MIB
USED_SLACK: Final = 32 * MIB
#: From a guest's growth to the first move for it: a report, a sweep, and what it had at hand.
FIRST_MOVE_S: Final = 6.0
NOTICED_S: Final = 5.0
ROOM: Final = BUDGET - SLUSH
#: The manager keeps from 1/32 to 1/8 of the room ready, as it sees growth; docs/config.md.
READY: Final = (ROOM // 32, ROOM // 8)
RECOMPUTED: Final = 12


class NotAnsweredError(Exception):
    """A command did not answer: the sentence says why."""


class Asked:
    """The commands that look back, on one history and one time."""

    def __init__(self, state: Path, diary: Diary) -> None:
        self._state = state
        self.span = ("--since", date(diary.began_s), "--until", date(diary.ended_s))

    async def run(self, *arguments: str) -> str:
        """Return what a command prints."""
        code, out, error = await cli(*arguments, "--state", self._state)
        if code:
            raise NotAnsweredError(f"`dynmem {' '.join(arguments)}` ended with {code}: {error.strip()}")
        return out

    async def rows(self, *vm: str) -> list[dict[str, Any]]:
        """Return every sweep that is kept of a VM, or of the host."""
        reply = json.loads(await self.run("history", *vm, *self.span, "--rows", "0", "--json"))
        rows: list[dict[str, Any]] = reply["rows"]
        return rows

    async def events(self, *arguments: str) -> list[dict[str, Any]]:
        """Return what happened."""
        return [
            json.loads(line)
            for line in (await self.run("events", *arguments, *self.span, "--json")).splitlines()
        ]

    async def all_events(self) -> list[dict[str, Any]]:
        """Return all that ever happened."""
        return [json.loads(line) for line in (await self.run("events", "--json")).splitlines()]

    async def report(self, since_s: float, until_s: float, like: str) -> dict[str, Any]:
        """Return the report about a time."""
        span = ("--since", date(since_s), "--until", date(until_s))
        reply: dict[str, Any] = json.loads(await self.run("report", *span, "--like", like, "--json"))
        return reply


def date(at_s: float) -> str:
    """Return a time as the commands take it."""
    return format_date(round(at_s * NS_PER_S))


def seconds(event: dict[str, Any]) -> float:
    """Return when something happened, in seconds since the epoch."""
    return parse_date(event["at"]) / NS_PER_S


def track(rows: Iterable[dict[str, Any]], name: str, moves: Iterable[dict[str, Any]] = ()) -> Track:
    """Return one series of a history, and the sizes that moves went from and to."""
    points = [
        Point(row["at_ms"] / 1000, row["levels"][name]["low"], row["levels"][name]["high"])
        for row in rows
        if name in row["levels"]
    ]
    for move in moves:
        ends = (move["before_bytes"], move["target_bytes"])
        points.append(Point(seconds(move), min(ends), max(ends)))
    return Track(points)


async def answered(asked: Asked, diary: Diary, figures: Figures) -> None:
    """Ask all of it."""
    for vm in VMS:
        await _agrees(asked, diary, vm, figures)
    for vm in ("web", "db"):
        await _grew(asked, diary, vm, figures)
    await _came_and_went(asked, diary, figures)
    await _recomputed(asked, diary, figures)
    await _was_short(asked, diary, figures)
    await _would_have_helped(asked, diary, figures)
    await _fits(asked, diary, figures)
    await _fits_in_a_week(asked, figures)


# -- what happened to a VM, and why --------------------------------------------------------------------------


async def _agrees(asked: Asked, diary: Diary, vm: str, figures: Figures) -> None:
    """Hold the history of a VM against each look at it."""
    rows, moves = await asked.rows(vm), await asked.events(vm, "--kind", "moved")
    looks = [(at_s, seen) for at_s, seen in diary.of(vm) if diary.began_s <= at_s <= diary.ended_s]
    figures.note(f"{vm}: sweeps in its history, and looks at it", f"{len(rows)}, {len(looks)}")
    reporting = [(at_s, seen.used) for at_s, seen in looks if not diary.is_new(vm, at_s)]
    for series, seen, slack, whose in (
        ("actual", [(at_s, each.size) for at_s, each in looks], SIZE_SLACK, "QEMU's size"),
        ("resident", [(at_s, each.held) for at_s, each in looks], HELD_SLACK, "blocks of its RAM file"),
        ("demand", reporting, USED_SLACK, "what its console says it uses"),
    ):
        # what was moved between two sweeps, and moved back, is in no sweep
        known = track(rows, series, moves if series == "actual" else ())
        against = known.against(seen, within_s=WITHIN_S, slack=slack)
        hold_none(f"  looks at {whose} that it contradicts", against, slack, figures)
        for each in against[:2]:
            near = (
                f"{point.at_s - each.at_s:+.1f} s: {point.high / MIB:.0f}"
                for point in known.around(each.at_s, 8)
            )
            figures.sentence(f"there, in MiB: {', '.join(near)}")


def hold_none(what: str, against: list[Against], slack: int, figures: Figures) -> None:
    """Hold that nothing contradicts; show what does."""
    figures.equal(what, len(against), 0, f"slack {format_size(slack)}")
    for each in against[:2]:
        low, high = (f"{size / MIB:.0f}" for size in (each.low, each.high))
        figures.sentence(f"{date(each.at_s)}: {each.seen / MIB:.0f} MiB, and from {low} to {high} there")


async def _grew(asked: Asked, diary: Diary, vm: str, figures: Figures) -> None:
    """Ask what happened when a VM grew, who gave, and why."""
    grew_s, fell_s = diary.when(vm, "grow"), diary.when(vm, "fall")
    before, after = diary.between(0, grew_s)[-1], diary.between(0, fell_s)[-1]
    moves = [event for event in await asked.events("--kind", "moved") if grew_s <= seconds(event) < fell_s]
    grown = [event for event in moves if event["vm"] == vm and event["target_bytes"] > event["before_bytes"]]
    figures.at_least(f"{vm}: moves that made it grow", len(grown), 1, "the scene had it grow")
    if not grown:
        return
    late_s = seconds(grown[0]) - grew_s
    figures.at_most("  seconds from its load to the first", late_s, FIRST_MOVE_S, "by the scene's clock")
    figures.sentence(f"{grown[-1]['at']}: {grown[-1]['text']}")
    named = [event for event in grown if "demand" in event["text"]]
    figures.equal("  of them, with its demand as a reason", len(named), len(grown), "all")
    got, seen = grown[-1]["target_bytes"], max(look.vms[vm].size for look in diary.between(grew_s, fell_s))
    most = max(event["target_bytes"] for event in grown)
    figures.note("  the largest target in its history", in_bytes(most))
    # a target that another one follows at once is seen by no look
    figures.at_most("  apart from QEMU's largest size", abs(most - seen), USED_SLACK, "looks", in_bytes)
    figures.at_least("  its growth by its history", got - before.vms[vm].size, MIB, "it grew", in_bytes)
    gave = [event for event in moves if f"{vm} (priority" in event["text"]]
    givers = sorted({event["vm"] for event in gave})
    shrank = [each for each in VMS if each != vm and after.vms[each].size < before.vms[each].size]
    figures.true("  VMs whose moves say that they gave for it", ", ".join(givers), "any", holds=bool(givers))
    figures.note("  VMs that are smaller now, by QEMU", ", ".join(shrank))
    for event in gave[:1]:
        figures.sentence(f"{event['at']} {event['vm']}: {event['text']}")
    page = await asked.run("explain", vm, "--at", date(after.at_s))
    figures.true(
        "  explain --at its peak", f"{len(page.splitlines())} lines", "its demand", holds="demand" in page
    )
    reply = json.loads(await asked.run("explain", vm, "--at", date(after.at_s), "--json"))
    apart = abs(reply["vm"]["demand_bytes"] - after.vms[vm].used)
    figures.note("  its demand there", in_bytes(reply["vm"]["demand_bytes"]))
    figures.at_most("  apart from its console", apart, USED_SLACK, "two sources", in_bytes)
    last = [event for event in moves if event["vm"] == vm and seconds(event) <= after.at_s][-1]
    figures.equal("  the last move that explain names", reply["last_move"]["id"], last["id"], "the events")


async def _came_and_went(asked: Asked, diary: Diary, figures: Figures) -> None:
    """Ask what happened to the VM that was restarted, and to the one that was killed."""
    possible: dict[tuple[str, Kind], set[str]] = {
        # a restart between two sweeps is seen as one event
        ("mail", "restart"): {"went, came", "restarted"},
        ("batch", "kill"): {"went"},
    }
    for (vm, kind), expected in possible.items():
        events = [event for event in await asked.events(vm) if event["kind"] in ("went", "came", "restarted")]
        said = ", ".join(event["kind"] for event in events)
        figures.true(
            f"{vm}: what its events say of the {kind}", said, "what the scene did", holds=said in expected
        )
        late_s = abs(seconds(events[0]) - diary.when(vm, kind)) if events else float("inf")
        figures.at_most("  seconds from the deed to the first", late_s, NOTICED_S, "a sweep a second")
    rows = await asked.rows("batch")
    late_s = rows[-1]["at_ms"] / 1000 - diary.when("batch", "kill")
    figures.at_most("  seconds from its end to its last row", late_s, NOTICED_S, "it was no longer there")


async def _recomputed(asked: Asked, diary: Diary, figures: Figures) -> None:
    """Have the decisions of twelve moments computed again from what is kept of them."""
    right, length = 0, diary.ended_s - diary.began_s
    for part in range(RECOMPUTED):
        at = date(diary.began_s + length * (part + 0.5) / RECOMPUTED)
        reply = json.loads(await asked.run("explain", "web", "--at", at, "--json"))
        made = reply["again"]["decision_in_pages"]
        right += made is not None and made["target_pages"] * PAGE_SIZE == reply["vm"]["planned_bytes"]
    figures.equal("explain --at: plans that come out the same again", right, RECOMPUTED, "all")


# -- when was memory short -----------------------------------------------------------------------------------


async def _was_short(asked: Asked, diary: Diary, figures: Figures) -> None:
    """Hold the time in which memory was short against what all guests wanted, by their consoles."""
    rows = [row for row in await asked.rows() if "shortage" in row["levels"]]
    short = Track(Point(row["at_ms"] / 1000, *_low_high(row, "shortage")) for row in rows)
    looks = [look for look in diary.between(diary.began_s, diary.ended_s) if _is_whole(diary, look)]
    for what, seen in (
        ("fit, and the history has a shortage", [look for look in looks if look.wanted < ROOM - USED_SLACK]),
        ("do not fit, and the history has none", [look for look in looks if look.wanted > ROOM + USED_SLACK]),
    ):
        is_over = what.startswith("do not")
        wrong = [
            look
            for look in seen
            if all((point.high > 0) != is_over for point in short.around(look.at_s, WITHIN_S))
        ]
        figures.note(f"looks at which the guests' wants {what.partition(',')[0]}", len(seen))
        figures.equal("  and the history says otherwise", len(wrong), 0, "consoles and budget")
    events = await asked.events("--kind", "shortage", "--kind", "shortage over")
    begins = [seconds(event) for event in events if event["kind"] == "shortage"]
    figures.at_least("shortages in the events", len(begins), 1, "db grew beyond what fits")
    inside = [
        at_s for at_s in begins if diary.when("db", "grow") <= at_s < diary.when("db", "fall") + NOTICED_S
    ]
    figures.equal("  that began while db was large", len(inside), len(begins), "all: else all fits")
    lasted_s = sum(row["for_s"] for row in rows if row["levels"]["shortage"]["high"] > 0)
    least, most = (_short_s(looks, slack) for slack in (USED_SLACK, -USED_SLACK))
    figures.true(
        "  seconds with a shortage", f"{lasted_s:.0f}", f"from {least:.0f} to {most:.0f}, by the consoles",
        holds=least <= lasted_s <= most,
    )  # fmt: skip
    for event in events[:2]:
        figures.sentence(f"{event['at']}: {event['text']}")


def _low_high(row: dict[str, Any], name: str) -> tuple[float, float]:
    return row["levels"][name]["low"], row["levels"][name]["high"]


def _is_whole(diary: Diary, look: Look) -> bool:
    """Return whether all VMs that should run are in a look, and have been running for a while."""
    there = [vm for vm in VMS if vm != "batch" or look.at_s < diary.when("batch", "kill")]
    return set(there) == set(look.vms) and not any(diary.is_new(vm, look.at_s) for vm in there)


def _short_s(looks: list[Look], slack: int) -> float:
    """Return for how long more was wanted than there is, and a slack. Seconds."""
    return sum(
        min(later.at_s - look.at_s, WITHIN_S) for look, later in pairwise(looks) if look.wanted > ROOM + slack
    )


async def _would_have_helped(asked: Asked, diary: Diary, figures: Figures) -> None:
    """Ask what a larger budget, or the host without db, would have changed when most was missing."""
    looks = diary.between(diary.when("db", "grow"), diary.when("db", "fall"))
    worst = max((look for look in looks if _is_whole(diary, look)), key=lambda look: look.wanted)
    missing = worst.wanted - ROOM
    more = BUDGET + missing + MOVED_SLACK

    async def tried(*settings: str) -> tuple[int, int]:
        reply = json.loads(await asked.run("plan", "--at", date(worst.at_s), *settings, "--json"))
        return reply["now"]["shortage_bytes"], reply["tried"]["shortage_bytes"]

    short, tried_short = await tried("--budget", str(more))
    figures.note("missing at the worst look, by the consoles", in_bytes(missing))
    figures.at_most("  apart from `plan --at`", abs(short - missing), MOVED_SLACK, "the loads move", in_bytes)
    figures.equal(f"  with a budget of {in_bytes(more)}", tried_short, 0, "that is enough", in_bytes)
    _, tried_short = await tried("--without", "db")
    rest = worst.wanted - worst.vms["db"].wanted
    figures.equal("  without db", tried_short, 0, f"the others want {in_bytes(rest)}", in_bytes)
    rules = ("--rule", "dynmem", "--rule", "static")
    played = json.loads(await asked.run("simulate", *asked.span, *rules, "--json"))
    ours, static = (next(each for each in played["rules"] if each["rule"] == name) for name in rules[1::2])
    figures.equal("simulate: kills with dynmem's rules", ours["kills"], 0, "none in the guests themselves")
    figures.at_least("  MiB·s that guests lack at fixed sizes", static["unmet_mib_s"], 1, "db is too large")
    figures.at_most("  with dynmem's rules", ours["unmet_mib_s"], static["unmet_mib_s"], "no more")


# -- how many more fit ---------------------------------------------------------------------------------------


async def _fits(asked: Asked, diary: Diary, figures: Figures) -> None:
    """Ask how many more VMs such as mail fit, of three times, and count them by what was seen."""
    grew_s, killed_s = diary.when("db", "grow"), diary.when("batch", "kill")
    for what, since_s, until_s in (
        ("all the time", diary.began_s, diary.ended_s),
        ("before db grew", diary.began_s, grew_s),
        ("after batch was killed", killed_s + NOTICED_S, diary.ended_s),
    ):
        report = await asked.report(since_s, until_s, "mail")
        looks = [look for look in diary.between(since_s, until_s) if _is_whole(diary, look)]
        least, most = (more_that_fit(looks, "mail", ROOM - ready) for ready in reversed(READY))
        figures.true(
            f"more VMs like mail that fit: {what}",
            report["fits"],
            f"from {least} to {most} by the consoles, or one off",
            holds=least - 1 <= report["fits"] <= most + 1,
        )
        peak = max(look.wanted for look in looks)
        apart = abs(report["need_peak_bytes"] - peak)
        figures.note("  what all needed at most, by the report", in_bytes(report["need_peak_bytes"]))
        figures.at_most("  apart from the consoles", apart, peak // 8, "an eighth of it", in_bytes)
        figures.equal(
            "  at fixed sizes", report["fits_static"], max(0, (ROOM - 4 * BOOT) // BOOT), "512 MiB each"
        )


async def _fits_in_a_week(asked: Asked, figures: Figures) -> None:
    """Ask for the coming week: minutes are too little for that, and it has to say so."""
    reply = json.loads(await asked.run("fit", "--like", "mail", "--json"))
    figures.equal("fit: more VMs like mail in the coming week", reply["fits"], -1, "memory was short once")
    figures.at_least(
        "  days that are missing until its error is known", reply["missing_days"], 1, "it is new"
    )


def more_that_fit(looks: list[Look], like: str, room: int) -> int:
    """Return how many more VMs would have fitted at every look; -1: not even those that ran."""
    return min(-1 if look.wanted > room else (room - look.wanted) // look.vms[like].wanted for look in looks)
