"""What a simulation takes for granted, in sentences that stand below its table."""

from collections.abc import Iterator

from dynmem.sim.guest import KERNEL_PAGES
from dynmem.units import PAGE_SIZE, format_size


def assumed(
    *, rate_bytes: int, give_bytes: int, row_ds: int, skipped_ds: int, watches: bool
) -> Iterator[str]:
    """Yield what is assumed of guests and loads."""
    yield (
        f"simulated guests: {format_size(KERNEL_PAGES * PAGE_SIZE)} for the kernel; programs grow by"
        f" {format_size(rate_bytes)} a second and fall four times as fast; a balloon takes what is free, up"
        f" to {format_size(give_bytes)} a second; no swap; page cache is an eighth of what is used"
    )
    yield (
        "a guest that has nothing left kills its programs; they begin again a minute later, and until"
        " then all that they wanted is unmet"
    )
    yield (
        "every VM has a balloon that works, and may take its maximum when it starts; the host has 1.25"
        " times the budget"
    )
    if row_ds:
        yield (
            f"of the load, mean, least and most of every {row_ds / 10:g} s are known, not when in that time:"
            " whether peaks meet there is drawn from the seed"
        )
    if not watches:
        yield "the rows say how much, not how fast: what the manager does between two sweeps is left out"
    if skipped_ds:
        yield f"{skipped_ds / 36_000:.1f} h of the time were not recorded, and are left out"
