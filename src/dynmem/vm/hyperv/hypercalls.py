"""The two hypercalls that VMBus needs: HvPostMessage and HvSignalEvent, with the status codes of QEMU.

Source: Hypervisor Top-Level Functional Specification, inter-partition communication; QEMU hw/hyperv/hyperv.c.
"""

from typing import Final

from dynmem.direction import Direction
from dynmem.errors import RemoteProtocolError
from dynmem.trace.capture import Capture
from dynmem.vmbus import Bus
from dynmem.vmbus.memory import BadAddressError, GuestMemory
from dynmem.wire.synic import (
    HYPERCALL_POST_MESSAGE,
    HYPERCALL_SIGNAL_EVENT,
    MESSAGE_SLOT_BYTES,
    HvStatus,
    HypercallInput,
    decode_post,
    decode_signal,
)

_INPUT_ALIGNMENT: Final = 8
_SIGNAL_BYTES: Final = 8


class Hypercalls:
    """Carries out hypercalls on a bus; `call` raises for nothing that a guest can pass."""

    def __init__(self, memory: GuestMemory, bus: Bus, capture: Capture | None = None) -> None:
        self._memory = memory
        self._bus = bus
        self._capture = capture

    def call(self, call: HypercallInput) -> HvStatus:
        """Carry out one call."""
        try:
            if call.code == HYPERCALL_POST_MESSAGE:
                return HvStatus.INVALID_HYPERCALL_CODE if call.is_fast else self._post(call.input)
            if call.code == HYPERCALL_SIGNAL_EVENT:
                return self._signal(call.input, fast=call.is_fast)
        except BadAddressError:
            return HvStatus.INSUFFICIENT_MEMORY
        except RemoteProtocolError:
            return HvStatus.INVALID_HYPERCALL_INPUT
        return HvStatus.INVALID_HYPERCALL_CODE

    def _post(self, input_gpa: int) -> HvStatus:
        if input_gpa % _INPUT_ALIGNMENT:
            return HvStatus.INVALID_ALIGNMENT
        post = decode_post(self._memory.read(input_gpa, MESSAGE_SLOT_BYTES))
        if self._capture is not None:
            self._capture.message(Direction.GUEST_TO_HOST, post.payload)
        return self._bus.post_message(post.connection_id, post.message_type, post.payload)

    def _signal(self, parameter: int, *, fast: bool) -> HvStatus:
        if not fast and parameter % _INPUT_ALIGNMENT:
            return HvStatus.INVALID_ALIGNMENT
        data = (
            parameter.to_bytes(_SIGNAL_BYTES, "little")
            if fast
            else self._memory.read(parameter, _SIGNAL_BYTES)
        )
        signal = decode_signal(data)
        return self._bus.signal_event(signal.connection_id, signal.flag)
