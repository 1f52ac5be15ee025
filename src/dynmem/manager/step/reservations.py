"""Reservations: room kept for a VM about to start.

A reservation and the VM of its name count as the larger of the two, never as their sum. While it waits,
grants leave it its room and the plan makes more. Once that much is measured free it is ready, and stays so
until the VM of that name has appeared and reported, or until the deadline. The books keep the size; this file
keeps the rest.
"""

from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from dynmem.limits import API_RESERVATIONS_MAX
from dynmem.manager.step.claims import Claims
from dynmem.manager.step.results import Reservation, ReservationState
from dynmem.units import PAGE_SIZE, format_pages

TAKEN_OVER: Final = "taken over by the VM"
NO_SUCH: Final = "there is no reservation of that name"


class Entry(msgspec.Struct):
    """An open reservation.

    Attributes:
        name: The VM it is for.
        deadline_ns: Until when it is kept.
        incarnation: The life of that VM when it was made, empty if it was absent: a later life takes it over.
        state: "waiting" or "ready".
        reason: Why, as a sentence.
    """

    name: str
    deadline_ns: int
    incarnation: str
    state: ReservationState
    reason: str


class Reservations:
    """The open reservations of one host, in the order they were made, and how the last ones ended."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._open: dict[str, Entry] = {}
        self._ended: dict[str, tuple[ReservationState, str]] = {}

    def __iter__(self) -> Iterator[Entry]:
        return iter(tuple(self._open.values()))

    def __contains__(self, name: str) -> bool:
        return name in self._open

    def open(self, name: str, size_pages: int, least_pages: int, deadline_ns: int, incarnation: str) -> Entry:
        """Open a reservation, or change the one of that name; *least_pages* of it last (`admission`)."""
        self._ended.pop(name, None)
        self._claims.reserve(name, size_pages, least_pages)
        entry = self._open.get(name) or Entry(name, deadline_ns, incarnation, "waiting", "")
        entry.deadline_ns, entry.incarnation = deadline_ns, incarnation
        entry.state, entry.reason = "waiting", "waiting for the next sweep"
        self._open[name] = entry
        return entry

    def deadline_ns(self, name: str) -> int | None:
        """Return until when an open one is kept; None if there is none."""
        entry = self._open.get(name)
        return None if entry is None else entry.deadline_ns

    def keep_until(self, name: str, deadline_ns: int) -> None:
        """Move the deadline of an open one."""
        self._open[name].deadline_ns = deadline_ns

    def full(self, name: str) -> bool:
        """Return whether the limit of open reservations forbids another one."""
        return name not in self._open and len(self._open) >= API_RESERVATIONS_MAX

    def end(self, name: str, state: ReservationState, reason: str) -> None:
        """Close one and remember for a while how it ended."""
        if self._open.pop(name, None) is not None:
            self._claims.unreserve(name)
        self._ended[name] = (state, reason)
        while len(self._ended) > API_RESERVATIONS_MAX:
            del self._ended[next(iter(self._ended))]

    def state(self, name: str) -> tuple[ReservationState, str]:
        """Return state and reason of an open one, or of one that ended not long ago."""
        entry = self._open.get(name)
        if entry is not None:
            return entry.state, entry.reason
        return self._ended.get(name, ("refused", NO_SUCH))

    def expire(self, now_ns: int) -> list[str]:
        """Close those whose deadline has passed; return a line for each."""
        lines = []
        for entry in self:
            if now_ns >= entry.deadline_ns:
                self.end(entry.name, "expired", f"expired while {entry.state}: {entry.reason}")
                lines.append(f"reservation {entry.name}: expired")
        return lines

    def take_over(self, name: str, incarnation: str, *, reported: bool) -> list[str]:
        """Hand a reservation to its VM, which is there: once it has reported, only its own claim counts."""
        entry = self._open.get(name)
        if entry is None or not incarnation or incarnation == entry.incarnation:
            return []
        entry.state, entry.reason = "ready", TAKEN_OVER
        if not reported:
            return []
        self.end(name, "ready", TAKEN_OVER)
        return [f"reservation {name}: {TAKEN_OVER}"]

    def hold_pages(self, name: str, held_pages: int) -> int:
        """Return what a reservation takes beside the VM of its name: the larger of the two counts."""
        return max(0, self._claims.reserved(name) - held_pages)

    def least_pages(self, name: str) -> int:
        """Return what a reservation comes down to once its VM is there."""
        return self._claims.reserved_least(name)

    def settle(self, free_pages: int, held: Callable[[str], int]) -> list[str]:
        """Make those ready that fit into what is measured free, oldest first; *held* is what a VM takes."""
        lines = []
        left = free_pages
        for entry in self:
            hold = self.hold_pages(entry.name, held(entry.name))
            left -= hold
            if entry.state == "ready":
                continue
            if left >= 0:
                entry.state = "ready"
                entry.reason = f"{format_pages(self._claims.reserved(entry.name))} measured free and held"
                lines.append(f"reservation {entry.name}: ready, {entry.reason}")
            else:
                entry.reason = f"other VMs still have to give {format_pages(-left)}"
        return lines

    def view(self, entry: Entry) -> Reservation:
        """Return an open one as its owner sees it."""
        size = self._claims.reserved(entry.name) * PAGE_SIZE
        return Reservation(entry.name, size, entry.deadline_ns, entry.state, entry.reason)
