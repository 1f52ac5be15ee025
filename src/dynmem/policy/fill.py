"""Weighted max-min fairness in whole pages: all rise together, each at the speed of its weight, until full.

At "time" t a participant has ``min(need, weight * t // WEIGHT_MAX)`` pages. The largest t that fits is found
exactly, and the few pages left over go, one each, to those that would have risen next. A participant's step
in t is at most one page, which makes the result monotone: a larger need never gives its owner less, or
another participant more.

    needs 100, 300, 300   weights 5000, 5000, 10000   capacity 500   ->   100, 133, 267
    the first is full after 200 of t; the others share the remaining 400 as 1 to 2
"""

from collections.abc import Sequence

from dynmem.limits import WEIGHT_MAX


def fill(needs: Sequence[int], weights: Sequence[int], capacity: int) -> list[int]:
    """Divide *capacity* pages among *needs* (pages, ≥ 0) by *weights* (1..WEIGHT_MAX); return the shares."""
    if capacity <= 0:
        return [0] * len(needs)
    if sum(needs) <= capacity:
        return list(needs)
    time = _largest_time(needs, weights, capacity)
    shares = _at(needs, weights, time)
    left = capacity - sum(shares)
    for index, risen in enumerate(_at(needs, weights, time + 1)):
        if left == 0:
            break
        if risen > shares[index]:
            shares[index] = risen
            left -= 1
    return shares


def _at(needs: Sequence[int], weights: Sequence[int], time: int) -> list[int]:
    scale = WEIGHT_MAX
    return [
        need if need <= (grown := weight * time // scale) else grown
        for need, weight in zip(needs, weights, strict=True)
    ]


def _largest_time(needs: Sequence[int], weights: Sequence[int], capacity: int) -> int:
    """Return the largest t whose shares sum to at most *capacity*; the needs together exceed it."""
    low = _time_without_rounding(needs, weights, capacity)
    # Rounding down loses less than a page per participant, so the true t is rarely later than this.
    step = len(needs) * WEIGHT_MAX // min(weights) + 1
    high = low + step
    while sum(_at(needs, weights, high)) <= capacity:
        low, high = high, high + step
    while high - low > 1:
        middle = (low + high) // 2
        if sum(_at(needs, weights, middle)) <= capacity:
            low = middle
        else:
            high = middle
    return low


def _time_without_rounding(needs: Sequence[int], weights: Sequence[int], capacity: int) -> int:
    """Return the last whole t at which shares with fractions fit: full ones leave in the order they fill."""
    order = sorted(
        (index for index, need in enumerate(needs) if need),
        key=lambda index: needs[index] * WEIGHT_MAX // weights[index],
    )
    rising = sum(weights[index] for index in order)
    left = capacity
    for index in order:
        if needs[index] * rising > left * weights[index]:
            break
        left -= needs[index]
        rising -= weights[index]
    return left * WEIGHT_MAX // rising if rising else 0
