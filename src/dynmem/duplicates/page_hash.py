"""A hash of pages that runs at the speed of memory in numpy alone.

It is the sum of a page's 64-bit words, each times a number of its own, modulo 2^64. The numbers are random
and made for one account in one run: its salt. No guest knows them, and hashes of two accounts have nothing
to do with each other.

A sum like this is weak (pages that differ only in the highest bits of a few words often collide). That is
enough here: a hash only nominates pages, and `verify` compares their bytes.
"""

import secrets
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dynmem.pages.ranges import U64Array
from dynmem.units import PAGE_SIZE

#: 64-bit words in a page.
PAGE_WORDS: Final = PAGE_SIZE // 8
_HALF: Final = np.uint64(32)
_MIX: Final = np.uint64(0x9E37_79B9_7F4A_7C15)  # 2^64 over the golden ratio, odd


class PageHash:
    """The hash of one account."""

    def __init__(self, salt: bytes | None = None) -> None:
        """Use `salt`, the bytes of one page; by default random ones of the system's."""
        salt = secrets.token_bytes(PAGE_SIZE) if salt is None else salt
        self._multipliers: Final = np.frombuffer(salt, np.uint64) | np.uint64(1)

    def __call__(self, pages: U64Array) -> U64Array:
        """Return the hashes of `pages`, an array of (n, 512); that of a page of zeros is 0."""
        sums: U64Array = np.einsum("ij,j->i", pages, self._multipliers)
        # The groups are made of the upper bits: have every bit of the sum count there.
        sums ^= sums >> _HALF
        sums *= _MIX
        return sums


def zero_pages(pages: U64Array, hashes: U64Array) -> NDArray[np.bool_]:
    """Return which pages hold only zeros: those of hash 0, looked at byte by byte."""
    found: NDArray[np.bool_] = hashes == 0
    if found.any():
        suspects = pages[found]
        if suspects.max():  # faster than `any`, and nearly always 0
            found[found] = ~suspects.any(axis=1)
    return found
