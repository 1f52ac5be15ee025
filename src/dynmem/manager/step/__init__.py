"""One step of the manager, pure: facts in, commands out."""

from dynmem.manager.step.manager import Manager
from dynmem.manager.step.results import Reservation, ReservationState, SetBalloon, StepResult

# in the order of importance: the step, what comes out of it, reservations
__all__ = ["Manager", "StepResult", "SetBalloon", "Reservation", "ReservationState"]
