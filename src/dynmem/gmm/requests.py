"""Request buffers of the Global Memory Manager: what travels when a caller sits in another process.

A request is an operation (VMMR0_DO_GMM_*) and the buffer that the original has for it: the header of all
requests, fields, and for three of them an array at the end. `parse` reads a buffer that a caller may have
forged: only GmmError comes out, and its array takes no more memory than the buffer. The buffers are those of
VBox/vmm/gmm.h (the header is in VBox/sup.h); the operations have the numbers of VBox/vmm/vmm.h from
VirtualBox 5.0 to 7.0. There are no sessions of a support driver here: pSession travels and is not read.

`serving` performs requests, and the wrappers in `batches` and `calls` send them.
"""

import enum
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from dynmem.gmm.codes import GmmError, Status
from dynmem.gmm.constants import (
    GMM_SHARED_MODULE_MAX_NAME_STRING,
    GMM_SHARED_MODULE_MAX_VERSION_STRING,
    MAX_PAGES_OF_CALL,
    SUPVMMR0REQHDR_MAGIC,
)
from dynmem.gmm.structures import (
    GMMFREEPAGEDESC,
    GMMPAGEDESC,
    GMMSTATS,
    VMMDEVSHAREDREGIONDESC,
    Records,
    Structure,
    layout,
)


class Operation(enum.IntEnum):
    """VMMR0_DO_GMM_*: what a request asks for."""

    INITIAL_RESERVATION = 256
    UPDATE_RESERVATION = 257
    ALLOCATE_PAGES = 258
    FREE_PAGES = 259
    FREE_LARGE_PAGE = 260
    QUERY_HYPERVISOR_MEM_STATS = 261
    QUERY_MEM_STATS = 262
    BALLOONED_PAGES = 263
    MAP_UNMAP_CHUNK = 264
    SEED_CHUNK = 265
    REGISTER_SHARED_MODULE = 266
    UNREGISTER_SHARED_MODULE = 267
    RESET_SHARED_MODULES = 268
    CHECK_SHARED_MODULES = 269
    FIND_DUPLICATE_PAGE = 270
    QUERY_STATISTICS = 271
    RESET_STATISTICS = 272

    @property
    def symbol(self) -> str:
        """The name in the original."""
        return f"VMMR0_DO_GMM_{self.name}"


#: What every request begins with, SUPVMMR0REQHDR_MAGIC and its bytes.
SUPVMMR0REQHDR: Final[Structure] = layout(("u32Magic", "<u4"), ("cbReq", "<u4"))

GMMINITIALRESERVATIONREQ: Final[Structure] = layout(
    ("Hdr", SUPVMMR0REQHDR),
    ("cBasePages", "<u8"),
    ("cShadowPages", "<u4"),
    ("cFixedPages", "<u4"),
    ("enmPolicy", "<u4"),
    ("enmPriority", "<u4"),
)
GMMUPDATERESERVATIONREQ: Final[Structure] = layout(
    ("Hdr", SUPVMMR0REQHDR), ("cBasePages", "<u8"), ("cShadowPages", "<u4"), ("cFixedPages", "<u4")
)
# The array aPages follows.
GMMALLOCATEPAGESREQ: Final[Structure] = layout(
    ("Hdr", SUPVMMR0REQHDR), ("enmAccount", "<u4"), ("cPages", "<u4")
)
# The array aPages follows.
GMMFREEPAGESREQ: Final[Structure] = layout(("Hdr", SUPVMMR0REQHDR), ("enmAccount", "<u4"), ("cPages", "<u4"))
GMMBALLOONEDPAGESREQ: Final[Structure] = layout(
    ("Hdr", SUPVMMR0REQHDR), ("cBalloonedPages", "<u4"), ("enmAction", "<u4")
)
GMMMEMSTATSREQ: Final[Structure] = layout(
    ("Hdr", SUPVMMR0REQHDR),
    ("cAllocPages", "<u8"),
    ("cFreePages", "<u8"),
    ("cBalloonedPages", "<u8"),
    ("cSharedPages", "<u8"),
    ("cMaxPages", "<u8"),
)
GMMMAPUNMAPCHUNKREQ: Final[Structure] = layout(
    ("Hdr", SUPVMMR0REQHDR), ("idChunkMap", "<u4"), ("idChunkUnmap", "<u4"), ("pvR3", "<u8")
)
GMMFREELARGEPAGEREQ: Final[Structure] = layout(("Hdr", SUPVMMR0REQHDR), ("idPage", "<u4"))
# The array aRegions follows.
GMMREGISTERSHAREDMODULEREQ: Final[Structure] = layout(
    ("Hdr", SUPVMMR0REQHDR),
    ("cbModule", "<u4"),
    ("cRegions", "<u4"),
    ("GCBaseAddr", "<u8"),
    ("enmGuestOS", "<u4"),
    ("rc", "<i4"),
    ("szName", f"S{GMM_SHARED_MODULE_MAX_NAME_STRING}"),
    ("szVersion", f"S{GMM_SHARED_MODULE_MAX_VERSION_STRING}"),
)
GMMUNREGISTERSHAREDMODULEREQ: Final[Structure] = layout(
    ("Hdr", SUPVMMR0REQHDR),
    ("cbModule", "<u4"),
    ("u32Alignment", "<u4"),
    ("GCBaseAddr", "<u8"),
    ("szName", f"S{GMM_SHARED_MODULE_MAX_NAME_STRING}"),
    ("szVersion", f"S{GMM_SHARED_MODULE_MAX_VERSION_STRING}"),
)
GMMFINDDUPLICATEPAGEREQ: Final[Structure] = layout(
    ("Hdr", SUPVMMR0REQHDR), ("idPage", "<u4"), ("fDuplicate", "?")
)
GMMQUERYSTATISTICSSREQ: Final[Structure] = layout(
    ("Hdr", SUPVMMR0REQHDR), ("pSession", "<u8"), ("Stats", GMMSTATS)
)
GMMRESETSTATISTICSSREQ: Final[Structure] = layout(
    ("Hdr", SUPVMMR0REQHDR), ("pSession", "<u8"), ("Stats", GMMSTATS)
)


class Shape(NamedTuple):
    """The buffer of an operation.

    Attributes:
        fields: Its structure, up to the array at its end.
        array: An element of the array, if it has one.
        length: The field with the number of elements.
    """

    fields: Structure
    array: Structure | None = None
    length: str = ""


#: The buffer of each operation; an operation that is missing has none, and an empty one travels.
SHAPES: Final[dict[Operation, Shape]] = {
    Operation.INITIAL_RESERVATION: Shape(GMMINITIALRESERVATIONREQ),
    Operation.UPDATE_RESERVATION: Shape(GMMUPDATERESERVATIONREQ),
    Operation.ALLOCATE_PAGES: Shape(GMMALLOCATEPAGESREQ, GMMPAGEDESC, "cPages"),
    Operation.FREE_PAGES: Shape(GMMFREEPAGESREQ, GMMFREEPAGEDESC, "cPages"),
    Operation.FREE_LARGE_PAGE: Shape(GMMFREELARGEPAGEREQ),
    Operation.QUERY_HYPERVISOR_MEM_STATS: Shape(GMMMEMSTATSREQ),
    Operation.QUERY_MEM_STATS: Shape(GMMMEMSTATSREQ),
    Operation.BALLOONED_PAGES: Shape(GMMBALLOONEDPAGESREQ),
    Operation.MAP_UNMAP_CHUNK: Shape(GMMMAPUNMAPCHUNKREQ),
    Operation.REGISTER_SHARED_MODULE: Shape(GMMREGISTERSHAREDMODULEREQ, VMMDEVSHAREDREGIONDESC, "cRegions"),
    Operation.UNREGISTER_SHARED_MODULE: Shape(GMMUNREGISTERSHAREDMODULEREQ),
    Operation.FIND_DUPLICATE_PAGE: Shape(GMMFINDDUPLICATEPAGEREQ),
    Operation.QUERY_STATISTICS: Shape(GMMQUERYSTATISTICSSREQ),
    Operation.RESET_STATISTICS: Shape(GMMRESETSTATISTICSSREQ),
}

#: Bytes of the longest request that a call can accept, an allocation of the most pages.
REQUEST_BYTES_MAX: Final = GMMALLOCATEPAGESREQ.itemsize + MAX_PAGES_OF_CALL * GMMPAGEDESC.itemsize

_NO_FIELDS: Final = Shape(layout())
_NO_ARRAY: Final = np.zeros(0, np.uint8).view(layout(("none", "u1")))


class Request:
    """An operation and its buffer, whose fields are read and set by the names of the original.

    Attributes:
        operation: What is asked for.
        array: The array at the end of the buffer (aPages, aRegions); empty if the operation has none.
    """

    __slots__ = ("_fields", "array", "operation")

    def __init__(self, operation: Operation, fields: Records, array: Records) -> None:
        self.operation: Final = operation
        self._fields: Final = fields
        self.array: Final = array

    def __getitem__(self, field: str) -> int:
        return int(self._fields[field][0])

    def __setitem__(self, field: str, value: int | bytes) -> None:
        kind = self._fields.dtype[field]
        # numpy would cut a text that is too long, and take a bool for a text
        fits = isinstance(value, bytes) == (kind.kind == "S")
        if fits and isinstance(value, bytes):
            fits = len(value) < kind.itemsize
        if fits and isinstance(value, int) and kind.kind in "iu":
            fits = np.iinfo(kind).min <= value <= np.iinfo(kind).max
        if not fits:
            raise GmmError(
                Status.INVALID_PARAMETER,
                f"{field} of {self.operation.symbol} cannot be {value!r}: it is of the type {kind}",
            )
        self._fields[field][0] = value

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the fields."""
        yield from (name for name in self._fields.dtype.names or () if name != "Hdr")

    def text(self, field: str) -> bytes:
        """Return an array of characters, without the 0 bytes at its end."""
        return bytes(self._fields[field][0])

    def record(self, field: str) -> Records:
        """Return a structure in the buffer as an array of one, to read and to set."""
        part: Records = self._fields[field]
        return part

    def encode(self) -> bytes:
        """Return the buffer."""
        return self._fields.tobytes() + self.array.tobytes()


def new_request(operation: Operation, count: int = 0, /, **values: int | bytes) -> Request:
    """Return a request with *count* elements in its array, its header and these fields; all else is 0.

    Raises GmmError (INVALID_PARAMETER) for a value or a count that its field cannot hold.
    """
    shape = SHAPES.get(operation, _NO_FIELDS)
    if not 0 <= count <= (MAX_PAGES_OF_CALL if shape.array is not None else 0):
        raise GmmError(Status.INVALID_PARAMETER, f"{count} elements do not fit into {operation.symbol}")
    fields = np.zeros(1 if shape.fields.itemsize else 0, shape.fields)
    array = _NO_ARRAY if shape.array is None else np.zeros(count, shape.array)
    request = Request(operation, fields, array)
    if len(fields):
        fields["Hdr"]["u32Magic"] = SUPVMMR0REQHDR_MAGIC
        fields["Hdr"]["cbReq"] = fields.nbytes + array.nbytes
    if shape.length:
        request[shape.length] = count
    for field, value in values.items():
        request[field] = value
    return request


def parse(operation: int, data: bytes) -> Request:
    """Return the request in a buffer of another process.

    Raises GmmError: NOT_SUPPORTED for an operation that does not exist, INVALID_PARAMETER for a buffer with
    another mark, size or number of elements than its operation has.
    """
    try:
        known = Operation(operation)
    except ValueError:
        raise GmmError(Status.NOT_SUPPORTED, f"operation {operation} does not exist") from None
    shape = SHAPES.get(known, _NO_FIELDS)
    size = shape.fields.itemsize
    if len(data) < size or (shape.array is None and len(data) > size):
        raise _unfit(known, f"is {len(data)} bytes long, not {size}")
    if not size:
        return new_request(known)
    fields = np.frombuffer(bytearray(data[:size]), shape.fields)
    magic, stated = (int(fields["Hdr"][part][0]) for part in ("u32Magic", "cbReq"))
    if magic != SUPVMMR0REQHDR_MAGIC:
        raise _unfit(known, f"begins with {magic:#x} instead of {SUPVMMR0REQHDR_MAGIC:#x}")
    if stated != len(data):
        raise _unfit(known, f"says that it is {stated} bytes long and is {len(data)}")
    if shape.array is None:
        return Request(known, fields, _NO_ARRAY)
    count = int(fields[shape.length][0])
    if len(data) != size + count * shape.array.itemsize:
        raise _unfit(known, f"says that it has {count} elements and is {len(data)} bytes long")
    return Request(known, fields, np.frombuffer(bytearray(data[size:]), shape.array))


def _unfit(operation: Operation, what: str) -> GmmError:
    return GmmError(Status.INVALID_PARAMETER, f"the request of {operation.symbol} {what}")
