"""The Global Memory Manager: the books of what each VM may have and holds. No I/O.

What counts pages is imported at once. What knows each page needs numpy, and is imported at its first use:
the manager of a host only counts, and starts without it.
"""

import importlib
from typing import TYPE_CHECKING, Final

from dynmem.gmm import codes, constants
from dynmem.gmm.book import Figures
from dynmem.gmm.codes import Account, BalloonAction, GmmError, OcPolicy, OsFamily, Priority, Status
from dynmem.gmm.counted import CountedBooks, Ledger
from dynmem.gmm.overcommit import Admission, OvercommitRules
from dynmem.gmm.shortage import Ask, Shortage
from dynmem.gmm.statistics import HypervisorMemoryStats, MemoryStats, Stats, VmSizes, VmStats

if TYPE_CHECKING:
    from dynmem.gmm import batches, calls, replies, requests, serving, structures
    from dynmem.gmm.manager import GlobalMemoryManager
    from dynmem.gmm.sharing import Checked, GuestPages
    from dynmem.gmm.store import ChunkStore, NoStore, StoreFullError

# The modules of names that are imported when they are first used; the others of `__all__` are modules.
_HOMES: Final = {
    "GlobalMemoryManager": "manager",
    "Checked": "sharing",
    "GuestPages": "sharing",
    "ChunkStore": "store",
    "NoStore": "store",
    "StoreFullError": "store",
}

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


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f"{__name__}.{_HOMES.get(name, name)}")
    found: object = getattr(home, name) if name in _HOMES else home
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return __all__
