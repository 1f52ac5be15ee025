"""The cast: hostile guests, each with a sentence for a name and a function that does what the sentence says.

A member says nothing of what must happen: the stage holds the same of every one.
"""

from collections.abc import Callable
from typing import Final

from tests.hostile.guests.kernel import Kernel

Member = Callable[[Kernel], object]
CAST: Final[dict[str, Member]] = {}


def member(sentence: str) -> Callable[[Member], Member]:
    """Put a function into the cast."""

    def add(function: Member) -> Member:
        assert sentence not in CAST
        CAST[sentence] = function
        return function

    return add
