"""The states of both ends of the Dynamic Memory Protocol, and every move between them, as tables.

    host    WAIT_RESET --reset--> POST_RESET_CLOSED --open--> VERSION --> CAPS --> POST_INIT_WAIT --> IDLE
            IDLE --> BALLOON_RB_WAIT --> BALLOON_POSTING --> BALLOON_REPLY_WAIT --> IDLE or RB_WAIT again
            IDLE --> UNBALLOON_RB_WAIT --> UNBALLOON_POSTING --> UNBALLOON_REPLY_WAIT --> IDLE
                     (or RB_WAIT again, for each part but the last; or HOT_ADD_SETUP for the rest)
            IDLE --> HOT_ADD_SETUP --> HOT_ADD_RB_WAIT --> HOT_ADD_POSTING --> HOT_ADD_REPLY_WAIT
                     --> IDLE or RB_WAIT again; SETUP ends in IDLE when there is no memory to add
            IDLE --> HOT_REMOVE_RB_WAIT --> HOT_REMOVE_POSTING --> HOT_REMOVE_REPLY_WAIT --> IDLE
            any wait for the guest (SETUP, RB_WAIT, REPLY_WAIT) --deadline--> STUCK --late answer--> that wait

    guest   CLOSED --open--> VERSION_WAIT --> CAPABILITIES_WAIT --> INITIALIZED
            INITIALIZED <--> BALLOON_UP, BALLOON_DOWN, HOT_ADD, HOT_REMOVE
            either wait --refused or deadline--> INIT_ERROR
            anything --asked too early, with Windows' habits--> CRASHED, for good

RB_WAIT is the wait for room in the ring buffer, HOT_ADD_SETUP the wait until the new memory is mapped. Reset
and close lead from any state to one and are not repeated in every row. Source: the host's names and moves are
those of QEMU hw/hyperv/hv-balloon.c (the trace event hv_balloon_state_change prints them), STUCK and
HOT_REMOVE_* are ours; the guest's names are those of Linux drivers/hv/hv_balloon.c, its waits told apart.
"""

import enum
from collections.abc import Mapping
from typing import Final


class HostState(enum.Enum):
    """The host's states, by QEMU's names."""

    WAIT_RESET = "S_WAIT_RESET"
    POST_RESET_CLOSED = "S_POST_RESET_CLOSED"
    VERSION = "S_VERSION"
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
    """What moves the host."""

    RESET = enum.auto()
    OPEN = enum.auto()
    CLOSE = enum.auto()
    VERSION_ACCEPTED = enum.auto()
    CAPS_ACCEPTED = enum.auto()
    WAIT_OVER = enum.auto()
    BALLOON = enum.auto()
    UNBALLOON = enum.auto()
    HOT_ADD = enum.auto()
    HOT_REMOVE = enum.auto()
    NOTHING_TO_ADD = enum.auto()  # no memory, or none that this guest can use
    MAPPED = enum.auto()  # the new memory is in the guest's address space
    ROOM = enum.auto()  # the ring buffer takes the request
    POSTED = enum.auto()  # it is in the ring, the answer is the guest's
    POSTED_PART = enum.auto()  # it is in the ring, and the next part of it follows at once
    ANSWERED = enum.auto()  # the answer is whole, nothing is left to do
    ANSWERED_PART = enum.auto()  # the answer is whole, the next request of the same operation follows
    SILENCE = enum.auto()  # no progress until the deadline


_H: Final = HostState
_S: Final = HostStep

HOST_FROM_ANYWHERE: Final[Mapping[HostStep, HostState]] = {
    _S.RESET: _H.POST_RESET_CLOSED,
    _S.CLOSE: _H.WAIT_RESET,
}
HOST_MOVES: Final[Mapping[tuple[HostState, HostStep], HostState]] = {
    # QEMU opens only after a reset; a driver that closes and reopens still holds its balloon: ours opens
    (_H.WAIT_RESET, _S.OPEN): _H.VERSION,
    (_H.POST_RESET_CLOSED, _S.OPEN): _H.VERSION,
    (_H.VERSION, _S.VERSION_ACCEPTED): _H.CAPS,
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
    (_H.HOT_ADD_SETUP, _S.SILENCE): _H.STUCK,
    (_H.HOT_ADD_RB_WAIT, _S.SILENCE): _H.STUCK,
    (_H.HOT_ADD_REPLY_WAIT, _S.SILENCE): _H.STUCK,
    (_H.HOT_REMOVE_RB_WAIT, _S.SILENCE): _H.STUCK,
    (_H.HOT_REMOVE_REPLY_WAIT, _S.SILENCE): _H.STUCK,
    (_H.BALLOON_RB_WAIT, _S.SILENCE): _H.STUCK,
    (_H.BALLOON_REPLY_WAIT, _S.SILENCE): _H.STUCK,
    (_H.UNBALLOON_RB_WAIT, _S.SILENCE): _H.STUCK,
    (_H.UNBALLOON_REPLY_WAIT, _S.SILENCE): _H.STUCK,
}
HOST_WAITS: Final = frozenset(state for state, step in HOST_MOVES if step is _S.SILENCE)


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
    CRASHED = "CRASHED"
    INIT_ERROR = "INIT_ERROR"


class GuestStep(enum.Enum):
    """What moves the guest."""

    OPEN = enum.auto()
    CLOSE = enum.auto()
    VERSION_ACCEPTED = enum.auto()
    CAPABILITIES_ACCEPTED = enum.auto()
    FAIL = enum.auto()  # the last version or the capabilities were refused, or no answer came
    BALLOON = enum.auto()
    UNBALLOON = enum.auto()
    HOT_ADD = enum.auto()
    HOT_REMOVE = enum.auto()
    CRASH = enum.auto()
    DONE = enum.auto()


_G: Final = GuestState
_T: Final = GuestStep

GUEST_FROM_ANYWHERE: Final[Mapping[GuestStep, GuestState]] = {
    _T.CLOSE: _G.CLOSED,
    _T.CRASH: _G.CRASHED,
}
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
    (_G.INITIALIZED, _T.HOT_REMOVE): _G.HOT_REMOVE,
    (_G.HOT_REMOVE, _T.DONE): _G.INITIALIZED,
}
GUEST_SERVES: Final = frozenset({_G.INITIALIZED, _G.BALLOON_UP, _G.BALLOON_DOWN, _G.HOT_ADD, _G.HOT_REMOVE})
