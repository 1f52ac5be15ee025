"""The measures of the trial on series made by hand."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from bench.trial import report
from bench.trial.contenders.contender import Move, Order
from bench.trial.keeper import Keeper
from bench.trial.measures import (
    NEVER,
    Heard,
    Held,
    Series,
    crossing,
    delay,
    delays,
    figures,
    integrals,
    kills,
    moved,
    outcomes,
    percentile,
)
from bench.trial.script import Burst, Restart, Script, write

from dynmem.units import MIB

BASE = 16
BURST = Burst(0, "alone", 1.0, 64 * MIB, 64 * MIB, 2.0, 64 * MIB)
SCRIPT = Script(1, 64 * MIB, 2, (BURST,), ())
STEP_S = 0.125


def burst_mib(at_s: float) -> float:
    """The demand of guest 0, in MiB."""
    return BASE + BURST.load_bytes(at_s) / MIB


def reports(
    held_mib: Callable[[float], float], *, killed_s: float = math.inf, boot_s: float = 20.0
) -> list[Heard]:
    """Guest 0's reports over the whole script; its own clock began *boot_s* earlier."""
    made = []
    for number in range(int(SCRIPT.duration_s / STEP_S) + 1):
        at_s = number * STEP_S
        made.append(
            Heard(
                at_s=at_s,
                life=0,
                t=boot_s + at_s,
                wanted=int(burst_mib(at_s) * MIB),
                held=int(held_mib(at_s) * MIB) if at_s < killed_s else 0,
                kills=int(at_s >= killed_s),
            )
        )
    return made


def series(heard: Sequence[Heard], *totals: int) -> Series:
    """A run in which guest 1 does nothing."""
    idle = [Heard(each.at_s, 0, each.t, BASE * MIB, BASE * MIB, 0) for each in heard]
    held = [Held(float(number), (total * MIB, 0)) for number, total in enumerate(totals)]
    return Series([list(heard), idle], held, [])


def late(seconds: float) -> Series:
    """A run in which the load has its memory so many seconds after it wants it."""
    return series(reports(lambda at_s: burst_mib(at_s - seconds)))


PROMPT = late(0.0)


def test_a_load_that_gets_its_memory_at_once_waits_for_nothing() -> None:
    assert set(delays(SCRIPT, PROMPT, PROMPT)) == {0.0}
    assert figures(SCRIPT, PROMPT, PROMPT)[:3] == (1, 1, 0)


def test_the_time_from_need_to_memory_is_that_of_the_held_curve_behind_the_wanted_one() -> None:
    waits = delays(SCRIPT, late(0.5), PROMPT)
    assert waits == pytest.approx([0.5] * len(waits))
    assert len(waits) == 7  # 24, 32, ... 72 MiB of 80, less what counts as reached


def test_what_an_unlimited_guest_waits_too_is_subtracted() -> None:
    assert delays(SCRIPT, late(0.75), late(0.5)) == pytest.approx([0.25] * 7)


def test_memory_that_never_came_is_never_and_stays_so_beside_any_reference() -> None:
    stuck = series(reports(lambda at_s: min(40.0, burst_mib(at_s))))
    waits = delays(SCRIPT, stuck, late(0.5))
    assert waits[:3] == [0.0] * 3
    assert waits[3:] == [NEVER] * 4
    (outcome,) = outcomes(SCRIPT, stuck)
    assert (outcome.kills, outcome.reached, outcome.survived) == (0, False, False)


def test_a_kill_during_a_burst_ends_it() -> None:
    killed = series(reports(burst_mib, killed_s=1.5))
    (outcome,) = outcomes(SCRIPT, killed)
    assert (outcome.kills, outcome.reached, outcome.survived) == (1, False, False)
    assert figures(SCRIPT, killed, PROMPT).kills == 1


def test_a_guest_that_is_lost_counts_as_killed() -> None:
    lost = PROMPT._replace(lost=[(2.0, 0), (2.0, 1)])
    assert figures(SCRIPT, lost, PROMPT)[:3] == (1, 0, 2)


def test_a_burst_after_a_kill_counts_by_itself() -> None:
    later = Burst(0, "alone", 9.0, 64 * MIB, 64 * MIB, 2.0, 64 * MIB)
    script = Script(1, 64 * MIB, 2, (BURST, later), ())

    def wanted(at_s: float) -> float:
        return BASE + sum(burst.load_bytes(at_s) for burst in script.bursts) / MIB

    heard = []
    for number in range(int(script.duration_s / STEP_S) + 1):
        at_s = number * STEP_S
        size = int(wanted(at_s) * MIB)
        dead = 1.5 <= at_s < 4.0
        heard.append(Heard(at_s, 0, at_s, size, 0 if dead else size, int(at_s >= 1.5)))
    assert [each.survived for each in outcomes(script, series(heard))] == [False, True]


def test_kills_are_counted_in_each_life_from_its_first_report() -> None:
    def life(number: int, *counts: int) -> list[Heard]:
        return [Heard(0.0, number, float(n), 0, 0, count) for n, count in enumerate(counts)]

    assert kills([life(0, 2, 2, 3) + life(1, 0, 0, 1, 2), life(0, 0, 0)]) == 3


def test_unmet_demand_is_its_size_times_its_time_less_the_references() -> None:
    stuck = series(reports(lambda _at_s: float(BASE)))
    # a trapezium of 64 MiB: 1 s of rise, 2 s of hold, 1 s of fall
    assert figures(SCRIPT, stuck, PROMPT).unmet_byte_s / MIB == pytest.approx(64 * 3.0, rel=0.02)
    assert figures(SCRIPT, stuck, stuck).unmet_byte_s == 0.0


def test_work_is_the_share_of_what_was_wanted_beside_the_references() -> None:
    assert figures(SCRIPT, PROMPT, PROMPT).work == 1.0
    half = series(reports(lambda at_s: burst_mib(at_s) / 2))
    wanted, held, _ = integrals(half)
    assert figures(SCRIPT, half, PROMPT).work == pytest.approx(held / wanted)
    assert figures(SCRIPT, half, half).work == 1.0


def test_what_happens_before_the_beginning_and_between_two_lives_is_not_added_up() -> None:
    before = [Heard(-1.0, 0, 1.0, MIB, 0, 0), Heard(-1.0, 0, 2.0, MIB, 0, 0), Heard(0.1, 0, 3.0, MIB, 0, 0)]
    after = [Heard(9.0, 1, 0.5, MIB, 0, 0)]
    assert integrals(Series([before + after], [], [])) == (MIB, 0.0, MIB)


def test_every_sample_of_all_guests_together_is_held_against_the_budget() -> None:
    budget = SCRIPT.budget_bytes // MIB
    found = figures(SCRIPT, series(PROMPT.heard[0], budget, budget + 1, 7), PROMPT)
    assert (found.samples, found.samples_above, found.peak_bytes) == (3, 1, (budget + 1) * MIB)


def test_memory_moved_is_every_change_of_a_target_since_the_beginning() -> None:
    moves = [
        Move(-5.0, Order("g0", 200 * MIB)),
        Move(1.0, Order("g0", 260 * MIB)),
        Move(2.0, Order("g0", 250 * MIB)),
        Move(3.0, Order("g1", 500 * MIB)),  # from its maximum of 512
    ]
    assert moved(moves, SCRIPT) == (60 + 10 + 12) * MIB


def test_a_guest_that_was_restarted_begins_again_with_its_maximum() -> None:
    script = Script(1, 64 * MIB, 2, (BURST,), (Restart(0, 2.0),))
    moves = [Move(1.0, Order("g0", 500 * MIB)), Move(2.5, Order("g0", 412 * MIB))]
    assert moved(moves, script) == (12 + 100) * MIB


def test_page_cache_survives_when_nobody_was_killed_and_it_was_read() -> None:
    cache = Burst(0, "cache", 1.0, 64 * MIB, 64 * MIB, 2.0, 64 * MIB)
    script = Script(1, 64 * MIB, 2, (cache,), ())
    heard = [Heard(n / 8, 0, n / 8, BASE * MIB, BASE * MIB, 0, min(n, 64) * MIB) for n in range(100)]
    (outcome,) = outcomes(script, series(heard))
    assert outcome.survived
    assert outcome.delays_s == ()
    (unread,) = outcomes(script, series([each._replace(read=0) for each in heard]))
    assert not unread.survived


def test_a_curve_crosses_a_level_between_two_reports() -> None:
    assert crossing([(0.0, 0), (1.0, 10), (2.0, 0), (3.0, 10)], 5) == 0.5
    assert crossing([(0.0, 7), (1.0, 10)], 5) == 0.0
    assert crossing([(0.0, 0), (1.0, 4)], 5) is None
    assert crossing([], 5) is None


def test_a_load_that_is_ahead_of_its_curve_waits_for_nothing() -> None:
    heard = [Heard(0.0, 0, 0.0, 0, 0, 0), Heard(1.0, 0, 1.0, 4, 8, 0), Heard(2.0, 0, 2.0, 8, 8, 0)]
    assert delay(heard, 6) == 0.0


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2.0), (0.99, 4.0), (0.0, 1.0), (0.75, 3.0)])
def test_a_percentile_is_a_value_of_the_series(share: float, expected: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], share) == expected


def test_one_memory_in_a_hundred_that_never_comes_is_in_the_99th_percentile_only_beyond_it() -> None:
    assert percentile([0.0] * 99 + [NEVER], 0.99) == 0.0
    assert percentile([0.0] * 98 + [NEVER] * 2, 0.99) == NEVER


def test_a_kept_reference_is_used_for_the_same_script_and_no_other(tmp_path: Path) -> None:
    run = PROMPT._replace(moves=[Move(1.5, Order("g0", 7))], lost=[(2.0, 1)])
    whole = write(3, rate_bytes=64 * MIB)
    assert Keeper(tmp_path, "none", whole).earlier() is None
    Keeper(tmp_path, "none", whole).series(run)
    assert Keeper(tmp_path, "none", whole).earlier() == run
    assert Keeper(tmp_path, "none", write(3, rate_bytes=64 * MIB, guests=5)).earlier() is None


def record(policy: str, seed: int, run: Series) -> report.RunRecord:
    return report.RunRecord(
        policy=policy,
        seed=seed,
        rate_bytes=64 * MIB,
        guests=2,
        backend="by hand",
        is_short=False,
        has_idle_load=False,
        figures=report.figures_record(figures(SCRIPT, run, PROMPT)),
        delays_s=[report.finite(each) for each in delays(SCRIPT, run, PROMPT)],
        bursts=report.burst_records(outcomes(SCRIPT, run)),
    )


def test_the_tables_show_each_seed_and_then_all_of_them_together() -> None:
    stuck = series(reports(lambda at_s: min(40.0, burst_mib(at_s))))
    runs = [
        record("none", 1, PROMPT),
        record("x", 1, PROMPT),
        record("none", 2, PROMPT),
        record("x", 2, stuck),
    ]
    groups = list(report.groups(runs))
    assert [group.title.split(", ")[1] for group in groups] == ["seed 1", "seed 2", "2 seeds"]
    none, other = groups[2].rows()
    assert none[:3] == ["none", "2/2", "0"]
    assert other[:3] == ["x", "1/2", "0"]
    assert other[9] == "never"
    lines = list(report.markdown(groups[2]))
    assert lines[2].count("|") == lines[3].count("|") == lines[4].count("|") == len(report.COLUMNS) + 2


def test_json_names_its_schema_and_writes_never_as_null() -> None:
    stuck = series(reports(lambda at_s: min(40.0, burst_mib(at_s))))
    text = report.encode([record("x", 1, stuck)])
    assert '"schema_version":1' in text
    assert '"delay_p99_s":null' in text
    assert "Infinity" not in text
