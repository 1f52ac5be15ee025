"""One turn of the machine: take what the guest asks, let the device work, bring it messages and signals.

Of calls and of packets a bounded number each: the monitor and the timers have their turn in between.
"""

import errno
from collections.abc import Callable
from typing import Final

from dynmem import trace_events
from dynmem.direction import Direction
from dynmem.dm.events import ActualChanged, HotRemoveFinished, StatusReported
from dynmem.errors import RemoteProtocolError
from dynmem.limits import VM_HYPERCALLS_PER_TURN, VM_PACKETS_PER_TURN
from dynmem.units import PAGE_SHIFT
from dynmem.vm.balloon.device import HvBalloon
from dynmem.vm.dimms import Devices
from dynmem.vm.embedded.guest import Processor
from dynmem.vm.events import Emit
from dynmem.vm.faults import Faults
from dynmem.vm.memory_map import MachineMemory
from dynmem.vm.recording import Recording
from dynmem.vmbus import Bus, BusState, ChannelClosed, ChannelFaulted, ChannelOpened, OutgoingMessage
from dynmem.wire import hardware as wire
from dynmem.wire.synic import VMBUS_MESSAGE_TYPE, HvStatus, MessageSlot


class Turn:
    """What the machine's one task does over and over. `wake` makes another turn follow.

    Attributes:
        channel_faults: How often each channel was faulted, by relid.

    """

    def __init__(
        self,
        *,
        memory: MachineMemory,
        devices: Devices,
        bus: Bus,
        balloon: HvBalloon | None,
        wake: Callable[[], None],
        emit: Emit,
        faults: Faults,
        recording: Recording,
    ) -> None:
        self._memory = memory
        self._devices = devices
        self._bus = bus
        self._balloon = balloon
        self._wake = wake
        self._emit = emit
        self._faults = faults
        self._recording = recording
        self._waiting: OutgoingMessage | None = None  # that found its slot full
        self._added_bytes = 0  # of hv-balloon's memory, as the monitor's clients know it
        self.channel_faults: Final[dict[int, int]] = {}

    async def take(self, processor: Processor) -> None:
        """Take calls and packets, a bounded number of each, and bring what they cause to the guest."""
        hardware = processor.hardware
        if hardware.calls.ready:
            await self._take_calls(processor)
        for connection_id, doorbell in hardware.doorbells.items():
            if doorbell.ready:
                hardware.take_doorbell(connection_id)
                doorbell.arm()
        if self._balloon is not None:
            self._serve(processor, self._balloon)
        self._deliver(processor)

    def power_off(self) -> None:
        """The guest is gone: so is what it made of the bus."""
        self._bus.reset()
        self._waiting = None
        self._follow_bus()

    def _serve(self, processor: Processor, balloon: HvBalloon) -> None:
        """Let the device work; guest and monitor hear of each step at once."""
        balloon.tick()
        for _ in range(VM_PACKETS_PER_TURN):
            if not balloon.receive():
                break
            self._deliver(processor)
            balloon.send()
            self._report(processor, balloon)
        else:
            self._wake()
        balloon.send()
        self._report(processor, balloon)

    async def _take_calls(self, processor: Processor) -> None:
        for _ in range(VM_HYPERCALLS_PER_TURN):
            try:
                message = processor.hardware.receive()
            except RemoteProtocolError as error:
                self._faults.note("hardware", str(error))
                continue
            except EOFError:
                processor.hang_up()
                return
            if message is None:
                processor.hardware.await_call()
                return
            await self._obey(processor, message)
        self._wake()  # there may be more, but others first

    async def _obey(self, processor: Processor, message: wire.Message) -> None:
        """Take one message: a call, or what the guest says of its slots."""
        if isinstance(message, wire.Hypercall | wire.WriteMsr):
            await self._call(processor, message)
        elif isinstance(message, wire.SlotMapped | wire.SlotUnmapped):
            self._memory.slots.acknowledged(message)
        elif isinstance(message, wire.UnplugAnswered):
            await self._devices.answered(message)
        else:
            self._faults.note("hardware", f"the guest sent {type(message).__name__}, which only a host sends")

    async def _call(self, processor: Processor, message: wire.Hypercall | wire.WriteMsr) -> None:
        """Carry out one call and what follows from it before the guest hears that it is done."""
        if isinstance(message, wire.Hypercall):
            offered = self._bus.state is BusState.OFFERED
            status = processor.hypercalls.call(message.control, message.input_gpa)
            self._follow_bus()
            if offered and self._bus.state is not BusState.OFFERED and self._balloon is not None:
                await self._balloon.restarted()
        else:
            status = processor.synic.write_msr(message.msr, message.value)
        self._deliver(processor)
        if status is not HvStatus.SUCCESS:
            self._faults.note("call refused", f"{type(message).__name__} was answered with {status.name}")
        processor.hardware.reply(message.sequence, status)

    def _follow_bus(self) -> None:
        """Tell the device what became of its channel."""
        for event in self._bus.take_events():
            if isinstance(event, ChannelOpened) and self._balloon is not None:
                self._balloon.opened(event.channel)
            elif isinstance(event, ChannelClosed) and self._balloon is not None:
                self._balloon.closed()
            elif isinstance(event, ChannelFaulted):
                self._channel_faulted(event)

    def _channel_faulted(self, event: ChannelFaulted) -> None:
        relid = event.channel.relid
        self.channel_faults[relid] = self.channel_faults.get(relid, 0) + 1
        text = f"channel {relid} ({event.channel.offer.name}): {event.reason}"
        self._faults.note("channel faulted", text)
        if self._recording.capture is not None:
            self._recording.capture.note(text)
        if self._balloon is not None:
            self._balloon.closed()

    def _deliver(self, processor: Processor) -> None:
        """Bring messages and signals into guest memory, as far as there is room."""
        self._follow_bus()
        while (message := self._bus.next_message()) is not None:
            if not processor.synic.deliver(message.sint, MessageSlot(VMBUS_MESSAGE_TYPE, message.payload)):
                if message is not self._waiting:
                    self._recording.trace(trace_events.VMBUS_MSG_CB, -errno.EAGAIN)
                self._waiting = message
                break
            if self._recording.capture is not None:
                self._recording.capture.message(Direction.HOST_TO_GUEST, message.payload)
            self._bus.message_delivered()
        for signal in self._bus.take_signals():
            processor.synic.signal(signal.sint, signal.flag)

    def _report(self, processor: Processor, balloon: HvBalloon) -> None:
        """Tell the monitor's clients."""
        self._deliver(processor)
        self._report_added(balloon)
        for event in balloon.take_events():
            if isinstance(event, ActualChanged):
                self._emit("BALLOON_CHANGE", {"actual": event.pages << PAGE_SHIFT})
            elif isinstance(event, StatusReported):
                self._emit(
                    "HV_BALLOON_STATUS_REPORT",
                    {"committed": event.committed_bytes, "available": event.available_bytes},
                )

            elif isinstance(event, HotRemoveFinished):
                told = {"asked": event.asked << PAGE_SHIFT, "removed": event.got << PAGE_SHIFT}
                self._emit("X_HV_BALLOON_HOT_REMOVED", {"id": balloon.identity, **told})

    def _report_added(self, balloon: HvBalloon) -> None:
        """Tell when the guest has more or less of the device's memory than before."""
        added = balloon.hot_added.added_bytes if balloon.hot_added is not None else 0
        if added != self._added_bytes:
            self._added_bytes = added
            told = {
                "id": balloon.identity,
                "size": added,
                "qom-path": f"/machine/peripheral/{balloon.identity}",
            }
            self._emit("MEMORY_DEVICE_SIZE_CHANGE", told)
