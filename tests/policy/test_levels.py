"""The rise through the levels: their order, who is meant, and where memory runs out."""

import pytest

from dynmem.policy import LEVELS, PRIORITIES, Climber, Level, Tops, Vm, rise

TOPS = Tops(floor=10, demand=100, at_hand=100, buffer=120, margin=140, held=150, spread=400)


def climbers(*priorities: str, weight: int = 5000) -> list[Climber]:
    machines = [
        Vm(
            name=priority,
            floor_pages=10,
            maximum_pages=400,
            demand_pages=100,
            held_pages=0,
            weight=weight,
            priority=next(each for each in PRIORITIES if each == priority),
        )
        for priority in priorities
    ]
    return [Climber(machine, TOPS, 0) for machine in machines]


@pytest.mark.parametrize(
    ("pages", "reached", "cut"),
    [
        (15, [5, 5, 5], "floors"),
        (30 + 90, [10, 10, 100], "demand normal"),
        (300, [100, 100, 100], "buffer high"),
        (300 + 40, [100, 120, 120], "buffer low"),
        (360 + 30, [130, 130, 130], "margin"),
        (1200, [400, 400, 400], None),
    ],
)
def test_a_level_begins_when_the_one_before_is_full(pages: int, reached: list[int], cut: str | None) -> None:
    found, level = rise(climbers("low", "normal", "high"), lambda _: pages)
    assert (found, level and level.name) == (reached, cut)


def test_headroom_can_be_given_less_room_than_those_who_are_short() -> None:
    def room(level: Level) -> int:
        return 1000 if level.is_short else 245

    assert rise(climbers("normal", "normal"), room)[0] == [123, 122]


def test_what_a_vm_has_at_the_start_is_not_paid_for() -> None:
    (one,) = climbers("normal")
    started = Climber(one.vm, one.tops, 90)
    assert rise([started], lambda _: 15)[0] == [105]


def test_comfort_is_not_paid_from_what_is_kept_ready_and_survival_is() -> None:
    tops = Tops(floor=10, demand=100, at_hand=130, buffer=150, margin=160, held=170, spread=400)
    poor, rich = (Climber(each.vm, tops, 0) for each in climbers("low", "high"))

    def room(level: Level) -> int:
        return 260 if level.is_survival else 260 - 40

    reached, cut = rise([poor, rich], room)
    assert (reached, cut and cut.name) == ([130, 130], "buffer high")
    survival = [level.is_survival for level in LEVELS]
    assert survival == sorted(survival, reverse=True)


def test_nobody_has_comfort_before_everybody_has_what_it_needs_to_live() -> None:
    tops = Tops(floor=10, demand=100, at_hand=150, buffer=200, margin=200, held=200, spread=400)
    poor, rich = (Climber(each.vm, tops, 0) for each in climbers("low", "high"))
    assert rise([poor, rich], lambda _: 180)[0] == [80, 100]
    assert rise([poor, rich], lambda _: 230)[0] == [100, 130]
    assert rise([poor, rich], lambda _: 330)[0] == [150, 180]


def test_levels_serve_those_who_are_short_first_and_each_kind_by_priority() -> None:
    assert [level.is_short for level in LEVELS] == sorted((level.is_short for level in LEVELS), reverse=True)
    for kind in ("demand", "at hand", "buffer"):
        order = [level.priority for level in LEVELS if level.name.startswith(kind)]
        assert tuple(order) == PRIORITIES
