"""What guests' drivers do that no protocol says: the habits of one kind of guest, and Linux's reserve.

`dynmem.dm.windows` has what is documented of Windows. All known guests keep memory that was hot-added when
the channel closes and opens again.
"""

from typing import Final

import msgspec

from dynmem.limits import DM_MESSAGE_BYTES_MAX, DM_RANGES_PER_MESSAGE
from dynmem.pages.ranges import RANGE_BYTES
from dynmem.units import MIB, PAGE_SIZE
from dynmem.wire import dm
from dynmem.wire.versions import VERSION_5_3
from dynmem.wire.versions import VERSIONS as VMBUS_VERSIONS

VERSIONS: Final = (dm.VERSION_WIN10, dm.VERSION_WIN8, dm.VERSION_WIN7)


class Habits(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of guest; the defaults are Linux's.

    Attributes:
        newest_bus: The newest VMBus version that its bus driver asks for.
        versions: Protocol versions to try, in this order, at least one.
        speaks: Whether the driver starts the service at all once its channel is open.
        probes_hot_add: Whether it tries to add a page that it has, and offers hot add only if that works.
        hot_adds: Whether it offers hot add where its kernel can.
        hot_removes: Whether it offers hot remove where its kernel can.
        unnamed_capabilities: Capability bits that it sets and no header file names.
        names_last_page: Whether it reports the last page that can ever be added; otherwise all ones.
        keeps_reserve: Whether it keeps Linux's reserve, and counts it as committed.
        cached_percent: The part of its available memory that is in use as cache, where it reports both.
        has_page_file: Whether it reports a page file, what was written to it, and free pages apart.
        settles_ns: A guest that gets a request sooner than this after the handshake crashes.
        largest_request_pages: A balloon request above this gets no answer; None: there is no such limit.
        ranges_per_response: The most ranges in one balloon response, 510 or more.
        gives_all_or_nothing: Whether a request that it cannot meet in full is answered with no pages at all.
        stops_if_unsupported: Whether its driver stops, without an answer, if the kernel cannot hot-add.

    """

    newest_bus: int = VERSION_5_3
    versions: tuple[int, ...] = VERSIONS
    speaks: bool = True
    probes_hot_add: bool = False
    hot_adds: bool = True
    hot_removes: bool = True
    unnamed_capabilities: int = 0
    names_last_page: bool = True
    keeps_reserve: bool = True
    cached_percent: int = 0
    has_page_file: bool = False
    settles_ns: int = 0
    largest_request_pages: int | None = None
    ranges_per_response: int = DM_RANGES_PER_MESSAGE
    gives_all_or_nothing: bool = False
    stops_if_unsupported: bool = False

    def __post_init__(self) -> None:
        if not self.versions:
            raise ValueError("versions is empty: name at least one protocol version to try")
        if self.ranges_per_response < DM_RANGES_PER_MESSAGE:
            raise ValueError(f"ranges_per_response is below {DM_RANGES_PER_MESSAGE}")

    @property
    def bus_versions(self) -> tuple[int, ...]:
        """The VMBus versions that its bus driver asks for, newest first."""
        return tuple(version for version in VMBUS_VERSIONS[::-1] if version <= self.newest_bus)

    @property
    def most_bytes(self) -> int:
        """The longest message of such a guest: a balloon response."""
        return DM_MESSAGE_BYTES_MAX + (self.ranges_per_response - DM_RANGES_PER_MESSAGE) * RANGE_BYTES

    def reserve_pages(self, total_pages: int) -> int:
        """Return the free pages that such a guest keeps whatever the host requests."""
        return balloon_floor(total_pages) if self.keeps_reserve else 0


#: A guest with Linux's drivers/hv/hv_balloon.c.
LINUX: Final = Habits()

_MIB_PAGES: Final = MIB // PAGE_SIZE
# a guest of less than (MiB) keeps (MiB) and one 2^n-th of its memory, for the last number n
_FLOORS: Final = ((128, 8, 1), (512, 40, 2), (2048, 104, 3), (8192, 232, 4))
_LARGE: Final = (488, 5)


def balloon_floor(total_pages: int) -> int:
    """Return the free pages that a Linux guest keeps whatever the host requests.

    `total_pages` is its memory without what is in the balloon. A guest of 128 MiB keeps 72, one of 512 MiB
    168, one of 2 GiB 360, one of 8 GiB 744.

    Source: compute_balloon_floor in Linux drivers/hv/hv_balloon.c.
    """
    for below, base, shift in _FLOORS:
        if total_pages < below * _MIB_PAGES:
            return base * _MIB_PAGES + (total_pages >> shift)
    base, shift = _LARGE
    return base * _MIB_PAGES + (total_pages >> shift)
