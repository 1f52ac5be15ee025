"""Which VMs to look at before the next sweep."""

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from dynmem.manager.step.facts import RUNNING, Facts
from dynmem.manager.step.record import Record
from dynmem.manager.step.safeguards import EQUAL_SWEEPS, REPORT_PATIENCE_NS
from dynmem.units import MIB, NS_PER_S

# A guest that grows fast uses this up between two of its reports.
TIGHT_BYTES: Final = 256 * MIB
# A report that is older than this says too little of a guest that could be asked again.
FRESH_NS: Final = 3 * NS_PER_S // 10
# For so long after its start a guest is asked again and again whether it has a driver yet: until it reports,
# all of its memory is missing to the others.
STARTS_NS: Final = 20 * NS_PER_S


def is_tight(record: Record) -> bool:
    """Return whether a guest has so little available that it could use that up before its next report."""
    demand = record.facts.demand
    return demand is not None and demand.available_bytes < TIGHT_BYTES


def starting(records: Iterable[Record], now_ns: int) -> frozenset[str]:
    """Return the VMs that started a short while ago and have not reported yet."""
    return frozenset(
        each.name
        for each in records
        if not each.reported and each.facts.run_state == RUNNING and now_ns - each.began_ns < STARTS_NS
    )


def is_unsettled(record: Record, now_ns: int) -> bool:
    """Return whether a VM that has just come has to be looked at again before anything may be set there.

    That is worth sweeps in quick succession, for a short while.
    """
    is_new = not record.reported and now_ns - record.began_ns < REPORT_PATIENCE_NS
    return is_new and record.facts.run_state == RUNNING and record.equal_sweeps <= EQUAL_SWEEPS


def may_give_now(record: Record, facts: Facts) -> bool:
    """Return whether a VM may be shrunk: between two sweeps, only by a look and a report of now."""
    demand = record.facts.demand
    is_fresh = demand is not None and demand.age_ns <= FRESH_NS
    return facts.looked is None or (facts.is_new(record.name) and is_fresh)


def moving(
    movable: Sequence[Record], wanted: Collection[str], now_ns: int, *, is_any_short: bool
) -> frozenset[str]:
    """Return the VMs to look at again at once: those that grow or give, and the *wanted* ones.

    While one grows or waits, that includes those that could give if only they had reported again.
    """
    growing = {each.name for each in movable if each.expected_pages}
    found = {*growing, *wanted, *(each.name for each in movable if each.owed_pages)}
    if growing or is_any_short:
        found.update(each.name for each in movable if each.report_is_older_than_size(now_ns))
    return frozenset(found)
