"""How memory is divided among VMs: a snapshot in, a plan with a reason for every number out."""

from dynmem.policy.fill import fill
from dynmem.policy.levels import HUGE_PAGES, LEVELS, Climber, Level, Tops, rise
from dynmem.policy.plan import least_pages, plan
from dynmem.policy.types import (
    ANY,
    PRIORITIES,
    Decision,
    Holder,
    MemorySettings,
    OnShortage,
    Plan,
    Priority,
    Sizes,
    Snapshot,
    Vm,
    priority_of,
)

# in the order of importance: the plan, what it is made from, what it says, how it comes about
__all__ = [
    "plan",
    "Snapshot",
    "Holder",
    "Vm",
    "MemorySettings",
    "Sizes",
    "ANY",
    "Priority",
    "PRIORITIES",
    "priority_of",
    "OnShortage",
    "Plan",
    "Decision",
    "HUGE_PAGES",
    "rise",
    "Climber",
    "LEVELS",
    "Level",
    "Tops",
    "fill",
    "least_pages",
]
