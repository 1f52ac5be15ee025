"""What travels between a caller and the process that keeps the books, one packet each.

| packet | bytes |
|---|---|
| greeting, the caller's first | magic, version, NUMA node, address of its window, the VM's name in UTF-8 |
| welcome | magic, version, the VM's handle, status; with the memory file as a descriptor if that is 0 |
| request | the number of an operation (`VMMR0_DO_GMM_*`), then the request buffer of that operation |
| reply | as `gmm.replies` describes it: a status, the buffer with its outputs, a sentence on failure |

All little-endian. The socket keeps packets whole (SOCK_SEQPACKET), so none needs a length.
"""

import struct
from typing import Final, NamedTuple, Self

from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.gmm.codes import Status
from dynmem.gmm.replies import REPLY_EXTRA_BYTES_MAX
from dynmem.limits import CHUNK_NAME_BYTES_MAX, CHUNK_REQUEST_BYTES_MAX
from dynmem.units import PAGE_SIZE

MAGIC: Final = b"GMM\x00"
VERSION: Final = 1
ADDRESS_BITS: Final = 47

_GREETING: Final = struct.Struct("<4sHHQ")
_WELCOME: Final = struct.Struct("<4sHHi")
_OPERATION: Final = struct.Struct("<I")

#: The longest packet that a caller sends.
PACKET_BYTES_MAX: Final = _OPERATION.size + CHUNK_REQUEST_BYTES_MAX
#: The longest that a caller gets in reply.
REPLY_BYTES_MAX: Final = CHUNK_REQUEST_BYTES_MAX + REPLY_EXTRA_BYTES_MAX


class Greeting(NamedTuple):
    """A caller that stands for a VM.

    Attributes:
        vm: The name of the VM.
        window: Where chunk 0 would lie in the caller's address space; each chunk has its place from there.
        numa_node: Where its memory is wanted.
    """

    vm: str
    window: int
    numa_node: int = 0

    def encode(self) -> bytes:
        """Return the packet. Raises LocalProtocolError if the name, or the node, cannot be sent."""
        try:
            packet = _GREETING.pack(MAGIC, VERSION, self.numa_node, self.window) + self.vm.encode()
            self.decode(packet)
        except (RemoteProtocolError, UnicodeEncodeError, struct.error) as error:
            raise LocalProtocolError(
                f"no greeting for {self.vm!r} on node {self.numa_node}: {error}"
            ) from None
        return packet

    @classmethod
    def decode(cls, packet: bytes) -> Self:
        """Return what a packet says. Raises RemoteProtocolError."""
        name = packet[_GREETING.size :]
        if len(packet) < _GREETING.size or not 0 < len(name) <= CHUNK_NAME_BYTES_MAX:
            raise RemoteProtocolError(
                f"a greeting of {len(packet)} bytes: it has {_GREETING.size}, and 1 to {CHUNK_NAME_BYTES_MAX}"
                " bytes of a VM's name"
            )
        magic, version, numa_node, window = _GREETING.unpack_from(packet)
        if (magic, version) != (MAGIC, VERSION):
            raise RemoteProtocolError(
                f"a greeting that begins with {packet[:6].hex(' ')} is of another protocol"
            )
        if window % PAGE_SIZE or not 0 < window < 1 << ADDRESS_BITS:
            raise RemoteProtocolError(f"a window at {window:#x} is not at a page of a process")
        try:
            vm = name.decode()
        except UnicodeDecodeError as error:
            raise RemoteProtocolError(f"a VM's name is not UTF-8: {error.reason}") from None
        if not vm.isprintable():
            raise RemoteProtocolError(f"a VM's name has a character that cannot be printed: {vm!r}")
        return cls(vm, window, numa_node)


class Welcome(NamedTuple):
    """What becomes of a greeting.

    Attributes:
        status: SUCCESS, or why the books refuse the VM.
        handle: The number of the VM in the books (hGVM); 0 if it was refused.
    """

    status: Status
    handle: int = 0

    def encode(self) -> bytes:
        """Return the packet."""
        return _WELCOME.pack(MAGIC, VERSION, self.handle, self.status)

    @classmethod
    def decode(cls, packet: bytes) -> Self:
        """Return what a packet says. Raises RemoteProtocolError."""
        if len(packet) != _WELCOME.size or packet[:4] != MAGIC:
            raise RemoteProtocolError(f"{len(packet)} bytes instead of a welcome")
        _, version, handle, number = _WELCOME.unpack(packet)
        if version != VERSION:
            raise RemoteProtocolError(f"the server speaks version {version} of the protocol, not {VERSION}")
        try:
            return cls(Status(number), handle)
        except ValueError:
            raise RemoteProtocolError(f"the welcome carries the unknown status {number}") from None


def encode_request(operation: int, buffer: bytes) -> bytes:
    """Return the packet of a request. Raises LocalProtocolError if it would be too long."""
    if len(buffer) > CHUNK_REQUEST_BYTES_MAX:
        raise LocalProtocolError(
            f"a request of {len(buffer)} bytes is longer than {CHUNK_REQUEST_BYTES_MAX}: send smaller batches"
        )
    return _OPERATION.pack(operation) + buffer


def decode_request(packet: bytes) -> tuple[int, bytes]:
    """Return a request's operation and its buffer, which is not checked. Raises RemoteProtocolError."""
    if len(packet) < _OPERATION.size:
        raise RemoteProtocolError(f"{len(packet)} bytes instead of a request")
    return _OPERATION.unpack_from(packet)[0], packet[_OPERATION.size :]
