"""GPADLs on the host's side: lists of guest pages that arrive in a header and any number of bodies.

A GPADL is charged to the bus's budget with the size its header declares, before any of it is stored. Only
one range of whole pages is accepted, which is what every driver sends. Whatever is wrong is a
RefusedGpadlError, which the bus answers with an error status.

The ids are the bus's, as in QEMU: a body and the reply to a teardown name no channel. OpenVMM keeps them by
channel, for reserved channels that outlive a connection; here nothing of a guest outlives it.

Source: QEMU hw/hyperv/vmbus.c; Linux drivers/hv/channel.c (create_gpadl_header).
"""

import struct
from typing import Final, NamedTuple

from dynmem.errors import RemoteProtocolError
from dynmem.limits import GPADL_PAGES_MAX, GPADLS_MAX
from dynmem.units import PAGE_SHIFT, PAGE_SIZE
from dynmem.vmbus.memory import GpadlMemory, GuestMemory, PageRuns
from dynmem.vmbus.rejection import Rejection
from dynmem.wire.vmbus import GpadlHeader

_RANGE: Final = struct.Struct("<II")


class RefusedGpadlError(RemoteProtocolError):
    """A GPADL that the host does not make; `cause` says why."""

    def __init__(self, cause: Rejection) -> None:
        super().__init__(cause.value)
        self.cause: Final = cause


class GpadlSnapshot(NamedTuple):
    """A GPADL as it stands: `words` are the page numbers (packed u64) that have come."""

    relid: int
    gpadl_id: int
    pages: int
    words: bytes


class Gpadl:
    """One list of pages, whole when `complete`.

    Attributes:
        relid: The channel that it is for.
        gpadl_id: Its number, chosen by the guest.
        pages: How many pages its header declares.

    """

    __slots__ = ("_runs", "gpadl_id", "pages", "relid")

    def __init__(self, relid: int, gpadl_id: int, pages: int) -> None:
        self.relid: Final = relid
        self.gpadl_id: Final = gpadl_id
        self.pages: Final = pages
        self._runs = PageRuns()

    @property
    def complete(self) -> bool:
        """Whether all page numbers have come."""
        return self._runs.pages == self.pages

    def add(self, words: bytes) -> None:
        """Take page numbers (packed u64), as many as are still missing; the rest is a message's padding.

        They are put in order here, message by message, so that no later one (an open that is refused again
        and again) has to look at them all.
        """
        count = min(len(words) >> 3, self.pages - self._runs.pages)
        self._runs.extend(struct.unpack_from(f"<{count}Q", words))

    def memory(self, memory: GuestMemory) -> GpadlMemory:
        """Return the pages of a complete GPADL as one stretch of `memory`."""
        assert self.complete
        return GpadlMemory(memory, self._runs)

    def snapshot(self) -> GpadlSnapshot:
        """Return it as it stands."""
        return GpadlSnapshot(self.relid, self.gpadl_id, self.pages, self._runs.words())


class GpadlTable:
    """The GPADLs of a bus and what they cost."""

    __slots__ = ("_gpadls", "_pages")

    def __init__(self) -> None:
        self._gpadls: dict[int, Gpadl] = {}
        self._pages = 0

    def __len__(self) -> int:
        return len(self._gpadls)

    def begin(self, header: GpadlHeader, *, channel_is_known: bool) -> Gpadl:
        """Begin the GPADL that `header` declares; RefusedGpadlError leaves the table as it was."""
        if not channel_is_known:
            raise RefusedGpadlError(Rejection.GPADL_OF_UNKNOWN_CHANNEL)
        if header.gpadl in self._gpadls:
            raise RefusedGpadlError(Rejection.GPADL_ID_IN_USE)
        if header.range_count != 1 or len(header.ranges) < _RANGE.size:
            raise RefusedGpadlError(Rejection.GPADL_NOT_ONE_RANGE)
        byte_count, byte_offset = _RANGE.unpack_from(header.ranges)
        pages = byte_count >> PAGE_SHIFT
        if byte_offset or byte_count % PAGE_SIZE or not pages:
            raise RefusedGpadlError(Rejection.GPADL_NOT_WHOLE_PAGES)
        if header.range_buflen != _RANGE.size + 8 * pages:
            raise RefusedGpadlError(Rejection.GPADL_LENGTHS_DIFFER)
        if len(self._gpadls) >= GPADLS_MAX or self._pages + pages > GPADL_PAGES_MAX:
            raise RefusedGpadlError(Rejection.TOO_MANY_GPADLS)
        gpadl = Gpadl(header.child_relid, header.gpadl, pages)
        gpadl.add(header.ranges[_RANGE.size :])
        self._insert(gpadl)
        return gpadl

    def _insert(self, gpadl: Gpadl) -> None:
        self._gpadls[gpadl.gpadl_id] = gpadl
        self._pages += gpadl.pages

    def get(self, gpadl_id: int) -> Gpadl | None:
        """Return the GPADL of that id, if there is one."""
        return self._gpadls.get(gpadl_id)

    def remove(self, gpadl: Gpadl) -> None:
        """Forget `gpadl`."""
        del self._gpadls[gpadl.gpadl_id]
        self._pages -= gpadl.pages

    def remove_of(self, relid: int) -> None:
        """Forget every GPADL of a channel."""
        for gpadl in [gpadl for gpadl in self._gpadls.values() if gpadl.relid == relid]:
            self.remove(gpadl)

    def clear(self) -> None:
        """Forget all."""
        self._gpadls.clear()
        self._pages = 0

    def snapshot(self) -> tuple[GpadlSnapshot, ...]:
        """Return all of them as they stand."""
        return tuple(gpadl.snapshot() for gpadl in self._gpadls.values())

    def restore(self, snapshot: tuple[GpadlSnapshot, ...]) -> None:
        """Make the table what it was when the snapshot was taken."""
        self.clear()
        for relid, gpadl_id, pages, words in snapshot:
            gpadl = Gpadl(relid, gpadl_id, pages)
            gpadl.add(words)
            self._insert(gpadl)
