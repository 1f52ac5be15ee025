"""What is said on the manager's socket: one request a connection, and the reply to each.

    {"command": "status"}
    {"command": "sample"}
    {"command": "reserve", "name": "web", "size_bytes": 1073741824, "wait_ns": 30000000000}
    {"command": "admit", "name": "web", "size_bytes": 1073741824, "monitor": "/run/vm/web.qmp"}
    {"command": "release", "vm": "web"}          without "vm": all of them
    {"command": "take-up", "vm": "web"}          manage a released VM again
    {"command": "pause", "vm": "web", "for_ns": 7200000000000}
    {"command": "resume", "vm": "web"}           manage a paused VM again

Every reply is one JSON object on one line. It begins with "schema_version", which rises when clients have to
change, and "ok"; a refusal has "error" (a sentence) and "exit_code", any other reply the fields of one of the
classes below.
"""

from typing import Final, Literal

import msgspec

from dynmem.manager.step.sample import Sample
from dynmem.manager.step.view import StatusView
from dynmem.manager.totals import TotalsView
from dynmem.units import NS_PER_S

SCHEMA_VERSION: Final = 1

#: By what a user has asked, where that is no command: the log says so.
By = Literal["web page"]


class StatusRequest(
    msgspec.Struct, frozen=True, tag_field="command", tag="status", forbid_unknown_fields=True
):
    """Report what every VM has, and why."""


class SampleRequest(
    msgspec.Struct, frozen=True, tag_field="command", tag="sample", forbid_unknown_fields=True
):
    """Report every figure that the last step was decided from, as the history keeps it."""


class ReserveRequest(
    msgspec.Struct, frozen=True, tag_field="command", tag="reserve", forbid_unknown_fields=True
):
    """Make room for a VM about to start.

    Attributes:
        name: The VM; once it has appeared and reported, its own claim replaces the reservation.
        size_bytes: The room.
        wait_ns: How long the reply may take; then the request fails, and nothing is kept.
        hold_ns: How long the room is kept once there is room.
        by: By what its user asks, for the log.

    """

    name: str
    size_bytes: int
    wait_ns: int = 30 * NS_PER_S
    hold_ns: int = 60 * NS_PER_S
    by: By | msgspec.UnsetType = msgspec.UNSET


class AdmitRequest(msgspec.Struct, frozen=True, tag_field="command", tag="admit", forbid_unknown_fields=True):
    """Admit a VM that is about to start: one of the manager's file, on its monitor, within its maximum.

    Its room is kept as a reservation until it is there and has reported.

    Attributes:
        name: The VM.
        size_bytes: What it boots with.
        monitor: The path of its monitor's socket, without symbolic links.
        wait_ns: How long the reply may take; then the request fails, and nothing is kept.

    """

    name: str
    size_bytes: int
    monitor: str
    wait_ns: int = 30 * NS_PER_S


class ReleaseRequest(
    msgspec.Struct, frozen=True, tag_field="command", tag="release", forbid_unknown_fields=True
):
    """Grow a VM (None: all) to its full size and leave it alone.

    Attributes:
        vm: The VM.
        by: By what its user asks, for the log.
    """

    vm: str | None = None
    by: By | msgspec.UnsetType = msgspec.UNSET


class TakeUpRequest(
    msgspec.Struct, frozen=True, tag_field="command", tag="take-up", forbid_unknown_fields=True
):
    """Manage a released VM (None: all) again.

    Attributes:
        vm: The VM.
        by: By what its user asks, for the log.
    """

    vm: str | None = None
    by: By | msgspec.UnsetType = msgspec.UNSET


class PauseRequest(msgspec.Struct, frozen=True, tag_field="command", tag="pause", forbid_unknown_fields=True):
    """Leave a VM (None: all) exactly as it is for a while.

    Attributes:
        for_ns: How long.
        vm: The VM. One that is released is left as it is already: it is not paused.
        by: By what its user asks, for the log.

    """

    for_ns: int
    vm: str | None = None
    by: By | msgspec.UnsetType = msgspec.UNSET


class ResumeRequest(
    msgspec.Struct, frozen=True, tag_field="command", tag="resume", forbid_unknown_fields=True
):
    """Manage a paused VM (None: all) again.

    Attributes:
        vm: The VM.
        by: By what its user asks, for the log.
    """

    vm: str | None = None
    by: By | msgspec.UnsetType = msgspec.UNSET


Request = (
    StatusRequest
    | SampleRequest
    | ReserveRequest
    | AdmitRequest
    | ReleaseRequest
    | TakeUpRequest
    | PauseRequest
    | ResumeRequest
)


#: The requests that change nothing.
READS: Final = (StatusRequest, SampleRequest)


def by_of(request: Request) -> By | None:
    """Return by what a user has asked; None: by a command, or another program of theirs."""
    if isinstance(request, (*READS, AdmitRequest)) or request.by is msgspec.UNSET:
        return None
    return request.by


def vm_of(request: Request) -> str | None:
    """Return which VM a request names; None: it is about all, or about none."""
    if isinstance(request, StatusRequest | SampleRequest):
        return None
    return request.name if isinstance(request, ReserveRequest | AdmitRequest) else request.vm


class DaemonView(msgspec.Struct, frozen=True, kw_only=True):
    """The manager's process.

    Attributes:
        version: The version of dynmem that it runs.
        pid: Its process id.
        config: The path of its configuration.
        state: The folder of its journal.
        at: The date of this reply. Since schema 2.
        uptime_s: How long it has been running.
        sweeps: How often it has looked at the VMs.
        sweep_took_s: How long the last sweep took.
        swept_ago_s: How long ago the last sweep began; null before the first.
        journal_problem: Why nothing can be written to the journal, and so no VM is shrunk.
        config_problem: Why the configuration in force is not that of the file, and what to do. Since
            schema 2.
        history_problem: Why nothing can be written to the history; VMs are served as ever. Since schema 6.

    """

    version: str
    pid: int
    config: str
    state: str
    uptime_s: float
    sweeps: int
    sweep_took_s: float
    swept_ago_s: float | None
    journal_problem: str | None
    config_problem: str | None = None
    at: str | None = None
    history_problem: str | None = None


class StatusReply(StatusView, frozen=True, kw_only=True):
    """The status, and the process that reports it.

    Attributes:
        manager: The manager's process.
        totals: What has added up since it started. Since schema 6.

    """

    manager: DaemonView
    totals: TotalsView | None = None


class SampleReply(msgspec.Struct, frozen=True):
    """The last step: [history-fields.md](history-fields.md) has the fields.

    Attributes:
        at: The date of the step; null before the first.
        sample: The figures; null before the first step.

    """

    at: str | None
    sample: Sample | None


class ReserveReply(msgspec.Struct, frozen=True):
    """There is room; for a VM that asked for admission: it may start.

    Attributes:
        name: The VM it is for.
        size_bytes: The room.
        reason: What was measured.

    """

    name: str
    size_bytes: int
    reason: str


class ReleaseReply(msgspec.Struct, frozen=True):
    """The VMs are released.

    Attributes:
        released: Their names.
        sent: Whether commands are sent; only in enforce mode.
        promised_bytes: What all released VMs may take.
        budget_bytes: What the guests of all VMs together may hold.

    """

    released: tuple[str, ...]
    sent: bool
    promised_bytes: int
    budget_bytes: int


class TakeUpReply(msgspec.Struct, frozen=True):
    """The VMs are managed again.

    Attributes:
        taken_up: The names of those that were released.

    """

    taken_up: tuple[str, ...]


class PauseReply(msgspec.Struct, frozen=True):
    """The VMs are paused.

    Attributes:
        paused: Their names.
        until: The date until which they are left as they are.

    """

    paused: tuple[str, ...]
    until: str


class ResumeReply(msgspec.Struct, frozen=True):
    """The VMs are managed again.

    Attributes:
        resumed: The names of those that were paused.

    """

    resumed: tuple[str, ...]


class Refusal(msgspec.Struct, frozen=True):
    """The request was not carried out.

    Attributes:
        error: Why, and what to do.
        exit_code: The exit code of the command that sent the request.

    """

    error: str
    exit_code: int


Reply = StatusReply | SampleReply | ReserveReply | ReleaseReply | TakeUpReply | PauseReply | ResumeReply


def encode(reply: Reply | Refusal) -> bytes:
    """Return the line that is sent."""
    envelope = {"schema_version": SCHEMA_VERSION, "ok": not isinstance(reply, Refusal)}
    return msgspec.json.encode({**envelope, **msgspec.structs.asdict(reply)}) + b"\n"
