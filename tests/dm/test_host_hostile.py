"""A guest that says anything at any time: what the host must never do."""

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from dynmem.dm.states import HostState
from dynmem.wire import dm

from .ends import packed, pages_in
from .played import DEADLINE, PlayedHost

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
    played = PlayedHost(boot_pages=64, chunk=16)
    played.start()
    given: set[int] = set()

    def guest_speaks() -> None:
        message = data.draw(MESSAGES)
        accepting = played.host.state in {HostState.BALLOON_REPLY_WAIT, HostState.STUCK}
        removed = set(played.store.pages)
        played.says(message)
        new = played.store.pages - removed
        if isinstance(message, dm.BalloonResponse):
            assert new <= set(pages_in(message.ranges))
            assert accepting or not new
        given.update(new)

    def host_speaks() -> None:
        message = played.sent()
        if isinstance(message, dm.UnballoonRequest):
            back = pages_in(message.ranges)
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
