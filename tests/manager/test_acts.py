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
from dynmem.manager.step.facts import ManagerSettings
from dynmem.manager.step.results import SetBalloon
from dynmem.qmp.errors import QmpCommandError
from dynmem.units import GIB, MIB, NS_PER_S

REFUSED = QmpCommandError("GenericError", "no balloon")


class Sent:
    """A connection that notes in the common log what it was asked to send."""

    def __init__(self, name: str, log: list[str], error: Exception | None = None) -> None:
        self.name, self.log, self.error = name, log, error
        self.incarnation = f"{name}.1"

    async def set_balloon(self, target_bytes: int) -> None:
        await asyncio.sleep(0)
        self.log.append(f"{self.name} is sent {target_bytes // MIB} MiB")
        if self.error is not None:
            raise self.error


class Full(Journal):
    """A journal on a disk that is full."""

    def intend(self, intents: object, now_ns: int) -> list[int]:
        raise JournalError("the disk is full")


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
        open_rows = await Acts(manager, writer, log.append).act(cast("Connections", links), commands)
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
