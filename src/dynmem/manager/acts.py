"""What a step decided is recorded, sent, and reported once it was sent.

    journal (intents) --> balloon commands, all at once --> a line for each sent --> journal (outcomes)

Nothing is taken from a VM that is not recorded first. Growth from memory that was measured free is sent even
while the journal cannot be written, since a guest may need it to live, and is recorded when it can be again.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from dynmem.errors import DynmemError
from dynmem.manager.journal.journal import FAILED, SENT, UNKNOWN, Intent, JournalError
from dynmem.manager.journal.writer import JournalWriter
from dynmem.manager.step import Manager
from dynmem.manager.step.results import SetBalloon
from dynmem.manager.sweep.connection import VmConnection
from dynmem.qmp.errors import QmpCommandError

Connections = Mapping[str, VmConnection]


class Acts:
    """Carries out commands of the manager; *report* prints a line for the operator."""

    def __init__(self, manager: Manager, writer: JournalWriter, report: Callable[[str], None]) -> None:
        self._manager = manager
        self._writer = writer
        self._report = report
        self._unrecorded: dict[str, Intent] = {}  # the last growth of each VM that was sent without a record

    async def act(self, connections: Connections, commands: Sequence[SetBalloon]) -> list[tuple[int, Intent]]:
        """Record, send and report; return the actions whose outcome could not be recorded."""
        await self._record_late()
        if not commands:
            return []
        intents = [_intent(connections[each.vm], each) for each in commands]
        journal = self._writer.journal
        try:
            ids = await self._writer.do(partial(journal.intend, intents, time.time_ns()))
        except JournalError:  # the writer has reported why
            await self._grow_unrecorded(connections, commands)
            return []
        # Grants were measured free without the shrinks of this step: there is no order to keep.
        outcomes = await asyncio.gather(*(self._send(connections[each.vm], each) for each in commands))
        try:
            concluded = list(zip(ids, outcomes, strict=True))
            await self._writer.do(partial(journal.conclude, concluded, time.time_ns()))
        except JournalError:
            return list(zip(ids, intents, strict=True))
        return []

    async def _grow_unrecorded(self, connections: Connections, commands: Sequence[SetBalloon]) -> None:
        """Send only what takes nothing from a VM."""
        self._manager.not_sent(each.vm for each in commands if not each.takes_nothing)
        growth = [each for each in commands if each.takes_nothing]
        outcomes = await asyncio.gather(*(self._send(connections[each.vm], each) for each in growth))
        for each, outcome in zip(growth, outcomes, strict=True):
            if not outcome.startswith(FAILED):
                self._unrecorded[each.vm] = _intent(connections[each.vm], each)

    async def _record_late(self) -> None:
        """Record the growth that was sent without a record, once the journal can be written again."""
        if not self._unrecorded:
            return
        intents, now_ns, journal = list(self._unrecorded.values()), time.time_ns(), self._writer.journal
        try:
            ids = await self._writer.do(partial(journal.intend, intents, now_ns))
            await self._writer.do(partial(journal.conclude, [(each, SENT) for each in ids], now_ns))
        except JournalError:
            return
        self._unrecorded.clear()

    async def _send(self, connection: VmConnection, command: SetBalloon) -> str:
        """Send one command and return its outcome, for the journal."""
        try:
            await connection.set_balloon(command.target_bytes)
        except (DynmemError, OSError, TimeoutError) as error:
            self._report(f"{command.vm}: not done: {error}")
            if not isinstance(error, QmpCommandError):
                self._manager.was_sent(command.vm)
                return f"{UNKNOWN}: {error}"  # it may have arrived, so it counts as sent
            self._manager.not_sent([command.vm])
            return f"{FAILED}: {error}"
        self._manager.was_sent(command.vm)
        if command.news:
            self._report(command.news)
        return SENT


def _intent(connection: VmConnection, command: SetBalloon) -> Intent:
    return Intent(
        vm=command.vm,
        incarnation=connection.incarnation,
        target_bytes=command.target_bytes,
        reason=command.reason,
        measurement=command.measurement,
    )
