"""Batches of pages that a caller in another process allocates or frees: GMMR3AllocatePages*, GMMR3FreePages*.

A batch is prepared when it is made, performed through its transport, and cleaned up at the end of its `with`
block. A batch of pages to free can be prepared again for the next pages.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import numpy as np

from dynmem.gmm.codes import Account, GmmError, Status
from dynmem.gmm.constants import MAX_PAGES_OF_CALL, NIL_GMM_PAGEID, NIL_RTHCPHYS
from dynmem.gmm.replies import Reply, parse_reply
from dynmem.gmm.requests import Operation, Request, new_request
from dynmem.gmm.structures import Records

#: Brings a request (operation, buffer) to the process that keeps the books and returns its reply.
Transport = Callable[[int, bytes], bytes]


def exchange(transport: Transport, request: Request) -> Reply:
    """Send a request; return the reply, which may be a failure."""
    return parse_reply(request.operation, transport(request.operation, request.encode()))


def _take_over(descriptors: Records, reply: Reply) -> None:
    """Copy the descriptors of a reply; raise GmmError if it is not about the same number of pages."""
    array = reply.request.array if reply.request is not None else descriptors[:0]
    if len(array) != len(descriptors):
        raise GmmError(
            Status.INVALID_PARAMETER, f"the reply is about {len(array)} pages, not {len(descriptors)}"
        )
    descriptors[:] = array


class _Batch:
    """What both kinds of batch have: a transport, and descriptors until they are cleaned up."""

    def __init__(self, transport: Transport) -> None:
        self._transport: Final = transport
        self._request: Request | None = None

    @property
    def request(self) -> Request:
        """The request as it is sent."""
        if self._request is None:
            raise GmmError(Status.WRONG_ORDER, "the batch was cleaned up: prepare another one")
        return self._request

    @property
    def descriptors(self) -> Records:
        """The descriptors, one of each page, to read and to set."""
        return self.request.array

    def clean_up(self) -> None:
        """Release the buffer; the batch cannot be used any more."""
        self._request = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clean_up()


class AllocateBatch(_Batch):
    """Allocate *pages* pages from an account: GMMR3AllocatePagesPrepare, Perform, Cleanup."""

    def __init__(self, transport: Transport, pages: int, account: Account) -> None:
        """Prepare a batch, with descriptors of pages that have no guest address."""
        super().__init__(transport)
        self._request = new_request(Operation.ALLOCATE_PAGES, pages, enmAccount=account)
        self.descriptors["HCPhysGCPhys"] = NIL_RTHCPHYS

    def perform(self) -> Records:
        """Allocate the pages; return the descriptors, which have their ids and addresses.

        Raises GmmError if not all could be allocated; then none is, and the descriptors are unchanged.
        """
        reply = exchange(self._transport, self.request)
        reply.outputs()
        _take_over(self.descriptors, reply)
        return self.descriptors

    def free(self) -> int:
        """Free all pages that the batch allocated (GMMR3FreeAllocatedPages); return how many those were.

        Their descriptors are as before the allocation. Raises GmmError as `FreeBatch.perform` does.
        """
        ids = self.descriptors["idPage"]
        allocated = ids != NIL_GMM_PAGEID
        if not allocated.any():
            return 0
        account = Account(self.request["enmAccount"])
        with FreeBatch(self._transport, int(np.count_nonzero(allocated)), account) as batch:
            batch.descriptors["idPage"] = ids[allocated]
            try:
                return batch.perform()
            finally:
                ids[allocated] = batch.descriptors["idPage"]
                self.descriptors["HCPhysGCPhys"][ids == NIL_GMM_PAGEID] = NIL_RTHCPHYS


class FreeBatch(_Batch):
    """Free up to *pages* pages of an account: GMMR3FreePagesPrepare, RePrep, Perform, Cleanup."""

    def __init__(self, transport: Transport, pages: int, account: Account) -> None:
        """Prepare a batch, with the id NIL_GMM_PAGEID in all descriptors."""
        super().__init__(transport)
        self._request = new_request(Operation.FREE_PAGES, pages, enmAccount=account)

    def prepare_again(self, pages: int, account: Account) -> None:
        """Prepare the batch for other pages, with the id NIL_GMM_PAGEID in all descriptors."""
        if self._request is None or len(self.descriptors) != pages:
            self._request = new_request(Operation.FREE_PAGES, pages, enmAccount=account)
            return
        self.descriptors["idPage"] = NIL_GMM_PAGEID
        self.request["enmAccount"] = account

    def perform(self, pages: int | None = None) -> int:
        """Free the first *pages* pages (all if None); return how many those were.

        The id of a freed page becomes NIL_GMM_PAGEID. On failure some pages may have been freed: those. The
        call does not reach the books with 0 pages.

        Raises:
            GmmError: ACTUAL_PAGES_IPE if the batch was prepared for fewer pages; what `free_pages` raises.
        """
        count = len(self.descriptors) if pages is None else pages
        if not 0 <= count <= min(len(self.descriptors), MAX_PAGES_OF_CALL):
            raise GmmError(
                Status.ACTUAL_PAGES_IPE,
                f"the batch was prepared for {len(self.descriptors)} pages, not {count}",
            )
        if not count:
            return 0
        request = new_request(Operation.FREE_PAGES, count, enmAccount=self.request["enmAccount"])
        request.array[:] = self.descriptors[:count]
        reply = exchange(self._transport, request)
        if reply.request is not None:
            _take_over(self.descriptors[:count], reply)
        reply.outputs()
        return count
