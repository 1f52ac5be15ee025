"""One turn of the machine: take what the guest asks, let the device work, bring it messages and signals.

A turn is bounded in calls, packets, bytes and time (`budget`), so the monitor and the timers run in between.
"""

import errno
from collections.abc import Callable
from typing import Final

from dynmem import trace_events
from dynmem.direction import Direction
from dynmem.limits import VM_PACKETS_PER_TURN
from dynmem.vm.balloon.device import HvBalloon
from dynmem.vm.budget import Budget
from dynmem.vm.clock import VirtualClock
from dynmem.vm.dimms import Dimms
from dynmem.vm.events import Events
from dynmem.vm.faults import Faults
from dynmem.vm.hyperv.extended import EXTENDED_CALLS, ExtendedCalls
from dynmem.vm.hyperv.hypercalls import Hypercalls
from dynmem.vm.platform import Platform
from dynmem.vm.recording import Recording
from dynmem.vmbus import Bus, BusState, ChannelClosed, ChannelFaulted, ChannelOpened, OutgoingMessage
from dynmem.vmbus.memory import GuestMemory
from dynmem.vmbus.reoffers import Reoffers
from dynmem.wire.synic import HvStatus, HypercallInput, hypercall_result, hypercall_status


class Turn:
    """What the machine's one task does over and over; the `GuestCalls` of its platform.

    Attributes:
        channel_faults: How often each channel was faulted, by relid.

    """

    def __init__(
        self,
        *,
        platform: Platform,
        memory: GuestMemory,
        bus: Bus,
        clock: VirtualClock,
        balloon: HvBalloon | None,
        dimms: Dimms,
        wake: Callable[[], None],
        events: Events,
        faults: Faults,
        recording: Recording,
        budget: Budget | None = None,
    ) -> None:
        self._platform = platform
        self._hypercalls = Hypercalls(memory, bus, recording.capture)
        reporting = None if balloon is None else balloon.reporting
        self._extended = None if reporting is None else ExtendedCalls(memory, reporting.report)
        self._bus = bus
        self._clock = clock
        self._reoffers = Reoffers(bus)
        self._balloon = balloon
        self._dimms = dimms
        self._wake = wake
        self._events = events
        self._faults = faults
        self._recording = recording
        self._budget = budget or Budget()
        self._waiting: OutgoingMessage | None = None  # that found its slot full
        self._reported_bytes = 0  # of hv-balloon's memory, as the monitor's clients know it
        self.channel_faults: Final[dict[int, int]] = {}

    async def take(self) -> None:
        """Take calls and packets, as the budget allows, and bring what they cause to the guest."""
        self._budget.begin()
        await self._platform.serve(self)
        if self._balloon is None:
            self._deliver()
        else:
            self._serve(self._balloon)

    def deadline_ns(self) -> int | None:
        """Return when a turn is needed though the guest is silent, by the machine's clock."""
        deadlines = [self._reoffers.deadline_ns()]
        if self._balloon is not None:
            deadlines.append(self._balloon.deadline_ns())
        return min((ns for ns in deadlines if ns is not None), default=None)

    def power_off(self) -> None:
        """Reset the bus: the guest that used it is gone."""
        self._bus.reset()
        self._waiting = None
        self._follow_bus()
        self._reoffers.forget()

    def _serve(self, balloon: HvBalloon) -> None:
        """Take the device's packets one by one; guest and monitor learn of each step at once."""
        balloon.collect_discards()
        balloon.tick()
        for _ in range(VM_PACKETS_PER_TURN):
            received = balloon.receive()
            self._budget.spend(received)
            balloon.begin_discards()
            balloon.send()
            self._deliver()
            self._report(balloon)
            if not received:
                return
            if self._budget.is_spent:
                break
        self._wake()  # there may be more, but others first

    # what the platform hands up

    @property
    def is_over(self) -> bool:
        return self._budget.is_spent

    async def hypercall(self, call: HypercallInput) -> int:
        if self._extended is not None and call.code in EXTENDED_CALLS:
            result = await self._extended.call(call)
        else:
            result = hypercall_result(await self._of_bus(call))
        status = hypercall_status(result)
        if status is not HvStatus.SUCCESS:
            self._faults.note("call refused", f"a hypercall ({call.control:#x}): {status.name}")
        return result

    async def _of_bus(self, call: HypercallInput) -> HvStatus:
        was_offered = self._bus.state is BusState.OFFERED
        status = self._hypercalls.call(call)
        self._follow_bus()
        if was_offered and self._bus.state is not BusState.OFFERED and self._balloon is not None:
            await self._balloon.restarted()
        self._deliver()
        return status

    def retry_messages(self) -> None:
        self._deliver()

    async def unplug_answered(self, address: int, *, is_done: bool) -> None:
        await self._dimms.unplug_answered(address, is_done=is_done)

    async def dimm_ejected(self, slot: int) -> None:
        await self._dimms.ejected(slot)

    def dimm_reported(self, slot: int, source: int, status: int) -> None:
        self._dimms.reported(slot, source, status)

    # the bus

    def _follow_bus(self) -> None:
        """Pass on to the device what became of its channel, and replace a broken one."""
        for event in self._bus.take_events():
            if isinstance(event, ChannelFaulted):
                self._note_fault(event)
            if self._balloon is None:
                continue
            if isinstance(event, ChannelOpened):
                self._balloon.opened(event.channel)
            elif isinstance(event, ChannelClosed | ChannelFaulted):
                self._balloon.closed()
        self._reoffers.tick(self._clock.now_ns())

    def _note_fault(self, event: ChannelFaulted) -> None:
        self._reoffers.faulted(event.channel, self._clock.now_ns())
        relid = event.channel.relid
        self.channel_faults[relid] = self.channel_faults.get(relid, 0) + 1
        text = f"channel {relid} ({event.channel.offer.name}): {event.reason}"
        self._faults.note("channel faulted", text)
        if self._recording.capture is not None:
            self._recording.capture.note(text)

    def _deliver(self) -> None:
        """Bring messages and signals into guest memory, as far as there is room."""
        self._follow_bus()
        while (message := self._bus.next_message()) is not None:
            if not self._platform.deliver(message):
                if message is not self._waiting:
                    self._recording.trace(trace_events.VMBUS_MSG_CB, -errno.EAGAIN)
                self._waiting = message
                break
            if self._recording.capture is not None:
                self._recording.capture.message(Direction.HOST_TO_GUEST, message.payload)
            self._bus.message_delivered()
        for signal in self._bus.take_signals():
            self._platform.signal(signal)

    # the monitor

    def _report(self, balloon: HvBalloon) -> None:
        """Report what the device did to the monitor's clients."""
        added = balloon.hot_added.added_bytes if balloon.hot_added is not None else 0
        if added != self._reported_bytes:
            self._reported_bytes = added
            self._events.memory_device_resized(balloon.identity, added)
        for event in balloon.take_events():
            self._events.of_balloon(balloon.identity, event)
