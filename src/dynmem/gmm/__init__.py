"""The Global Memory Manager: the books of what each VM may have and holds. No I/O."""

from dynmem.gmm.books import Gmm, HypervisorMemoryStats, MemoryStats, Stats, VmSizes, VmStats
from dynmem.gmm.codes import Account, BalloonAction, GmmError, OcPolicy, Priority, Status

# in the order of importance: the books, what goes in and what comes out, the codes of the protocol
__all__ = [
    "Gmm",
    "VmSizes",
    "MemoryStats",
    "Stats",
    "VmStats",
    "HypervisorMemoryStats",
    "GmmError",
    "Status",
    "Account",
    "BalloonAction",
    "Priority",
    "OcPolicy",
]
