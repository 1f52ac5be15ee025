"""What a step answers: the plan, the commands to send, the lines to print. Frozen and picklable."""

from typing import Literal

import msgspec

from dynmem.policy import Plan

ReservationState = Literal["ready", "waiting", "expired", "refused"]


class SetBalloon(msgspec.Struct, frozen=True):
    """Ask one VM's balloon for a size.

    `measurement` names the deciding term of measured free ("" for a shrink).
    """

    vm: str
    target_bytes: int
    reason: str
    measurement: str = ""


class Reservation(msgspec.Struct, frozen=True):
    """Room that is kept for a VM about to start.

    `state` "waiting" means that room is being made; "ready" that it is measured free and held until
    `deadline_ns`; "refused" that it can never be made with the floors as they are.
    """

    name: str
    size_bytes: int
    deadline_ns: int
    state: ReservationState
    reason: str


class StepResult(msgspec.Struct, frozen=True):
    """What one step decided.

    `commands` stand in the order to send them (shrinks first; none in observe mode), `changes` are the lines
    to print, `waiting` says that somebody waits for memory that is being given: sweep again soon.
    """

    plan: Plan
    commands: tuple[SetBalloon, ...]
    changes: tuple[str, ...]
    waiting: bool
