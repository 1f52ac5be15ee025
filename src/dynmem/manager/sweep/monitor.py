"""The manager's only way to reach a VM: a QMP client behind a list of what may be sent.

Reading: `query-*`, `qom-list`, `qom-get`. Writing: `balloon`, and `qom-set` of the statistics interval and of
`requested-size` where a virtio-mem was found; and around a `balloon` `stop` and `cont`, where the operator
allows that. In observe and advise mode, and of a VM that is paused, writing raises before a byte is sent; the
interval is apart, since an operator may give leave for that alone.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from dynmem.errors import LocalProtocolError
from dynmem.limits import MANAGER_QUERIES_AHEAD_MAX
from dynmem.qmp.batch import Batch, Command
from dynmem.qmp.client import QmpClient
from dynmem.qmp.queries import query, values_of

WRITES: Final = frozenset({"balloon", "qom-set"})
# The only properties that are ever set (QEMU hw/virtio/virtio-balloon.c, in seconds, and virtio-mem.c).
STATISTICS_INTERVAL: Final = "guest-stats-polling-interval"
REQUESTED_SIZE: Final = "requested-size"
# What seldom changes is asked for at each look of this number.
SELDOM: Final = 10


class Usual:
    """What looks at one VM ask, as the next one will: what the looks ten and twenty before it have asked.

    That counts if it holds all that the last two had in common, and else only what they had; what was asked
    but once is not asked again. The queries are in the order in which they were asked: so they mean what they
    would mean if each was sent by itself.
    """

    def __init__(self) -> None:
        self._asked: deque[Sequence[Command]] = deque(maxlen=2 * SELDOM)

    @property
    def queries(self) -> Sequence[Command]:
        """What the next look will ask, as far as that can be known."""
        if len(self._asked) < 2:
            return ()
        common = _in_both(self._asked[-2], self._asked[-1])
        due = _in_both(self._asked[0], self._asked[SELDOM]) if len(self._asked) == 2 * SELDOM else []
        found = due if all(each in due for each in common) else common
        return found[:MANAGER_QUERIES_AHEAD_MAX]

    def looked(self, asked: Sequence[Command]) -> None:
        """Take in what a look has asked."""
        self._asked.append(asked)


def _in_both(before: Sequence[Command], after: Sequence[Command]) -> list[Command]:
    return [each for each in after if each in before]


class Monitor:
    """A connected QMP client behind the allow-list.

    Attributes:
        client: The client.
        may_write: Whether anything may be sent that changes something.
        may_ask: Whether its guest may be asked for statistics more often, also where that is all.
    """

    def __init__(
        self, client: QmpClient, *, may_write: bool, timeout_s: float, may_ask: bool = False
    ) -> None:
        self.client: Final = client
        self.may_write: bool = may_write
        self.may_ask: bool = may_ask or may_write
        #: The paths at which virtio-mem devices were found.
        self.virtio_mems: frozenset[str] = frozenset()
        self._timeout_s = timeout_s
        self._ahead: Batch | None = None
        self._place = 0  # of the command in it that may be wanted next
        self._asked: list[Command] | None = None  # within a look

    @property
    def is_ours(self) -> bool:
        """Whether the other end says that it is `dynmem vm`."""
        version = self.client.greeting.get("version")
        package = version.get("package") if isinstance(version, dict) else None
        return isinstance(package, str) and package.startswith("dynmem ")

    @asynccontextmanager
    async def ahead(self, usual: Usual) -> AsyncIterator[None]:
        """Send what looks usually ask as one message; within the block, `query` takes the replies to that.

        Raises what QmpClient.send raises.
        """
        asked = self._asked = []
        self._place = 0
        if queries := usual.queries:
            self._ahead = await self.client.send(queries, timeout_s=self._timeout_s)
        try:
            yield
        finally:
            self._asked = self._ahead = None
        usual.looked(asked)

    async def query(self, command: str, arguments: dict[str, object] | None = None) -> object:
        """Send a command that changes nothing and return its reply. Raises what QmpClient.execute raises.

        Where it was sent ahead, that reply counts; what was to come before it is not asked any more.
        """
        most, wanted = values_of(command), (command, arguments)
        if self._asked is not None:
            self._asked.append(wanted)
        if self._ahead is not None and wanted in self._ahead.commands[self._place :]:
            place = self._ahead.commands.index(wanted, self._place)
            self._place = place + 1
            await self.client.wait(self._ahead, timeout_s=self._timeout_s)
            return self.client.result(self._ahead, place, values_max=most)
        return await self.query_now(command, arguments)

    async def query_now(self, command: str, arguments: dict[str, object] | None = None) -> object:
        """Send a command that changes nothing, and return a reply that is no older than this."""
        return await query(self.client, command, arguments, timeout_s=self._timeout_s)

    async def set_balloon(self, target_bytes: int) -> None:
        """Set the balloon's target. An empty reply does not mean success; only `actual` shows it."""
        assert target_bytes > 0
        self._check(may=self.may_write)
        await self._send("balloon", {"value": target_bytes})

    async def set_balloon_stopped(self, target_bytes: int) -> None:
        """Set the balloon's target while the VM's processors are stopped.

        All is sent as one: a manager that is killed meanwhile leaves no VM stopped.
        """
        assert target_bytes > 0
        self._check(may=self.may_write)
        commands = [("stop", None), ("balloon", {"value": target_bytes}), ("cont", None)]
        await self.client.execute_together(commands, timeout_s=self._timeout_s)

    async def set_requested_size(self, path: str, size_bytes: int) -> None:
        """Set how much a virtio-mem's guest is to have plugged. Only its `size` shows what the guest does."""
        assert size_bytes >= 0
        if path not in self.virtio_mems:
            raise LocalProtocolError(f"{REQUESTED_SIZE} was about to be set where no virtio-mem was found")
        self._check(may=self.may_write)
        await self._send("qom-set", {"path": path, "property": REQUESTED_SIZE, "value": size_bytes})

    async def set_statistics_interval(self, path: str, seconds: int) -> None:
        """Let QEMU ask the guest for its statistics every *seconds* seconds; 0: never, as it was found."""
        assert seconds >= 0
        self._check(may=self.may_ask)
        await self._send("qom-set", {"path": path, "property": STATISTICS_INTERVAL, "value": seconds})

    async def ask_for_statistics(self, path: str, seconds: int) -> None:
        """Let QEMU ask the guest for its statistics at once, and every *seconds* seconds as before.

        0 ends QEMU's timer, and one that begins asks first and then waits (balloon_stats_set_poll_interval).
        Both are sent together: whoever is stopped in between would leave the statistics off.
        """
        assert seconds > 0
        replies = await asyncio.gather(
            self.set_statistics_interval(path, 0),
            self.set_statistics_interval(path, seconds),
            return_exceptions=True,
        )
        for reply in reversed(replies):
            if reply is not None:
                raise reply

    async def _send(self, command: str, arguments: dict[str, object]) -> None:
        assert command in WRITES
        await self.client.execute(command, arguments, timeout_s=self._timeout_s)

    @staticmethod
    def _check(*, may: bool) -> None:
        if not may:
            raise LocalProtocolError("a command was about to be sent to a VM that nothing may be sent to")
