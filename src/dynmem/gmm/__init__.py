"""The Global Memory Manager: the books of what each VM may have and holds. No I/O."""

from dynmem.gmm import batches, calls, codes, constants, replies, requests, serving, structures
from dynmem.gmm.book import Figures
from dynmem.gmm.codes import Account, BalloonAction, GmmError, OcPolicy, OsFamily, Priority, Status
from dynmem.gmm.counted import CountedBooks
from dynmem.gmm.manager import GlobalMemoryManager
from dynmem.gmm.overcommit import Admission, OvercommitRules
from dynmem.gmm.sharing import Checked, GuestPages
from dynmem.gmm.shortage import Ask, Shortage
from dynmem.gmm.statistics import HypervisorMemoryStats, MemoryStats, Stats, VmSizes, VmStats
from dynmem.gmm.store import ChunkStore, Ledger, NoStore, StoreFullError

# in the order of importance: the manager, what goes in and what comes out, the codes of the protocol
__all__ = [
    "GlobalMemoryManager",
    "CountedBooks",
    "ChunkStore",
    "NoStore",
    "Ledger",
    "StoreFullError",
    "OvercommitRules",
    "Admission",
    "Shortage",
    "Ask",
    "Figures",
    "VmSizes",
    "MemoryStats",
    "Stats",
    "VmStats",
    "HypervisorMemoryStats",
    "Checked",
    "GuestPages",
    "GmmError",
    "Status",
    "Account",
    "BalloonAction",
    "Priority",
    "OcPolicy",
    "OsFamily",
    "codes",
    "constants",
    "structures",
    "requests",
    "replies",
    "serving",
    "batches",
    "calls",
]
