"""A guest that says anything at any time: what the host must never do."""

import random
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rigs.driven_host import DEADLINE, DrivenHost
from tests.rigs.pages import packed, pages_of
from tests.rigs.stores import PlainSource

from dynmem.dm.states import HostState
from dynmem.wire import dm

SPANS = st.lists(st.tuples(st.integers(0, 70), st.integers(0, 12)), max_size=8)
MESSAGES = st.one_of(
    st.builds(dm.BalloonResponse, st.just(1), st.booleans(), SPANS.map(lambda spans: packed(*spans))),
    st.builds(dm.BalloonResponse, st.just(1), st.just(False), SPANS.map(lambda spans: packed(*spans))),
    st.just(dm.UnballoonResponse(2)),
    st.just(dm.VersionRequest(3, dm.VERSION_WIN10, False)),
    st.builds(dm.CapabilitiesReport, st.just(4), st.just(dm.CAP_BALLOON), st.just(0), st.just(0)),
    st.builds(dm.StatusReport, *[st.integers(0, 2**32 - 1)] * 7),
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_host_gives_back_only_what_it_was_given_whatever_the_guest_does(data: st.DataObject) -> None:
    """Every unballooned range is a subset of what this guest gave and has not got back."""
    played = DrivenHost(boot_pages=64, chunk=16)
    played.start()
    given: set[int] = set()

    def guest_speaks() -> None:
        message = data.draw(MESSAGES)
        accepting = played.host.state in {HostState.BALLOON_REPLY_WAIT, HostState.STUCK}
        removed = set(played.store.pages)
        played.says(message)
        new = played.store.pages - removed
        if isinstance(message, dm.BalloonResponse):
            assert new <= set(pages_of(message.ranges))
            assert accepting or not new
        given.update(new)

    def host_speaks() -> None:
        message = played.sent()
        if isinstance(message, dm.UnballoonRequest):
            back = pages_of(message.ranges)
            assert len(back) == len(set(back))
            assert given.issuperset(back)
            given.difference_update(back)

    def channel_reopens() -> None:
        played.host.channel_closed(played.now)
        played.start()

    def guest_restarts() -> None:
        given.clear()
        played.store.pages.clear()
        played.host.reset(played.now)
        played.start()

    common: list[Callable[[], None]] = [
        guest_speaks,
        host_speaks,
        lambda: played.host.set_target(data.draw(st.integers(1, 80)), played.now),
        played.offer,
        lambda: played.passes(data.draw(st.sampled_from([1, DEADLINE]))),
    ]
    for _ in range(data.draw(st.integers(5, 40))):
        data.draw(st.sampled_from([*common, *common, channel_reopens, guest_restarts]))()
        held = played.store.removed_pages
        assert played.host.actual_pages <= 64 - held
        assert 64 - played.host.actual_pages == len(given)


REGION = 1024
STEP = 256
CAPS = dm.CAP_BALLOON | dm.CAP_HOT_ADD | dm.CAP_HOT_REMOVE


def anything(chance: random.Random, out: int) -> dm.Message:
    """What a guest says that was offered `out` pages: half of the time about them."""
    region = [(chance.randint(REGION - 5, REGION + 5 * STEP), chance.randint(0, STEP)) for _ in range(3)]
    low = [(chance.randint(0, 70), chance.randint(0, 12)) for _ in range(chance.randint(0, 5))]
    if out and chance.random() < 0.5:
        return dm.HotAddResponse(5, chance.choice([0, 1, out, out, 2**32 - 1]), chance.choice([0, 1, 1, 2]))
    messages: list[dm.Message] = [
        dm.HotAddResponse(5, STEP, 1),
        dm.HotRemoveResponse(6, chance.randint(0, 1), chance.random() < 0.5, packed(*region)),
        dm.BalloonResponse(1, chance.random() < 0.3, packed(*low)),
        dm.UnballoonResponse(2),
        dm.VersionRequest(3, dm.VERSION_WIN10, False),
    ]
    return chance.choice(messages)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1 << 32))
def test_memory_is_offered_once_and_never_after_a_barrier_whatever_the_guest_does(seed: int) -> None:
    """What is posted overlaps nothing that the guest has; what was not posted, the guest does not have."""
    chance = random.Random(seed)
    source = PlainSource(REGION, 4 * STEP, mapped=chance.random() < 0.5)
    played = DrivenHost(boot_pages=64, chunk=16, source=source)
    played.start(CAPS)
    played.host.set_target(64 + STEP, played.now)
    posted: set[int] = set()
    out = 0  # pages of the request that is not answered
    barrier = False

    def guest_speaks() -> None:
        nonlocal barrier, out
        message = anything(chance, out)
        before = source.added_pages
        played.says(message)
        if isinstance(message, dm.HotAddResponse):
            added = min(message.page_count, out)
            assert source.added_pages == before + added
            fails = not message.result or message.page_count < out
            later = message.result == message.page_count == 0
            barrier = barrier or (out > 0 and fails and not later)
            out = 0
        else:
            assert source.added_pages <= before

    def host_speaks() -> None:
        nonlocal out
        message = played.sent()
        if isinstance(message, dm.HotAddRequest):
            assert not barrier
            pages = set(pages_of(message.range.to_bytes(8, "little")))
            assert pages.isdisjoint(source.given)
            assert message.range & (STEP - 1) == 0
            posted.update(pages)
            out = len(pages)

    def guest_restarts() -> None:
        nonlocal barrier, out
        barrier, out = False, 0
        played.store.pages.clear()
        source.given.clear()
        source.reserved.clear()
        source.free = set(range(REGION, REGION + 4 * STEP))
        played.host.reset(played.now)
        played.start(CAPS)

    def channel_reopens() -> None:
        nonlocal out
        out = 0
        played.host.channel_closed(played.now)
        assert not source.reserved
        played.start(CAPS)

    def removal_is_wanted() -> None:
        played.host.hot_remove(chance.randint(1, STEP), played.now)

    def mapping_changes() -> None:
        source.mapped = not source.mapped
        played.host.tick(played.now)

    def target_is_set() -> None:
        played.host.set_target(chance.choice([10, 40, 64 + STEP, 64 + 3 * STEP, 64 + 5 * STEP]), played.now)

    common: list[Callable[[], None]] = [
        guest_speaks,
        host_speaks,
        guest_speaks,
        host_speaks,
        target_is_set,
        removal_is_wanted,
        played.offer,
        mapping_changes,
        lambda: played.passes(chance.choice([1, 2 * DEADLINE])),
    ]
    for _ in range(60):
        chance.choice([*common, *common, channel_reopens, guest_restarts])()
        assert source.given <= posted
        assert source.free.isdisjoint(source.given)
        assert played.host.actual_pages <= 64 + source.added_pages
