"""The calls on the Global Memory Manager that a caller in another process makes one by one: GMMR3*.

Each sends one request and returns what the original's wrapper of the same name returns; a call that fails
raises GmmError with the status and the sentence of the process that keeps the books.
"""

from typing import Final

from dynmem.gmm.batches import Transport, exchange
from dynmem.gmm.codes import BalloonAction, OcPolicy, Priority, Status
from dynmem.gmm.requests import Operation, Request, new_request
from dynmem.gmm.statistics import HypervisorMemoryStats, MemoryStats
from dynmem.gmm.structures import GMMSTATS, MODULE_NAME, MODULE_VERSION, Records


class Calls:
    """The calls of one VM through a transport."""

    def __init__(self, transport: Transport) -> None:
        self._transport: Final = transport

    def initial_reservation(
        self, base: int, shadow: int, fixed: int, policy: OcPolicy, priority: Priority
    ) -> None:
        """Open the books of the VM (GMMR3InitialReservation); counts are pages."""
        self._call(
            Operation.INITIAL_RESERVATION,
            cBasePages=base,
            cShadowPages=shadow,
            cFixedPages=fixed,
            enmPolicy=policy,
            enmPriority=priority,
        )

    def update_reservation(self, base: int, shadow: int, fixed: int) -> None:
        """Replace what the VM reserves (GMMR3UpdateReservation); counts are pages."""
        self._call(Operation.UPDATE_RESERVATION, cBasePages=base, cShadowPages=shadow, cFixedPages=fixed)

    def free_large_page(self, page_id: int) -> None:
        """Free the chunk that begins with *page_id* (GMMR3FreeLargePage)."""
        self._call(Operation.FREE_LARGE_PAGE, idPage=page_id)

    def ballooned_pages(self, action: BalloonAction, pages: int) -> None:
        """Report pages in the balloon (GMMR3BalloonedPages)."""
        self._call(Operation.BALLOONED_PAGES, enmAction=action, cBalloonedPages=pages)

    def map_unmap_chunk(self, map_id: int, unmap_id: int) -> int:
        """Map one chunk and unmap another (GMMR3MapUnmapChunk); NIL_GMM_CHUNKID: none.

        Return the address of the mapped one in this process; 0 if none was to be mapped.
        """
        return self._call(Operation.MAP_UNMAP_CHUNK, idChunkMap=map_id, idChunkUnmap=unmap_id)["pvR3"]

    def query_hypervisor_memory_stats(self) -> HypervisorMemoryStats:
        """Return the figures of all VMs (GMMR3QueryHypervisorMemoryStats)."""
        reply = self._call(Operation.QUERY_HYPERVISOR_MEM_STATS)
        return HypervisorMemoryStats(
            allocated_pages=reply["cAllocPages"],
            free_pages=reply["cFreePages"],
            ballooned_pages=reply["cBalloonedPages"],
            shared_pages=reply["cSharedPages"],
            max_pages=reply["cMaxPages"],
        )

    def query_memory_stats(self) -> MemoryStats:
        """Return the figures of the VM's base account (GMMR3QueryMemoryStats)."""
        reply = self._call(Operation.QUERY_MEM_STATS)
        return MemoryStats(
            allocated_pages=reply["cAllocPages"],
            free_pages=reply["cFreePages"],
            max_pages=reply["cMaxPages"],
            ballooned_pages=reply["cBalloonedPages"],
        )

    def register_shared_module(
        self, os_family: int, name: str, version: str, base: int, size: int, regions: Records
    ) -> Status:
        """Register a module at guest address *base*, of *size* bytes (GMMR3RegisterSharedModule).

        *regions* is an array of VMMDEVSHAREDREGIONDESC. Return SUCCESS or SHARED_MODULE_ALREADY_REGISTERED.
        """
        request = new_request(
            Operation.REGISTER_SHARED_MODULE,
            len(regions),
            enmGuestOS=os_family,
            szName=MODULE_NAME.encode(name),
            szVersion=MODULE_VERSION.encode(version),
            GCBaseAddr=base,
            cbModule=size,
        )
        request.array[:] = regions
        reply = exchange(self._transport, request)
        reply.outputs()
        return reply.status

    def unregister_shared_module(self, name: str, version: str, base: int, size: int) -> None:
        """Unregister the module at guest address *base* (GMMR3UnregisterSharedModule)."""
        self._call(
            Operation.UNREGISTER_SHARED_MODULE,
            szName=MODULE_NAME.encode(name),
            szVersion=MODULE_VERSION.encode(version),
            GCBaseAddr=base,
            cbModule=size,
        )

    def reset_shared_modules(self) -> None:
        """Unregister all modules of the VM (GMMR3ResetSharedModules)."""
        self._call(Operation.RESET_SHARED_MODULES)

    def check_shared_modules(self) -> None:
        """Share the equal pages of the VM's modules (GMMR3CheckSharedModules)."""
        self._call(Operation.CHECK_SHARED_MODULES)

    def is_duplicate_page(self, page_id: int) -> bool:
        """Return whether another page has the same content (GMMR3IsDuplicatePage)."""
        return bool(self._call(Operation.FIND_DUPLICATE_PAGE, idPage=page_id)["fDuplicate"])

    def query_statistics(self) -> Records:
        """Return one GMMSTATS: the figures of all VMs and of this one (GMMR0QueryStatisticsReq)."""
        return self._call(Operation.QUERY_STATISTICS).record("Stats")

    def reset_statistics(self, *fields: str) -> None:
        """Reset what is permitted of these fields of GMMSTATS (GMMR0ResetStatisticsReq)."""
        request = new_request(Operation.RESET_STATISTICS)
        stats = request.record("Stats")
        for field in fields:
            if field not in (GMMSTATS.names or ()):
                raise KeyError(field)
            stats[field] = 1
        exchange(self._transport, request).outputs()

    def _call(self, operation: Operation, **values: int | bytes) -> Request:
        return exchange(self._transport, new_request(operation, **values)).outputs()
