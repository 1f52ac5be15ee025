"""The journal of the host's operations."""

from tests.rigs.driven_host import DEADLINE, WAIT, DrivenHost
from tests.rigs.pages import packed

from dynmem.dm.journal import UNDER_WAY, OperationJournal, OperationRecord
from dynmem.limits import DM_JOURNAL_OPERATIONS
from dynmem.wire import dm


def played() -> DrivenHost:
    played = DrivenHost()
    played.start()
    return played


def last(played: DrivenHost) -> OperationRecord:
    return played.host.journal.operations[-1]


def test_a_balloon_is_kept_with_what_was_asked_posted_and_answered() -> None:
    host = played()
    host.host.set_target(400, host.now)
    host.sent()
    host.now += 5
    host.gives((0, 300), more=True)
    host.gives((300, 100))
    assert last(host).outcome == UNDER_WAY
    host.sent()
    host.gives((400, 200))
    assert last(host) == OperationRecord(
        kind="balloon",
        asked=600,
        began_ns=WAIT,
        requests=2,
        posted=600,
        answers=3,
        answered=600,
        ended_ns=WAIT + 5,
        outcome="done",
    )


def test_an_unballoon_is_answered_once_for_all_of_its_messages() -> None:
    host = played()
    host.host.set_target(300, host.now)
    for _ in range(2):
        host.sent()
        first = host.store.removed_pages
        host.gives((first, 400))
    host.host.set_target(1000, host.now)
    while host.sent() is not None:
        pass
    host.says(dm.UnballoonResponse(1))
    operation = last(host)
    assert (operation.kind, operation.requests, operation.answers) == ("unballoon", 2, 1)
    assert operation.asked == operation.posted == operation.answered
    assert operation.outcome == "done"


def test_how_an_operation_ended_is_a_sentence() -> None:
    host = played()
    host.host.set_target(900, host.now)
    host.sent()
    host.gives()
    assert last(host).outcome == "the guest has no more to give"
    host.host.set_target(500, host.now)
    host.sent()
    host.host.set_target(700, host.now)
    host.gives((0, 300))
    assert last(host).outcome == "another target came"
    host.host.set_target(600, host.now)
    host.sent()
    host.host.channel_closed(host.now)
    assert last(host).outcome == "the channel was closed"
    host.start()
    host.host.set_target(600, host.now)
    host.sent()
    host.store.pages.clear()
    host.host.reset(host.now)
    assert last(host).outcome == "another guest came"


def test_a_guest_that_is_stuck_shows_as_an_operation_without_an_end() -> None:
    host = played()
    host.host.set_target(900, host.now)
    host.sent()
    host.passes(2 * DEADLINE)
    assert (last(host).ended_ns, last(host).outcome) == (None, UNDER_WAY)
    host.gives((0, 100))
    assert last(host).ended_ns == host.now


def test_the_journal_keeps_the_last_operations_only() -> None:
    journal = OperationJournal()
    for number in range(2 * DM_JOURNAL_OPERATIONS):
        journal.begin("balloon", number, number)
        journal.end("done", number)
    kept = [operation.asked for operation in journal.operations]
    assert kept == list(range(DM_JOURNAL_OPERATIONS, 2 * DM_JOURNAL_OPERATIONS))


def test_answers_that_belong_to_no_operation_change_nothing() -> None:
    host = played()
    host.says(dm.BalloonResponse(1, False, packed((0, 5))))
    assert host.host.journal.operations == ()
