"""What the two ends of the Dynamic Memory Protocol tell their owner."""

from typing import NamedTuple

from dynmem.dm.states import GuestState, HostState


class StateChanged(NamedTuple):
    """The machine went from one state to another."""

    old: HostState | GuestState
    new: HostState | GuestState


class Anomaly(NamedTuple):
    """The peer did something odd that was survived; the text is a sentence for the log."""

    text: str


class StatusReported(NamedTuple):
    """Host: the guest reported its memory. `committed_bytes` includes what it has given up."""

    committed_bytes: int
    available_bytes: int


class GuestStatus(NamedTuple):
    """The guest's last status report. Committed memory includes what the guest has given up."""

    committed_bytes: int
    available_bytes: int
    at_ns: int


class ActualChanged(NamedTuple):
    """Host: the guest's size is another now."""

    pages: int


class BalloonFinished(NamedTuple):
    """Host: a balloon operation ended; so many pages were asked for, so many new ones came."""

    asked: int
    got: int


class HotAddFinished(NamedTuple):
    """Host: a hot add ended; so many pages were asked for, so many the guest has added."""

    asked: int
    got: int


class HotRemoveFinished(NamedTuple):
    """Host: a hot remove ended; so many pages were asked for, so many came back for good."""

    asked: int
    got: int


class BalloonedUp(NamedTuple):
    """Guest: a request of the host was answered; so many pages were asked for, so many given up."""

    asked: int
    given: int


class BalloonedDown(NamedTuple):
    """Guest: the host gave pages back."""

    pages: int


class HotAdded(NamedTuple):
    """Guest: a hot add was answered; so many pages were offered, so many added."""

    offered: int
    added: int


class HotRemoved(NamedTuple):
    """Guest: a hot remove was answered; so many pages were asked for, so many given for good."""

    asked: int
    given: int


class Crashed(NamedTuple):
    """Guest: it is gone, as a Windows guest that is asked too early; the reason is a sentence."""

    reason: str


class ServiceFailed(NamedTuple):
    """Guest: the service will not come up on this channel; the reason is a sentence."""

    reason: str


#: What `DynamicMemoryHost.take_events` returns.
HostEvent = (
    StateChanged
    | Anomaly
    | StatusReported
    | ActualChanged
    | BalloonFinished
    | HotAddFinished
    | HotRemoveFinished
)
#: What `DynamicMemoryGuest.take_events` returns.
GuestEvent = (
    StateChanged | Anomaly | BalloonedUp | BalloonedDown | HotAdded | HotRemoved | Crashed | ServiceFailed
)
