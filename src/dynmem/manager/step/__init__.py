"""One step of the manager, pure: facts in, commands out."""

from dynmem.manager.step.manager import (
    Manager,
    Reservation,
    ReservationState,
    SetBalloon,
    StepResult,
)

__all__ = ["Manager", "Reservation", "ReservationState", "SetBalloon", "StepResult"]
