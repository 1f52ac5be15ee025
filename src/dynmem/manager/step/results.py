"""What a step returns: the plan, the commands to send, the lines to print. Frozen and picklable."""

from typing import Literal

import msgspec

from dynmem.manager.step.division import Parts
from dynmem.policy import Plan

ReservationState = Literal["ready", "waiting", "expired", "refused"]


class SetBalloon(msgspec.Struct, frozen=True):
    """Set the target of one VM.

    Attributes:
        vm: Its name.
        target_bytes: The size that it shall have.
        reason: Why, as a sentence.
        measurement: The term of measured free that pays for it; empty for a shrink.
        takes_nothing: Whether the guest keeps all that it has, or had been offered.
        news: The line to print once it is sent; empty if all was said when it was found.
        parts: What each of its devices has of it; None: its balloon has all.

    """

    vm: str
    target_bytes: int
    reason: str
    measurement: str = ""
    takes_nothing: bool = False
    news: str = ""
    parts: Parts | None = None


class Interrupt(msgspec.Struct, frozen=True):
    """Run the operator's command for one VM, since memory is out.

    Attributes:
        vm: Its name.
        command: The program and its arguments; the VM's name follows them.
        reason: Why, as a sentence.

    """

    vm: str
    command: tuple[str, ...]
    reason: str


class Reservation(msgspec.Struct, frozen=True):
    """Room that is kept for a VM about to start.

    Attributes:
        name: The VM.
        size_bytes: The room.
        deadline_ns: Until when it is kept.
        state: "waiting": room is being made. "ready": it is measured free and held until the deadline.
            "expired": the deadline passed. "refused": the floors of the other VMs leave no such room.
        reason: Why it is in this state, as a sentence.
        until: The date of the deadline. Since schema 2.

    """

    name: str
    size_bytes: int
    deadline_ns: int
    state: ReservationState
    reason: str
    until: str | None = None


class StepResult(msgspec.Struct, frozen=True):
    """What one step decided.

    Attributes:
        plan: The division of the host.
        commands: What to send, in this order: shrinks first. None in observe mode.
        changes: The lines to print now: what was found and, in observe mode, what would be sent.
        waiting: Whether a VM or a reservation waits for memory that is being given, or a VM has just come:
            sweep again soon.
        moving: The VMs that grow, or give what they were asked for: look at these again at once.
        tight: The VMs whose guests have little available: ask these for a report as soon as they do anything.
        interrupt: Whose command is to be run, since memory is out.

    """

    plan: Plan
    commands: tuple[SetBalloon, ...]
    changes: tuple[str, ...]
    waiting: bool
    moving: frozenset[str] = frozenset()
    tight: frozenset[str] = frozenset()
    interrupt: Interrupt | None = None
