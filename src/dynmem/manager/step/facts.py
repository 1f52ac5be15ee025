"""What one sweep over the host found, and what the operator asked for: the only inputs of a step.

Everything is bytes or integer nanoseconds, frozen and picklable. Four sizes of a VM are never mixed:
`boot_bytes` (configured), `actual_bytes` (what the VMM says the guest has, `query-balloon`), `Demand` (the
guest's own word) and `resident_bytes` (what the host measured).
"""

from typing import Final, Literal

import msgspec

Priority = Literal["low", "normal", "high"]
Mode = Literal["observe", "enforce"]

RUNNING: Final = "running"
SILENT: Final = "silent"
ABSENT: Final = "absent"


class HostFacts(msgspec.Struct, frozen=True):
    """/proc/meminfo of the host, in bytes."""

    mem_available_bytes: int
    mem_total_bytes: int


class Demand(msgspec.Struct, frozen=True):
    """What the guest says it needs.

    `committed_bytes` excludes ballooned memory; `available_bytes` is what the guest could use at once;
    `source` is the formula in words; `age_ns` how old the report was when it was read; `floor_bytes` the size
    below which this guest does not go (0 when it has no such floor).
    """

    committed_bytes: int
    available_bytes: int
    source: str
    age_ns: int
    floor_bytes: int = 0


class VmFacts(msgspec.Struct, frozen=True):
    """One VM as one sweep saw it.

    `incarnation` names one life of the process (pid and start time); it is "" only when the process is known
    not to be there. A closed or silent socket keeps the incarnation and says "silent". `resets` counts the
    RESETs seen in this incarnation. `resident_overhead_bytes` is what `resident_source` is known to count
    besides guest RAM.
    """

    name: str
    incarnation: str
    run_state: str
    device: str | None = None
    boot_bytes: int | None = None
    actual_bytes: int | None = None
    resident_bytes: int | None = None
    resident_source: str = ""
    demand: Demand | None = None
    resets: int = 0
    problem: str | None = None
    resident_overhead_bytes: int = 0
    limit_bytes: int | None = None
    """The most that the VM can be grown to; None: its boot size."""
    added_bytes: int | None = None
    """What has been hot-added to it, by its monitor's word; None: it does not tell."""


class Facts(msgspec.Struct, frozen=True):
    """One sweep: the host and every configured VM, at one moment of the manager's monotonic clock."""

    now_ns: int
    host: HostFacts
    vms: tuple[VmFacts, ...]


class VmConfig(msgspec.Struct, frozen=True):
    """What the operator wants for one VM. `weight` is 1..10000; minimum and maximum are in bytes."""

    name: str
    minimum_bytes: int
    maximum_bytes: int
    buffer_percent: int = 20
    weight: int = 5000
    priority: Priority = "normal"


class ManagerSettings(msgspec.Struct, frozen=True):
    """What the operator wants for the host. In mode "observe" nothing is sent that changes anything."""

    budget_bytes: int
    slush_bytes: int
    period_ns: int
    mode: Mode = "observe"
