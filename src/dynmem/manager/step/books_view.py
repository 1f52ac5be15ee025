"""The Global Memory Manager's figures as the status shows them: bytes and words, and nothing left out."""

from typing import Final, Literal

from dynmem.gmm import OcPolicy, Stats, VmSizes, VmStats
from dynmem.gmm import Priority as GmmPriority
from dynmem.gmm.shortage import Shortage
from dynmem.manager.step.view import AccountsView, BooksView, VmBooksView
from dynmem.units import PAGE_SIZE

_PRIORITIES: Final[dict[GmmPriority, Literal["low", "normal", "high"]]] = {
    GmmPriority.LOW: "low",
    GmmPriority.NORMAL: "normal",
    GmmPriority.HIGH: "high",
}


def books_view(stats: Stats, shortage: Shortage, least_pages: int) -> BooksView:
    """Return the totals."""
    return BooksView(
        max_bytes=stats.max_pages * PAGE_SIZE,
        allocated_bytes=stats.allocated_pages * PAGE_SIZE,
        ballooned_bytes=stats.ballooned_pages * PAGE_SIZE,
        shortage_bytes=shortage.missing_pages * PAGE_SIZE,
        reserved_bytes=stats.reserved_pages * PAGE_SIZE,
        over_committed_bytes=stats.over_committed_pages * PAGE_SIZE,
        shared_bytes=stats.shared_pages * PAGE_SIZE,
        duplicate_bytes=stats.duplicate_pages * PAGE_SIZE,
        left_behind_bytes=stats.left_behind_shared_pages * PAGE_SIZE,
        chunks=stats.chunks,
        freed_chunks=stats.freed_chunks,
        shareable_modules=stats.shareable_modules,
        least_bytes=least_pages * PAGE_SIZE,
        under_way_bytes=shortage.under_way_pages * PAGE_SIZE,
    )


def vm_books_view(stats: VmStats, barred: str) -> VmBooksView:
    """Return the figures of one VM; *barred* is why it may not allocate, in the operator's units."""
    return VmBooksView(
        reserved=_accounts(stats.reserved),
        allocated=_accounts(stats.allocated),
        private_bytes=stats.private_pages * PAGE_SIZE,
        shared_bytes=stats.shared_pages * PAGE_SIZE,
        ballooned_bytes=stats.ballooned_pages * PAGE_SIZE,
        max_ballooned_bytes=stats.max_ballooned_pages * PAGE_SIZE,
        requested_bytes=stats.req_ballooned_pages * PAGE_SIZE,
        given_bytes=stats.req_actually_ballooned_pages * PAGE_SIZE,
        returning_bytes=stats.req_deflate_pages * PAGE_SIZE,
        policy="none" if stats.policy is OcPolicy.NO_OC else "ratio",
        priority=_PRIORITIES[stats.priority],
        ballooning_enabled=stats.ballooning_enabled,
        shared_paging_enabled=stats.shared_paging_enabled,
        may_allocate=stats.may_allocate,
        may_not_allocate_why=barred,
    )


def _accounts(sizes: VmSizes) -> AccountsView:
    return AccountsView(
        sizes.base_pages * PAGE_SIZE, sizes.shadow_pages * PAGE_SIZE, sizes.fixed_pages * PAGE_SIZE
    )
