"""The division of memory: levels, priorities, weights, headroom, and the reasons."""

import pickle

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynmem.policy import HUGE_PAGES, Decision, Plan, Priority, Sizes, Snapshot, Vm, plan

MIB = 256  # pages


def vm(name: str, demand: int, **more: object) -> Vm:
    fields: dict[str, object] = {
        "floor_pages": 64 * MIB,
        "maximum_pages": 1024 * MIB,
        "held_pages": 256 * MIB,
    }
    return msgspec.convert({"name": name, "demand_pages": demand * MIB, **fields, **more}, Vm)


def by_name(result: Plan) -> dict[str, Decision]:
    return {decision.vm: decision for decision in result.decisions}


@st.composite
def vms(draw: st.DrawFn) -> tuple[Vm, ...]:
    made = []
    for index in range(draw(st.integers(1, 7))):
        floor = draw(st.integers(1, 400 * MIB))
        maximum = draw(st.integers(floor, 1000 * MIB))
        priority: Priority = draw(st.sampled_from(("low", "normal", "high")))
        made.append(
            Vm(
                name=f"vm{index}",
                floor_pages=floor,
                maximum_pages=maximum,
                demand_pages=draw(st.integers(0, 1200 * MIB)),
                held_pages=draw(st.integers(floor, maximum)),
                buffer_percent=draw(st.sampled_from((0, 5, 20, 100))),
                weight=draw(st.integers(1, 10_000)),
                priority=priority,
                at_hand_pages=draw(st.sampled_from((0, 64 * MIB, 200 * MIB))),
                margin_pages=draw(st.integers(0, 128 * MIB)),
            )
        )
    return tuple(made)


CAPACITIES = st.integers(0, 6000 * MIB)
READY = st.integers(0, 600 * MIB)


@given(vms(), CAPACITIES, READY)
def test_the_sum_of_targets_passes_the_capacity_only_by_floors(
    machines: tuple[Vm, ...], capacity: int, ready: int
) -> None:
    total = sum(each.target_pages for each in plan(Snapshot(capacity, machines, ready_pages=ready)).decisions)
    assert total <= max(capacity, sum(each.floor_pages for each in machines))


@given(vms(), CAPACITIES, READY)
def test_what_is_kept_ready_is_spent_only_on_what_guests_need_to_live(
    machines: tuple[Vm, ...], capacity: int, ready: int
) -> None:
    decisions = plan(Snapshot(capacity, machines, ready_pages=ready)).decisions
    left = capacity - sum(each.target_pages for each in decisions)
    for machine, decision in zip(machines, decisions, strict=True):
        need = machine.demand_pages + machine.at_hand_pages
        live = max(machine.floor_pages, min(machine.maximum_pages, need))
        assert left >= ready or decision.target_pages < live + HUGE_PAGES


@given(vms(), CAPACITIES)
def test_every_target_lies_between_floor_and_maximum(machines: tuple[Vm, ...], capacity: int) -> None:
    for machine, decision in zip(machines, plan(Snapshot(capacity, machines)).decisions, strict=True):
        assert machine.floor_pages <= decision.target_pages <= machine.maximum_pages
        assert decision.target_pages % HUGE_PAGES == 0 or decision.target_pages in (
            machine.floor_pages,
            machine.maximum_pages,
            machine.held_pages,
        )


@given(vms(), CAPACITIES, st.data())
def test_more_demand_never_brings_less(machines: tuple[Vm, ...], capacity: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(machines) - 1))
    more = data.draw(st.integers(1, 300 * MIB))
    asking = msgspec.structs.replace(machines[index], demand_pages=machines[index].demand_pages + more)
    after = (*machines[:index], asking, *machines[index + 1 :])
    was = plan(Snapshot(capacity, machines)).decisions[index].target_pages
    assert plan(Snapshot(capacity, after)).decisions[index].target_pages >= was


@given(vms(), CAPACITIES, st.integers(0, 1000 * MIB))
def test_more_memory_never_brings_anybody_less_of_what_is_wanted(
    machines: tuple[Vm, ...], capacity: int, more: int
) -> None:
    before, after = plan(Snapshot(capacity, machines)), plan(Snapshot(capacity + more, machines))
    assert after.shortage_pages <= before.shortage_pages
    for was, now in zip(before.decisions, after.decisions, strict=True):
        assert min(now.target_pages, now.wanted_pages) >= min(was.target_pages, was.wanted_pages)


STEP = 128 * MIB


@st.composite
def stepped_vms(draw: st.DrawFn) -> tuple[Vm, ...]:
    """As the manager shows VMs that grow by hot add: floor and maximum are sizes that they can have."""
    made = []
    for machine in draw(vms()):
        sizes = Sizes(draw(st.integers(1, 500 * MIB)), draw(st.sampled_from((0, STEP, 4 * STEP))))
        most = sizes.down(machine.maximum_pages)
        floor = min(sizes.up(machine.floor_pages), most)
        held = max(floor, sizes.down(machine.held_pages))
        made.append(
            msgspec.structs.replace(
                machine, sizes=sizes, maximum_pages=most, floor_pages=floor, held_pages=min(held, most)
            )
        )
    return tuple(made)


@given(stepped_vms(), CAPACITIES)
def test_targets_are_sizes_that_a_vm_can_come_to_and_fit(machines: tuple[Vm, ...], capacity: int) -> None:
    decisions = plan(Snapshot(capacity, machines)).decisions
    total = sum(each.target_pages for each in decisions)
    assert total <= max(capacity, sum(each.floor_pages for each in machines))
    for machine, decision in zip(machines, decisions, strict=True):
        assert machine.floor_pages <= decision.target_pages <= machine.maximum_pages
        assert machine.sizes.down(decision.target_pages) == decision.target_pages


@given(st.integers(0, 1000), st.integers(0, 100), st.integers(0, 2000))
def test_sizes_are_rounded_to_the_nearest_step_on_either_side(whole: int, step: int, pages: int) -> None:
    sizes = Sizes(whole, step)
    below, above = sizes.down(pages), sizes.up(pages)
    assert below <= pages <= above
    assert above - below in (0, step)
    assert (below == pages) == (above == pages)
    assert sizes.down(below) == below
    assert sizes.up(above) == above


def test_what_is_left_over_of_a_step_goes_to_others() -> None:
    whole = Sizes(256 * MIB, STEP)
    web = vm("web", 500, sizes=whole, buffer_percent=0)
    machines = (web, vm("db", 500, buffer_percent=0))
    targets = by_name(plan(Snapshot(900 * MIB, machines)))
    assert targets["web"].target_pages == 384 * MIB
    assert targets["db"].target_pages == 516 * MIB


@given(vms(), CAPACITIES, READY)
def test_a_plan_carried_out_is_planned_again(machines: tuple[Vm, ...], capacity: int, ready: int) -> None:
    first = plan(Snapshot(capacity, machines, ready_pages=ready))
    held = tuple(
        msgspec.structs.replace(machine, held_pages=decision.target_pages)
        for machine, decision in zip(machines, first.decisions, strict=True)
    )
    again = plan(Snapshot(capacity, held, ready_pages=ready))
    # What 2 MiB steps leave over may still move, never more than that for each VM.
    slack = HUGE_PAGES * len(machines)
    for was, now in zip(first.decisions, again.decisions, strict=True):
        assert abs(now.target_pages - was.target_pages) <= slack


@given(vms(), CAPACITIES, st.data())
def test_what_is_kept_is_left_and_costs_the_others_no_more_than_that(
    machines: tuple[Vm, ...], capacity: int, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(machines) - 1))
    keeping = msgspec.structs.replace(machines[index], kept_pages=machines[index].held_pages)
    after = (*machines[:index], keeping, *machines[index + 1 :])
    result = plan(Snapshot(capacity, after))
    assert result.decisions[index].target_pages >= keeping.held_pages
    bounds = sum(each.floor_pages for each in machines) + keeping.held_pages
    assert sum(each.target_pages for each in result.decisions) <= max(capacity, bounds)


def test_swapping_two_weights_changes_the_plan() -> None:
    heavy, light = vm("a", 600, weight=9000), vm("b", 600, weight=1000)
    swapped = (vm("a", 600, weight=1000), vm("b", 600, weight=9000))
    capacity = 800 * MIB
    before, after = plan(Snapshot(capacity, (heavy, light))), plan(Snapshot(capacity, swapped))
    assert by_name(before)["a"].target_pages > by_name(before)["b"].target_pages
    assert by_name(before)["a"].target_pages == by_name(after)["b"].target_pages


def test_swapping_two_priorities_changes_the_plan() -> None:
    capacity = 800 * MIB
    before = plan(Snapshot(capacity, (vm("a", 600, priority="high"), vm("b", 600, priority="low"))))
    after = plan(Snapshot(capacity, (vm("a", 600, priority="low"), vm("b", 600, priority="high"))))
    assert by_name(before)["a"].target_pages == by_name(after)["b"].target_pages == 600 * MIB
    assert by_name(before)["b"].target_pages == by_name(after)["a"].target_pages == 200 * MIB


@pytest.mark.parametrize(
    ("capacity", "high", "normal", "low", "cut"),
    [
        (1800, 600, 600, 600, ""),
        (1440, 480, 480, 480, "spread"),
        (1380, 480, 480, 420, "buffer low"),
        (1300, 480, 420, 400, "buffer normal"),
        (1210, 410, 400, 400, "buffer high"),
        (1000, 400, 400, 200, "demand low"),
        (664, 400, 200, 64, "demand normal"),
        (228, 100, 64, 64, "demand high"),
        (100, 64, 64, 64, "floors"),
    ],
)
def test_buffers_go_first_then_low_then_normal_then_high(
    capacity: int, high: int, normal: int, low: int, cut: str
) -> None:
    bounds = {"maximum_pages": 600 * MIB, "held_pages": 64 * MIB, "buffer_percent": 20}
    machines = tuple(vm(name, 400, priority=name, **bounds) for name in ("high", "normal", "low"))
    result = plan(Snapshot(capacity * MIB, machines))
    assert [each.target_pages // MIB for each in result.decisions] == [high, normal, low]
    assert result.cut == cut


def test_memory_that_nobody_needs_stays_where_it_is() -> None:
    idle = vm("idle", 10, held_pages=700 * MIB)
    result = plan(Snapshot(1000 * MIB, (idle, vm("busy", 200, held_pages=240 * MIB))))
    assert by_name(result)["idle"].target_pages >= 700 * MIB


def test_headroom_gives_first_and_the_reason_names_who_needs_it() -> None:
    idle = vm("idle", 100, held_pages=700 * MIB, priority="low")
    busy = vm("web", 600, held_pages=300 * MIB, priority="high")
    decision = by_name(plan(Snapshot(1000 * MIB, (idle, busy))))["idle"]
    assert decision.target_pages < 700 * MIB
    assert decision.reason.startswith("web (priority high) needs 420 MiB more; ")
    assert "headroom gives first" in decision.reason
    assert "demand 100 MiB + 20 % = 120 MiB" in decision.reason


def test_the_reason_says_what_should_be_at_hand_and_what_is_kept_ready() -> None:
    web = vm("web", 200, at_hand_pages=64 * MIB, held_pages=400 * MIB)
    (alone,) = plan(Snapshot(2000 * MIB, (web,))).decisions
    assert "demand 200 MiB + 64 MiB at hand = 264 MiB" in alone.reason
    big = vm("db", 600, held_pages=800 * MIB)
    kept = by_name(plan(Snapshot(1000 * MIB, (web, big), ready_pages=100 * MIB)))
    assert "100 MiB is kept ready for whoever grows next" in kept["db"].reason
    lacking = by_name(plan(Snapshot(700 * MIB, (web, big), ready_pages=100 * MIB)))
    assert "ready" not in lacking["db"].reason


def test_headroom_first_covers_the_growth_of_everybody_between_two_periods() -> None:
    rich = vm("rich", 100, held_pages=880 * MIB)
    poor = vm("poor", 100, held_pages=120 * MIB, margin_pages=64 * MIB)
    assert by_name(plan(Snapshot(1000 * MIB, (rich, poor))))["poor"].target_pages == 184 * MIB


def test_a_shortage_is_counted_against_all_that_is_wanted() -> None:
    result = plan(Snapshot(300 * MIB, (vm("a", 300), vm("b", 200))))
    assert result.shortage_pages == (360 + 240 - 300) * MIB
    assert sum(each.short_pages for each in result.decisions) == result.shortage_pages


@settings(max_examples=20)
@given(vms(), CAPACITIES)
def test_snapshot_and_plan_travel_between_processes(machines: tuple[Vm, ...], capacity: int) -> None:
    snapshot = Snapshot(capacity, machines)
    travelled = pickle.loads(pickle.dumps(snapshot))
    assert pickle.loads(pickle.dumps(plan(travelled))) == plan(snapshot)


def test_an_empty_host_has_an_empty_plan() -> None:
    assert plan(Snapshot(0, ())) == Plan((), 0, 0, "")
