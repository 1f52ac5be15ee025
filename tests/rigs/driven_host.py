"""A host, and the guest that the test plays against it, byte for byte."""

from tests.rigs.pages import packed
from tests.rigs.stores import PlainSource, PlainStore

from dynmem.dm.events import StateChanged
from dynmem.dm.host import DynamicMemoryHost
from dynmem.dm.options import HostOptions
from dynmem.dm.states import HostState
from dynmem.units import NS_PER_S
from dynmem.wire import dm

WAIT = 50 * NS_PER_S
DEADLINE = 20 * NS_PER_S


class DrivenHost:
    """A host that a test drives: it chooses every message of the guest and says when time passes."""

    def __init__(
        self,
        *,
        boot_pages: int = 1000,
        status_report: bool = True,
        chunk: int = 400,
        source: PlainSource | None = None,
        store: type[PlainStore] = PlainStore,
        hot_add_region: bool = True,
        max_page_count: int | None = None,
    ) -> None:
        self.store = store(boot_pages)
        self.source = source
        self.host = DynamicMemoryHost(
            store=self.store,
            boot_pages=boot_pages,
            hot_add=source,
            options=HostOptions(
                status_report=status_report,
                balloon_chunk_pages=chunk,
                hot_add_region=hot_add_region,
                max_page_count=max_page_count,
            ),
        )
        self.now = 0
        self.seen: list[object] = []

    def sent(self) -> dm.Message | None:
        """Let the host send one message."""
        data = self.host.next_message()
        if data is None:
            return None
        assert self.host.next_message() == data
        self.host.message_sent(self.now)
        return dm.decode(data)

    def state(self) -> HostState:
        return self.host.state

    def offer(self) -> None:
        """Let the host build a message that does not get into the ring."""
        self.host.next_message()

    def says(self, message: dm.Message) -> None:
        self.host.receive(dm.encode(message), self.now)

    def start(
        self,
        caps: int = dm.CAP_BALLOON,
        min_page_cnt: int = 0,
        *,
        version: int = dm.VERSION_WIN10,
        max_page_number: int = (1 << 64) - 1,
    ) -> None:
        """Open and negotiate until the host is idle."""
        self.host.channel_opened(self.now)
        self.says(dm.VersionRequest(7, version, False))
        assert self.sent() == dm.VersionResponse(7, True)
        self.says(dm.CapabilitiesReport(8, caps, min_page_cnt, max_page_number))
        assert isinstance(self.sent(), dm.CapabilitiesResponse)
        self.passes(WAIT)

    def passes(self, ns: int) -> None:
        self.now += ns
        self.host.tick(self.now)

    def gives(self, *spans: tuple[int, int], more: bool = False) -> None:
        self.says(dm.BalloonResponse(99, more, packed(*spans)))

    def events(self, kind: type) -> list[object]:
        self.seen += self.host.take_events()
        found = [event for event in self.seen if isinstance(event, kind)]
        self.seen = [event for event in self.seen if not isinstance(event, kind)]
        return found

    def path(self) -> list[str]:
        """The states that were entered since this was last asked."""
        return [event.new.value for event in self.events(StateChanged) if isinstance(event, StateChanged)]
