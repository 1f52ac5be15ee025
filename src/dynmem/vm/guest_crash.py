"""What a guest reports of its crash."""

from typing import NamedTuple


class GuestCrash(NamedTuple):
    """A crash, as by the crash MSRs of Hyper-V.

    Attributes:
        parameters: Five numbers of the guest's own; with Linux the last two are where its text is.
        text: The end of the guest's log, if it gave any.

    """

    parameters: tuple[int, int, int, int, int]
    text: str = ""
