"""What a contender of the trial is: something that is shown figures and orders sizes.

A contender that follows published rules is shown figures that are at least as fresh as its own would be, and
its orders reach the guests at once. Its host is made so that it may use the whole budget (`Host`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from dynmem.rivals.host import HOST_SHARE, Host, Sharer

__all__ = ["HOST_SHARE", "Contender", "Figures", "Host", "Move", "Order", "Rounds", "Silent", "Terms"]


class Terms(NamedTuple):
    """What an operator has decided before the run.

    Attributes:
        names: The guests.
        minimum_bytes: The least that each may be given.
        maximum_bytes: What each boots with.
        budget_bytes: What all of them together may hold.
        slush_bytes: The part of it that dynmem is told not to grant.
    """

    names: tuple[str, ...]
    minimum_bytes: int
    maximum_bytes: int
    budget_bytes: int
    slush_bytes: int


class Figures(NamedTuple):
    """One guest that has booted.

    Attributes:
        actual_bytes: Its size, from its monitor.
        free_bytes: Its own figure of free memory.
    """

    actual_bytes: int
    free_bytes: int


class Order(NamedTuple):
    """A size for one guest."""

    name: str
    target_bytes: int


class Move(NamedTuple):
    """An order that was sent, and when (seconds of the run; before its beginning: negative)."""

    at_s: float
    order: Order


class Contender(Protocol):
    """One way to share a host's memory.

    `name` is what the command line and the tables call it. `free_page_reporting` is the property of the
    guests' balloons. `rest_s` is how long it may take to bring freshly booted guests to rest before the run
    begins.
    """

    name: str
    free_page_reporting: bool
    rest_s: float

    def start(self, monitors: Mapping[str, Path]) -> None:
        """Begin, with all guests booted. *monitors* are sockets that nothing else uses."""

    def booting(self, name: str) -> Sequence[Order]:
        """Return what is ordered as soon as a guest's monitor is there, before the guest has booted."""

    def tick(self, now_s: float, host: Host, guests: Mapping[str, Figures]) -> Sequence[Order]:
        """Return the orders of this moment; called many times a second."""

    def rest(self, host: Host, guests: Mapping[str, Figures]) -> Sequence[Order] | None:
        """Return the orders of one round before the run begins, at any time; None: it just needs time."""

    def check(self) -> None:
        """Raise if it has ended by itself."""

    def moves(self, begin_wall_ns: int) -> Sequence[Move]:
        """Return what it has sent by itself, once it is stopped; times count from *begin_wall_ns*."""

    def stop(self) -> None:
        """End it; sizes stay as they are. May be called twice."""


class Silent:
    """A contender without a process of its own that orders nothing: what the others begin with."""

    name: str = ""
    free_page_reporting = False
    rest_s = 4.0

    def __init__(self, terms: Terms, folder: Path) -> None:
        del folder
        self.terms = terms

    def start(self, monitors: Mapping[str, Path]) -> None:
        del monitors

    def booting(self, name: str) -> Sequence[Order]:
        del name
        return ()

    def tick(self, now_s: float, host: Host, guests: Mapping[str, Figures]) -> Sequence[Order]:
        del now_s, host, guests
        return ()

    def rest(self, host: Host, guests: Mapping[str, Figures]) -> Sequence[Order] | None:
        del host, guests
        return None

    def check(self) -> None:
        pass

    def moves(self, begin_wall_ns: int) -> Sequence[Move]:
        del begin_wall_ns
        return ()

    def stop(self) -> None:
        pass


class Rounds(Silent):
    """A contender that follows rules, round by round."""

    period_s: float
    rest_s = 25.0

    def __init__(self, terms: Terms, folder: Path) -> None:
        super().__init__(terms, folder)
        self._last_s = 0.0

    def sharers(self, guests: Mapping[str, Figures]) -> dict[str, Sharer]:
        """Return the guests as published rules see them."""
        least, most = self.terms.minimum_bytes, self.terms.maximum_bytes
        return {
            name: Sharer(each.actual_bytes, least, most, each.free_bytes) for name, each in guests.items()
        }

    def round(self, host: Host, guests: Mapping[str, Figures]) -> Sequence[Order]:
        """Return the orders of one round."""
        raise NotImplementedError

    def tick(self, now_s: float, host: Host, guests: Mapping[str, Figures]) -> Sequence[Order]:
        if now_s - self._last_s < self.period_s:
            return ()
        self._last_s = now_s
        return self.round(host, guests)

    def rest(self, host: Host, guests: Mapping[str, Figures]) -> Sequence[Order] | None:
        return self.round(host, guests)
