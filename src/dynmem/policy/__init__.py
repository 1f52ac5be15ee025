"""Who gets how much: a snapshot in, a plan with a reason for every number out."""

from dynmem.policy.types import Decision, Plan, Priority, Snapshot, Vm

__all__ = ["Decision", "Plan", "Priority", "Snapshot", "Vm"]
