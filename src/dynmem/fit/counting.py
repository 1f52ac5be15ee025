"""How many more VMs fit: the arithmetic, on arrays, for the report of a time and for all of this room.

A *span* is a piece of time, of which the most that was needed is known, and how long it is (its weight):

    span                  0     1     2     3
    capacity             90    90    90    80
    needed by all        30    70    30    30      - the last axis is time; any others are hosts
    one more needs       10    10    30    10
    so many more fit      6     2     2     5      = (capacity - needed) // one more needs

So 2 more fit at all times, and 5 in all but half of the time. All sizes are in one unit and whole numbers.

What each VM needed is a row of such spans, AWAY in those in which it was not there.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Sizes = NDArray[np.int64]
Weights = NDArray[np.int64]

#: A figure of a span in which a VM was not there.
AWAY: Final = -1
#: More VMs are not counted.
MORE_MAX: Final = 999
#: The part of the time in which what a VM usually needs at most is not exceeded.
USUAL_PART: Final = 0.99


def count(capacity: Sizes, needed: Sizes, each: Sizes | int, parts: int = 1) -> Counts:
    """Return how many more fit in each span, in so many parts of one; -1: not even those that ran."""
    left = (capacity - needed) * parts
    size = np.broadcast_to(np.asarray(each, dtype=np.int64), left.shape)
    counts = np.where(size > 0, left // np.maximum(size, 1), np.where(left < 0, -parts, MORE_MAX * parts))
    return np.clip(counts, -parts, MORE_MAX * parts)


def fits_static(left: int, fixed: int) -> int:
    """Return how many more of a fixed size fit into what is left beside the others."""
    return max(0, left // fixed) if fixed else 0


def late_share(counts: Counts, weights: Weights, more: int) -> float:
    """Return the part of the time in which so many do not fit."""
    length = _lengths(weights)
    return float(length[counts < more].sum() / length.sum()) if counts.size else 0.0


def most(counts: Counts, weights: Weights, risk: float) -> Counts:
    """Return the most that fit in all but this part of the time, of each host.

    counts 2 2 5 6, a quarter of the time each: before them are 0, 1/4, 1/2, 3/4 of the time in which
    fewer fit. With a risk of 1/4 that is 2, and with one of 1/2 it is 5.
    """
    order = np.argsort(counts, axis=-1, kind="stable")
    sorted_counts = np.take_along_axis(counts, order, axis=-1)
    length = np.take_along_axis(np.broadcast_to(_lengths(weights), counts.shape), order, axis=-1)
    before = np.cumsum(length, axis=-1) - length
    fits = before / length.sum(axis=-1, keepdims=True) <= risk
    found: Counts = np.where(fits, sorted_counts, sorted_counts[..., :1]).max(axis=-1)
    return found


def _lengths(weights: Weights) -> Weights:
    """Return how long the spans are; spans of no time at all, as before a second sweep, count alike."""
    lengths: Weights = np.where(weights.any(axis=-1, keepdims=True), weights, 1)
    return lengths


def missing(capacity: Sizes, needed: Sizes, each: Sizes | int, more: int) -> int:
    """Return what is missing at most, in any span, with so many more; 0: nothing ever is."""
    short = needed + more * np.asarray(each, dtype=np.int64) - capacity
    return max(0, int(short.max(initial=0)))


def quantile(sizes: Sizes, weights: Weights, part: float = USUAL_PART) -> int:
    """Return the least of the sizes that was not exceeded in this part of the time; 0: there are none."""
    if not sizes.size:
        return 0
    order = np.argsort(sizes, kind="stable")
    passed = np.cumsum(weights[order])
    return int(sizes[order][np.searchsorted(passed, part * passed[-1])])


def mean(sizes: Sizes, weights: Weights) -> int:
    """Return the mean over the time, rounded down; 0: there is none."""
    total = int(weights.sum())
    return int((sizes * weights).sum()) // total if total else 0


def settled(need: Sizes, silent: Sizes) -> Sizes:
    """Return what each VM needed, also in spans without a report; AWAY where it was not there.

    *silent* is its size in these. It then needed the most that it needed in any other span, and if there is
    none, its whole size.
    """
    most = need.max(axis=1, initial=AWAY)[:, None]
    return np.where(need >= 0, need, np.where(silent < 0, AWAY, np.where(most < 0, silent, most)))


def usual(needs: Sizes, weights: Weights) -> int:
    """Return what a VM needed at most in all but a hundredth of the time in which it was there."""
    there = needs >= 0
    return quantile(needs[there], weights[there])


def each_like(needs: Sizes, weights: Weights) -> Sizes:
    """Return what one more like a VM needs: where that was away, what it usually needs at most."""
    return np.where(needs >= 0, needs, usual(needs, weights))


def median_of(chosen: Sequence[int], names: Sequence[str], needs: Sizes, weights: Weights) -> int | None:
    """Return the VM in the middle of the chosen ones, by what they usually need; None: there is none."""
    order = sorted(chosen, key=lambda at: (usual(needs[at], weights), names[at]))
    return order[(len(order) - 1) // 2] if order else None
