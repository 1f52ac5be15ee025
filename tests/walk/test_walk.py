"""No interleaving of a host, a guest and their rings ends in a deadlock or breaks an invariant."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import pytest
from tests.walk.ends import BrokenInvariantError
from tests.walk.explore import Bound, Walk

from dynmem.vmbus import guest, host
from dynmem.vmbus.channel import TRANSITIONS, ChannelEvent, ChannelState
from dynmem.vmbus.ring import RingReader, RingWriter
from dynmem.wire import vmbus as wire

SMALL = Bound(messages=3, opens=1, closes=1, rescinds=1, resets=0)
AGAIN = Bound(messages=2, opens=3, closes=1, rescinds=2, reoffers=1, resets=0)


def test_every_interleaving_of_three_messages_close_rescind_and_reset_ends_well() -> None:
    result = Walk(Bound()).run()
    print(result)
    assert result.transitions > 800_000
    assert result.ends > 1000


def test_every_interleaving_of_a_rescind_after_which_the_device_is_offered_again_ends_well() -> None:
    result = Walk(AGAIN).run()
    print(result)
    assert result.transitions > 200_000


def test_a_walk_finds_a_host_that_does_not_offer_again() -> None:
    forgotten = {(ChannelState.REOFFERED, ChannelEvent.RELEASE): ChannelState.GONE}
    with mock.patch.dict(TRANSITIONS, forgotten), pytest.raises(BrokenInvariantError, match="not offered"):
        Walk(AGAIN).run()


def test_a_walk_finds_the_same_every_time() -> None:
    assert Walk(SMALL).run() == Walk(SMALL).run()


def without_signal(end: type) -> AbstractContextManager[object]:
    return mock.patch.object(end, "take_signal", return_value=False)


def ignored(message: type, rules: dict[type, tuple[Any, Any]]) -> AbstractContextManager[object]:
    """The machine takes the message and does nothing."""
    return mock.patch.dict(rules, {message: (lambda *_: None, rules[message][1])})


PLANTED: dict[str, tuple[Callable[[], AbstractContextManager[object]], str]] = {
    "a writer that never signals": (lambda: without_signal(RingWriter), "nobody looks|waits for room"),
    "a reader that never signals": (lambda: without_signal(RingReader), "waits for room"),
    "a host that does not hear a close": (
        lambda: ignored(wire.CloseChannel, host.RULES),
        "uses pages|tore down",
    ),
    "a host that does not hear a release": (
        lambda: ignored(wire.RelidReleased, host.RULES),
        "only one side",
    ),
    "a guest that does not hear a rescind": (
        lambda: ignored(wire.RescindChannelOffer, guest.RULES),
        "only one side|open|closed|refused",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_walk_finds(name: str) -> None:
    planted, text = PLANTED[name]
    with planted(), pytest.raises(BrokenInvariantError, match=text):
        Walk(SMALL).run()
