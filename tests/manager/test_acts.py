"""A change is printed once, after it was sent, and a change that was not sent is not printed as done."""

import asyncio
from pathlib import Path
from typing import cast

import pytest
from tests.rigs.scenes import play

from dynmem.manager.acts import Acts, Connections
from dynmem.manager.journal.journal import Intent, Journal, JournalError
from dynmem.manager.journal.writer import JournalWriter
from dynmem.manager.step import Manager
from dynmem.manager.step.division import Parts
from dynmem.manager.step.facts import ManagerSettings
from dynmem.manager.step.results import SetBalloon
from dynmem.manager.totals import Totals
from dynmem.qmp.errors import QmpCommandError
from dynmem.units import GIB, MIB, NS_PER_S

REFUSED = QmpCommandError("GenericError", "no balloon")


class Sent:
    """A connection that notes in the common log what it was asked to send."""

    def __init__(self, name: str, log: list[str], error: Exception | None = None) -> None:
        self.name, self.log, self.error = name, log, error
        self.incarnation = f"{name}.1"

    async def set_balloon(self, target_bytes: int, parts: Parts | None = None) -> None:
        await asyncio.sleep(0)
        self.log.append(f"{self.name} is sent {target_bytes // MIB} MiB")
        if self.error is not None:
            raise self.error


class Full(Journal):
    """A journal on a disk that is full."""

    def intend(self, intents: object, now_ns: int) -> list[int]:
        raise JournalError("the disk is full")


class Slow(Sent):
    """A connection whose monitor replies when the test says so."""

    def __init__(self, name: str, log: list[str], error: Exception | None = None) -> None:
        super().__init__(name, log, error)
        self.reply = asyncio.Event()

    async def set_balloon(self, target_bytes: int, parts: Parts | None = None) -> None:
        self.log.append(f"{self.name} is sent {target_bytes // MIB} MiB")
        await self.reply.wait()
        if self.error is not None:
            raise self.error


def order(name: str, mib: int, verb: str) -> SetBalloon:
    news = f"{name}: {verb} to {mib} MiB"
    return SetBalloon(name, mib * MIB, "demand", takes_nothing=verb == "grown", news=news)


def acted(journal: Journal, commands: list[SetBalloon], errors: dict[str, Exception]) -> list[str]:
    """Carry these out; return what was sent and printed, in order."""
    log: list[str] = []
    links = {each.vm: Sent(each.vm, log, errors.get(each.vm)) for each in commands}

    async def scenario() -> list[tuple[int, Intent]]:
        manager = Manager(ManagerSettings(1 * GIB, 64 * MIB, NS_PER_S, "enforce"), [])
        writer = JournalWriter(journal, log.append)
        open_rows = await Acts(manager, writer, log.append, Totals()).act(
            cast("Connections", links), commands
        )
        await writer.finish()
        return open_rows

    play(scenario())
    journal.close()
    return log


def test_each_change_is_printed_once_and_after_it_was_sent(tmp_path: Path) -> None:
    log = acted(Journal(tmp_path), [order("web", 200, "grown"), order("db", 100, "shrunk")], {})
    assert sorted(log) == [
        "db is sent 100 MiB",
        "db: shrunk to 100 MiB",
        "web is sent 200 MiB",
        "web: grown to 200 MiB",
    ]
    assert log.index("web is sent 200 MiB") < log.index("web: grown to 200 MiB")
    assert log.index("db is sent 100 MiB") < log.index("db: shrunk to 100 MiB")


@pytest.mark.parametrize("error", [REFUSED, TimeoutError("no reply")])
def test_a_change_that_was_refused_or_not_answered_is_printed_once_and_not_as_done(
    error: Exception, tmp_path: Path
) -> None:
    log = acted(Journal(tmp_path), [order("web", 200, "grown")], {"web": error})
    assert log == ["web is sent 200 MiB", f"web: not done: {error}"]


def test_without_a_journal_growth_is_printed_once_and_a_shrink_is_neither_sent_nor_printed(
    tmp_path: Path,
) -> None:
    log = acted(Full(tmp_path), [order("web", 200, "grown"), order("db", 100, "shrunk")], {})
    assert log == ["the disk is full", "web is sent 200 MiB", "web: grown to 200 MiB"]


@pytest.mark.parametrize("error", [None, REFUSED, TimeoutError("no reply")])
def test_a_monitor_that_is_late_with_its_reply_keeps_nobody_waiting_and_is_recorded_when_it_comes(
    error: Exception | None, tmp_path: Path
) -> None:
    log: list[str] = []
    slow, quick = Slow("web", log, error), Sent("db", log)
    links = cast("Connections", {"web": slow, "db": quick})
    journal = Journal(tmp_path)

    async def scenario() -> None:
        manager = Manager(ManagerSettings(1 * GIB, 64 * MIB, NS_PER_S, "enforce"), [])
        writer = JournalWriter(journal, log.append)
        acts = Acts(manager, writer, log.append, Totals())
        assert await acts.act(links, [order("web", 200, "grown"), order("db", 100, "shrunk")]) == []
        assert "db: shrunk to 100 MiB" in log
        assert "web: grown to 200 MiB" not in log
        assert [action.vm for action in journal.open_actions()] == ["web"]
        assert await acts.act(links, [order("db", 120, "grown")]) == []
        assert log[-1] == "db: grown to 120 MiB"
        slow.reply.set()
        await acts.finish()
        assert log[-1] == ("web: grown to 200 MiB" if error is None else f"web: not done: {error}")
        assert journal.open_actions() == []
        await writer.finish()

    play(scenario())
    journal.close()


def test_a_late_outcome_that_cannot_be_recorded_is_left_open_for_the_next_step(tmp_path: Path) -> None:
    log: list[str] = []
    slow = Slow("web", log)

    class Filling(Journal):
        """A journal whose disk fills up once something was intended."""

        def conclude(self, outcomes: object, now_ns: int) -> None:
            raise JournalError("the disk is full")

    journal = Filling(tmp_path)

    async def scenario() -> None:
        manager = Manager(ManagerSettings(1 * GIB, 64 * MIB, NS_PER_S, "enforce"), [])
        writer = JournalWriter(journal, log.append)
        acts = Acts(manager, writer, log.append, Totals())
        links = cast("Connections", {"web": slow})
        assert await acts.act(links, [order("web", 200, "grown")]) == []
        slow.reply.set()
        await acts.finish()
        assert [intent.vm for _, intent in await acts.act(links, [])] == ["web"]
        assert await acts.act(links, []) == []
        await writer.finish()

    play(scenario())
    journal.close()
