"""What the demonstration records: one sample after another, and the summary they add up to."""

import msgspec

from dynmem.units import NS_PER_S

SUMMARY_SCHEMA_VERSION = 1


class VmSample(msgspec.Struct, frozen=True):
    """One VM at one moment; sizes in bytes."""

    wanted: int  # what its load asks for now
    held: int  # what its load has
    demand: int  # what the manager takes the guest's demand to be; 0 while it does not know
    assigned: int  # what the VM may use now; 0 before it is there
    planned: int  # what the manager's plan gives it
    resident: int  # the host's own figure: st_blocks of its RAM
    reason: str  # the manager's sentence


class Sample(msgspec.Struct, frozen=True):
    """All VMs at one moment."""

    at_ns: int  # since the start of the loads
    host_available: int  # MemAvailable of the host, bytes
    vms: dict[str, VmSample]

    @property
    def resident(self) -> int:
        """Sum of what the host says is resident, bytes."""
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
    """The whole run; the keys of ``dynmem demo --json``."""

    schema_version: int
    mode: str  # "managed" or "static"
    seed: int
    wrong_bytes: int
    pages_moved: int
    unmet_demand_seconds: float
    peak_resident_bytes: int
    budget_bytes: int
    duration_seconds: float
    vms: list[VmSummary]


class UnmetDemand:
    """Adds up VM-seconds of unmet demand: each second counts by the share of the demand that was unmet."""

    def __init__(self) -> None:
        self.seconds: float = 0.0
        self._last_ns: int | None = None

    def observe(self, at_ns: int, wanted: int, held: int) -> None:
        """Account the time since the last call with the shortfall of this moment (bytes)."""
        if self._last_ns is not None and wanted > held:
            share = (wanted - held) / wanted
            self.seconds += share * (at_ns - self._last_ns) / NS_PER_S
        self._last_ns = at_ns
