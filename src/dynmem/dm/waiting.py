"""How long the host waits for its guest: until it is silent, or until an answer is overdue though it lives.

Source of the hint: allow_hibernation in Linux drivers/hv/hv_balloon.c.
"""

from typing import Final

OVERDUE: Final = (
    "the guest goes on reporting its status and does not answer a request: a Linux that can hibernate"
    " (ACPI S4) ignores the balloon, so do not offer it S4"
)


class Waiting:
    """One wait after another, in nanoseconds of the owner's clock.

    Attributes:
        until: When the guest is silent; None: nothing is waited for, or for any time.

    """

    def __init__(self) -> None:
        self.until: int | None = None
        self._answer_due: int | None = None  # None also if it was called overdue

    def begin(self, until: int | None) -> None:
        """Begin another wait, or with None end the present one."""
        self.until = self._answer_due = until

    def is_over(self, now: int) -> bool:
        """Return whether its time is over."""
        return self.until is not None and now >= self.until

    def renew(self, until: int, now: int) -> bool:
        """Wait longer: the guest gave a sign of life. Return whether its answer is overdue, once."""
        self.until = until
        is_overdue = self._answer_due is not None and now >= self._answer_due
        if is_overdue:
            self._answer_due = None
        return is_overdue
