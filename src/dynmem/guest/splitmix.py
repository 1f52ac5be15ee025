"""Splitmix64: scrambled words for patterns, and a small seeded source of random numbers.

numpy's generators would do, but importing them costs every guest 6.6 MiB of resident memory (measured), and
the guest needs only lengths, places and orders that look random.

Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014).
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from dynmem.pages.ranges import U64Array

GAMMA: Final = 0x9E3779B97F4A7C15
_FIRST: Final = np.uint64(0xBF58476D1CE4E5B9)
_SECOND: Final = np.uint64(0x94D049BB133111EB)
_MASK: Final = (1 << 64) - 1


def scramble(words: U64Array) -> U64Array:
    """Return the finaliser of each word: a bijection of 64 bits in which every bit depends on every other."""
    words = (words ^ (words >> np.uint64(30))) * _FIRST
    words = (words ^ (words >> np.uint64(27))) * _SECOND
    return words ^ (words >> np.uint64(31))


class SplitMix:
    """Random numbers, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def words(self, count: int) -> U64Array:
        """Return `count` words of 64 random bits."""
        first = self._state
        self._state = (first + count * GAMMA) & _MASK
        return scramble(np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GAMMA) + np.uint64(first))

    def fractions(self, count: int) -> npt.NDArray[np.float64]:
        """Return `count` numbers from 0 to just below 1."""
        return (self.words(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def below(self, bound: int) -> int:
        """Return a number from 0 to `bound` - 1."""
        return int(self.words(1)[0]) % bound

    def order(self, count: int) -> npt.NDArray[np.int64]:
        """Return the numbers from 0 to `count` - 1 in random order."""
        return np.argsort(self.words(count), kind="stable")
