"""Guests that stop on their way: what is concluded, and that concluding changes nothing."""

import copy

import msgspec

from dynmem.manager.step.deadlines import Deadlines
from dynmem.manager.step.facts import HV_BALLOON, VIRTIO_BALLOON, ManagerSettings, VmConfig, VmFacts
from dynmem.manager.step.record import Excess, Record
from dynmem.manager.step.stalls import apply, forgive, stall_of
from dynmem.units import GIB, MIB, NS_PER_S, PAGE_SIZE

SETTINGS = ManagerSettings(8 * GIB, 0, NS_PER_S, "enforce")
LATE = 60 * NS_PER_S


def pages(mib: int) -> int:
    return mib * MIB // PAGE_SIZE


def record(actual_mib: int, target_mib: int) -> Record:
    return Record(
        config=VmConfig("web", 64 * MIB, GIB),
        incarnation="1@1",
        resets=0,
        boot_pages=pages(1024),
        excess=Excess(1),
        deadlines=Deadlines(3 * NS_PER_S),
        facts=VmFacts("web", "1@1", "running"),
        reported_after_ns=0,
        actual_pages=pages(actual_mib),
        target_pages=pages(target_mib),
        mark_pages=pages(actual_mib),
    )


def test_a_guest_on_its_way_or_at_its_target_has_not_stopped() -> None:
    assert stall_of(record(500, 300), NS_PER_S, SETTINGS) is None
    assert stall_of(record(300, 300), LATE, SETTINGS) is None


def test_finding_a_stall_changes_nothing_and_applying_it_does() -> None:
    web = record(500, 300)
    before = copy.deepcopy(web)
    stall = stall_of(web, LATE, SETTINGS)
    assert stall is not None
    assert msgspec.structs.asdict(web) == msgspec.structs.asdict(before)
    change = apply(stall, web, LATE)
    assert (change.target, web.target_pages, web.set_ns) == (pages(500), pages(500), LATE)
    assert web.stopped is not None
    assert web.stopped.at_pages == pages(500)
    assert web.declined is None


def test_each_stall_in_the_same_direction_pauses_twice_as_long() -> None:
    web = record(500, 700)
    pauses = []
    for _ in range(3):
        stall = stall_of(web, LATE, SETTINGS)
        assert stall is not None
        apply(stall, web, 0)
        assert web.declined is not None
        pauses.append(web.declined.pause_ns // NS_PER_S)
        web.target_pages = pages(700)
    assert pauses == [10, 20, 40]


def test_a_guest_that_grew_by_itself_keeps_its_size_and_has_no_floor() -> None:
    web = record(700, 300)
    web.mark_pages = pages(300)
    stall = stall_of(web, 0, SETTINGS)
    assert stall is not None
    assert (stall.target, stall.stopped, stall.declined) == (pages(700), None, None)
    assert "another program" in stall.reason


def test_a_guest_that_is_short_of_its_target_by_a_few_pages_has_not_stopped() -> None:
    web = record(500, 300)
    web.actual_pages = pages(300) + 3
    assert stall_of(web, LATE, SETTINGS) is None
    assert web.owed_pages == 0


def test_success_clears_a_pause() -> None:
    for stopped_at, target in ((500, 300), (500, 700)):
        web = record(stopped_at, target)
        stall = stall_of(web, LATE, SETTINGS)
        assert stall is not None
        apply(stall, web, LATE)
        forgive(web, LATE + 10 * NS_PER_S, is_any_short=True)
        stop = web.stopped or web.declined
        assert stop is not None
        assert not stop.holds
        web.retarget(pages(target), LATE + 10 * NS_PER_S)
        forgive(web, LATE + 11 * NS_PER_S, is_any_short=True)
        assert web.stopped or web.declined  # it has not moved yet
        web.actual_pages = pages(target)
        forgive(web, LATE + 12 * NS_PER_S, is_any_short=True)
        assert web.stopped is None
        assert web.declined is None


def test_a_guest_in_need_that_takes_no_more_keeps_a_small_offer_and_one_without_need_keeps_none() -> None:
    for demand, left in ((600, 516), (100, 500)):
        web = record(500, 700)
        web.demand_pages = pages(demand)
        stall = stall_of(web, LATE, SETTINGS)
        assert stall is not None
        assert stall.target == pages(left)
        apply(stall, web, LATE)
        assert stall_of(web, 2 * LATE, SETTINGS) is None  # the offer stands


def test_a_guest_that_takes_too_slowly_is_offered_less_however_steadily_it_takes() -> None:
    web = record(500, 500)
    web.retarget(pages(1012), 0)
    for second in range(1, 60):
        now_ns = second * NS_PER_S
        web.actual_pages = pages(500 + second)
        web.see_progress(now_ns)
        assert now_ns - web.mark_ns < 3 * NS_PER_S  # it never stands still
        stall = stall_of(web, now_ns, SETTINGS)
        if stall is not None:
            break
    assert second == 8  # 3 s, and 4 s for 512 MiB
    assert stall is not None
    assert stall.target == web.actual_pages


def test_a_guest_that_another_program_shrank_is_taken_as_it_is_and_not_offered_more_for_a_while() -> None:
    web = record(500, 500)
    web.actual_pages = pages(400)
    stall = stall_of(web, NS_PER_S, SETTINGS)
    assert stall is not None
    assert stall.target == pages(400)
    assert "another program changed its balloon" in stall.reason
    apply(stall, web, NS_PER_S)
    assert web.declined is not None
    assert (web.declined.at_pages, web.declined.holds) == (pages(400), True)
    assert stall_of(web, 2 * NS_PER_S, SETTINGS) is None


def test_a_guest_that_still_shrinks_when_it_is_offered_more_was_not_shrunk_by_others() -> None:
    web = record(400, 500)  # on its way down to 300 when the target was raised
    web.actual_pages = pages(350)
    assert stall_of(web, NS_PER_S, SETTINGS) is None


def test_a_guest_in_need_is_offered_what_it_was_whatever_made_it_smaller() -> None:
    web = record(500, 500)
    web.actual_pages = pages(400)
    web.demand_pages = pages(450)
    assert stall_of(web, NS_PER_S, SETTINGS) is None
    assert web.declined is None


def test_while_a_vmm_may_keep_the_first_request_its_guest_is_asked_again_and_again() -> None:
    """QEMU's hv-balloon keeps it for 50 s: a pause that doubled meanwhile would last long beyond that."""
    for device, expected in ((HV_BALLOON, [10, 10, 10, 20]), (VIRTIO_BALLOON, [10, 20, 40, 80])):
        web = record(500, 300)
        web.facts = msgspec.structs.replace(web.facts, device=device)
        web.reported, web.first_report_ns = True, 2 * NS_PER_S
        pauses, reasons = [], []
        for second in (10, 30, 51, 53):
            stall = stall_of(web, second * NS_PER_S, SETTINGS)
            assert stall is not None
            assert stall.stopped is not None
            pauses.append(stall.stopped.pause_ns // NS_PER_S)
            reasons.append(stall.reason)
            web.stopped = stall.stopped
        assert pauses == expected
        assert ["may keep the first request" in each for each in reasons] == [
            device == HV_BALLOON and second < 52 for second in (10, 30, 51, 53)
        ]


def test_a_guest_whose_size_has_moved_since_it_reported_has_settled() -> None:
    web = record(500, 300)
    web.facts = msgspec.structs.replace(web.facts, device=HV_BALLOON)
    web.reported, web.first_report_ns = True, 2 * NS_PER_S
    web.actual_changed_ns = NS_PER_S  # by its reset
    assert web.settled_ns == 52 * NS_PER_S
    web.actual_changed_ns = 3 * NS_PER_S
    assert web.settled_ns == 0


def test_a_guest_that_gives_late_what_it_was_asked_for_was_changed_by_nobody_else() -> None:
    """With hv-balloon, what a guest has been asked cannot be taken back: it gives after it was given up."""
    for gives, is_late in ((300, True), (350, True), (200, False)):
        web = record(500, 300)
        stall = stall_of(web, LATE, SETTINGS)
        assert stall is not None
        apply(stall, web, LATE)
        assert web.target_pages == pages(500)
        web.actual_pages = pages(gives)
        stall = stall_of(web, LATE + NS_PER_S, SETTINGS)
        assert stall is not None
        assert stall.target == pages(gives)  # it is not returned, only to be asked for again
        assert (stall.declined is None) == is_late
        assert ("another program" in stall.reason) == (not is_late)
        if is_late:
            apply(stall, web, LATE + NS_PER_S)
            forgive(web, LATE + NS_PER_S, is_any_short=False)
            assert web.stopped is None  # it only was slow


def test_a_guest_that_takes_late_what_it_was_offered_was_changed_by_nobody_else() -> None:
    for takes, is_late in ((700, True), (800, False)):
        web = record(500, 700)
        stall = stall_of(web, LATE, SETTINGS)
        assert stall is not None
        apply(stall, web, LATE)
        web.actual_pages = pages(takes)
        stall = stall_of(web, LATE + NS_PER_S, SETTINGS)
        assert stall is not None
        assert stall.target == pages(takes)
        assert ("another program" in stall.reason) == (not is_late)
