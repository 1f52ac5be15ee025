"""Until when a guest has to carry out what it was asked for: each order has a deadline for the whole of it.

A deadline grows with the amount, so a page now and then buys no time. An order that comes before the one
before it is carried out is due after it: a guest that lags behind a stream of small orders is not late.
"""

from typing import Final

import msgspec

from dynmem.manager.step.safeguards import ARRIVED_PAGES, PAGES_PER_S_MIN
from dynmem.units import NS_PER_S

# More orders than this are not told apart: the last two count as one.
ORDERS_MAX: Final = 8


class Due(msgspec.Struct, frozen=True):
    """An order.

    Attributes:
        at_pages: The size that it leads to.
        by_ns: When the guest must have it.
    """

    at_pages: int
    by_ns: int


class Deadlines(msgspec.Struct):
    """The orders of one guest that are not carried out yet, the oldest first; all in one direction.

    Attributes:
        grace_ns: What every order is allowed besides the time for its amount.
        downward: Whether they ask the guest to give.
        open: The orders.
    """

    grace_ns: int
    downward: bool = False
    open: list[Due] = msgspec.field(default_factory=list)

    def order(self, size: int, target: int, now_ns: int) -> None:
        """Take in a target that is sent to a guest of this size.

        What was asked before stays due when it was, as far as it is still asked.
        """
        left: list[Due] = []
        before = size
        for due in self.open:
            at = max(due.at_pages, target) if target < size else min(due.at_pages, target)
            if (at < before) if target < size else (at > before):
                left.append(Due(at, due.by_ns))
                before = at
        if before != target:
            start = max(now_ns + self.grace_ns, left[-1].by_ns if left else 0)
            left.append(Due(target, start + abs(target - before) * NS_PER_S // PAGES_PER_S_MIN))
        if len(left) > ORDERS_MAX:
            left[-2:] = left[-1:]
        self.open, self.downward = left, target < size

    def see(self, size: int, target: int, now_ns: int) -> None:
        """Take in the guest's size and drop what is carried out.

        A guest that went elsewhere owes the way back from now on.
        """
        if abs(size - target) <= ARRIVED_PAGES or (target < size) != self.downward:
            self.open = []
        elif target < size:
            self.open = [due for due in self.open if due.at_pages < size - ARRIVED_PAGES]
        else:
            self.open = [due for due in self.open if due.at_pages > size + ARRIVED_PAGES]
        if not self.open and abs(size - target) > ARRIVED_PAGES:
            self.order(size, target, now_ns)

    def forget(self) -> None:
        """Drop all orders: what is still asked is due as if it were asked now."""
        self.open = []

    def passed(self, now_ns: int) -> bool:
        """Return whether a deadline has passed."""
        return bool(self.open) and now_ns > self.open[0].by_ns
