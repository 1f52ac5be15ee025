"""A sweep: every VM is looked at, all at once, and no VM makes the others wait for longer than a moment."""

import asyncio
from collections.abc import Iterable
from typing import Final

from dynmem.manager.step.facts import VmFacts
from dynmem.manager.sweep.managed_vm import ManagedVm

# A sweep's patience, in parts.
_PATIENCE_TICKS: Final = 20


async def sweep(vms: Iterable[ManagedVm], now_ns: int, patience_s: float) -> list[VmFacts]:
    """Look at VMs for at most *patience_s* seconds; never raises: the facts say what is wrong.

    *now_ns* is the time of the sweep: a new report of a guest counts as made then.
    """
    all_vms = tuple(vms)
    looks = [look for vm in all_vms if (look := vm.begin(now_ns)) is not None]
    # In ticks, of which one that comes late counts once: this loop serves all VMs, and one that makes it late
    # must not use up the patience with the others.
    for _ in range(_PATIENCE_TICKS if looks else 0):
        _, late = await asyncio.wait(looks, timeout=patience_s / _PATIENCE_TICKS)
        if not late or not patience_s:
            break
    return [vm.found(now_ns) for vm in all_vms]
