"""The figures that the Global Memory Manager reports: of one VM, and of all."""

from typing import TYPE_CHECKING

import msgspec

from dynmem.gmm.codes import OcPolicy, Priority

if TYPE_CHECKING:
    import numpy


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
    """GMMVMSTATS of one VM. Pages.

    Attributes:
        reserved: What it has reserved, by account.
        allocated: What it is charged for, by account: its private pages and its references to shared ones.
        private_pages: Pages that are its own, with ids or only counted.
        shared_pages: References to shared pages.
        ballooned_pages: What its guest has given up.
        max_ballooned_pages: The most that can be ballooned.
        req_ballooned_pages: What its guest is asked to give up now.
        req_actually_ballooned_pages: What its guest gave up of what it was asked for last.
        req_deflate_pages: What its guest is asked to take back now.
        policy: Its over-commit policy.
        priority: Its priority.
        ballooning_enabled: Whether it can be asked for pages.
        shared_paging_enabled: Whether its pages may be shared.
        may_allocate: Whether it may allocate.
        may_not_allocate_why: The reason if it may not; "" if it may. (The original does not say.)
    """

    reserved: VmSizes
    allocated: VmSizes
    private_pages: int
    ballooned_pages: int
    max_ballooned_pages: int
    policy: OcPolicy
    priority: Priority
    may_allocate: bool
    may_not_allocate_why: str = ""
    shared_pages: int = 0
    req_ballooned_pages: int = 0
    req_actually_ballooned_pages: int = 0
    req_deflate_pages: int = 0
    ballooning_enabled: bool = True
    shared_paging_enabled: bool = False

    def structure(self) -> "numpy.void":
        """Return the figures as a GMMVMSTATS."""
        import numpy as np

        from dynmem.gmm.structures import GMMVMSIZES, GMMVMSTATS

        one = np.zeros(1, GMMVMSTATS)
        for field, sizes in (("Reserved", self.reserved), ("Allocated", self.allocated)):
            one[field] = np.array([(sizes.base_pages, sizes.shadow_pages, sizes.fixed_pages)], GMMVMSIZES)
        for field, figure in (
            ("cPrivatePages", self.private_pages),
            ("cSharedPages", self.shared_pages),
            ("cBalloonedPages", self.ballooned_pages),
            ("cMaxBalloonedPages", self.max_ballooned_pages),
            ("cReqBalloonedPages", self.req_ballooned_pages),
            ("cReqActuallyBalloonedPages", self.req_actually_ballooned_pages),
            ("cReqDeflatePages", self.req_deflate_pages),
            ("enmPolicy", self.policy),
            ("enmPriority", self.priority),
            ("fBallooningEnabled", self.ballooning_enabled),
            ("fSharedPagingEnabled", self.shared_paging_enabled),
            ("fMayAllocate", self.may_allocate),
        ):
            one[field] = figure
        structure: numpy.void = one[0]
        return structure


class Stats(msgspec.Struct, frozen=True):
    """GMMSTATS: the figures of all VMs, and those of one. Pages, chunks of 2 MiB.

    Attributes:
        max_pages: The most that may be allocated.
        reserved_pages: What all VMs have reserved.
        over_committed_pages: What is reserved beyond the maximum.
        allocated_pages: What is allocated: each shared page counts once.
        shared_pages: Pages that are shared, a part of those allocated.
        duplicate_pages: References to shared pages beyond the first of each: what sharing saves.
        left_behind_shared_pages: References to shared pages that VMs held when they ended.
        ballooned_pages: What all guests have given up.
        chunks: Chunks there are.
        freed_chunks: Chunks that went back to the host, ever.
        shareable_modules: Modules that are registered.
        vms: VMs that have a reservation. (The original does not say.)
        vm: The figures of the VM that was named.
    """

    max_pages: int
    reserved_pages: int
    over_committed_pages: int
    allocated_pages: int
    ballooned_pages: int
    chunks: int
    freed_chunks: int
    vms: int
    vm: VmStats | None
    shared_pages: int = 0
    duplicate_pages: int = 0
    left_behind_shared_pages: int = 0
    shareable_modules: int = 0

    def structure(self) -> "numpy.void":
        """Return the figures as a GMMSTATS; those of the VM are 0 if none was named."""
        import numpy as np

        from dynmem.gmm.structures import GMMSTATS

        one = np.zeros(1, GMMSTATS)
        for field, figure in (
            ("cMaxPages", self.max_pages),
            ("cReservedPages", self.reserved_pages),
            ("cOverCommittedPages", self.over_committed_pages),
            ("cAllocatedPages", self.allocated_pages),
            ("cSharedPages", self.shared_pages),
            ("cDuplicatePages", self.duplicate_pages),
            ("cLeftBehindSharedPages", self.left_behind_shared_pages),
            ("cBalloonedPages", self.ballooned_pages),
            ("cChunks", self.chunks),
            ("cFreedChunks", self.freed_chunks & 0xFFFF_FFFF),
            ("cShareableModules", self.shareable_modules),
        ):
            one[field] = figure
        if self.vm is not None:
            one["VMStats"] = self.vm.structure()
        structure: numpy.void = one[0]
        return structure


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
