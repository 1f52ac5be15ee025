"""The figures that the Global Memory Manager reports: of one VM, and of all."""

import msgspec

from dynmem.gmm.codes import OcPolicy, Priority


class VmSizes(msgspec.Struct, frozen=True):
    """GMMVMSIZES: pages by account."""

    base_pages: int
    shadow_pages: int
    fixed_pages: int

    @property
    def total(self) -> int:
        """All three accounts together."""
        return self.base_pages + self.shadow_pages + self.fixed_pages


class VmStats(msgspec.Struct, frozen=True):
    """GMMVMSTATS of one VM, as far as bound mode goes. Pages."""

    reserved: VmSizes
    allocated: VmSizes
    private_pages: int
    ballooned_pages: int
    max_ballooned_pages: int
    policy: OcPolicy
    priority: Priority
    may_allocate: bool


class Stats(msgspec.Struct, frozen=True):
    """GMMSTATS, as far as bound mode goes. Pages, chunks of 2 MiB."""

    max_pages: int
    reserved_pages: int
    over_committed_pages: int
    allocated_pages: int
    ballooned_pages: int
    chunks: int
    freed_chunks: int
    vms: int
    vm: VmStats | None


class HypervisorMemoryStats(msgspec.Struct, frozen=True):
    """GMMMEMSTATSREQ: allocated, free inside chunks, ballooned, shared and maximum pages of all VMs."""

    allocated_pages: int
    free_pages: int
    ballooned_pages: int
    shared_pages: int
    max_pages: int


class MemoryStats(msgspec.Struct, frozen=True):
    """GMMMEMSTATSREQ of one VM. Pages of its base account: what is allocated, free and at most there."""

    allocated_pages: int
    free_pages: int
    max_pages: int
    ballooned_pages: int
