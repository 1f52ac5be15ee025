"""What the owner of the host's end keeps for it: the pages that the guest gave up, and memory to add.

The protocol machine asks and counts; which pages there are, and whether memory is mapped, is its owner's.
"""

from typing import NamedTuple, Protocol


class GivenUp(NamedTuple):
    """What became of a batch of ranges that the guest gave up; pages, which add up to those of the batch."""

    new: int
    duplicates: int
    rejected: int


class PageStore(Protocol):
    """The pages that the guest has given up and not got back, kept by the device."""

    @property
    def removed_pages(self) -> int:
        """How many pages there are."""

    def give_up(self, ranges: bytes) -> GivenUp:
        """Enter what the guest gave up. Must not raise for anything a guest can send."""

    def take_back(self, max_pages: int, max_ranges: int) -> bytes:
        """Take out pages for the guest, so many at most; b"" when there are none."""


class Reservation(NamedTuple):
    """New memory that is set aside for one hot add, in pages."""

    start: int
    pages: int


class HotAddSource(Protocol):
    """New memory for the guest, kept by a memory device. There is one reservation at a time.

    What was posted in a request is the guest's until the machine is reset, unless the guest says that it has
    not taken it. The owner frees everything at a reset, before it tells the protocol machine.
    """

    @property
    def added_pages(self) -> int:
        """Pages that the guest has beyond its boot memory, those that it gave up since among them."""

    def reserve(self, pages: int, alignment: int, end: int) -> Reservation | None:
        """Set memory aside and begin to map it: at most `pages`, none at or above page `end`.

        Start and length are multiples of `alignment` pages. None when there is no such memory.
        """

    def is_mapped(self) -> bool:
        """Whether the guest's hardware has all of the reservation; the owner then calls `tick`."""

    def backed(self, reserved: Reservation) -> Reservation | None:
        """What of the reservation, once it is mapped, the host has memory for, in one piece.

        The rest is free again; None: all of it is. Start and length keep the alignment.
        """

    def added(self, pages: int) -> None:
        """The first so many pages of what is left of the reservation are the guest's."""

    def take_back(self) -> None:
        """What is left of the reservation is free again: the guest has not taken it."""

    def give_back(self, ranges: bytes) -> GivenUp:
        """Take pages back for good that were added; others, and those in the balloon, are rejected.

        Must not raise for anything a guest can send.
        """
