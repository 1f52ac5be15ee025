"""A process that holds pages of the Global Memory Manager; its arguments: SOCKET VM EQUAL OWN.

It allocates pages and fills EQUAL of them with bytes that every caller has and OWN with bytes of its own;
together they are one shared module. It writes the ids of its pages on a line. Each line that it reads then
has the ids that it is to use instead, and it writes how many of those pages do not hold what they must.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Final

import numpy as np

from dynmem.chunks.client import RequestClient
from dynmem.gmm.batches import AllocateBatch
from dynmem.gmm.calls import Calls
from dynmem.gmm.codes import Account, OcPolicy, OsFamily, Priority
from dynmem.gmm.constants import GMM_CHUNK_NUM_PAGES, NIL_GMM_CHUNKID
from dynmem.gmm.structures import VMMDEVSHAREDREGIONDESC
from dynmem.units import PAGE_SIZE

BASE: Final = 0x10_0000
NAME: Final = "libc.so.6"
VERSION: Final = "2.36"


def main(path: str, vm: str, equal: int, own: int) -> None:
    """Hold the pages until standard input ends."""
    bodies = [_body(number, "") for number in range(equal)] + [_body(number, vm) for number in range(own)]
    with RequestClient(Path(path), vm) as client:
        calls = Calls(client.perform)
        calls.initial_reservation(len(bodies), 1, 1, OcPolicy.TBD, Priority.NORMAL)
        with AllocateBatch(client.perform, len(bodies), Account.BASE) as batch:
            batch.descriptors["HCPhysGCPhys"] = BASE + np.arange(len(bodies)) * PAGE_SIZE
            ids = batch.perform()["idPage"].tolist()
        for page_id, body in zip(ids, bodies, strict=True):
            _page(client, calls, page_id)[:] = body
        regions = np.array([(BASE, len(bodies) * PAGE_SIZE, 0)], VMMDEVSHAREDREGIONDESC)
        calls.register_shared_module(OsFamily.LINUX64, NAME, VERSION, BASE, len(bodies) * PAGE_SIZE, regions)
        print(json.dumps(ids), flush=True)
        for line in sys.stdin:
            ids = json.loads(line)
            pairs = zip(ids, bodies, strict=True)
            print(sum(bytes(_page(client, calls, page_id)) != body for page_id, body in pairs), flush=True)


def _body(number: int, vm: str) -> bytes:
    """Return the bytes of a page: of one VM, or of all if *vm* is empty."""
    seed = hashlib.sha256(f"{vm} {number}".encode()).digest()
    return seed * (PAGE_SIZE // len(seed))


def _page(client: RequestClient, calls: Calls, page_id: int) -> memoryview:
    chunk, index = divmod(page_id, GMM_CHUNK_NUM_PAGES)
    calls.map_unmap_chunk(chunk, NIL_GMM_CHUNKID)
    return client.view(chunk)[index * PAGE_SIZE :][:PAGE_SIZE]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
