"""A process that calls the books: caller.py SOCKET VM, then a line of JSON for each call, both ways.

A call is ``[name, argument...]``. A page that is not mapped yet is mapped before it is read or written.
"churn" never returns: it allocates, writes, checks and frees at random until it is killed.
"""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dynmem.chunks.client import RequestClient
from dynmem.gmm.batches import AllocateBatch, FreeBatch
from dynmem.gmm.calls import Calls
from dynmem.gmm.codes import Account, GmmError, OcPolicy, Priority
from dynmem.gmm.constants import GMM_CHUNKID_SHIFT, GMM_PAGEID_IDX_MASK
from dynmem.units import PAGE_SHIFT


class Caller:
    """A VM's calls by name."""

    def __init__(self, client: RequestClient) -> None:
        self.client = client
        self.calls = Calls(client.perform)
        self.mapped: set[int] = set()

    def reserve(self, pages: int) -> None:
        self.calls.initial_reservation(pages, 1, 1, OcPolicy.TBD, Priority.NORMAL)

    def allocate(self, pages: int) -> list[int]:
        with AllocateBatch(self.client.perform, pages, Account.BASE) as batch:
            return [int(page) for page in batch.perform()["idPage"]]

    def free(self, pages: list[int]) -> int:
        with FreeBatch(self.client.perform, len(pages), Account.BASE) as batch:
            batch.descriptors["idPage"] = pages
            return batch.perform()

    def write(self, page: int, text: str) -> None:
        self._place(page)[: len(text)] = text.encode()

    def read(self, page: int, length: int) -> str:
        return bytes(self._place(page)[:length]).decode()

    def map_unmap(self, map_id: int, unmap_id: int) -> int:
        return self.calls.map_unmap_chunk(map_id, unmap_id)

    def unmap(self, chunk: int) -> None:
        self.calls.map_unmap_chunk(0, chunk)
        self.mapped.remove(chunk)

    def perform(self, operation: int, buffer: str) -> str:
        return self.client.perform(operation, bytes.fromhex(buffer)).hex()

    def statistics(self) -> dict[str, int]:
        stats = self.calls.query_memory_stats()
        return {"allocated": stats.allocated_pages, "ballooned": stats.ballooned_pages}

    def churn(self, seed: int) -> None:
        chance = random.Random(seed)
        held: dict[int, str] = {}
        for step in self._steps():
            if not held or (len(held) < 2000 and chance.random() < 0.6):
                for page in self.allocate(chance.randrange(1, 400)):
                    held[page] = ""
                    if chance.random() < 0.3:
                        held[page] = f"{self.client.vm} {page} {step}"
                        self.write(page, held[page])
            else:
                pages = chance.sample(sorted(held), chance.randrange(1, len(held) + 1))
                for page in pages:
                    text = held.pop(page)
                    assert self.read(page, len(text)) == text, (
                        f"page {page} of {self.client.vm} was overwritten"
                    )
                self.free(pages)
            if self.mapped and chance.random() < 0.3:
                self.unmap(chance.choice(sorted(self.mapped)))

    def _steps(self) -> Iterator[int]:
        step = 0
        while True:
            yield step
            step += 1
            print(json.dumps(step), flush=True)

    def _place(self, page: int) -> memoryview:
        chunk = page >> GMM_CHUNKID_SHIFT
        if chunk not in self.mapped:
            self.calls.map_unmap_chunk(chunk, 0)
            self.mapped.add(chunk)
        return self.client.view(chunk)[(page & GMM_PAGEID_IDX_MASK) << PAGE_SHIFT :]


def main() -> None:
    """Make the calls that arrive until the input ends."""
    with RequestClient(Path(sys.argv[1]), sys.argv[2]) as client:
        caller = Caller(client)
        print(json.dumps(client.handle), flush=True)
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            result: Any
            try:
                result = getattr(caller, name)(*arguments)
            except GmmError as error:
                result = {"code": error.code.name}
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
