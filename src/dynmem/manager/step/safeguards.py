"""The safeguards of a step and their bounds. A test can turn each one off, to show what it is for.

In production all of them are on; nothing in the configuration turns one off.
"""

from typing import Final

import msgspec

from dynmem.units import MIB, NS_PER_S, PAGE_SIZE


class Safeguards(msgspec.Struct, frozen=True):
    """Which safeguards are on.

    Attributes:
        shrink_first: Grant only memory that has been given, not memory that was only requested.
        measured_free: Grant only memory that the host measures free.
        claims: Count memory that was granted and is not yet touched.
        slush: Keep the slush.
        two_sweeps: Write nothing before two equal sweeps.
        fresh_demand: Shrink only on a report that is newer than the last change.
        guest_cushion: Take from a guest only what it has available.
        floor_met: Stop asking a guest that does not go lower.
        dead_band: Leave small differences alone.
        deadlines: Give nobody room that a guest owes and is late with.
        two_sources: Believe no monitor alone that its VM is larger than its maximum.
        sparing: Take nothing that running VMs need for a start, or for a VM above its own maximum.
        growth: See a guest grow between its reports, and give for the next second.
        thrash: Give back to a guest what it reads from its disks again.
        ready: Keep memory ready for whoever grows next.
        small_offers: Leave a small offer with a guest in need that took no more.
        nudges: Send a driver that is not proven no more than 16 MiB, and a balloon's that once.
    """

    shrink_first: bool = True
    measured_free: bool = True
    claims: bool = True
    slush: bool = True
    two_sweeps: bool = True
    fresh_demand: bool = True
    guest_cushion: bool = True
    floor_met: bool = True
    dead_band: bool = True
    deadlines: bool = True
    two_sources: bool = True
    sparing: bool = True
    growth: bool = True
    thrash: bool = True
    ready: bool = True
    small_offers: bool = True
    nudges: bool = True


ALL_ON: Final = Safeguards()

# A report older than this many periods is not fresh.
REPORT_PERIODS: Final = 3
# A guest without progress for this many periods has stopped.
STALL_PERIODS: Final = 3
# A guest that runs has reported by then, also if its statistics had to be turned on first.
REPORT_PATIENCE_NS: Final = 5 * NS_PER_S
# A VMM may keep the first request for this long, to let the guest settle: QEMU's hv-balloon always does
# (HV_BALLOON_POST_INIT_WAIT in hw/hyperv/hv-balloon.c), and no monitor reports that it waits.
SETTLES_NS: Final = 50 * NS_PER_S
# Guests report once a second; a shorter period must not outrun them.
SHORTEST_WINDOW_NS: Final = 3 * NS_PER_S
# A guest that stopped is asked again after this pause, then after twice that, up to the longest.
RETRY_FIRST_PERIODS: Final = 10
RETRY_LONGEST_NS: Final = 600 * NS_PER_S
# As many sweeps have to agree before the first write.
EQUAL_SWEEPS: Final = 2
# Other VMs may take this long to make room for one that is released.
RELEASE_PERIODS: Final = 5

# Slower than this between two looks is not progress.
PROGRESS_PAGES: Final = MIB // PAGE_SIZE
# A guest within a huge page of its target has arrived: balloons and drivers leave a few pages over.
ARRIVED_PAGES: Final = 2 * MIB // PAGE_SIZE
# A guest that carries out an order more slowly than this is late. Linux guests with virtio-balloon give about
# 1 GiB/s.
PAGES_PER_S_MIN: Final = 128 * MIB // PAGE_SIZE
# Linux on x86-64 adds memory in blocks of this size (arch/x86/mm/init_64.c, below 64 GiB). A guest whose
# blocks are smaller gets a little more than it needs at a time; one whose blocks are larger takes nothing
# until it is offered a whole one.
HOT_ADD_STEP_PAGES: Final = 128 * MIB // PAGE_SIZE
# The dead band is this part of the maximum.
BAND_SHARE: Final = 64
BAND_PAGES_MIN: Final = 4 * MIB // PAGE_SIZE
# What is missing of a buffer is granted when it is at least this part of it.
BUFFER_SHARE: Final = 4
# What a guest keeps available while it gives. A Linux guest grew by 64 MiB/s with 64 MiB: measured.
CUSHION_SHARE: Final = 32
CUSHION_PAGES_MIN: Final = 16 * MIB // PAGE_SIZE
CUSHION_PAGES_MAX: Final = 64 * MIB // PAGE_SIZE
# The growth that headroom covers first. A guest that grew by 96 MiB/s survived with 128 MiB and not with 64.
MARGIN_SHARE: Final = 8
MARGIN_PAGES_MAX: Final = 128 * MIB // PAGE_SIZE
# A QEMU process holds this much besides its guest.
EXCESS_SHARE: Final = 32
EXCESS_PAGES_MIN: Final = 32 * MIB // PAGE_SIZE


def band_pages(maximum_pages: int) -> int:
    """Return the dead band: smaller differences are left alone."""
    return max(BAND_PAGES_MIN, maximum_pages // BAND_SHARE)


def cushion_pages(actual_pages: int) -> int:
    """Return what a guest keeps available for itself while it gives the rest."""
    return min(CUSHION_PAGES_MAX, max(CUSHION_PAGES_MIN, actual_pages // CUSHION_SHARE))


def margin_pages(maximum_pages: int) -> int:
    """Return the growth between two periods that headroom covers before it is shared out further."""
    return min(MARGIN_PAGES_MAX, maximum_pages // MARGIN_SHARE)


def tolerance_pages(boot_pages: int) -> int:
    """Return how far resident memory may lie above what was assigned before the VM is marked."""
    return max(EXCESS_PAGES_MIN, boot_pages // EXCESS_SHARE)


def fresh_ns(period_ns: int, interval_ns: int = 0) -> int:
    """Return the greatest age of a report that counts as fresh, of a guest that reports once an interval."""
    return max(REPORT_PERIODS * max(period_ns, interval_ns), SHORTEST_WINDOW_NS)


def stall_ns(period_ns: int) -> int:
    """Return how long without progress means that a guest has stopped."""
    return max(STALL_PERIODS * period_ns, SHORTEST_WINDOW_NS)
