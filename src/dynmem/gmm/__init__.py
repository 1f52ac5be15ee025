"""The Global Memory Manager: the books of who holds how much. No I/O."""

from dynmem.gmm.books import Gmm, HypervisorMemoryStats, MemoryStats, Stats, VmSizes, VmStats
from dynmem.gmm.codes import Account, BalloonAction, GmmError, OcPolicy, Priority, Status

__all__ = [
    "Account",
    "BalloonAction",
    "Gmm",
    "GmmError",
    "HypervisorMemoryStats",
    "MemoryStats",
    "OcPolicy",
    "Priority",
    "Stats",
    "Status",
    "VmSizes",
    "VmStats",
]
