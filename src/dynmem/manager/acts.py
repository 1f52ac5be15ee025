"""What a step decided is recorded, sent, and reported once it was sent.

    journal (intents) --> balloon commands, all at once --> a line for each sent --> journal (outcomes)

Nothing is taken from a VM that is not recorded first. Growth from memory that was measured free is sent even
while the journal cannot be written, since a guest may need it to live, and is recorded when it can be again.

A monitor that is late with its reply keeps no other VM waiting: the next step is made without it, its command
counts as sent, and its outcome is recorded when it comes.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Final

from dynmem.errors import DynmemError
from dynmem.manager.journal.journal import FAILED, SENT, UNKNOWN, Intent, JournalError
from dynmem.manager.journal.writer import JournalWriter
from dynmem.manager.step import Manager
from dynmem.manager.step.results import SetBalloon
from dynmem.manager.sweep.managed_vm import ManagedVm
from dynmem.manager.sweep.quiet import NotSentError
from dynmem.manager.totals import Totals
from dynmem.qmp.errors import QmpCommandError

Connections = Mapping[str, ManagedVm]
Rows = list[tuple[int, Intent]]

# How long a step waits for the replies to its commands.
REPLY_PATIENCE_S: Final = 0.1


class Acts:
    """Carries out commands of the manager; *report* prints a line for the operator."""

    def __init__(
        self, manager: Manager, writer: JournalWriter, report: Callable[[str], None], totals: Totals
    ) -> None:
        self._manager = manager
        self._writer = writer
        self._report = report
        self._totals = totals
        self._unrecorded: dict[str, Intent] = {}  # the last growth of each VM that was sent without a record
        self._late: set[asyncio.Task[str] | asyncio.Task[None]] = set()
        self._left_open: Rows = []
        self._refused: dict[str, str] = {}

    async def act(self, connections: Connections, commands: Sequence[SetBalloon]) -> Rows:
        """Record, send and report; return the actions whose outcome could not be recorded.

        Among them can be late ones of a call before.
        """
        await self._record_late()
        if not commands:
            return self._take_open()
        intents = [_intent(connections[each.vm], each) for each in commands]
        journal = self._writer.journal
        try:
            ids = await self._writer.do(partial(journal.intend, intents, time.time_ns()))
        except JournalError:  # the writer has reported why
            await self._grow_unrecorded(connections, commands)
            return self._take_open()
        # Grants were measured free without the shrinks of this step: there is no order to keep.
        sent = await self._send_all(connections, commands)
        rows = list(zip(ids, intents, sent, strict=True))
        await self._conclude([row for row in rows if row[2].done()])
        for row in rows:
            if not row[2].done():
                self._keep(asyncio.create_task(self._conclude([row])))
        return self._take_open()

    def take_refused(self) -> dict[str, str]:
        """Return the VMs whose last command was refused since this was called last, and why."""
        refused, self._refused = self._refused, {}
        return refused

    async def finish(self) -> None:
        """Wait for the replies that are late; none is later than a monitor's time for one command."""
        await asyncio.gather(*self._late)

    def _keep(self, task: asyncio.Task[str] | asyncio.Task[None]) -> None:
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    def _take_open(self) -> Rows:
        left, self._left_open = self._left_open, []
        return left

    async def _send_all(
        self, connections: Connections, commands: Sequence[SetBalloon]
    ) -> list[asyncio.Task[str]]:
        """Send commands and wait a little; of those that have no reply by then, the targets count."""
        late: set[str] = set()  # filled below, while replies are still awaited
        sent = [asyncio.create_task(self._send(connections[each.vm], each, late)) for each in commands]
        await asyncio.wait(sent, timeout=REPLY_PATIENCE_S)
        for each, task in zip(commands, sent, strict=True):
            if not task.done():
                self._keep(task)
                late.add(each.vm)
                self._manager.was_sent(each.vm)
        return sent

    async def _conclude(self, rows: Sequence[tuple[int, Intent, asyncio.Task[str]]]) -> None:
        """Record outcomes, those that are not known yet once they are."""
        outcomes = [(number, await task) for number, _, task in rows]
        if not outcomes:
            return
        try:
            await self._writer.do(partial(self._writer.journal.conclude, outcomes, time.time_ns()))
        except JournalError:
            self._left_open += [(number, intent) for number, intent, _ in rows]

    async def _grow_unrecorded(self, connections: Connections, commands: Sequence[SetBalloon]) -> None:
        """Send only what takes nothing from a VM."""
        self._manager.not_sent(each.vm for each in commands if not each.takes_nothing)
        growth = [each for each in commands if each.takes_nothing]
        sent = await self._send_all(connections, growth) if growth else []
        for each, task in zip(growth, sent, strict=True):
            if not (task.done() and task.result().startswith(FAILED)):
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

    async def _send(self, connection: ManagedVm, command: SetBalloon, late: Collection[str]) -> str:
        """Send one command and return its outcome, for the journal.

        If it comes *late*, steps have been made since, and the command counted as sent in them.
        """
        before = self._manager.target_before(command.vm)
        try:
            await connection.set_balloon(command.target_bytes, command.parts)
        except (DynmemError, OSError, TimeoutError) as error:
            self._report(f"{command.vm}: not done: {error}")
            if not isinstance(error, (QmpCommandError, NotSentError)):
                if command.vm not in late:
                    self._manager.was_sent(command.vm)
                self._totals.ended("unknown")
                return f"{UNKNOWN}: {error}"  # it may have arrived, so it counts as sent
            self._refused[command.vm] = str(error)
            if command.vm in late:
                self._manager.refused_late(command.vm, command.target_bytes, before)
            else:
                self._manager.not_sent([command.vm])
            self._totals.ended("failed")
            return f"{FAILED}: {error}"
        if command.vm not in late:
            self._manager.was_sent(command.vm)
        self._totals.ended("sent")
        if command.news:
            self._report(command.news)
        return SENT


def _intent(connection: ManagedVm, command: SetBalloon) -> Intent:
    return Intent(
        vm=command.vm,
        incarnation=connection.incarnation,
        target_bytes=command.target_bytes,
        reason=command.reason,
        measurement=command.measurement,
    )
