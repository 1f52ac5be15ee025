"""The pattern written into pages so that a lost, duplicated or stale page is noticed.

Word i of a page is mix(page, generation) + i. A page that the host discarded reads as zeros, a page at the
wrong address contains another page number, a page with two owners the later one's generation, and an old copy
of a page its old generation. Each differs from what its owner expects in nearly every word.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from dynmem.guest.runs import I64Array
from dynmem.guest.splitmix import GAMMA, scramble

PAGE_WORDS: Final = 512
Memory = npt.NDArray[np.uint64]

_CHUNK: Final = 64  # pages processed at once: 256 KiB stays in a core's cache
_INDEX: Final = np.arange(PAGE_WORDS, dtype=np.uint64)


class Wrong(NamedTuple):
    """The result of a check: bytes that differ, and the pages that they are in."""

    byte_count: int
    pages: I64Array


def mix(pages: I64Array, generations: I64Array) -> npt.NDArray[np.uint64]:
    """Return a 64-bit word for each page and generation, unlike any other."""
    return scramble(pages.astype(np.uint64) * np.uint64(GAMMA) + generations.astype(np.uint64))


class Pattern:
    """Writes and checks the pattern in guest memory, an array (pages, 512) of words."""

    def __init__(self, memory: Memory) -> None:
        assert memory.ndim == 2
        assert memory.shape[1] == PAGE_WORDS
        self._memory = memory
        self._scratch = np.empty((_CHUNK, PAGE_WORDS), np.uint64)
        self._equal = np.empty((_CHUNK, PAGE_WORDS), np.bool_)

    def fill(self, pages: I64Array, generations: I64Array) -> None:
        """Write every word of `pages`."""
        first_words = mix(pages, generations)
        for at in range(0, pages.size, _CHUNK):
            chunk = pages[at : at + _CHUNK]
            words = self._scratch[: chunk.size]
            np.add(first_words[at : at + _CHUNK, None], _INDEX, out=words)
            self._memory[chunk] = words

    def check(self, pages: I64Array, generations: I64Array) -> Wrong:
        """Read every word of `pages` and count the bytes that differ from what `fill` wrote."""
        first_words = mix(pages, generations)
        wrong_bytes = 0
        wrong_pages = [pages[:0]]
        for at in range(0, pages.size, _CHUNK):
            chunk = pages[at : at + _CHUNK]
            words, equal = self._scratch[: chunk.size], self._equal[: chunk.size]
            np.take(self._memory, chunk, axis=0, out=words, mode="clip")
            expected = first_words[at : at + _CHUNK, None]
            np.subtract(words, expected, out=words)
            np.equal(words, _INDEX, out=equal)
            if equal.all():
                continue
            words += expected
            found, byte_count = _differences(words, expected + _INDEX)
            wrong_bytes += byte_count
            wrong_pages.append(chunk[found])
        return Wrong(wrong_bytes, np.concatenate(wrong_pages))


def _differences(words: Memory, expected: Memory) -> tuple[I64Array, int]:
    """Return the rows of `words` that differ from `expected`, and the number of bytes that differ."""
    different = (words ^ expected).view(np.uint8)
    in_row = np.count_nonzero(different, axis=1)
    return np.flatnonzero(in_row), int(in_row.sum())
