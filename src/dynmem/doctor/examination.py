"""Everything that is examined, in the order in which it is shown."""

from collections.abc import Iterable

from dynmem.doctor import guests, memory
from dynmem.findings import Finding, Verdict
from dynmem.vm.kvm import host

_ORDER = (Verdict.OK, Verdict.LIMITED, Verdict.MISSING)  # from the best to the worst


def examine() -> list[Finding]:
    """Examine this host. It takes a moment: two processes are started and end."""
    return [*guests.examine(), *memory.examine(), *host.examine()]


def worst(findings: Iterable[Finding]) -> Verdict:
    """Return the verdict on the whole host."""
    return max((finding.verdict for finding in findings), key=_ORDER.index, default=Verdict.OK)
