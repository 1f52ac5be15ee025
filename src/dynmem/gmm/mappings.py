"""Which VM has which chunk mapped into its process.

VMs that live in one process share its mappings: the store is asked when the first of them maps a chunk and
when the last of them unmaps it. (VirtualBox, GMMR0.cpp: GMMR0MapUnmapChunk, gmmR0MapChunk, gmmR0UnmapChunk.)
"""

from typing import Final

from dynmem.gmm.chunks import MAPPED, NONE
from dynmem.gmm.codes import GmmError, Status
from dynmem.gmm.constants import GMM_CHUNK_NUM_PAGES, GMM_CHUNKID_LAST, NIL_GMM_CHUNKID
from dynmem.gmm.page_table import PageTable
from dynmem.gmm.store import ChunkStore, StoreFullError
from dynmem.gmm.vms import Vm, Vms

#: VMs that may have one chunk mapped: the original's count of them has 16 bits, and grows by 4.
CHUNK_MAPPINGS_MAX: Final = 0xFFFC
#: Chunks that one process may have mapped: Linux allows 65,530 mappings, and a process needs some itself.
PROCESS_MAPPINGS_MAX: Final = 65_000


class Mappings:
    """Chunks by who has them mapped."""

    def __init__(
        self,
        vms: Vms,
        table: PageTable,
        store: ChunkStore,
        *,
        bound: bool,
        chunk_limit: int,
        process_limit: int,
    ) -> None:
        self._vms: Final = vms
        self._table: Final = table
        self._store: Final = store
        self._bound: Final = bound
        self._chunk_limit: Final = chunk_limit
        self._process_limit: Final = process_limit
        self._by_slot: dict[int, dict[Vm, int]] = {}
        self._in_process: dict[int, dict[int, int]] = {}  # by process and slot: how many of its VMs

    def map_unmap(self, name: str, map_id: int, unmap_id: int) -> int:
        """Map one chunk, then unmap another; `GlobalMemoryManager.map_unmap_chunk` says how."""
        vm = self._vms.get(name)
        if vm is None:
            raise GmmError(Status.WRONG_ORDER, f"{name} is not registered")
        if not 0 <= map_id <= GMM_CHUNKID_LAST or not 0 <= unmap_id <= GMM_CHUNKID_LAST:
            raise GmmError(
                Status.INVALID_PARAMETER,
                f"{map_id:#x} or {unmap_id:#x} is beyond the last chunk id, {GMM_CHUNKID_LAST:#x}",
            )
        if map_id == unmap_id:
            raise GmmError(
                Status.INVALID_PARAMETER,
                f"chunk {map_id:#x} to be mapped is the one to be unmapped: name two different ones, or NIL",
            )
        mapped = self._check_map(vm, map_id) if map_id != NIL_GMM_CHUNKID else NONE
        unmapped = self._check_unmap(vm, unmap_id) if unmap_id != NIL_GMM_CHUNKID else NONE
        address = self._map(vm, mapped, map_id) if mapped != NONE else 0
        if unmapped != NONE:
            self._unmap(vm, unmapped, unmap_id)
        return address

    def unmap_all(self, vm: Vm) -> None:
        """Unmap all chunks of a VM that has ended."""
        for slot in [slot for slot, mappings in self._by_slot.items() if vm in mappings]:
            self._unmap(vm, slot, self._table.chunks.ids.item(slot))

    def _check_map(self, vm: Vm, chunk_id: int) -> int:
        slot = self._find(chunk_id)
        if self._bound and self._table.chunks.owner.item(slot) != vm.handle:
            raise GmmError(Status.CHUNK_NOT_FOUND, f"chunk {chunk_id:#x} is not one of {vm.name}")
        mappings = self._by_slot.get(slot, {})
        if vm in mappings:
            return slot
        if len(mappings) >= self._chunk_limit:
            raise GmmError(
                Status.TOO_MANY_CHUNK_MAPPINGS,
                f"chunk {chunk_id:#x} is mapped by {len(mappings)} VMs, as many as may map one",
            )
        in_process = self._in_process.get(vm.process, {})
        if len(in_process) >= self._process_limit and slot not in in_process:
            raise GmmError(
                Status.TOO_MANY_CHUNK_MAPPINGS,
                f"process {vm.process} has {len(in_process)} chunks mapped, the most: unmap one first",
            )
        return slot

    def _check_unmap(self, vm: Vm, chunk_id: int) -> int:
        slot = self._find(chunk_id)
        if vm not in self._by_slot.get(slot, {}):
            raise GmmError(Status.CHUNK_NOT_MAPPED, f"{vm.name} does not have chunk {chunk_id:#x} mapped")
        return slot

    def _find(self, chunk_id: int) -> int:
        slot = self._table.chunks.find(chunk_id)
        if slot == NONE:
            raise GmmError(Status.CHUNK_NOT_FOUND, f"chunk {chunk_id:#x} is not there")
        return slot

    def _map(self, vm: Vm, slot: int, chunk_id: int) -> int:
        """Map a chunk, unless it is mapped already; return its address."""
        mappings = self._by_slot.get(slot, {})
        if vm in mappings:
            return mappings[vm]
        in_process = self._in_process.get(vm.process, {})
        if slot in in_process:
            address = next(there for other, there in mappings.items() if other.process == vm.process)
        else:
            try:
                address = self._store.map_chunk(vm.process, chunk_id)
            except StoreFullError as error:
                raise GmmError(
                    Status.OUT_OF_MEMORY, f"chunk {chunk_id:#x} cannot be mapped: {error}"
                ) from error
        in_process[slot] = in_process.get(slot, 0) + 1
        self._in_process[vm.process] = in_process
        mappings[vm] = address
        self._by_slot[slot] = mappings
        self._table.chunks.flags[slot] |= MAPPED
        return address

    def _unmap(self, vm: Vm, slot: int, chunk_id: int) -> None:
        """Unmap a chunk, which can then go back to the host if it is unused and not mapped by others."""
        in_process = self._in_process[vm.process]
        if in_process[slot] == 1:
            self._store.unmap_chunk(vm.process, chunk_id)
            del in_process[slot]
            if not in_process:
                del self._in_process[vm.process]
        else:
            in_process[slot] -= 1
        mappings = self._by_slot[slot]
        del mappings[vm]
        if not mappings:
            del self._by_slot[slot]
            self._table.chunks.flags[slot] ^= MAPPED
            if self._table.chunks.free.item(slot) == GMM_CHUNK_NUM_PAGES:
                self._table.release_unused()

    def verify(self) -> None:
        """Assert that chunks, VMs and processes agree about who has what mapped."""
        chunks = self._table.chunks
        mapped = {slot for slot in chunks.slots().tolist() if chunks.flags.item(slot) & MAPPED}
        assert mapped == set(self._by_slot)
        in_process: dict[int, dict[int, int]] = {}
        for slot, mappings in self._by_slot.items():
            assert mappings
            for vm in mappings:
                assert self._vms.get(vm.name) is vm
                counts = in_process.setdefault(vm.process, {})
                counts[slot] = counts.get(slot, 0) + 1
        assert in_process == self._in_process
