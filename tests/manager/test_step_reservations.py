"""Room for VMs about to start, and VMs that are given everything back."""

from tests.rigs.obedient import ObedientHost

from dynmem.manager.step.facts import ManagerSettings, VmConfig
from dynmem.manager.step.results import Reservation, StepResult
from dynmem.units import GIB, MIB, NS_PER_S, PAGE_SIZE

HOST = ManagerSettings(1 * GIB, 64 * MIB, NS_PER_S, "enforce")
NAMES = ("web", "db", "new")


def running(**demands: int) -> ObedientHost:
    configs = [VmConfig(name, 64 * MIB, 512 * MIB) for name in NAMES]
    rack = ObedientHost(HOST, configs, {name: size * MIB for name, size in demands.items()})
    rack.sweep(8)
    return rack


def made(rack: ObedientHost, name: str, mib: int, seconds: int = 30) -> Reservation:
    return rack.manager.reserve(name, mib * MIB, rack.now_ns, rack.now_ns + seconds * NS_PER_S)


def reserve(rack: ObedientHost, name: str, mib: int, seconds: int = 30) -> str:
    return made(rack, name, mib, seconds).state


def targets(result: StepResult) -> dict[str, int]:
    return {command.vm: command.target_bytes // MIB for command in result.commands}


def reserved_mib(rack: ObedientHost) -> int:
    free = rack.manager.status().measured_free
    assert free is not None
    return free.reserved_bytes // MIB


def test_room_is_made_and_only_then_is_the_reservation_ready() -> None:
    rack = running(web=100, db=100)
    assert reserve(rack, "new", 512) == "waiting"
    result = rack.sweep()
    assert targets(result)
    assert result.waiting
    state, reason = rack.manager.reservation_state("new")
    assert state == "waiting"
    assert "other VMs still have to give" in reason
    rack.sweep()
    assert rack.manager.reservation_state("new")[0] == "ready"
    assert sum(rack.sizes.values()) + 512 * MIB <= HOST.budget_bytes - HOST.slush_bytes


def test_a_reservation_comes_before_the_headroom_of_others() -> None:
    rack = running(web=280, db=100)
    before = rack.sizes["web"]
    reserve(rack, "new", 440)
    rack.sweep(4)
    assert rack.manager.reservation_state("new")[0] == "ready"
    assert 280 * MIB <= rack.sizes["web"] < before


def test_a_reservation_never_starves_running_vms_of_its_own_priority() -> None:
    rack = running(web=100, db=100)
    rack.demands["web"] = 500 * MIB
    reserve(rack, "new", 512)
    rack.sweep(6)
    assert rack.sizes["web"] >= 500 * MIB
    state, reason = rack.manager.reservation_state("new")
    assert state == "waiting"
    assert "running VMs of its priority or a higher one need them" in reason
    rack.demands["web"] = 100 * MIB
    rack.sweep(6)
    assert rack.manager.reservation_state("new")[0] == "ready"


def test_a_reservation_of_high_priority_takes_what_low_priority_needs() -> None:
    configs = [
        VmConfig("web", 64 * MIB, 512 * MIB, priority="low"),
        VmConfig("new", 64 * MIB, 512 * MIB, priority="high"),
    ]
    host = ManagerSettings(768 * MIB, 64 * MIB, NS_PER_S, "enforce")
    rack = ObedientHost(host, configs, {"web": 100 * MIB})
    rack.sweep(8)
    rack.demands["web"] = 400 * MIB
    size = rack.sizes["web"]
    reserve(rack, "new", 512)
    for _ in range(6):
        rack.sweep()
        assert rack.sizes["web"] <= size


def test_a_reservation_and_its_vm_count_as_the_larger_never_as_the_sum() -> None:
    rack = running(web=100, db=100)
    reserve(rack, "new", 400)
    rack.sweep(2)
    assert reserved_mib(rack) == 400
    rack.demands["new"] = 50 * MIB
    rack.overrides["new"] = {"demand": None}
    rack.sweep()
    assert reserved_mib(rack) == 0
    assert rack.manager.reservation_state("new") == ("ready", "taken over by the VM")
    rack.overrides.clear()
    rack.sweep()
    assert rack.manager.status().reservations == ()
    assert rack.manager.reservation_state("new") == ("ready", "taken over by the VM")


def test_a_vm_that_runs_already_counts_towards_its_own_reservation() -> None:
    rack = running(web=100, db=100)
    size = rack.sizes["web"] // MIB
    reserve(rack, "web", size + 30)
    rack.sweep()
    assert reserved_mib(rack) == 30


def test_a_reservation_expires_and_its_room_is_shared_out_again() -> None:
    rack = running(web=100, db=100)
    reserve(rack, "new", 512, seconds=3)
    rack.sweep(3)
    assert rack.manager.reservation_state("new")[0] == "expired"
    assert rack.sweep(2) is not None
    assert sum(rack.sizes.values()) > HOST.budget_bytes - HOST.slush_bytes - 32 * MIB


def test_what_can_never_be_made_free_is_refused_with_its_numbers() -> None:
    rack = running(web=100, db=100)
    answer = rack.manager.reserve("new", 900 * MIB, rack.now_ns, rack.now_ns + NS_PER_S)
    assert answer.state == "refused"
    assert "900 MiB cannot be made free" in answer.reason
    assert "(128 MiB)" in answer.reason
    assert rack.manager.reservation_state("new") == ("refused", answer.reason)


def test_a_dropped_reservation_is_gone() -> None:
    rack = running(web=100, db=100)
    rack.manager.drop_reservation(made(rack, "new", 300))
    rack.sweep()
    assert reserved_mib(rack) == 0
    assert rack.manager.reservation_state("new") == ("expired", "dropped by its owner")


def test_who_asked_first_does_not_drop_what_somebody_asked_for_since() -> None:
    rack = running(web=100, db=100)
    first = made(rack, "new", 100, seconds=20)
    assert reserve(rack, "new", 200) == "waiting"
    rack.manager.drop_reservation(first)
    rack.sweep(3)
    assert rack.manager.reservation_state("new")[0] == "ready"
    assert reserved_mib(rack) == 200


def test_a_refused_change_leaves_what_was_promised() -> None:
    rack = running(web=100, db=100)
    reserve(rack, "new", 200)
    rack.sweep(3)
    assert reserve(rack, "new", 4096) == "refused"
    rack.sweep()
    assert rack.manager.reservation_state("new")[0] == "ready"
    assert reserved_mib(rack) == 200


def test_there_are_only_so_many_reservations() -> None:
    rack = running(web=100, db=100)
    states = [reserve(rack, f"vm{index}", 1) for index in range(100)]
    assert states.count("refused") == 100 - 64


def test_guests_that_stop_a_few_pages_short_do_not_keep_a_reservation_waiting() -> None:
    rack = running(web=100, db=100)
    assert reserve(rack, "new", 500) == "waiting"
    for _ in range(8):
        rack.sweep()
        for name in ("web", "db"):
            kept = rack.sizes[name] + 3 * PAGE_SIZE
            rack.overrides[name] = {"actual_bytes": kept, "resident_bytes": kept}
    assert rack.manager.reservation_state("new")[0] == "ready"


def test_a_released_vm_gets_everything_back_from_what_others_give_and_is_left_alone() -> None:
    rack = running(web=100, db=100, new=100)
    assert rack.sizes["web"] < 512 * MIB
    rack.manager.release("web")
    first = rack.sweep()
    assert first.waiting
    result = rack.sweep(2)
    assert rack.sizes["web"] == 512 * MIB
    assert sum(rack.sizes.values()) <= HOST.budget_bytes - HOST.slush_bytes
    rack.demands["db"] = 500 * MIB
    for _ in range(6):
        assert "web" not in targets(rack.sweep())
    assert result.plan.capacity_pages > 0


def test_releasing_all_gives_everything_back_by_the_operators_order() -> None:
    rack = running(web=100, db=100, new=100)
    rack.manager.release(None)
    sent = [*rack.sweep().commands, *rack.sweep().commands]
    assert set(rack.sizes.values()) == {512 * MIB}
    assert any("by the operator's order" in command.reason for command in sent)
    assert rack.sweep().commands == ()


def test_a_vm_that_is_taken_up_again_is_adopted_first() -> None:
    rack = running(web=100, db=100, new=100)
    rack.manager.release(None)
    rack.sweep(3)
    rack.manager.take_up(None)
    assert rack.sweep().commands == ()
    assert set(targets(rack.sweep())) == {"web", "db", "new"}


def test_a_grant_in_flight_stays_claimed_when_its_vm_is_taken_up_before_it_was_adopted() -> None:
    rack = running(web=100, db=100)
    rack.sizes["db"] = 200 * MIB
    restarted = ObedientHost(rack.settings, list(rack.configs.values()), rack.demands)
    restarted.sizes = dict(rack.sizes)
    restarted.manager.restore("db", "db.1", 500 * MIB)
    restarted.manager.release("db")
    restarted.sweep()
    restarted.manager.take_up("db")
    restarted.sweep()
    assert restarted.manager.claims.pages("db") * PAGE_SIZE >= 500 * MIB


def test_another_reservation_comes_down_to_the_minimum_of_its_vm() -> None:
    rack = running(web=100)
    assert reserve(rack, "db", 512) == "waiting"
    # Beside 512 there is no room for 512 now, but the VM that comes will go down to its 64.
    assert reserve(rack, "new", 512) == "waiting"
    assert reserve(rack, "stranger", 960 - 3 * 64) == "waiting"
    assert reserve(rack, "stranger", 960 - 3 * 64 + 1) == "refused"


def test_reservations_are_served_in_the_order_they_were_made() -> None:
    rack = running(web=100)
    reserve(rack, "db", 512)
    reserve(rack, "new", 512)
    rack.sweep(4)
    assert rack.manager.reservation_state("db")[0] == "ready"
    assert rack.manager.reservation_state("new")[0] == "waiting"
