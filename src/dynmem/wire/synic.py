"""The synthetic interrupt controller on the wire: hypercalls, status codes, MSRs, message and event pages.

A guest posts messages and signals events by hypercall. The host writes messages into a page of sixteen
256-byte slots, one for each SINT, and sets event flags in a page of sixteen times 2048 bits.

Source: Hypervisor Top-Level Functional Specification, chapters on the SynIC and on inter-partition
communication; Linux include/asm-generic/hyperv-tlfs.h.
"""

import enum
import struct
from collections.abc import Collection
from typing import Final, NamedTuple

import msgspec

from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.units import PAGE_SIZE

HYPERCALL_POST_MESSAGE: Final = 0x5C
HYPERCALL_SIGNAL_EVENT: Final = 0x5D
HYPERCALL_CODE_MASK: Final = 0xFFFF
HYPERCALL_FAST: Final = 1 << 16
_REPS_SHIFT: Final = 32  # of a call that repeats: how often, in its control word and in its result
_FIRST_REP_SHIFT: Final = 48
_REPS_MASK: Final = 0xFFF

MSR_SCONTROL: Final = 0x4000_0080
MSR_SVERSION: Final = 0x4000_0081
MSR_SIEFP: Final = 0x4000_0082
MSR_SIMP: Final = 0x4000_0083
MSR_EOM: Final = 0x4000_0084
MSR_SINT0: Final = 0x4000_0090
SINT_COUNT: Final = 16
# bit 0 of SIMP and SIEFP; the page's address is in bits 12 and up
PAGE_MSR_ENABLED: Final = 1

VMBUS_SINT: Final = 2
VMBUS_MESSAGE_TYPE: Final = 1
MESSAGE_CONNECTION_ID: Final = 1
EVENT_CONNECTION_ID: Final = 2
# guests of VMBus 5.0 and later post here
MESSAGE_CONNECTION_ID_4: Final = 4
# a channel is signalled by this + relid
CHANNEL_CONNECTION_ID_BASE: Final = 16

PAYLOAD_BYTES_MAX: Final = 240
MESSAGE_SLOT_BYTES: Final = 256
EVENT_FLAGS_BYTES: Final = 256
EVENT_FLAG_COUNT: Final = 2048
SLOT_FLAG_PENDING: Final = 1

_POST: Final = struct.Struct("<II II")
_SIGNAL: Final = struct.Struct("<IHH")
_SLOT: Final = struct.Struct("<IBBHQ")


class HvStatus(enum.IntEnum):
    """Hypercall status codes."""

    SUCCESS = 0
    INVALID_HYPERCALL_CODE = 2
    INVALID_HYPERCALL_INPUT = 3
    INVALID_ALIGNMENT = 4
    INVALID_PARAMETER = 5
    INSUFFICIENT_MEMORY = 11
    INVALID_PORT_ID = 17
    INVALID_CONNECTION_ID = 18
    INSUFFICIENT_BUFFERS = 19
    NOT_ACKNOWLEDGED = 20


class HypercallInput(NamedTuple):
    """A hypercall as the guest makes it.

    Attributes:
        control: The code in its low 16 bits, then flags; how often it repeats in bits 32 to 43.
        input: The address of its input, or the input itself of a fast call.
        output: The address of its output, or more input of a fast call.
    """

    control: int
    input: int
    output: int = 0

    @property
    def code(self) -> int:
        """Which call it is."""
        return self.control & HYPERCALL_CODE_MASK

    @property
    def is_fast(self) -> bool:
        """Whether its input is in registers and not in memory."""
        return bool(self.control & HYPERCALL_FAST)

    @property
    def reps(self) -> int:
        """How many elements a call that repeats has; 0 of another one."""
        return self.control >> _REPS_SHIFT & _REPS_MASK

    @property
    def first_rep(self) -> int:
        """Which element of a call that repeats is the first to do: an earlier call has done those before."""
        return self.control >> _FIRST_REP_SHIFT & _REPS_MASK


def hypercall_result(status: HvStatus, reps: int = 0) -> int:
    """Return the 64-bit result of a hypercall, of which `reps` elements are done."""
    return reps << _REPS_SHIFT | status


def hypercall_status(result: int) -> HvStatus:
    """Return the status in a result."""
    return HvStatus(result & HYPERCALL_CODE_MASK)


def hypercall_reps(result: int) -> int:
    """Return how many elements are done by a result, those of earlier calls included."""
    return result >> _REPS_SHIFT & _REPS_MASK


class PostMessageInput(msgspec.Struct, frozen=True, gc=False):
    """The input of HvPostMessage, 256 bytes at an address that is a multiple of 8."""

    connection_id: int
    message_type: int
    payload: bytes


def encode_post(message: PostMessageInput) -> bytes:
    """Return the 256 bytes of a post; LocalProtocolError above 240 bytes of payload."""
    size = len(message.payload)
    if size > PAYLOAD_BYTES_MAX:
        raise LocalProtocolError(f"a message of {size} bytes is above {PAYLOAD_BYTES_MAX}")
    try:
        head = _POST.pack(message.connection_id, 0, message.message_type, size)
    except struct.error as error:
        raise LocalProtocolError(f"the post cannot be encoded: {error}") from error
    return head + message.payload.ljust(PAYLOAD_BYTES_MAX, b"\0")


def decode_post(data: bytes) -> PostMessageInput:
    """Return the post in `data` (256 bytes)."""
    if len(data) < MESSAGE_SLOT_BYTES:
        raise RemoteProtocolError(f"HvPostMessage has {len(data)} bytes of input, it needs 256")
    connection_id, _, message_type, size = _POST.unpack_from(data)
    if size > PAYLOAD_BYTES_MAX:
        raise RemoteProtocolError(f"HvPostMessage says {size} bytes of payload")
    return PostMessageInput(connection_id, message_type, data[_POST.size : _POST.size + size])


class SignalEventInput(msgspec.Struct, frozen=True, gc=False):
    """The input of HvSignalEvent: eight bytes in memory, or the first parameter of a fast call."""

    connection_id: int
    flag: int


def encode_signal(signal: SignalEventInput) -> bytes:
    """Return the eight bytes of a signal."""
    try:
        return _SIGNAL.pack(signal.connection_id, signal.flag, 0)
    except struct.error as error:
        raise LocalProtocolError(f"the signal cannot be encoded: {error}") from error


def decode_signal(data: bytes) -> SignalEventInput:
    """Return the signal in `data` (a fast call's parameter is ``parameter.to_bytes(8, "little")``)."""
    if len(data) < _SIGNAL.size:
        raise RemoteProtocolError(f"HvSignalEvent has {len(data)} bytes of input, it needs 8")
    connection_id, flag, _ = _SIGNAL.unpack_from(data)
    return SignalEventInput(connection_id, flag)


class MessageSlot(msgspec.Struct, frozen=True, gc=False):
    """One slot of the message page; `message_type` 0 is an empty slot.

    `pending` asks the guest to write EOM when it has emptied the slot, since another message waits.
    """

    message_type: int
    payload: bytes
    pending: bool = False
    sender: int = 0


def encode_slot(slot: MessageSlot) -> bytes:
    """Return the 256 bytes of a slot."""
    size = len(slot.payload)
    if size > PAYLOAD_BYTES_MAX:
        raise LocalProtocolError(f"a message of {size} bytes is above {PAYLOAD_BYTES_MAX}")
    try:
        head = _SLOT.pack(slot.message_type, size, SLOT_FLAG_PENDING if slot.pending else 0, 0, slot.sender)
    except struct.error as error:
        raise LocalProtocolError(f"the slot cannot be encoded: {error}") from error
    return head + slot.payload.ljust(PAYLOAD_BYTES_MAX, b"\0")


def decode_slot(data: bytes) -> MessageSlot:
    """Return the slot in `data` (256 bytes)."""
    if len(data) < MESSAGE_SLOT_BYTES:
        raise RemoteProtocolError(f"a message slot has 256 bytes, not {len(data)}")
    message_type, size, flags, _, sender = _SLOT.unpack_from(data)
    if size > PAYLOAD_BYTES_MAX:
        raise RemoteProtocolError(f"a message slot says {size} bytes of payload")
    payload = data[_SLOT.size : _SLOT.size + size]
    return MessageSlot(message_type, payload, bool(flags & SLOT_FLAG_PENDING), sender)


def encode_event_flags(flags: Collection[int]) -> bytes:
    """Return the 256 bytes of one SINT's 2048 event flags, with these set."""
    octets = bytearray(EVENT_FLAGS_BYTES)
    for flag in flags:
        if not 0 <= flag < EVENT_FLAG_COUNT:
            raise LocalProtocolError(f"there is no event flag {flag}")
        octets[flag // 8] |= 1 << flag % 8
    return bytes(octets)


def decode_event_flags(data: bytes) -> tuple[int, ...]:
    """Return the flags set in `data` (256 bytes), ascending."""
    if len(data) != EVENT_FLAGS_BYTES:
        raise RemoteProtocolError(f"event flags have {EVENT_FLAGS_BYTES} bytes, not {len(data)}")
    return tuple(
        position * 8 + bit
        for position, octet in enumerate(data)
        if octet
        for bit in range(8)
        if octet >> bit & 1
    )


def decode_message_page(data: bytes) -> tuple[MessageSlot, ...]:
    """Return the sixteen slots of a message page, one for each SINT."""
    if len(data) != PAGE_SIZE:
        raise RemoteProtocolError(f"a message page has {PAGE_SIZE} bytes, not {len(data)}")
    return tuple(
        decode_slot(data[start : start + MESSAGE_SLOT_BYTES])
        for start in range(0, PAGE_SIZE, MESSAGE_SLOT_BYTES)
    )


def decode_event_page(data: bytes) -> tuple[tuple[int, ...], ...]:
    """Return the event flags that are set for each of the sixteen SINTs."""
    if len(data) != PAGE_SIZE:
        raise RemoteProtocolError(f"an event page has {PAGE_SIZE} bytes, not {len(data)}")
    return tuple(
        decode_event_flags(data[start : start + EVENT_FLAGS_BYTES])
        for start in range(0, PAGE_SIZE, EVENT_FLAGS_BYTES)
    )
