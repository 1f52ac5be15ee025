"""What the limits of memory cgroups leave each VM: a bound on what it is granted.

A limit above a VM counts for all VMs below it together, with what their processes hold besides their guests.
What it has left is divided equally among them, and again in each step. So a grant takes no VM above a limit;
and no VM is shrunk for one, since the kernel decides what it costs to be at it. The memory of other programs
below the same limit is not known. Reserved huge pages are not counted by these limits.
"""

from collections.abc import Callable, Iterable

from dynmem.manager.step.record import Record
from dynmem.units import pages_covering, pages_of


def ceilings_of(records: Iterable[Record], claim_of: Callable[[str], int]) -> dict[str, int]:
    """Return the largest size that each VM below a limit may be granted, from what each may take. Pages."""
    claims: dict[str, int] = {}
    taken: dict[str, int] = {}
    sizes: dict[str, int] = {}
    below: dict[str, list[str]] = {}
    for record in records:
        facts, name = record.facts, record.name
        if facts.huge_bytes or not facts.limits:
            continue
        claims[name] = claim_of(name)
        held = max(claims[name], record.guest_pages or 0)
        taken[name] = held + pages_covering(facts.resident_overhead_bytes)
        for limit in facts.limits:  # of one folder, memory.max and memory.high are two files
            sizes[limit.file] = pages_of(limit.size_bytes)
            below.setdefault(limit.file, []).append(name)
    found: dict[str, int] = {}
    for file, names in below.items():
        left = max(0, sizes[file] - sum(taken[name] for name in names)) // len(names)
        for name in names:
            most = claims[name] + left
            found[name] = min(most, found.get(name, most))
    return found
