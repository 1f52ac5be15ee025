"""A manager that records what it is asked and does what a test says."""

from typing import Any

import numpy as np

from dynmem.gmm import Account, BalloonAction, GmmError, OcPolicy, Priority, Status
from dynmem.gmm.statistics import HypervisorMemoryStats, MemoryStats
from dynmem.gmm.structures import GMMSTATS, Records


class FiguresDouble:
    """Statistics with the number of each byte in it."""

    def structure(self) -> np.void:
        figures: np.void = np.frombuffer(bytes(range(GMMSTATS.itemsize)), GMMSTATS)[0]
        return figures


class ManagerDouble:
    """Every call of a manager: recorded with its arguments, refused if `refusal` is set.

    Attributes:
        calls: The calls so far: name, arguments (arrays as lists of tuples).
        refusal: What every call raises.
        result: What a call returns that returns something.
        freed: Pages that `free_pages` frees before it is refused.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.refusal: GmmError | None = None
        self.result: Any = None
        self.freed = 0

    def _called(self, *call: object) -> None:
        self.calls.append(tuple(part.tolist() if hasattr(part, "tolist") else part for part in call))
        if self.refusal is not None:
            raise self.refusal

    def initial_reservation(
        self, vm: str, base: int, shadow: int, fixed: int, policy: OcPolicy, priority: Priority
    ) -> None:
        self._called("initial_reservation", vm, base, shadow, fixed, policy, priority)

    def update_reservation(self, vm: str, base: int, shadow: int, fixed: int) -> None:
        self._called("update_reservation", vm, base, shadow, fixed)

    def allocate_pages(self, vm: str, descriptors: Records, account: Account) -> None:
        self._called("allocate_pages", vm, descriptors, account)
        descriptors["idPage"] = range(512, 512 + len(descriptors))
        descriptors["HCPhysGCPhys"] = 0x1000

    def free_pages(self, vm: str, descriptors: Records, account: Account) -> int:
        asked = descriptors.copy()
        descriptors["idPage"][: self.freed if self.refusal else None] = 0
        self._called("free_pages", vm, asked, account)
        return len(descriptors)

    def free_large_page(self, vm: str, page_id: int) -> None:
        self._called("free_large_page", vm, page_id)

    def ballooned_pages(self, vm: str, action: BalloonAction, pages: int) -> None:
        self._called("ballooned_pages", vm, action, pages)

    def map_unmap_chunk(self, vm: str, map_id: int, unmap_id: int) -> int:
        self._called("map_unmap_chunk", vm, map_id, unmap_id)
        return int(self.result)

    def register_shared_module(
        self, vm: str, os_family: int, name: str, version: str, base: int, size: int, regions: Records
    ) -> Status:
        self._called("register_shared_module", vm, os_family, name, version, base, size, regions)
        return Status(self.result)

    def unregister_shared_module(self, vm: str, name: str, version: str, base: int, size: int) -> None:
        self._called("unregister_shared_module", vm, name, version, base, size)

    def reset_shared_modules(self, vm: str) -> int:
        self._called("reset_shared_modules", vm)
        return 1

    def check_shared_modules(self, vm: str, *, most_pages: int | None = None) -> int:
        self._called("check_shared_modules", vm, most_pages)
        return 1

    def find_duplicate_page(self, vm: str, page_id: int, *, most_pages: int | None = None) -> bool:
        self._called("find_duplicate_page", vm, page_id, most_pages)
        return bool(self.result)

    def query_statistics(self, vm: str | None = None) -> FiguresDouble:
        self._called("query_statistics", vm)
        return FiguresDouble()

    def reset_statistics(self, stats: Records) -> None:
        self._called(
            "reset_statistics", *(name for name in stats.dtype.names or () if name[0] == "c" and stats[name])
        )

    def query_hypervisor_memory_stats(self) -> HypervisorMemoryStats:
        self._called("query_hypervisor_memory_stats")
        return HypervisorMemoryStats(1, 2, 3, 4, 5)

    def query_memory_stats(self, vm: str) -> MemoryStats:
        self._called("query_memory_stats", vm)
        return MemoryStats(allocated_pages=1, free_pages=2, max_pages=3, ballooned_pages=4)
