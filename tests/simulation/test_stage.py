"""Loads on a stage: figures that can be computed by hand, and what each rule makes of them."""

import threading
from collections.abc import Sequence

import pytest

from dynmem.cli.simulate import RULES, _bar
from dynmem.manager.step.safeguards import Safeguards
from dynmem.sim.guest import KERNEL_PAGES
from dynmem.simulation import play, rules
from dynmem.simulation.described import alike
from dynmem.simulation.figures import Outcome, Tally
from dynmem.simulation.load import Load, VmLoad
from dynmem.simulation.rules import Dynmem
from dynmem.simulation.stage import OUT_TICKS, Actor, Guests, Stage
from dynmem.units import GIB, MIB, PAGE_SIZE

MIB_PAGES = MIB // PAGE_SIZE
# 64 MiB a second, and 1000.
GUESTS = Guests(64 * MIB_PAGES // 10, 100 * MIB_PAGES)


def load_of(*loads: Sequence[tuple[int, int]], budget: int, maximum: int = GIB, for_s: int = 600) -> Load:
    """Each VM's needs: from a second on, so many MiB."""
    vms = []
    for number, steps in enumerate(loads, 1):
        vm = VmLoad(number, 128 * MIB, maximum)
        times = [at for at, _ in steps][1:]
        for (at, mib), end in zip(steps, [*times, for_s], strict=True):
            vm.add(at * 10, (end - at) * 10, mib * MIB_PAGES, mib * MIB_PAGES, mib * MIB_PAGES)
        vms.append(vm)
    return Load(budget, 32 * MIB, for_s * 10, vms)


def came_of(load: Load, *names: str, seed: int = 1) -> list[Outcome]:
    return play.simulate(load, names, GUESTS, seed)


def test_at_a_fixed_size_a_guest_kills_its_programs_once_a_minute_and_lacks_all_that_they_wanted() -> None:
    load = load_of([(0, 100), (300, 800)], [(0, 100)], budget=GIB)
    (found,) = came_of(load, "static")
    size, kernel = 512, KERNEL_PAGES // MIB_PAGES
    growing_s = (size - 100) / 64  # until nothing is left of its half of the budget
    lives = [300 + growing_s]
    while (then := lives[-1] + OUT_TICKS / 10 + (size - kernel) / 64) < 600:
        lives.append(then)
    assert found.kills == len(lives)
    assert found.moves_per_hour == 0  # its size was set before it was measured
    # From the first kill on, it has nothing for a minute, and then grows until the next.
    out = (800 - kernel) * (600 - lives[0]) - len(lives) * (size - kernel) ** 2 / 64 / 2
    assert found.unmet_mib_s == pytest.approx(out, rel=0.05)


def test_with_memory_in_plenty_nothing_is_unmet_and_peaks_are_the_sum_of_what_is_used() -> None:
    load = load_of([(0, 100), (300, 800)], [(0, 100)], budget=3 * GIB)
    for found in came_of(load, *rules.RULES):
        assert (found.unmet_mib_s, found.kills, found.above_ratio) == (0, 0, 0), found
        assert found.seconds == 600
        assert 900 * MIB <= found.peak_bytes <= 1100 * MIB


def test_the_manager_moves_memory_to_who_needs_it_where_fixed_sizes_do_not() -> None:
    first = [(0, 100), (60, 700), (120, 100)]
    load = load_of(first, [(at + 60 if at else 0, mib) for at, mib in first], budget=GIB, for_s=240)
    fixed, managed = came_of(load, "static", "dynmem")
    assert fixed.kills > 0
    assert (managed.kills, managed.above_ratio) == (0, 0)
    assert managed.unmet_mib_s < fixed.unmet_mib_s / 10
    assert managed.moves_per_hour > 0


def test_free_pages_that_are_handed_back_leave_the_host_and_nothing_limits_the_rest() -> None:
    load = load_of([(0, 100), (60, 700), (120, 100)], [(0, 100), (180, 700)], budget=GIB)
    nothing, reported = came_of(load, "none", "fpr")
    assert nothing.above_ratio > reported.above_ratio == 0
    assert nothing.peak_bytes > reported.peak_bytes + 500 * MIB


def test_the_published_rules_act_at_their_own_times() -> None:
    load = load_of([(0, 100), (60, 700), (120, 100)], [(0, 100), (180, 700)], budget=700 * MIB)
    for found in came_of(load, "proxmox", "mom"):
        assert 0 < found.moves_per_hour <= 2 * 6 * 60  # both of them, every ten seconds
        assert found.kills > 0  # that is too late for 64 MiB a second


def test_vms_that_come_and_go_are_counted_while_they_are_there() -> None:
    load = load_of([(0, 100)], budget=2 * GIB)
    guest = VmLoad(2, 128 * MIB, GIB)
    guest.add(1000, 1000, 500 * MIB_PAGES, 500 * MIB_PAGES, 500 * MIB_PAGES)
    load.vms.append(guest)
    for found in came_of(load, *rules.RULES):
        assert found.kills == 0, found
        assert 600 * MIB <= found.peak_bytes <= 700 * MIB
        assert found.mean_bytes < 300 * MIB


def test_the_same_seed_has_the_same_figures_however_many_processes_play(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dynmem.simulation.play._PART_TICKS", 6000)
    load = alike(3, GIB, 18_000, 1)  # three parts
    names = ("static", "none")
    alone = play.simulate(load, names, GUESTS, 1)
    shares: list[float] = []
    assert play.simulate(load, names, GUESTS, 1, jobs=2, progress=shares.append) == alone
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert play.simulate(alike(3, GIB, 18_000, 2), names, GUESTS, 2) != alone


def test_steps_that_are_left_out_where_nothing_happens_would_have_changed_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = load_of([(0, 100), (60, 700), (90, 100)], [(0, 100), (150, 600)], budget=GIB, for_s=240)
    skipping = came_of(load, "dynmem")
    monkeypatch.setattr("dynmem.simulation.rules._IDLE_TICKS", 10)
    (each,), (every,) = skipping, came_of(load, "dynmem")
    assert (each.kills, each.above_ratio) == (every.kills, every.above_ratio)
    assert each.peak_bytes == pytest.approx(every.peak_bytes, rel=0.02)
    assert each.moved_mib_per_hour == pytest.approx(every.moved_mib_per_hour, rel=0.1)


def bursts(safeguards: Safeguards, *, watches: bool) -> Tally:
    """Bursts at 256 MiB a second on four guests that share half of their maximums."""
    guests = Guests(256 * MIB_PAGES // 10, 100 * MIB_PAGES)
    loads = []
    for number in range(4):
        begins = range(20 + 15 * number, 240, 60)
        loads.append([(0, 100), *(step for at in begins for step in ((at, 380), (at + 8, 100)))])
    load = load_of(*loads, budget=GIB, maximum=512 * MIB, for_s=300)
    stage = Stage(load, Dynmem(load, safeguards, watches=watches), guests, 1, returns_free=False)
    return stage.play(-6000, 0, 3000)


def test_without_its_eye_on_growth_or_its_looks_between_sweeps_the_manager_does_worse_here_too() -> None:
    whole = bursts(Safeguards(), watches=True)
    assert whole.kills == 0
    assert bursts(Safeguards(growth=False), watches=True).kills > 0
    assert bursts(Safeguards(), watches=False).kills > 0


def test_rules_that_divide_by_shares_see_the_weight_of_a_vm() -> None:
    load = load_of([(0, 100)], [(0, 100)], budget=GIB)
    load.vms[0].weight = 9000
    sharers = [Actor(vm, 1, GUESTS).sharer for vm in load.vms]
    assert [each.shares for each in sharers] == [9000, 5000]


def test_no_thread_draws_the_bar_while_processes_are_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    before = threading.active_count()
    with _bar() as progress:
        progress(0.5)
        assert threading.active_count() == before


def test_the_command_offers_every_rule_in_the_order_of_the_table() -> None:
    assert tuple(rules.RULES) == RULES
