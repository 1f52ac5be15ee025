"""What the owner of the host's end keeps for it: the pages that the guest gave up, and memory to add.

The protocol machine asks and counts. Which pages there are, and whether memory is mapped, is the owner's
business.
"""

from typing import NamedTuple, Protocol


class GivenUp(NamedTuple):
    """What became of a batch of ranges from the guest, in pages; the three add up to those in the batch.

    Attributes:
        new: Pages that were added.
        duplicates: Pages that the store had already, or that the batch named twice.
        rejected: Pages that are not the guest's to give.

    """

    new: int
    duplicates: int
    rejected: int


class PageStore(Protocol):
    """The pages that the guest has given up and not got back: those in the balloon."""

    @property
    def removed_pages(self) -> int:
        """The number of pages in the balloon."""

    def add_given(self, ranges: bytes) -> GivenUp:
        """Add pages that the guest gave up. Must not raise for anything a guest can send."""

    def remove_for_guest(self, max_pages: int, max_ranges: int) -> bytes:
        """Remove pages to return to the guest, at most `max_pages` in `max_ranges` ranges; b"" for none."""

    def undo(self, ranges: bytes) -> None:
        """Put back what `remove_for_guest` returned: it was never sent, so the guest still has not got it."""


class Reservation(NamedTuple):
    """New memory that is reserved for one hot add.

    Attributes:
        start: The number of its first page.
        pages: Its size.

    """

    start: int
    pages: int


class HotAddSource(Protocol):
    """New memory for the guest, kept by a memory device. There is one reservation at a time.

    What was posted in a request belongs to the guest until the machine is reset, unless the guest says that
    it did not take it. At a reset the owner frees everything before it resets the protocol machine.
    """

    @property
    def added_pages(self) -> int:
        """Pages that the guest has beyond its boot memory, including those that it gave up since."""

    @property
    def most_pages(self) -> int:
        """The most that `added_pages` can be."""

    def reserve(self, pages: int, alignment: int, end: int) -> Reservation | None:
        """Reserve memory and begin to map it: at most `pages`, all below page `end`.

        Start and length are multiples of `alignment` pages. None when there is no such memory, and for 0
        pages: a request below one step of the guest's alignment.
        """

    def is_mapped(self) -> bool:
        """Whether the guest's hardware has all of the reservation; the owner calls `tick` when it has."""

    def backed(self, reserved: Reservation) -> Reservation | None:
        """Reduce the mapped reservation to one piece that the host has memory for, and return that.

        The rest is free again; None if there is no such piece. Start and length keep the alignment.
        """

    def confirm(self, pages: int) -> None:
        """Give the guest the first `pages` pages of what is left of the reservation: it has added them."""

    def cancel(self) -> None:
        """Free what is left of the reservation: the guest did not take it."""

    def remove(self, ranges: bytes) -> GivenUp:
        """Remove added pages permanently; rejects pages that were not added and those in the balloon.

        Must not raise for anything a guest can send.
        """
