"""A host that says anything at any time: what the guest must never do."""

import contextlib
import random

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rigs.pages import packed, pages_of
from tests.rigs.stores import PlainBlocks, PlainPages

from dynmem.dm.guest import DynamicMemoryGuest
from dynmem.dm.habits import LINUX
from dynmem.dm.options import GuestOptions
from dynmem.dm.states import GuestState
from dynmem.dm.windows import WINDOWS
from dynmem.errors import RemoteProtocolError
from dynmem.units import NS_PER_S
from dynmem.wire import dm

TOTAL = 4864  # 256 pages above its floor
REGION = 8192
STEP = 256
LIMIT = REGION + 4 * STEP


def anything(chance: random.Random, pages: PlainPages) -> dm.Message:
    """What a host says, sensible about half of the time."""
    given = sorted(pages.ballooned)[:20]
    back = [(page, 1) for page in given if chance.random() < 0.5]
    strange = [(chance.randint(0, LIMIT), chance.randint(0, 40)) for _ in range(chance.randint(0, 3))]
    start, count = REGION + chance.randint(0, 4) * STEP, chance.randint(1, 2) * STEP
    if chance.random() < 0.2:
        start, count = chance.randint(0, LIMIT), chance.randint(0, 3 * STEP)
    region = chance.choice([None, start | count << 40, REGION | 4 * STEP << 40])
    messages: list[dm.Message] = [
        dm.BalloonRequest(0, chance.choice([0, 5, 100, 2**32 - 1])),
        dm.UnballoonRequest(0, chance.random() < 0.3, packed(*back)),
        dm.UnballoonRequest(0, chance.random() < 0.3, packed(*strange)),
        dm.HotAddRequest(0, start | count << 40, region),
        dm.HotRemoveRequest(0, 0, chance.choice([0, 3, 500, 2**32 - 1]), 0),
        dm.InfoMessage(0, chance.randint(0, 1), bytes(chance.choice([0, 8]))),
        dm.VersionResponse(0, chance.random() < 0.5),
        dm.CapabilitiesResponse(0, True, chance.random() < 0.8, chance.random() < 0.5),
        dm.DmError(0),
    ]
    return chance.choice(messages)


class Guest:
    """A guest with an allocator and a kernel, and what the host has been told of its pages."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.pages = PlainPages(TOTAL, run=3)
        self.blocks = PlainBlocks(STEP, LIMIT - chance.choice([0, STEP, 100]))
        self.guest = DynamicMemoryGuest(
            pages=self.pages,
            total_pages=TOTAL,
            blocks=self.blocks,
            options=GuestOptions(
                page_limit=LIMIT, hot_add_attempts=2, habits=chance.choice([LINUX, LINUX, WINDOWS])
            ),
        )
        self.told: set[int] = set()
        self.now = 0

    def speaks(self) -> None:
        data = self.guest.next_message()
        if data is None or self.chance.random() < 0.2:  # offered, and no room in the ring
            return
        self.guest.message_sent(self.now)
        message = dm.decode(data)
        if isinstance(message, dm.BalloonResponse):
            told = pages_of(message.ranges)
            assert len(set(told)) == len(told)
            assert self.told.isdisjoint(told)
            self.told.update(told)

    def listens(self) -> None:
        message = anything(self.chance, self.pages)
        before = set(self.pages.ballooned)
        with contextlib.suppress(RemoteProtocolError):
            self.guest.receive(dm.encode(message), self.now)
        freed = before - self.pages.ballooned
        assert freed <= self.told  # never a page that the host does not have
        self.told -= freed

    def passes(self) -> None:
        self.now += self.chance.choice([1, NS_PER_S, 60 * NS_PER_S])
        self.guest.tick(self.now)

    def reopens(self) -> None:
        self.guest.channel_closed(self.now)
        if self.guest.state is GuestState.CLOSED:
            self.start()

    def start(self) -> None:
        """Open the channel and answer as a host should."""
        self.guest.channel_opened(self.now)
        for answer in (dm.VersionResponse(0, True), dm.CapabilitiesResponse(0, True, True, True)):
            while self.guest.next_message() is not None:
                self.guest.message_sent(self.now)
            self.guest.receive(dm.encode(answer), self.now)

    def kernel_is_short(self) -> None:
        self.blocks.short = [self.chance.choice([0, 7]) for _ in range(self.chance.randint(0, 3))]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1 << 32))
def test_the_guest_keeps_every_page_in_one_place_whatever_the_host_does(seed: int) -> None:
    """Its own faults (LocalProtocolError) do not come up, and its figures are those of the allocator."""
    chance = random.Random(seed)
    guest = Guest(chance)
    guest.start()
    common = [guest.speaks, guest.listens, guest.speaks, guest.listens, guest.passes]
    for _ in range(60):
        chance.choice([*common, *common, guest.reopens, guest.kernel_is_short])()
        assert guest.guest.ballooned_pages == len(guest.told)
        assert guest.told <= guest.pages.ballooned
        assert guest.pages.ballooned.isdisjoint(guest.pages.free)
        assert guest.guest.total_pages >= TOTAL
        assert guest.blocks.added.isdisjoint(range(TOTAL))
    guest.guest.channel_closed(guest.now)
    assert guest.guest.total_pages == TOTAL + len(guest.blocks.added)
    if guest.guest.state is GuestState.CLOSED:  # a crashed guest tidies nothing up
        assert guest.pages.ballooned == guest.told
