"""The guest's status report: what its driver counts as available and as committed."""

from typing import Final

from dynmem.dm.giving import PageAllocator
from dynmem.dm.habits import Habits
from dynmem.wire import dm

_U32: Final = 0xFFFF_FFFF


def status_report(
    trans_id: int, pages: PageAllocator, habits: Habits, *, total_pages: int, ballooned_pages: int
) -> dm.StatusReport:
    """Return the report of a guest of `total_pages`, of which `ballooned_pages` are given up.

    What is given up and the reserve count as committed, as in Linux's post_status. Windows reports a page
    file, too: here it is as large as the memory, and holds what is committed beyond that.
    """
    available = pages.available_pages
    committed = pages.committed_pages + ballooned_pages
    committed += habits.reserve_pages(total_pages - ballooned_pages)
    if not habits.has_page_file:
        return dm.StatusReport(trans_id, available, committed, 0, 0, 0, 0)
    free = available * (100 - habits.cached_percent) // 100
    written = min(max(0, committed - total_pages), _U32)
    return dm.StatusReport(trans_id, available, committed, total_pages, free, written, 0)
