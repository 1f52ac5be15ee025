"""QEMU's trace events of what a guest posts, emitted where QEMU emits them: before anything is judged.

Source: QEMU hw/hyperv/vmbus.c, vmbus_recv_message, process_message and the handlers of each message.
"""

from collections.abc import Callable
from typing import Any, Final

from dynmem import trace_events
from dynmem.trace_events import Trace
from dynmem.wire import vmbus as wire

_QEMUS_TYPES: Final = range(1, 18)  # any other is refused at the post
_HEADER_BYTES_MIN: Final = 28  # of a GPADL_HEADER with one range
_RANGE_BYTES: Final = 8
_WORD_BYTES: Final = 8
_SIZE_MASK: Final = (1 << 64) - 1  # what C's unsigned subtraction keeps


def received(trace: Trace, payload: bytes) -> None:
    """Report a post that has at least a message's header."""
    trace(trace_events.VMBUS_RECV_MESSAGE, _type_of(payload), len(payload))


def processed(trace: Trace, payload: bytes, message: wire.Message | None, *, is_connected: bool) -> None:
    """Report a message that is about to be taken or rejected, and what it is about; None: it is malformed."""
    if message is None and _type_of(payload) not in _QEMUS_TYPES:
        return
    trace(trace_events.VMBUS_PROCESS_INCOMING_MESSAGE, _type_of(payload))
    about = _ABOUT.get(type(message))
    if about is None or not (is_connected or isinstance(message, wire.InitiateContact)):
        return
    if isinstance(message, wire.GpadlHeader) and len(payload) < _HEADER_BYTES_MIN:
        return
    about(trace, message)


def _type_of(payload: bytes) -> int:
    return int.from_bytes(payload[:4], "little")


def _contact(trace: Trace, contact: wire.InitiateContact) -> None:
    trace(
        trace_events.VMBUS_INITIATE_CONTACT,
        contact.version >> 16,
        contact.version & 0xFFFF,
        contact.target_vcpu,
        contact.monitor_page1,
        contact.monitor_page2,
        contact.interrupt_page,
    )


def _gpadl_header(trace: Trace, header: wire.GpadlHeader) -> None:
    """Report the number of pages that the header declares by its lengths alone, as C computes it."""
    pages_bytes = header.range_buflen - header.range_count * _RANGE_BYTES
    trace(trace_events.VMBUS_GPADL_HEADER, header.gpadl, (pages_bytes & _SIZE_MASK) // _WORD_BYTES)


def _gpadl_body(trace: Trace, body: wire.GpadlBody) -> None:
    trace(trace_events.VMBUS_GPADL_BODY, body.gpadl)


def _gpadl_teardown(trace: Trace, teardown: wire.GpadlTeardown) -> None:
    trace(trace_events.VMBUS_GPADL_TEARDOWN, teardown.gpadl)


def _open(trace: Trace, request: wire.OpenChannel) -> None:
    trace(trace_events.VMBUS_OPEN_CHANNEL, request.child_relid, request.ringbuffer_gpadl, request.target_vp)


def _open_reserved(trace: Trace, request: wire.OpenReservedChannel) -> None:
    trace(trace_events.VMBUS_OPEN_CHANNEL, request.channel, request.ringbuffer_gpadl, request.target_vp)


def _close(trace: Trace, request: wire.CloseChannel) -> None:
    trace(trace_events.VMBUS_CLOSE_CHANNEL, request.child_relid)


def _close_reserved(trace: Trace, request: wire.CloseReservedChannel) -> None:
    trace(trace_events.VMBUS_CLOSE_CHANNEL, request.channel)


_ABOUT: Final[dict[type, Callable[[Trace, Any], None]]] = {
    wire.InitiateContact: _contact,
    wire.GpadlHeader: _gpadl_header,
    wire.GpadlBody: _gpadl_body,
    wire.GpadlTeardown: _gpadl_teardown,
    wire.OpenChannel: _open,
    wire.OpenReservedChannel: _open_reserved,
    wire.CloseChannel: _close,
    wire.CloseReservedChannel: _close_reserved,
}
