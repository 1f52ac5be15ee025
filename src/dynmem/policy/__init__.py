"""How memory is divided among VMs: a snapshot in, a plan with a reason for every number out."""

from dynmem.policy.fill import fill
from dynmem.policy.levels import HUGE_PAGES, LEVELS, Climber, Level, Tops, rise
from dynmem.policy.plan import least_pages, plan
from dynmem.policy.types import ANY, PRIORITIES, Decision, MemorySettings, Plan, Priority, Sizes, Snapshot, Vm

__all__ = [
    "ANY",
    "HUGE_PAGES",
    "LEVELS",
    "PRIORITIES",
    "Climber",
    "Decision",
    "Level",
    "MemorySettings",
    "Plan",
    "Priority",
    "Sizes",
    "Snapshot",
    "Tops",
    "Vm",
    "fill",
    "least_pages",
    "plan",
    "rise",
]
