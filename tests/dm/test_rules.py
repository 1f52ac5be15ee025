"""Which message each end takes in which state: every message in every state, against lists made by hand."""

from collections.abc import Callable

import pytest
from tests.rigs.driven_host import DEADLINE, DrivenHost
from tests.rigs.pages import packed
from tests.rigs.stores import PlainBlocks, PlainPages, PlainSource

from dynmem.dm.events import Anomaly
from dynmem.dm.guest import DynamicMemoryGuest
from dynmem.dm.habits import Habits
from dynmem.dm.options import GuestOptions
from dynmem.dm.states import HOST_WAITS, GuestState, HostState
from dynmem.dm.windows import WINDOWS
from dynmem.errors import RemoteProtocolError
from dynmem.wire import dm

STEP = 256
BOOT = 1000
REGION = 4096
CAPS = dm.CAP_BALLOON | dm.CAP_HOT_ADD | dm.CAP_HOT_REMOVE

# --- the host


def closed() -> DrivenHost:
    return DrivenHost(source=PlainSource(REGION, 4 * STEP))


def opened() -> DrivenHost:
    played = closed()
    played.host.channel_opened(played.now)
    return played


def reset() -> DrivenHost:
    played = closed()
    played.host.reset(played.now)
    return played


def refused() -> DrivenHost:
    played = opened()
    played.says(dm.VersionRequest(1, dm.make_version(0, 1), True))
    return played


def agreed() -> DrivenHost:
    played = opened()
    played.says(dm.VersionRequest(1, dm.VERSION_WIN10, False))
    return played


def waits() -> DrivenHost:
    played = agreed()
    played.says(dm.CapabilitiesReport(2, CAPS, 0, (1 << 64) - 1))
    return played


def idle(*, mapped: bool = True) -> DrivenHost:
    played = DrivenHost(source=PlainSource(REGION, 4 * STEP, mapped=mapped))
    played.start(CAPS)
    return played


def balloons() -> DrivenHost:
    played = idle()
    played.host.set_target(BOOT - 100, played.now)
    return played


def unballoons() -> DrivenHost:
    played = posted(balloons)
    played.gives((0, 100))
    played.host.set_target(BOOT, played.now)
    return played


def maps() -> DrivenHost:
    played = idle(mapped=False)
    played.host.set_target(BOOT + STEP, played.now)
    return played


def hot_adds() -> DrivenHost:
    played = idle()
    played.host.set_target(BOOT + STEP, played.now)
    return played


def hot_removes() -> DrivenHost:
    played = idle()
    assert played.host.hot_remove(10, played.now)
    return played


def posted(begin: Callable[[], DrivenHost]) -> DrivenHost:
    played = begin()
    assert played.sent() is not None
    return played


HOSTS: dict[HostState, Callable[[], DrivenHost]] = {
    HostState.WAIT_RESET: closed,
    HostState.POST_RESET_CLOSED: reset,
    HostState.VERSION: opened,
    HostState.REFUSED: refused,
    HostState.CAPS: agreed,
    HostState.POST_INIT_WAIT: waits,
    HostState.IDLE: idle,
    HostState.BALLOON_RB_WAIT: balloons,
    HostState.BALLOON_REPLY_WAIT: lambda: posted(balloons),
    HostState.UNBALLOON_RB_WAIT: unballoons,
    HostState.UNBALLOON_REPLY_WAIT: lambda: posted(unballoons),
    HostState.HOT_ADD_SETUP: maps,
    HostState.HOT_ADD_RB_WAIT: hot_adds,
    HostState.HOT_ADD_REPLY_WAIT: lambda: posted(hot_adds),
    HostState.HOT_REMOVE_RB_WAIT: hot_removes,
    HostState.HOT_REMOVE_REPLY_WAIT: lambda: posted(hot_removes),
}
# left as soon as they are entered
PASSING = {
    HostState.BALLOON_POSTING,
    HostState.UNBALLOON_POSTING,
    HostState.HOT_ADD_POSTING,
    HostState.HOT_REMOVE_POSTING,
}
SOUND_FOR_THE_HOST: list[dm.Message] = [
    dm.DmError(3),
    dm.VersionRequest(3, dm.VERSION_WIN10, False),
    dm.CapabilitiesReport(3, CAPS, 0, (1 << 64) - 1),
    dm.StatusReport(3, 10, 20, 0, 0, 0, 0),
    dm.BalloonResponse(3, False, packed((5, 1))),
    dm.UnballoonResponse(3),
    dm.HotAddResponse(3, STEP, 1),
    dm.HotRemoveResponse(3, 1, False, b""),
]
ONLY_IN: dict[type, set[HostState]] = {
    dm.DmError: set(),
    dm.VersionRequest: {HostState.VERSION},
    dm.CapabilitiesReport: {HostState.CAPS},
    dm.BalloonResponse: {HostState.BALLOON_REPLY_WAIT},
    dm.UnballoonResponse: {HostState.UNBALLOON_REPLY_WAIT},
    dm.HotAddResponse: {HostState.HOT_ADD_REPLY_WAIT},
    dm.HotRemoveResponse: {HostState.HOT_REMOVE_REPLY_WAIT},
    dm.StatusReport: set(HOSTS)
    - {
        HostState.WAIT_RESET,
        HostState.POST_RESET_CLOSED,
        HostState.VERSION,
        HostState.REFUSED,
        HostState.CAPS,
    },
}


def is_ignored(played: DrivenHost, message: dm.Message) -> bool:
    """Let the guest say it; return whether the host ignored it, and hold an ignored one to change nothing."""
    state, size = played.state(), played.host.actual_pages
    played.events(Anomaly)
    played.says(message)
    ignored = [event for event in played.events(Anomaly) if "ignored" in str(event)]
    if ignored:
        assert (played.state(), played.host.actual_pages) == (state, size)
    return bool(ignored)


def test_every_state_of_the_host_that_lasts_is_tried() -> None:
    assert set(HOSTS) == set(HostState) - PASSING - {HostState.STUCK}
    for state, make in HOSTS.items():
        assert make().state() is state


@pytest.mark.parametrize("message", SOUND_FOR_THE_HOST, ids=lambda message: type(message).__name__)
def test_the_host_takes_a_message_in_its_states_and_ignores_it_in_any_other(message: dm.Message) -> None:
    for state, make in HOSTS.items():
        assert is_ignored(make(), message) == (state not in ONLY_IN[type(message)]), state


@pytest.mark.parametrize("message", SOUND_FOR_THE_HOST, ids=lambda message: type(message).__name__)
def test_a_stuck_host_takes_what_its_wait_takes_and_nothing_else(message: dm.Message) -> None:
    for state in HOST_WAITS:
        played = HOSTS[state]()
        played.passes(2 * DEADLINE)
        assert played.state() is HostState.STUCK
        assert is_ignored(played, message) == (state not in ONLY_IN[type(message)]), state


# --- the guest

TOTAL = 16384
ADDED_AT = 4 * TOTAL
OFFER = ADDED_AT | STEP << 40
OPTIONS = GuestOptions(page_limit=ADDED_AT + 16 * STEP, hot_add_attempts=3)


class PlayedGuest:
    """A guest whose kernel adds memory, and the host's side of it."""

    def __init__(self, options: GuestOptions = OPTIONS) -> None:
        self.blocks = PlainBlocks(STEP, ADDED_AT + 16 * STEP)
        self.guest = DynamicMemoryGuest(
            pages=PlainPages(TOTAL), total_pages=TOTAL, blocks=self.blocks, options=options
        )

    def send(self) -> None:
        if self.guest.next_message() is not None:
            self.guest.message_sent(0)

    def says(self, *messages: dm.Message) -> "PlayedGuest":
        for message in messages:
            self.send()
            self.guest.receive(dm.encode(message), 0)
        return self


def asking(options: GuestOptions = OPTIONS) -> PlayedGuest:
    played = PlayedGuest(options)
    played.guest.channel_opened(0)
    return played


def reporting(options: GuestOptions = OPTIONS) -> PlayedGuest:
    return asking(options).says(dm.VersionResponse(0, True))


def serving(options: GuestOptions = OPTIONS) -> PlayedGuest:
    return reporting(options).says(dm.CapabilitiesResponse(0, True, True, True))


def holding_a_hot_add() -> PlayedGuest:
    played = serving()
    played.blocks.short = [0]
    return played.says(dm.HotAddRequest(0, OFFER, OFFER))


def returning() -> PlayedGuest:
    played = serving().says(dm.BalloonRequest(0, 2))
    played.send()
    return played.says(dm.UnballoonRequest(0, True, packed((TOTAL - 1, 1))))


def crashed() -> PlayedGuest:
    return serving(GuestOptions(habits=WINDOWS)).says(dm.BalloonRequest(0, 2))


def stopped() -> PlayedGuest:
    played = serving(GuestOptions(page_limit=ADDED_AT + 16 * STEP, habits=Habits(stops_if_unsupported=True)))
    played.blocks.unsupported = True
    return played.says(dm.HotAddRequest(0, OFFER, OFFER))


GUESTS: dict[GuestState, Callable[[], PlayedGuest]] = {
    GuestState.CLOSED: PlayedGuest,
    GuestState.VERSION_WAIT: asking,
    GuestState.CAPABILITIES_WAIT: reporting,
    GuestState.INITIALIZED: serving,
    GuestState.BALLOON_UP: lambda: serving().says(dm.BalloonRequest(0, 600)),
    GuestState.BALLOON_DOWN: returning,
    GuestState.HOT_ADD: holding_a_hot_add,
    GuestState.HOT_REMOVE: lambda: serving().says(dm.HotRemoveRequest(0, 0, 5, 0)),
    GuestState.STOPPED: stopped,
    GuestState.CRASHED: crashed,
    GuestState.INIT_ERROR: lambda: reporting().says(dm.CapabilitiesResponse(0, False, True, True)),
}
SERVING = set(GUESTS) - {
    GuestState.CLOSED,
    GuestState.VERSION_WAIT,
    GuestState.CAPABILITIES_WAIT,
    GuestState.STOPPED,
    GuestState.CRASHED,
    GuestState.INIT_ERROR,
}
DEAF = {GuestState.CRASHED, GuestState.STOPPED}
SOUND_FOR_THE_GUEST: list[tuple[dm.Message, set[GuestState]]] = [
    (dm.VersionResponse(0, True), {GuestState.VERSION_WAIT}),
    (dm.CapabilitiesResponse(0, True, True, True), {GuestState.CAPABILITIES_WAIT}),
    (dm.BalloonRequest(0, 10), {GuestState.INITIALIZED}),
    (dm.UnballoonRequest(0, False, b""), {GuestState.INITIALIZED, GuestState.BALLOON_DOWN}),
    (dm.HotAddRequest(0, OFFER, OFFER), {GuestState.INITIALIZED}),
    (dm.HotRemoveRequest(0, 0, 5, 0), {GuestState.INITIALIZED}),
    (dm.InfoMessage(0, 0, bytes(8)), SERVING),
]


def outcome(played: PlayedGuest, message: dm.Message) -> str:
    """Return what became of a message: taken, skipped, an error of the host, or nothing at all."""
    state = played.guest.state
    played.guest.take_events()
    try:
        played.guest.receive(dm.encode(message), 0)
    except RemoteProtocolError:
        assert played.guest.state is state
        return "error"
    events = played.guest.take_events()
    if any(isinstance(event, Anomaly) and "skipped" in event.text for event in events):
        assert played.guest.state is state
        return "skipped"
    return "nothing" if state in DEAF else "taken"


def test_every_state_of_the_guest_is_tried() -> None:
    assert set(GUESTS) == set(GuestState)
    for state, make in GUESTS.items():
        assert make().guest.state is state


@pytest.mark.parametrize(("message", "states"), SOUND_FOR_THE_GUEST, ids=lambda one: type(one).__name__)
def test_the_guest_takes_a_message_in_its_states_and_blames_the_host_in_any_other(
    message: dm.Message, states: set[GuestState]
) -> None:
    special = {GuestState.INIT_ERROR: "skipped", **dict.fromkeys(DEAF, "nothing")}
    not_agreed = isinstance(message, dm.HotRemoveRequest)  # before the handshake is over it is not known
    for state, make in GUESTS.items():
        expected = special.get(state, "taken" if state in states else "error")
        if not_agreed and state in (GuestState.CLOSED, GuestState.VERSION_WAIT, GuestState.CAPABILITIES_WAIT):
            expected = "skipped"
        assert outcome(make(), message) == expected, state


def test_the_guest_skips_an_error_message_in_every_state_in_which_it_listens() -> None:
    for state, make in GUESTS.items():
        expected = "nothing" if state in DEAF else "skipped"
        assert outcome(make(), dm.DmError(1)) == expected, state
