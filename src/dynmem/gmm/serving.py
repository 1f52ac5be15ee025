"""Perform the requests of callers in other processes on the Global Memory Manager.

`perform` returns a reply to whatever bytes arrive: a request that cannot be read, that names an operation the
original has and we do not (VMMR0_DO_GMM_SEED_CHUNK), or that the manager refuses has its status in the reply.

What one request costs is bounded by its bytes, or by `PAGES_COMPARED_MAX`: other callers wait meanwhile.
"""

import enum
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

import numpy as np

from dynmem.gmm.codes import Account, BalloonAction, GmmError, OcPolicy, Priority, Status
from dynmem.gmm.replies import Reply
from dynmem.gmm.requests import Operation, Request, parse
from dynmem.gmm.statistics import HypervisorMemoryStats, MemoryStats
from dynmem.gmm.structures import MODULE_NAME, MODULE_VERSION, Records

E = TypeVar("E", bound=enum.IntEnum)

#: Pages that one request may have compared, as many as the longest one on a socket can free.
PAGES_COMPARED_MAX: Final = 8192


class Figures(Protocol):
    """Statistics, as Stats has them."""

    def structure(self) -> np.void:
        """Return them as a GMMSTATS."""


class Manager(Protocol):
    """The calls of GlobalMemoryManager that a request can ask for; its documentation is there."""

    def initial_reservation(
        self, vm: str, base: int, shadow: int, fixed: int, policy: OcPolicy, priority: Priority
    ) -> None:
        """Open the books of a VM."""

    def update_reservation(self, vm: str, base: int, shadow: int, fixed: int) -> None:
        """Replace what a VM reserves."""

    def allocate_pages(self, vm: str, descriptors: Records, account: Account) -> None:
        """Allocate a page for each GMMPAGEDESC."""

    def free_pages(self, vm: str, descriptors: Records, account: Account) -> int:
        """Free the page of each GMMFREEPAGEDESC."""

    def free_large_page(self, vm: str, page_id: int) -> None:
        """Free a whole chunk."""

    def ballooned_pages(self, vm: str, action: BalloonAction, pages: int) -> None:
        """Count pages in the balloon."""

    def map_unmap_chunk(self, vm: str, map_id: int, unmap_id: int) -> int:
        """Map a chunk, unmap another; return the address of the mapped one."""

    def register_shared_module(
        self, vm: str, os_family: int, name: str, version: str, base: int, size: int, regions: Records
    ) -> Status:
        """Register a module with its VMMDEVSHAREDREGIONDESC regions."""

    def unregister_shared_module(self, vm: str, name: str, version: str, base: int, size: int) -> None:
        """Unregister a module."""

    def reset_shared_modules(self, vm: str) -> object:
        """Unregister all modules of a VM."""

    def check_shared_modules(self, vm: str, *, most_pages: int | None = None) -> object:
        """Share the equal pages of all modules of a VM."""

    def find_duplicate_page(self, vm: str, page_id: int, *, most_pages: int | None = None) -> bool:
        """Return whether another page has the same content."""

    def query_statistics(self, vm: str | None = None) -> Figures:
        """Return the totals and the figures of a VM."""

    def reset_statistics(self, stats: Records) -> object:
        """Reset what is permitted of the fields of a GMMSTATS that are not 0."""

    def query_hypervisor_memory_stats(self) -> HypervisorMemoryStats:
        """Return the totals."""

    def query_memory_stats(self, vm: str) -> MemoryStats:
        """Return the figures of a VM's base account."""


def perform(gmm: Manager, vm: str, operation: int, data: bytes) -> bytes:
    """Perform the request in *data* for a VM; return the reply. Never raises GmmError."""
    try:
        request = parse(operation, data)
    except GmmError as error:
        return Reply(error.code, None, error.sentence).encode()
    try:
        status = _PERFORMERS[request.operation](gmm, vm, request) or Status.SUCCESS
    except GmmError as error:
        return Reply(error.code, request, error.sentence).encode()
    return Reply(status, request).encode()


def _member(request: Request, field: str, enumeration: type[E]) -> E:
    """Return the member that a field names; raise GmmError (INVALID_PARAMETER) if there is none."""
    try:
        return enumeration(request[field])
    except ValueError:
        raise GmmError(
            Status.INVALID_PARAMETER,
            f"{field} of {request.operation.symbol} is {request[field]}, which is not one of its values",
        ) from None


def _initial_reservation(gmm: Manager, vm: str, request: Request) -> None:
    gmm.initial_reservation(
        vm,
        request["cBasePages"],
        request["cShadowPages"],
        request["cFixedPages"],
        _member(request, "enmPolicy", OcPolicy),
        _member(request, "enmPriority", Priority),
    )


def _update_reservation(gmm: Manager, vm: str, request: Request) -> None:
    gmm.update_reservation(vm, request["cBasePages"], request["cShadowPages"], request["cFixedPages"])


def _allocate_pages(gmm: Manager, vm: str, request: Request) -> None:
    gmm.allocate_pages(vm, request.array, _member(request, "enmAccount", Account))


def _free_pages(gmm: Manager, vm: str, request: Request) -> None:
    gmm.free_pages(vm, request.array, _member(request, "enmAccount", Account))


def _free_large_page(gmm: Manager, vm: str, request: Request) -> None:
    gmm.free_large_page(vm, request["idPage"])


def _ballooned_pages(gmm: Manager, vm: str, request: Request) -> None:
    gmm.ballooned_pages(vm, _member(request, "enmAction", BalloonAction), request["cBalloonedPages"])


def _map_unmap_chunk(gmm: Manager, vm: str, request: Request) -> None:
    request["pvR3"] = gmm.map_unmap_chunk(vm, request["idChunkMap"], request["idChunkUnmap"])


def _register_shared_module(gmm: Manager, vm: str, request: Request) -> Status:
    try:
        status = gmm.register_shared_module(
            vm,
            request["enmGuestOS"],
            MODULE_NAME.decode(request.text("szName")),
            MODULE_VERSION.decode(request.text("szVersion")),
            request["GCBaseAddr"],
            request["cbModule"],
            request.array,
        )
    except GmmError as error:
        request["rc"] = error.code
        raise
    request["rc"] = status
    return status


def _unregister_shared_module(gmm: Manager, vm: str, request: Request) -> None:
    gmm.unregister_shared_module(
        vm,
        MODULE_NAME.decode(request.text("szName")),
        MODULE_VERSION.decode(request.text("szVersion")),
        request["GCBaseAddr"],
        request["cbModule"],
    )


def _reset_shared_modules(gmm: Manager, vm: str, _: Request) -> None:
    gmm.reset_shared_modules(vm)


def _check_shared_modules(gmm: Manager, vm: str, _: Request) -> None:
    gmm.check_shared_modules(vm, most_pages=PAGES_COMPARED_MAX)


def _find_duplicate_page(gmm: Manager, vm: str, request: Request) -> None:
    request["fDuplicate"] = gmm.find_duplicate_page(vm, request["idPage"], most_pages=PAGES_COMPARED_MAX)


def _query_statistics(gmm: Manager, vm: str, request: Request) -> None:
    request.record("Stats")[0] = gmm.query_statistics(vm).structure()


def _reset_statistics(gmm: Manager, _: str, request: Request) -> None:
    gmm.reset_statistics(request.record("Stats"))


def _query_hypervisor_memory_stats(gmm: Manager, _: str, request: Request) -> None:
    stats = gmm.query_hypervisor_memory_stats()
    request["cAllocPages"] = stats.allocated_pages
    request["cFreePages"] = stats.free_pages
    request["cBalloonedPages"] = stats.ballooned_pages
    request["cSharedPages"] = stats.shared_pages
    request["cMaxPages"] = stats.max_pages


def _query_memory_stats(gmm: Manager, vm: str, request: Request) -> None:
    stats = gmm.query_memory_stats(vm)
    request["cAllocPages"] = stats.allocated_pages
    request["cFreePages"] = stats.free_pages
    request["cBalloonedPages"] = stats.ballooned_pages
    request["cMaxPages"] = stats.max_pages


def _seed_chunk(*_: object) -> None:
    raise GmmError(Status.NOT_SUPPORTED, "memory comes from the store here, never from a caller")


_PERFORMERS: Final[dict[Operation, Callable[[Manager, str, Request], Status | None]]] = {
    Operation.INITIAL_RESERVATION: _initial_reservation,
    Operation.UPDATE_RESERVATION: _update_reservation,
    Operation.ALLOCATE_PAGES: _allocate_pages,
    Operation.FREE_PAGES: _free_pages,
    Operation.FREE_LARGE_PAGE: _free_large_page,
    Operation.QUERY_HYPERVISOR_MEM_STATS: _query_hypervisor_memory_stats,
    Operation.QUERY_MEM_STATS: _query_memory_stats,
    Operation.BALLOONED_PAGES: _ballooned_pages,
    Operation.MAP_UNMAP_CHUNK: _map_unmap_chunk,
    Operation.SEED_CHUNK: _seed_chunk,
    Operation.REGISTER_SHARED_MODULE: _register_shared_module,
    Operation.UNREGISTER_SHARED_MODULE: _unregister_shared_module,
    Operation.RESET_SHARED_MODULES: _reset_shared_modules,
    Operation.CHECK_SHARED_MODULES: _check_shared_modules,
    Operation.FIND_DUPLICATE_PAGE: _find_duplicate_page,
    Operation.QUERY_STATISTICS: _query_statistics,
    Operation.RESET_STATISTICS: _reset_statistics,
}
