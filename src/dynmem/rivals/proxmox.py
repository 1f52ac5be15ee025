"""Proxmox VE's automatic allocation of memory, written from what is published about it.

From the administration guide ("Automatic Memory Allocation"; the node's option `ballooning-target`), from
notes of users who read the daemon, and from the figures that the package's own test expects (ours holds them,
too):

- every 10 s the daemon aims at 80 % of the host's memory in use; what is missing to that, or what is too
  much, is this round's goal. Within 10 MiB of it nothing is done;
- a guest is short of memory unless its free memory is above a quarter of its configured minimum. A positive
  goal goes to guests that are short, and to all guests only if it could not move there; a negative goal is
  taken from guests that are not short, and from all guests only if it could not move there;
- within such a group, what all have above their minimums and the goal are divided by shares, between each
  guest's minimum and maximum; what one cannot take is divided again among the others;
- no guest changes by more than 100 MiB in a round;
- a guest that starts is set to its minimum.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from dynmem.rivals.host import HOST_SHARE, Host, Sharer
from dynmem.units import MIB

PERIOD_S: Final = 10.0
GOAL_MIN_BYTES: Final = 10 * MIB
CHANGE_MAX_BYTES: Final = 100 * MIB
SHORT_OF_MINIMUM: Final = 0.25


def is_short(guest: Sharer) -> bool:
    """Return whether a guest is served first and takes part last in giving."""
    return guest.free <= guest.minimum * SHORT_OF_MINIMUM or guest.size < guest.minimum


def orders(host: Host, guests: Mapping[str, Sharer]) -> dict[str, int]:
    """Return the sizes that change in the round of this moment."""
    goal = int(host.total_bytes * HOST_SHARE) - host.used_bytes
    return {} if abs(goal) <= GOAL_MIN_BYTES else one_round(guests, goal)


def one_round(guests: Mapping[str, Sharer], goal: int, change_max: int = CHANGE_MAX_BYTES) -> dict[str, int]:
    """Return the sizes that change in a round with this goal: bytes to give or, below 0, to take."""
    sizes = {name: each.size for name, each in guests.items()}
    first = [name for name, each in guests.items() if is_short(each) == (goal > 0)]
    if divide(guests, sizes, first, goal, change_max) == goal:
        divide(guests, sizes, list(guests), goal, change_max)
    return {name: size for name, size in sizes.items() if size != guests[name].size}


def divide(
    guests: Mapping[str, Sharer], sizes: dict[str, int], group: Sequence[str], goal: int, change_max: int
) -> int:
    """Move the sizes of *group* towards their shares of *goal*, and return what is left of it."""
    left, members = goal, list(group)
    while left and members:
        above = sum(sizes[name] - guests[name].minimum for name in members) + left
        shares = sum(guests[name].shares for name in members)
        changed = 0
        for name in list(members):
            each = guests[name]
            share = each.minimum + above * each.shares // shares
            desired = min(each.maximum, max(each.minimum, share))
            if goal > 0 and desired > each.size:
                size = min(desired, each.size + change_max)
            elif desired < each.size:
                size = max(desired, each.size - change_max)
            else:
                members.remove(name)
                continue
            left -= size - sizes[name]
            changed += abs(size - sizes[name])
            sizes[name] = size
        if not changed:
            break
    return left
