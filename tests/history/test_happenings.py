"""What happened between two steps: each thing once, with the figures it was decided by."""

import msgspec
from tests.rigs.obedient import ObedientHost
from tests.rigs.pasts import RecordedHost

from dynmem.history.event import Event
from dynmem.history.happenings import Happenings
from dynmem.manager.step.facts import ManagerSettings, Mode, VmConfig
from dynmem.manager.step.sample import HostSample, MoveSample, Sample, VmSample
from dynmem.units import GIB, MIB, NS_PER_S

WEB = VmSample(name="web", incarnation="7@1", run_state="running", standing="movable", maximum_bytes=GIB)
HOST = HostSample(mode="enforce")


def sample(*vms: VmSample, host: HostSample = HOST, moves: tuple[MoveSample, ...] = ()) -> Sample:
    return Sample(0, True, host, {vm.name: vm for vm in vms}, moves)


def between(before: Sample, now: Sample) -> list[Event]:
    happenings = Happenings()
    happenings.see(before, {})
    return happenings.see(now, {})


def but(vm: VmSample, **fields: object) -> VmSample:
    return msgspec.structs.replace(vm, **fields)


def kinds(events: list[Event]) -> list[tuple[str, str | None]]:
    return [(event.kind, event.vm) for event in events]


def test_a_vm_that_comes_goes_is_reset_or_starts_again_is_one_event() -> None:
    assert kinds(between(sample(), sample(WEB))) == [("came", "web")]
    assert kinds(between(sample(WEB), sample())) == [("went", "web")]
    assert kinds(between(sample(WEB), sample(but(WEB, resets=1)))) == [("reset", "web")]
    assert kinds(between(sample(WEB), sample(but(WEB, incarnation="8@2")))) == [("restarted", "web")]
    assert between(sample(WEB), sample(but(WEB))) == []


def test_a_stall_and_its_end_are_events_with_the_size() -> None:
    stalled = but(WEB, stopped_bytes=300 * MIB)
    (event,) = between(sample(WEB), sample(stalled))
    assert (event.kind, event.text) == ("stalled", "its guest gives no more at 300 MiB")
    assert kinds(between(sample(stalled), sample(WEB))) == [("stall over", "web")]


def test_a_problem_whose_figures_change_is_no_new_one() -> None:
    silent = but(WEB, problem="no reply for 3 s")
    assert kinds(between(sample(WEB), sample(silent))) == [("problem", "web")]
    assert between(sample(silent), sample(but(WEB, problem="no reply for 4 s"))) == []
    assert kinds(between(sample(silent), sample(WEB))) == [("problem", "web")]


def test_shortage_emergency_and_mode_are_events_of_the_host() -> None:
    short = HostSample(mode="enforce", shortage_bytes=MIB, cut="buffer low", emergency=1)
    assert kinds(between(sample(), sample(host=short))) == [("shortage", None), ("emergency", None)]
    assert kinds(between(sample(host=short), sample())) == [("shortage over", None), ("emergency over", None)]
    assert kinds(between(sample(), sample(host=HostSample(mode="advise")))) == [("mode", None)]


def test_what_was_refused_is_an_event_with_the_reason() -> None:
    (event,) = Happenings().see(sample(), {"web": "the device is gone"})
    assert (event.kind, event.vm, event.text) == ("refused", "web", "not done: the device is gone")


def moves_of(mode: Mode, sweeps: int) -> list[Event]:
    recorded = RecordedHost(3, mode, budget=700)
    recorded.sweeps(sweeps, wandering=False)
    return [event for _, event in recorded.events if event.target_bytes is not None]


def test_a_move_has_its_reason_its_sizes_and_what_pays_for_it() -> None:
    host = ObedientHost(
        ManagerSettings(600 * MIB, 64 * MIB, NS_PER_S, "enforce"),
        [VmConfig(name, 64 * MIB, 512 * MIB) for name in ("web", "db")],
        {"web": 100 * MIB, "db": 100 * MIB},
    )
    happenings, moves = Happenings(), []
    for sweep in range(12):
        if sweep == 6:
            host.demands["web"] = 250 * MIB
        result = host.sweep()
        now = host.manager.sample()
        assert now is not None
        events = [event for event in happenings.see(now, {}) if event.kind == "moved"]
        assert [(each.vm, each.target_bytes, each.text, each.measurement) for each in events] == [
            (each.vm, each.target_bytes, each.reason, each.measurement) for each in result.commands
        ]
        moves += events
    grown = [move for move in moves if move.moved_bytes > 0]
    assert grown
    assert all("measured free" in move.measurement for move in grown)


def test_in_observe_mode_what_would_be_moved_is_kept_once_for_each_far_target() -> None:
    events = moves_of("observe", 30)
    assert {event.kind for event in events} == {"would move"}
    assert len(events) == len({event.vm for event in events})
    assert all("not sent" not in event.text and "would shrink" in event.text for event in events)


def test_in_advise_mode_it_comes_with_the_command() -> None:
    events = moves_of("advise", 5)
    assert events
    assert all('"execute": "balloon"' in event.command for event in events)
