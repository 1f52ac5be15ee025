"""A guest with some documented habits of Windows against our host, and all that went over the wire."""

from collections.abc import Callable
from typing import Any, TypeVar

from tests.rigs.dm_channel import Wire
from tests.rigs.pages import packed
from tests.rigs.stores import PlainBlocks, PlainSource, SetStore

from dynmem.dm.events import Anomaly
from dynmem.dm.guest import DynamicMemoryGuest
from dynmem.dm.habits import Habits
from dynmem.dm.host import DynamicMemoryHost
from dynmem.dm.options import POST_INIT_WAIT_NS, GuestOptions, HostOptions
from dynmem.dm.windows import HABITS
from dynmem.limits import DM_RANGES_PER_MESSAGE
from dynmem.pages.page_set import PageSet
from dynmem.units import NS_PER_S
from dynmem.wire import dm

TOTAL = 1 << 20  # 4 GiB
STEP = 1 << 15  # 128 MiB
REGION = 8 * TOTAL
LIMIT = REGION + 4 * STEP
RUN = 512  # free memory comes in runs of 2 MiB, with a page in use between them
Test = TypeVar("Test", bound=Callable[..., None])


def shows(*names: str) -> Callable[[Test], Test]:
    """Say which rows of the table a test shows."""
    assert {habit.name for habit in HABITS}.issuperset(names)
    return lambda test: test


def only(name: str) -> Habits:
    """Return a guest with this habit and no other."""
    return Habits(**next(habit.sets for habit in HABITS if habit.name == name))


class Free:
    """The guest's free memory."""

    def __init__(self, total_pages: int, committed_pages: int) -> None:
        self.committed_pages = committed_pages
        self.free = PageSet(total_pages)
        self.free.add(packed(*((start, RUN) for start in range(0, total_pages - RUN, RUN + 1))))

    @property
    def available_pages(self) -> int:
        return len(self.free)

    def allocate_for_balloon(self, pages: int) -> bytes:
        return self.free.take(pages, DM_RANGES_PER_MESSAGE)

    def free_from_balloon(self, ranges: bytes) -> None:
        assert self.free.add(ranges).duplicates == 0


class Tapped(Wire):
    """A wire that remembers what went over it."""

    def __init__(self, host: DynamicMemoryHost, guest: DynamicMemoryGuest) -> None:
        super().__init__(host, guest)
        self.seen: list[tuple[dm.Message, int]] = []

    def _send(self, end: Any, ring: Any) -> bool:
        if not super()._send(end, ring):
            return False
        self.seen.append((dm.decode(ring[-1]), len(ring[-1])))
        return True


class Played:
    """Both ends, of 4 GiB and 512 MiB more; time passes in seconds."""

    def __init__(
        self,
        habits: Habits,
        *,
        committed: int = 1000,
        alignment: int = STEP,
        wait_ns: int = POST_INIT_WAIT_NS,
    ) -> None:
        self.store = SetStore(LIMIT)
        self.source = PlainSource(REGION, 2 * STEP)
        self.blocks = PlainBlocks(alignment, LIMIT)
        self.pages = Free(TOTAL, committed)
        self.host = DynamicMemoryHost(
            store=self.store,
            boot_pages=TOTAL,
            hot_add=self.source,
            options=HostOptions(status_report=True, post_init_wait_ns=wait_ns),
        )
        self.guest = self.driver(habits)
        self.wire = Tapped(self.host, self.guest)
        self.host.reset(0)

    def driver(self, habits: Habits) -> DynamicMemoryGuest:
        """Return a driver for this guest's memory."""
        return DynamicMemoryGuest(
            pages=self.pages,
            total_pages=TOTAL,
            blocks=self.blocks,
            options=GuestOptions(page_limit=LIMIT, hot_add_attempts=1, habits=habits),
        )

    def start(self) -> "Played":
        """Open the channel and let the wait after start pass."""
        self.wire.open()
        self.wire.settle()
        self.passes(POST_INIT_WAIT_NS // NS_PER_S)
        return self

    def passes(self, seconds: int) -> None:
        for _ in range(seconds):
            self.wire.now += NS_PER_S
            self.host.tick(self.wire.now)
            self.guest.tick(self.wire.now)
            self.wire.settle()

    def target(self, pages: int) -> None:
        self.host.set_target(pages, self.wire.now)
        self.wire.settle()

    def said(self, kind: type) -> list[Any]:
        """Return the messages of one kind that went over the wire, in either direction."""
        return [message for message, _ in self.wire.seen if isinstance(message, kind)]

    def anomalies(self) -> list[str]:
        return [event.text for event in self.host.take_events() if isinstance(event, Anomaly)]
