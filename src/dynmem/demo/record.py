"""What the demonstration records: a series of samples, and their summary."""

import msgspec

from dynmem.units import NS_PER_S

SUMMARY_SCHEMA_VERSION = 1


class VmSample(msgspec.Struct, frozen=True):
    """One VM at one moment; sizes in bytes.

    Attributes:
        wanted: What its load wants now.
        held: What its load holds.
        demand: The manager's figure for the guest's demand; 0 while unknown.
        assigned: What the VM may use now; 0 before it runs.
        planned: Its size in the manager's plan.
        resident: The host's own figure: st_blocks of its RAM.
        reason: The manager's reason for its size.
    """

    wanted: int
    held: int
    demand: int
    assigned: int
    planned: int
    resident: int
    reason: str


class Sample(msgspec.Struct, frozen=True):
    """All VMs at one moment.

    Attributes:
        at_ns: Time since the start of the loads.
        host_available: MemAvailable of the host, bytes.
        vms: The VMs by name.
    """

    at_ns: int
    host_available: int
    vms: dict[str, VmSample]

    @property
    def resident(self) -> int:
        """Bytes resident on the host, over all VMs."""
        return sum(vm.resident for vm in self.vms.values())


class VmSummary(msgspec.Struct, frozen=True):
    """One VM over the whole run."""

    name: str
    backend: str
    maximum_bytes: int
    wrong_bytes: int
    pages_moved: int
    unmet_demand_seconds: float
    peak_resident_bytes: int
    oom_kills: int


class Summary(msgspec.Struct, frozen=True):
    """The whole run; its fields are the keys of ``dynmem demo --json``. `mode` is "managed" or "static"."""

    schema_version: int
    mode: str
    seed: int
    wrong_bytes: int
    pages_moved: int
    unmet_demand_seconds: float
    peak_resident_bytes: int
    budget_bytes: int
    duration_seconds: float
    vms: list[VmSummary]


class UnmetDemand:
    """Adds up VM-seconds of unmet demand: each second counts as the fraction of the demand that was unmet."""

    def __init__(self) -> None:
        self.seconds: float = 0.0
        self._last_ns: int | None = None

    def observe(self, at_ns: int, wanted: int, held: int) -> None:
        """Add the time since the last call, at the present shortfall."""
        if self._last_ns is not None and wanted > held:
            share = (wanted - held) / wanted
            self.seconds += share * (at_ns - self._last_ns) / NS_PER_S
        self._last_ns = at_ns
