"""What guests give up: packed ranges in the order they come, always the same."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from dynmem.limits import DM_RANGES_PER_MESSAGE, PAGE_RANGE_PAGES_MAX
from dynmem.units import GIB, MIB, PAGE_SIZE, TIB

U64Array = npt.NDArray[np.uint64]
BLOCK: Final = 2 * MIB // PAGE_SIZE  # what Linux gives as long as it has such
PIECE: Final = 256 * 1024 // PAGE_SIZE
_COUNT_SHIFT: Final = np.uint64(40)


@dataclass(frozen=True)
class Workload:
    """Messages that a guest of `guest_bytes` sends; `words` are their packed ranges."""

    name: str
    guest_bytes: int
    words: U64Array

    @property
    def guest_pages(self) -> int:
        """Pages of the guest."""
        return self.guest_bytes // PAGE_SIZE

    def messages(self) -> list[bytes]:
        """The messages, as full as the protocol allows."""
        step = DM_RANGES_PER_MESSAGE
        return [self.words[at : at + step].tobytes() for at in range(0, self.words.size, step)]


def _pack(starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64] | int) -> U64Array:
    pages = np.broadcast_to(np.asarray(counts, np.uint64), starts.shape)
    return starts.astype(np.uint64) | pages << _COUNT_SHIFT


def contiguous(size: int) -> U64Array:
    """All of it in 2 MiB ranges, ascending."""
    return _pack(np.arange(0, size // PAGE_SIZE, BLOCK), BLOCK)


def scattered(size: int, pages: int, seed: int = 1) -> U64Array:
    """A random half of the aligned ranges of so many pages, in random order."""
    slots = np.random.default_rng(seed).permutation(size // PAGE_SIZE // pages)
    return _pack(slots[: slots.size // 2] * pages, pages)


def every_second(size: int, *, ascending: bool) -> U64Array:
    """Every second page, a checkerboard, ascending or in random order."""
    starts = np.arange(0, size // PAGE_SIZE, 2)
    return _pack(starts if ascending else np.random.default_rng(2).permutation(starts), 1)


def mix(size: int) -> U64Array:
    """What a guest with a history gives: 2 MiB blocks while it has them, then single pages."""
    random = np.random.default_rng(3)
    blocks = random.permutation(size // PAGE_SIZE // BLOCK) * BLOCK
    whole, broken = np.split(blocks, [blocks.size * 7 // 8])
    pages = (broken[:, None] + np.arange(BLOCK)).reshape(-1)
    singles = random.permutation(pages)[: pages.size // 2]
    return np.concatenate((_pack(whole, BLOCK), _pack(singles, 1)))


def pieces(size: int) -> U64Array:
    """All of it, page by page: at random within 64 MiB, one such part after the other."""
    random = np.random.default_rng(5)
    part = 64 * MIB // PAGE_SIZE
    return np.concatenate(
        [_pack(first + random.permutation(part), 1) for first in range(0, size // PAGE_SIZE, part)]
    )


def unsound(size: int) -> U64Array:
    """Ranges of all lengths that overlap, repeat, are empty or leave the guest."""
    random = np.random.default_rng(4)
    count = 100_000
    starts = random.integers(0, size // PAGE_SIZE * 17 // 16, count)
    counts = random.choice(np.array([0, 1, 1, 1, 7, 64, 512]), count)
    again = random.random(count) < 0.25
    starts[again] = starts[random.integers(0, count, int(again.sum()))]
    return _pack(starts, counts)


def longest(size: int) -> U64Array:
    """The longest ranges the wire has, all overlapping, over and over: as much work as 4 KiB can ask for."""
    starts = np.linspace(0, size // PAGE_SIZE - PAGE_RANGE_PAGES_MAX, DM_RANGES_PER_MESSAGE).astype(np.int64)
    return np.tile(_pack(starts, PAGE_RANGE_PAGES_MAX), 20)


def covered(size: int) -> U64Array:
    """A checkerboard, then everything in one range each GiB."""
    return np.concatenate(
        (every_second(size, ascending=True), _pack(np.arange(0, size // PAGE_SIZE, 1 << 18), 1 << 18))
    )


def workloads(*, big: bool) -> Iterator[Callable[[], Workload]]:
    """Each workload as a call that makes it; the big ones have up to 16 million ranges."""
    checkered = 128 * GIB if big else 4 * GIB
    mixed = 256 * GIB if big else 32 * GIB
    yield lambda: Workload("contiguous 2 MiB, 1 TiB", TIB, contiguous(TIB))
    yield lambda: Workload("random 256 KiB, 64 GiB", 64 * GIB, scattered(64 * GIB, PIECE))
    if big:
        yield lambda: Workload("random 256 KiB, 1 TiB", TIB, scattered(TIB, PIECE))
    size = f"{checkered // GIB} GiB"
    yield lambda: Workload(
        f"every 2nd 4 KiB, ascending, {size}", checkered, every_second(checkered, ascending=True)
    )
    yield lambda: Workload(
        f"every 2nd 4 KiB, random, {size}", checkered, every_second(checkered, ascending=False)
    )
    yield lambda: Workload(f"mix of 2 MiB and 4 KiB, {mixed // GIB} GiB", mixed, mix(mixed))
    yield lambda: Workload("unsound ranges, 64 GiB", 64 * GIB, unsound(64 * GIB))
    yield lambda: Workload("longest ranges, 1 TiB", TIB, longest(TIB))
    yield lambda: Workload(f"checkerboard, then covered, {size}", checkered, covered(checkered))
