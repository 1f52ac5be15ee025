"""Why a host does not do what a guest posted."""

import enum


class Rejection(enum.Enum):
    """A reason; its value is a phrase for people."""

    MALFORMED = "malformed message"
    UNEXPECTED = "unexpected message"
    CONTACT_FROM_ABSENT_PROCESSOR = "contact from a virtual processor that does not exist"
    CONTACT_FOR_ANOTHER_BUS = "contact for another SINT or trust level"
    CONTACT_WITH_ONE_MONITOR_PAGE = "contact with one monitor page"
    INTERRUPT_PAGE_OUTSIDE_MEMORY = "interrupt page outside memory"
    GPADL_OF_UNKNOWN_CHANNEL = "a GPADL of an unknown channel"
    GPADL_ID_IN_USE = "a GPADL id is used twice"
    GPADL_NOT_ONE_RANGE = "a GPADL has not exactly one range"
    GPADL_NOT_WHOLE_PAGES = "a GPADL is not made of whole pages"
    GPADL_LENGTHS_DIFFER = "a GPADL's two lengths do not agree"
    TOO_MANY_GPADLS = "too many GPADLs"
    STRAY_GPADL_BODY = "a GPADL body that belongs to no unfinished GPADL"
    TEARDOWN_OF_UNKNOWN_GPADL = "teardown of an unknown GPADL"
    TEARDOWN_OF_OTHERS_GPADL = "teardown of another channel's GPADL"
    OPEN_OF_CHANNEL_NOT_CLOSED = "opening a channel that is not there or not closed"
    OPEN_WITHOUT_GPADL = "opening a channel without its GPADL"
    OPEN_FOR_ABSENT_PROCESSOR = "opening a channel for a virtual processor that does not exist"
    OPEN_WITHOUT_RINGS = "opening a channel over pages that are not rings"
    RESERVED_OPEN_FOR_ABSENT_TARGET = (
        "opening a reserved channel for a virtual processor or SINT that does not exist"
    )
    RESERVED_CLOSE_FOR_ABSENT_TARGET = (
        "closing a reserved channel for a virtual processor or SINT that does not exist"
    )
    CLOSE_OF_CHANNEL_NOT_OPEN = "closing a channel that is not open, or was opened otherwise"
    RELEASE_OF_CHANNEL_IN_USE = "release of a channel that is not there or still open"
    MODIFY_WITHOUT_INTERRUPTS = "modifying a channel that is not open or has no interrupts"
    MODIFY_FOR_ABSENT_PROCESSOR = "modifying a channel for a virtual processor that does not exist"


class Rejections:
    """What was rejected of one guest.

    Attributes:
        counts: How often, by reason.

    """

    def __init__(self) -> None:
        self.counts: dict[Rejection, int] = {}

    def add(self, reason: Rejection) -> None:
        """Count one more."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
