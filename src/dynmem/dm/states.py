"""The states of both ends of the Dynamic Memory Protocol and every move between them.

Nothing but these tables moves an end: `HOST_TABLE` and `GUEST_TABLE`. `tests/dm/test_states.py` holds this
picture against them.

host
    WAIT_RESET --OPEN--> VERSION
    POST_RESET_CLOSED --OPEN--> VERSION --VERSION_ACCEPTED--> CAPS --CAPS_ACCEPTED--> POST_INIT_WAIT
        --WAIT_OVER--> IDLE
    VERSION --LAST_VERSION_REFUSED--> REFUSED
    IDLE --BALLOON--> BALLOON_RB_WAIT --ROOM--> BALLOON_POSTING --POSTED--> BALLOON_REPLY_WAIT
        --ANSWERED--> IDLE
    BALLOON_REPLY_WAIT --ANSWERED_PART--> BALLOON_RB_WAIT
    IDLE --UNBALLOON--> UNBALLOON_RB_WAIT --ROOM--> UNBALLOON_POSTING --POSTED--> UNBALLOON_REPLY_WAIT
        --ANSWERED--> IDLE
    UNBALLOON_POSTING --POSTED_PART--> UNBALLOON_RB_WAIT
    UNBALLOON_REPLY_WAIT --HOT_ADD--> HOT_ADD_SETUP
    IDLE --HOT_ADD--> HOT_ADD_SETUP --MAPPED--> HOT_ADD_RB_WAIT --ROOM--> HOT_ADD_POSTING
        --POSTED--> HOT_ADD_REPLY_WAIT --ANSWERED--> IDLE
    HOT_ADD_SETUP --NOTHING_TO_ADD--> IDLE
    HOT_ADD_REPLY_WAIT --ANSWERED_PART--> HOT_ADD_RB_WAIT
    IDLE --HOT_REMOVE--> HOT_REMOVE_RB_WAIT --ROOM--> HOT_REMOVE_POSTING --POSTED--> HOT_REMOVE_REPLY_WAIT
        --ANSWERED--> IDLE
    wait --SILENCE--> stuck --PROGRESS--> wait --PROGRESS--> wait
    any --RESET--> POST_RESET_CLOSED
    any --CLOSE--> WAIT_RESET

    A wait is HOT_ADD_SETUP or a state called RB_WAIT (for room in the ring buffer) or REPLY_WAIT. A wait is
    stuck from its deadline on: it is still the same wait, but it shows as S_STUCK, and the only ways out are
    PROGRESS, a reset and the end of the channel. PROGRESS is what the wait is for; and a status report, when
    that is an answer, as it shows that the guest lives.

guest
    CLOSED --OPEN--> VERSION_WAIT --VERSION_ACCEPTED--> CAPABILITIES_WAIT
        --CAPABILITIES_ACCEPTED--> INITIALIZED
    VERSION_WAIT --FAIL--> INIT_ERROR
    CAPABILITIES_WAIT --FAIL--> INIT_ERROR
    INITIALIZED --BALLOON--> BALLOON_UP --DONE--> INITIALIZED
    INITIALIZED --UNBALLOON--> BALLOON_DOWN --DONE--> INITIALIZED
    INITIALIZED --HOT_ADD--> HOT_ADD --DONE--> INITIALIZED
    INITIALIZED --HOT_REMOVE--> HOT_REMOVE --DONE--> INITIALIZED
    any --CLOSE--> CLOSED
    HOT_ADD --STOP--> STOPPED
    any --CRASH--> CRASHED
    CRASHED --OPEN--> CRASHED --CLOSE--> CRASHED

    Both only with Windows' habits: a guest crashes permanently on a request that comes too early, and its
    driver stops, until the channel is closed, when adding memory fails in a way that it does not expect.

Source: the host's names and moves are those of QEMU hw/hyperv/hv-balloon.c (the trace event
hv_balloon_state_change prints them); REFUSED, stuck and HOT_REMOVE_* are ours. The guest's names are those of
Linux drivers/hv/hv_balloon.c, with its two waits distinguished.
"""

import enum
from collections.abc import Mapping
from typing import Final, NamedTuple


class HostState(enum.Enum):
    """The host's states, by QEMU's names. `STUCK` is in no table: a stuck wait shows as it."""

    WAIT_RESET = "S_WAIT_RESET"
    POST_RESET_CLOSED = "S_POST_RESET_CLOSED"
    VERSION = "S_VERSION"
    REFUSED = "S_REFUSED"
    CAPS = "S_CAPS"
    POST_INIT_WAIT = "S_POST_INIT_WAIT"
    IDLE = "S_IDLE"
    BALLOON_RB_WAIT = "S_BALLOON_RB_WAIT"
    BALLOON_POSTING = "S_BALLOON_POSTING"
    BALLOON_REPLY_WAIT = "S_BALLOON_REPLY_WAIT"
    UNBALLOON_RB_WAIT = "S_UNBALLOON_RB_WAIT"
    UNBALLOON_POSTING = "S_UNBALLOON_POSTING"
    UNBALLOON_REPLY_WAIT = "S_UNBALLOON_REPLY_WAIT"
    HOT_ADD_SETUP = "S_HOT_ADD_SETUP"
    HOT_ADD_RB_WAIT = "S_HOT_ADD_RB_WAIT"
    HOT_ADD_POSTING = "S_HOT_ADD_POSTING"
    HOT_ADD_REPLY_WAIT = "S_HOT_ADD_REPLY_WAIT"
    HOT_REMOVE_RB_WAIT = "S_HOT_REMOVE_RB_WAIT"
    HOT_REMOVE_POSTING = "S_HOT_REMOVE_POSTING"
    HOT_REMOVE_REPLY_WAIT = "S_HOT_REMOVE_REPLY_WAIT"
    STUCK = "S_STUCK"


class HostStep(enum.Enum):
    """What moves the host.

    Attributes:
        LAST_VERSION_REFUSED: The guest said that it has no other version to try.
        NOTHING_TO_ADD: There is no memory, or none that this guest can use.
        MAPPED: The new memory is in the guest's address space.
        ROOM: The ring buffer has room for the request.
        POSTED: The request is in the ring; the guest has to answer.
        POSTED_PART: The request is in the ring, and its next part follows at once.
        ANSWERED: The answer is complete, and so is the operation.
        ANSWERED_PART: The answer is complete, and the operation's next request follows.
        SILENCE: There was no progress until the deadline.
        PROGRESS: Part of what the host waits for has come, or a sign of life; either sets a new deadline.

    """

    RESET = enum.auto()
    OPEN = enum.auto()
    CLOSE = enum.auto()
    VERSION_ACCEPTED = enum.auto()
    LAST_VERSION_REFUSED = enum.auto()
    CAPS_ACCEPTED = enum.auto()
    WAIT_OVER = enum.auto()
    BALLOON = enum.auto()
    UNBALLOON = enum.auto()
    HOT_ADD = enum.auto()
    HOT_REMOVE = enum.auto()
    NOTHING_TO_ADD = enum.auto()
    MAPPED = enum.auto()
    ROOM = enum.auto()
    POSTED = enum.auto()
    POSTED_PART = enum.auto()
    ANSWERED = enum.auto()
    ANSWERED_PART = enum.auto()
    SILENCE = enum.auto()
    PROGRESS = enum.auto()


class HostPlace(NamedTuple):
    """Where the host is.

    Attributes:
        state: The state, never `STUCK`.
        is_stuck: Whether it is a wait whose deadline has passed.

    """

    state: HostState
    is_stuck: bool = False

    @property
    def shown(self) -> HostState:
        """What the owner, the monitor and the trace see."""
        return HostState.STUCK if self.is_stuck else self.state


_H: Final = HostState
_S: Final = HostStep

HOST_MOVES: Final[Mapping[tuple[HostState, HostStep], HostState]] = {
    # QEMU opens only after a reset. A driver that closes and reopens still holds its balloon, so ours opens.
    (_H.WAIT_RESET, _S.OPEN): _H.VERSION,
    (_H.POST_RESET_CLOSED, _S.OPEN): _H.VERSION,
    (_H.VERSION, _S.VERSION_ACCEPTED): _H.CAPS,
    # QEMU ignores the guest's word that this was its last attempt, and would take another
    (_H.VERSION, _S.LAST_VERSION_REFUSED): _H.REFUSED,
    (_H.CAPS, _S.CAPS_ACCEPTED): _H.POST_INIT_WAIT,
    (_H.POST_INIT_WAIT, _S.WAIT_OVER): _H.IDLE,
    (_H.IDLE, _S.BALLOON): _H.BALLOON_RB_WAIT,
    (_H.BALLOON_RB_WAIT, _S.ROOM): _H.BALLOON_POSTING,
    (_H.BALLOON_POSTING, _S.POSTED): _H.BALLOON_REPLY_WAIT,
    (_H.BALLOON_REPLY_WAIT, _S.ANSWERED): _H.IDLE,
    (_H.BALLOON_REPLY_WAIT, _S.ANSWERED_PART): _H.BALLOON_RB_WAIT,
    (_H.IDLE, _S.UNBALLOON): _H.UNBALLOON_RB_WAIT,
    (_H.UNBALLOON_RB_WAIT, _S.ROOM): _H.UNBALLOON_POSTING,
    (_H.UNBALLOON_POSTING, _S.POSTED): _H.UNBALLOON_REPLY_WAIT,
    (_H.UNBALLOON_POSTING, _S.POSTED_PART): _H.UNBALLOON_RB_WAIT,
    (_H.UNBALLOON_REPLY_WAIT, _S.ANSWERED): _H.IDLE,
    (_H.UNBALLOON_REPLY_WAIT, _S.HOT_ADD): _H.HOT_ADD_SETUP,
    (_H.IDLE, _S.HOT_ADD): _H.HOT_ADD_SETUP,
    (_H.HOT_ADD_SETUP, _S.NOTHING_TO_ADD): _H.IDLE,
    (_H.HOT_ADD_SETUP, _S.MAPPED): _H.HOT_ADD_RB_WAIT,
    (_H.HOT_ADD_RB_WAIT, _S.ROOM): _H.HOT_ADD_POSTING,
    (_H.HOT_ADD_POSTING, _S.POSTED): _H.HOT_ADD_REPLY_WAIT,
    (_H.HOT_ADD_REPLY_WAIT, _S.ANSWERED): _H.IDLE,
    (_H.HOT_ADD_REPLY_WAIT, _S.ANSWERED_PART): _H.HOT_ADD_RB_WAIT,
    (_H.IDLE, _S.HOT_REMOVE): _H.HOT_REMOVE_RB_WAIT,
    (_H.HOT_REMOVE_RB_WAIT, _S.ROOM): _H.HOT_REMOVE_POSTING,
    (_H.HOT_REMOVE_POSTING, _S.POSTED): _H.HOT_REMOVE_REPLY_WAIT,
    (_H.HOT_REMOVE_REPLY_WAIT, _S.ANSWERED): _H.IDLE,
}
HOST_FROM_ANYWHERE: Final[Mapping[HostStep, HostState]] = {
    _S.RESET: _H.POST_RESET_CLOSED,
    _S.CLOSE: _H.WAIT_RESET,
}
HOST_RB_WAITS: Final = frozenset(state for state, step in HOST_MOVES if step is _S.ROOM)
HOST_REPLY_WAITS: Final = frozenset(state for state, step in HOST_MOVES if step is _S.ANSWERED)
HOST_WAITS: Final = HOST_RB_WAITS | HOST_REPLY_WAITS | {_H.HOT_ADD_SETUP}
HOST_PLACES: Final = frozenset(HostPlace(state) for state in HostState if state is not _H.STUCK) | frozenset(
    HostPlace(wait, is_stuck=True) for wait in HOST_WAITS
)
HOST_TABLE: Final[Mapping[tuple[HostPlace, HostStep], HostPlace]] = {
    **{(HostPlace(old), step): HostPlace(new) for (old, step), new in HOST_MOVES.items()},
    **{(HostPlace(wait), _S.SILENCE): HostPlace(wait, is_stuck=True) for wait in HOST_WAITS},
    **{(HostPlace(wait, is_stuck=True), _S.PROGRESS): HostPlace(wait) for wait in HOST_WAITS},
    **{(HostPlace(wait), _S.PROGRESS): HostPlace(wait) for wait in HOST_WAITS},
    **{(place, step): HostPlace(new) for place in HOST_PLACES for step, new in HOST_FROM_ANYWHERE.items()},
}
# the channel is negotiated
HOST_SERVES: Final = frozenset(HostState) - {
    _H.WAIT_RESET,
    _H.POST_RESET_CLOSED,
    _H.VERSION,
    _H.REFUSED,
    _H.CAPS,
    _H.STUCK,
}


class GuestState(enum.Enum):
    """The guest's states."""

    CLOSED = "CLOSED"
    VERSION_WAIT = "VERSION_WAIT"
    CAPABILITIES_WAIT = "CAPABILITIES_WAIT"
    INITIALIZED = "INITIALIZED"
    BALLOON_UP = "BALLOON_UP"
    BALLOON_DOWN = "BALLOON_DOWN"
    HOT_ADD = "HOT_ADD"
    HOT_REMOVE = "HOT_REMOVE"
    STOPPED = "STOPPED"
    CRASHED = "CRASHED"
    INIT_ERROR = "INIT_ERROR"


class GuestStep(enum.Enum):
    """What moves the guest.

    Attributes:
        FAIL: The last version or the capabilities were refused, or no answer came.

    """

    OPEN = enum.auto()
    CLOSE = enum.auto()
    VERSION_ACCEPTED = enum.auto()
    CAPABILITIES_ACCEPTED = enum.auto()
    FAIL = enum.auto()
    BALLOON = enum.auto()
    UNBALLOON = enum.auto()
    HOT_ADD = enum.auto()
    HOT_REMOVE = enum.auto()
    STOP = enum.auto()
    CRASH = enum.auto()
    DONE = enum.auto()


_G: Final = GuestState
_T: Final = GuestStep

GUEST_MOVES: Final[Mapping[tuple[GuestState, GuestStep], GuestState]] = {
    (_G.CLOSED, _T.OPEN): _G.VERSION_WAIT,
    (_G.VERSION_WAIT, _T.VERSION_ACCEPTED): _G.CAPABILITIES_WAIT,
    (_G.VERSION_WAIT, _T.FAIL): _G.INIT_ERROR,
    (_G.CAPABILITIES_WAIT, _T.CAPABILITIES_ACCEPTED): _G.INITIALIZED,
    (_G.CAPABILITIES_WAIT, _T.FAIL): _G.INIT_ERROR,
    (_G.INITIALIZED, _T.BALLOON): _G.BALLOON_UP,
    (_G.BALLOON_UP, _T.DONE): _G.INITIALIZED,
    (_G.INITIALIZED, _T.UNBALLOON): _G.BALLOON_DOWN,
    (_G.BALLOON_DOWN, _T.DONE): _G.INITIALIZED,
    (_G.INITIALIZED, _T.HOT_ADD): _G.HOT_ADD,
    (_G.HOT_ADD, _T.DONE): _G.INITIALIZED,
    (_G.HOT_ADD, _T.STOP): _G.STOPPED,
    (_G.INITIALIZED, _T.HOT_REMOVE): _G.HOT_REMOVE,
    (_G.HOT_REMOVE, _T.DONE): _G.INITIALIZED,
    (_G.CRASHED, _T.OPEN): _G.CRASHED,
    (_G.CRASHED, _T.CLOSE): _G.CRASHED,
}
GUEST_FROM_ANYWHERE: Final[Mapping[GuestStep, GuestState]] = {
    _T.CLOSE: _G.CLOSED,
    _T.CRASH: _G.CRASHED,
}
GUEST_TABLE: Final[Mapping[tuple[GuestState, GuestStep], GuestState]] = {
    **{(state, step): new for state in GuestState for step, new in GUEST_FROM_ANYWHERE.items()},
    **GUEST_MOVES,
}
GUEST_SERVES: Final = frozenset({_G.INITIALIZED, _G.BALLOON_UP, _G.BALLOON_DOWN, _G.HOT_ADD, _G.HOT_REMOVE})
