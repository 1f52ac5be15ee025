"""One target, divided among the devices of a VM: which part is the balloon's, which is each virtio-mem's.

    size of a VM = what it booted with − what its balloon holds + what virtio-mem has plugged

virtio-mem comes first where it can serve: between the boot size and all that can be plugged, it alone moves.
It is fast, and it works where an assigned device pins the pages. The balloon has what lies below the boot
size:

    shrink   unplug, then fill the balloon
    grow     empty the balloon, then plug

So a VM with memory plugged has an empty balloon, unless its guest could not unplug. What is stuck stays
requested, and the balloon takes the rest. (A lower request would be met some day, after the balloon has taken
the same memory.) Even then the balloon leaves the VM's minimum of what it booted with: plugged memory holds
nothing that the guest's kernel needs for itself.

Everything starts from the sizes of now, and no part moves against the whole: however much of an order
arrives, and whatever a guest does of it, the VM's size stays between the present one and the target. Only
whole blocks are plugged, so a VM can be given up to a block less than its target, or keep up to one more.

A balloon that would return nothing, since a device pins the VM's pages, is not used at all. An hv-balloon
adds memory itself; a virtio-mem beside one stays as it is.
"""

from collections.abc import Mapping, Sequence

import msgspec

from dynmem.manager.step.facts import VirtioMem, VmFacts


class Parts(msgspec.Struct, frozen=True):
    """What each device of one VM is asked for. Bytes.

    Attributes:
        balloon_bytes: The balloon's target, which leaves out what virtio-mem plugs; None: it is not used.
        requests: The `requested-size` of each virtio-mem for which that changes, by its path. Those that are
            raised come first: what others give may depend on them.
    """

    balloon_bytes: int | None
    requests: tuple[tuple[str, int], ...] = ()


def divide(
    vm: VmFacts, target_bytes: int, least_bytes: int = 0, stuck: Mapping[str, int] | None = None
) -> Parts | None:
    """Return the parts of a target; None for a VM without virtio-mem, whose balloon has all of it.

    *least_bytes* is what the balloon leaves of the boot memory; *stuck* is what each device is not asked to
    unplug, by its path.
    """
    mems, plugged = vm.virtio_mems, vm.plugged_bytes
    if not mems:
        return None
    if not vm.may_plug:
        return Parts(max(least_bytes, target_bytes - plugged) if vm.may_balloon else None)
    boot, own = vm.boot_bytes or 0, vm.balloon_bytes
    missing = target_bytes - own - plugged
    if missing >= 0:
        back = min(missing, max(0, boot - own)) if vm.may_balloon else 0
        shares = _shares(mems, [each.max_bytes - each.size_bytes for each in mems], missing - back)
        return _parts(
            vm, own + back, [each.size_bytes + more for each, more in zip(mems, shares, strict=True)]
        )
    rooms = [each.size_bytes - min(each.size_bytes, (stuck or {}).get(each.path, 0)) for each in mems]
    shares = _shares(mems[::-1], rooms[::-1], -missing)[::-1]
    if shares == [room if each.path else 0 for each, room in zip(mems, rooms, strict=True)]:
        own = max(min(own, least_bytes), own + missing + sum(shares))
    return _parts(vm, own, [each.size_bytes - less for each, less in zip(mems, shares, strict=True)])


def _shares(mems: Sequence[VirtioMem], rooms: Sequence[int], wanted: int) -> list[int]:
    """Return how much each device changes, within its room and in whole blocks; the first ones come first."""
    shares = []
    for each, room in zip(mems, rooms, strict=True):
        share = max(0, min(room, wanted)) // each.block_bytes * each.block_bytes if each.path else 0
        shares.append(share)
        wanted -= share
    return shares


def _parts(vm: VmFacts, own: int, sizes: Sequence[int]) -> Parts:
    changed = [
        (each, size)
        for each, size in zip(vm.virtio_mems, sizes, strict=True)
        if each.path and size != each.requested_bytes
    ]
    changed.sort(key=lambda pair: pair[1] < pair[0].requested_bytes)
    requests = tuple((each.path, size) for each, size in changed)
    return Parts(own if vm.may_balloon else None, requests)
