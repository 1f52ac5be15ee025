"""Everything that is examined, in the order in which it is shown."""

from collections.abc import Iterable

from dynmem.discovery.find import find_vms
from dynmem.doctor import guests, hv_balloon, libvirts, manager, memory
from dynmem.findings import Finding, Verdict
from dynmem.vm.kvm import host

_ORDER = (Verdict.OK, Verdict.LIMITED, Verdict.MISSING)  # from the best to the worst


def examine() -> list[Finding]:
    """Examine this host. It takes a moment: a few processes are started and end."""
    found = find_vms()
    return [
        *guests.examine(),
        *memory.examine(),
        *manager.examine(found),
        *libvirts.examine(found),
        hv_balloon.examine(found),
        *host.examine(),
    ]


def worst(findings: Iterable[Finding]) -> Verdict:
    """Return the verdict on the whole host."""
    return max((finding.verdict for finding in findings), key=_ORDER.index, default=Verdict.OK)
