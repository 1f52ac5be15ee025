"""Where a host stands after a step: what was recorded of it, with the targets in force that the step sent.

A step records what it decided from. What it sent counts from then on: a VM that was asked for memory has the
smaller target, and what was granted is held or promised. The next step begins with these figures.
"""

from typing import Final

import msgspec

from dynmem.errors import RemoteProtocolError, quoted
from dynmem.history.again import is_planned, snapshot_of
from dynmem.history.past import Moment
from dynmem.limits import MANAGER_FIGURE_BYTES_MAX, WEIGHT_MAX
from dynmem.manager.config import BUFFER_PERCENT_MAX
from dynmem.manager.step.measured import Charge, MeasuredFree
from dynmem.manager.step.room import HOLDER_PAGES_MIN
from dynmem.manager.step.safeguards import cushion_pages
from dynmem.manager.step.sample import HostSample, VmSample
from dynmem.policy import HUGE_PAGES, Holder, Snapshot
from dynmem.units import PAGE_SIZE, format_pages, pages_covering, pages_of

_ENFORCE: Final = "enforce"
_NOTHING: Final = Charge(0, 0, 0)
_FIGURE_MAX: Final = MANAGER_FIGURE_BYTES_MAX
# What a figure may be, other than a size.
_BOUNDS: Final = {"weight": (1, WEIGHT_MAX), "buffer_percent": (0, BUFFER_PERCENT_MAX)}


def checked(moment: Moment, source: str) -> Moment:
    """Return a recorded step; RemoteProtocolError if no manager could have recorded such figures."""
    for what, struct in (("the host", moment.host), *moment.vms.items()):
        for name in struct.__struct_fields__:
            figure = getattr(struct, name)
            low, high = _BOUNDS.get(name, (-_FIGURE_MAX if struct is moment.host else 0, _FIGURE_MAX))
            if isinstance(figure, int) and not low <= figure <= high:
                raise RemoteProtocolError(
                    f"{source}: {name} of {quoted(what)} is {figure}: no manager says so"
                )
    return moment


def charge_of(vm: VmSample) -> Charge:
    """Return what a VM takes, in bytes."""
    claim, resident = vm.claim_bytes or 0, vm.resident_bytes
    if resident is None:
        return Charge(claim, claim, claim)
    return Charge(max(claim, resident), max(0, claim - resident), resident)


def after(moment: Moment) -> Moment:
    """Return a recorded step with what it sent in force."""
    if moment.host.mode != _ENFORCE:
        return moment
    vms = {name: _sent(vm) for name, vm in moment.vms.items()}
    host = moment.host
    paid = max(0, sum(charge_of(vm).held for vm in vms.values()) - (host.claimed_bytes or 0))
    host = msgspec.structs.replace(
        host,
        claimed_bytes=(host.claimed_bytes or 0) + paid,
        untouched_bytes=(host.untouched_bytes or 0) + paid,
    )
    return moment._replace(host=host, vms=vms)


def _sent(vm: VmSample) -> VmSample:
    if not is_planned(vm) or vm.assigned_bytes is None:
        return vm
    # No VM counts against others with more than its maximum, unless the host measures more.
    most = max(vm.maximum_bytes or 0, vm.resident_bytes or 0)
    return resized(vm, min(vm.assigned_bytes, most))


def resized(vm: VmSample, held: int) -> VmSample:
    """Return a VM that has been given another size; one from which nothing can be taken keeps that."""
    if held == vm.held_bytes:
        return vm
    kept = held if vm.kept_bytes == vm.held_bytes else min(vm.kept_bytes or 0, held)
    return msgspec.structs.replace(vm, held_bytes=held, kept_bytes=kept)


def moved(moment: Moment, targets: dict[str, int]) -> Moment:
    """Return the position once these VMs have their targets (bytes), and the host has what they gave."""
    host, vms = moment.host, dict(moment.vms)
    for name, target in targets.items():
        was = vms[name]
        resident = None if was.resident_bytes is None else min(was.resident_bytes, target)
        claim, grown = was.claim_bytes or 0, target - (was.actual_bytes or 0)
        now = msgspec.structs.replace(
            resized(was, target),
            assigned_bytes=target,
            actual_bytes=target,
            resident_bytes=resident,
            available_bytes=None if was.available_bytes is None else max(0, was.available_bytes + grown),
        )
        if target < (was.assigned_bytes or 0):
            claim = max(target, min(claim, claim if resident is None else resident))
            now = msgspec.structs.replace(now, kept_bytes=min(target, keeps_bytes(now)))
        vms[name] = msgspec.structs.replace(now, claim_bytes=max(claim, target))
        host = recharged(host, was, vms[name])
    return moment._replace(host=host, vms=vms)


def keeps_bytes(vm: VmSample) -> int:
    """Return the size below which a guest does not go: where it stopped, or what it can give at most."""
    if vm.available_bytes is None or vm.actual_bytes is None:
        return vm.stopped_bytes or 0
    actual = pages_of(vm.actual_bytes)
    spare = pages_of(vm.available_bytes) - pages_of(vm.expected_bytes or 0) - cushion_pages(actual)
    in_use = -(-(actual - max(0, spare)) // HUGE_PAGES) * HUGE_PAGES * PAGE_SIZE
    return max(vm.stopped_bytes or 0, in_use)


def recharged(host: HostSample, before: VmSample, now: VmSample | None) -> HostSample:
    """Return the host when a VM takes something else than before; None: it has ended."""
    old, new = charge_of(before), _NOTHING if now is None else charge_of(now)
    return msgspec.structs.replace(
        host,
        claimed_bytes=(host.claimed_bytes or 0) + new.held - old.held,
        untouched_bytes=(host.untouched_bytes or 0) + new.untouched - old.untouched,
        occupied_bytes=(host.occupied_bytes or 0) + new.occupied - old.occupied,
        mem_available_bytes=(host.mem_available_bytes or 0) + old.occupied - new.occupied,
    )


def free_of(host: HostSample) -> MeasuredFree:
    """Return what is measured free."""
    return MeasuredFree(
        budget_pages=pages_of(host.budget_bytes or 0),
        slush_pages=pages_covering(host.slush_bytes or 0),
        held_pages=pages_of(host.claimed_bytes or 0),
        available_pages=pages_of(host.mem_available_bytes or 0),
        untouched_pages=pages_of(host.untouched_bytes or 0),
        reserved_pages=pages_of(host.reserved_bytes or 0),
    )


def lacking_bytes(host: HostSample) -> int:
    """Return what the rest of the host leaves less than the budget."""
    there = (host.occupied_bytes or 0) + (host.mem_available_bytes or 0)
    return max(0, (host.budget_bytes or 0) - there)


def owed_bytes(vm: VmSample) -> int:
    """Return what a VM was asked for and has not given yet."""
    assigned = vm.assigned_bytes
    return 0 if assigned is None else max(0, (vm.actual_bytes or 0) - assigned)


def snapshot_with_holders(moment: Moment) -> Snapshot:
    """Return what the policy is given, and who holds what the VMs of the plan cannot have."""
    host = moment.host
    fixed = [vm for vm in moment.vms.values() if not is_planned(vm)]
    holders = [Holder(pages_of(charge_of(vm).held), _keeps(vm)) for vm in fixed]
    reserved, lacking = pages_of(host.reserved_bytes or 0), pages_of(lacking_bytes(host))
    holders.append(Holder(reserved, f"{format_pages(reserved)} is reserved"))
    rest = f"the rest of the host leaves {format_pages(lacking)} less than the budget"
    holders.append(Holder(lacking, rest))
    holders.sort(key=lambda each: -each.pages)
    named = tuple(each for each in holders if each.pages > HOLDER_PAGES_MIN)
    return msgspec.structs.replace(snapshot_of(moment), holders=named)


def _keeps(vm: VmSample) -> str:
    return f"{vm.name} is {vm.standing or 'frozen'} and keeps {format_pages(pages_of(charge_of(vm).held))}"
