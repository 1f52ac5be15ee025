"""Who gets how much: a snapshot in, a plan with a reason for every number out."""

from dynmem.policy.fill import fill
from dynmem.policy.plan import HUGE_PAGES, LEVELS, least_pages, level_tops, plan, wanted_pages
from dynmem.policy.types import ANY, PRIORITIES, Decision, MemorySettings, Plan, Priority, Sizes, Snapshot, Vm

__all__ = [
    "ANY",
    "HUGE_PAGES",
    "LEVELS",
    "PRIORITIES",
    "Decision",
    "MemorySettings",
    "Plan",
    "Priority",
    "Sizes",
    "Snapshot",
    "Vm",
    "fill",
    "least_pages",
    "level_tops",
    "plan",
    "wanted_pages",
]
