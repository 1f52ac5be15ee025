"""Whom the host's kernel takes memory from when it runs out, by priority: two settings of a VM's process.

    priority   oom_score_adj of its process   memory.low of its cgroup
    low        500: it is killed first        as it is
    normal     250                            its minimum
    high       as it is                       its maximum

A score is only raised, and never from below zero: what a VM is spared would be paid by the host's own
programs, which are small, so that many would be killed for little. What is there already and is as much, or
is another program's decision, stays.
"""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from dynmem.manager.step.facts import ManagerSettings, VmConfig
from dynmem.policy import Priority

Kind = Literal["oom_score_adj", "memory.low"]

OOM_SCORES: Final[Mapping[Priority, int]] = {"low": 500, "normal": 250}


class Setting(NamedTuple):
    """A setting that was made, or is about to be.

    Attributes:
        vm: The VM.
        kind: Which setting.
        life: Whose: the VM's incarnation then.
        place: The folder of its cgroup; "" for a score.
        before: What was there.
        after: What is there now.
    """

    vm: str
    kind: Kind
    life: str
    place: str
    before: int
    after: int


def wanted(config: VmConfig, settings: ManagerSettings) -> dict[Kind, int]:
    """Return what a VM's settings should be at least; nothing of those that are not to be touched."""
    found: dict[Kind, int] = {}
    if settings.sets_oom_score and config.priority in OOM_SCORES:
        found["oom_score_adj"] = OOM_SCORES[config.priority]
    if settings.sets_memory_low and config.priority != "low":
        found["memory.low"] = config.maximum_bytes if config.priority == "high" else config.minimum_bytes
    return found


def may_raise(before: int, after: int) -> bool:
    """Return whether a setting may be made in place of the one that is there."""
    return 0 <= before < after
