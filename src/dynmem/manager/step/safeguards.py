"""The safeguards of a step, each of which can be turned off alone, so that a test can show what it is for.

In production all of them are on; nothing in the configuration turns one off.
"""

from typing import Final

import msgspec

from dynmem.units import MIB, NS_PER_S, PAGE_SIZE


class Safeguards(msgspec.Struct, frozen=True):
    """Which safeguards are on."""

    shrink_first: bool = True  # grant only what has been given already, not what was only asked for
    measured_free: bool = True  # grant only from what the host measures free
    claims: bool = True  # count what was granted and not yet touched
    slush: bool = True  # keep the slush
    two_sweeps: bool = True  # write nothing before two equal sweeps
    fresh_demand: bool = True  # shrink only on a report that is newer than the last change
    guest_cushion: bool = True  # take from a guest only what it has available
    floor_met: bool = True  # stop asking a guest that does not go lower
    dead_band: bool = True  # leave small differences alone


ALL_ON: Final = Safeguards()

REPORT_PERIODS: Final = 3  # a report older than this many periods is not fresh
STALL_PERIODS: Final = 3  # without progress for this many periods a guest has stopped
SHORTEST_WINDOW_NS: Final = 3 * NS_PER_S  # guests report once a second; a shorter period must not outrun them
RETRY_FIRST_PERIODS: Final = 10  # a guest that stopped is asked again after this long, then twice as long
RETRY_LONGEST_NS: Final = 600 * NS_PER_S
EQUAL_SWEEPS: Final = 2  # as many sweeps have to agree before the first write
RELEASE_PERIODS: Final = 5  # others may take this long to make room for a VM that is released

PROGRESS_PAGES: Final = MIB // PAGE_SIZE  # a page a second is no progress
HOT_ADD_STEP_PAGES: Final = 128 * MIB // PAGE_SIZE
"""Memory is added to a guest in blocks of this size: Linux's on x86-64 (arch/x86/mm/init_64.c, below 64 GiB).

A guest whose blocks are smaller gets a little more than it asked for at a time; one whose blocks are larger
takes nothing until it is offered a whole one.
"""
BAND_PAGES_MIN: Final = 4 * MIB // PAGE_SIZE
BAND_SHARE: Final = 64  # the dead band is this part of the maximum
BUFFER_SHARE: Final = 4  # what is missing of a buffer is given when it is this part of it
CUSHION_PAGES_MIN: Final = 16 * MIB // PAGE_SIZE  # what a guest keeps available while it gives
CUSHION_PAGES_MAX: Final = 64 * MIB // PAGE_SIZE  # a Linux guest grew 64 MiB/s with 64 MiB: measured
CUSHION_SHARE: Final = 32
MARGIN_PAGES_MAX: Final = 128 * MIB // PAGE_SIZE  # at 96 MiB/s it lived with 128 and died with 64
MARGIN_SHARE: Final = 8
EXCESS_PAGES_MIN: Final = 32 * MIB // PAGE_SIZE  # a QEMU process has this much besides its guest
EXCESS_SHARE: Final = 32


def band_pages(maximum_pages: int) -> int:
    """Differences smaller than this are left alone."""
    return max(BAND_PAGES_MIN, maximum_pages // BAND_SHARE)


def cushion_pages(actual_pages: int) -> int:
    """What a guest keeps available for itself while it gives the rest."""
    return min(CUSHION_PAGES_MAX, max(CUSHION_PAGES_MIN, actual_pages // CUSHION_SHARE))


def margin_pages(maximum_pages: int) -> int:
    """The growth between two periods that headroom covers before it is anybody's reserve."""
    return min(MARGIN_PAGES_MAX, maximum_pages // MARGIN_SHARE)


def tolerance_pages(boot_pages: int) -> int:
    """How far resident memory may lie above what was assigned before the VM is marked."""
    return max(EXCESS_PAGES_MIN, boot_pages // EXCESS_SHARE)


def fresh_ns(period_ns: int) -> int:
    """The oldest age of a report that counts as fresh."""
    return max(REPORT_PERIODS * period_ns, SHORTEST_WINDOW_NS)


def stall_ns(period_ns: int) -> int:
    """How long without progress means that a guest has stopped."""
    return max(STALL_PERIODS * period_ns, SHORTEST_WINDOW_NS)
