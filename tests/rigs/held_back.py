"""Pages given up, and discards held back for them: what the tests of both play with."""

from collections.abc import Iterator

from tests.rigs.pages import packed

from dynmem.memory.pending import PendingDiscards
from dynmem.pages.page_set import PageSet

HOLD = 100
BLOCK = 64


class Memory:
    """One memory: the pages given up, and the discards held back for them."""

    def __init__(
        self, pages: int, make: type[PendingDiscards] = PendingDiscards, **options: int | bool
    ) -> None:
        self.given = PageSet(pages)
        self.pending = make(self.given, **{"block_pages": BLOCK, "hold_ns": HOLD} | options)  # type: ignore[arg-type]

    def give(self, *spans: tuple[int, int], now: int = 0) -> None:
        self.pending.add(self.given.add(packed(*spans)).coalesced, now)

    def take_back(self, *spans: tuple[int, int]) -> None:
        assert self.given.remove(packed(*spans))
        self.pending.withdraw(packed(*spans))

    def batches(self, now: int = 0, *, flush: bool = False) -> Iterator[bytes]:
        """Each batch that is due, finished at once."""
        while batch := self.pending.next_batch(now, flush=flush):
            self.pending.done()
            yield batch
