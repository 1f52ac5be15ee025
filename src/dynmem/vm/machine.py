"""One virtual machine: its memory, bus, device and guest, and the one task that owns their state.

Whatever the guest does (calls, doorbells) and whatever time does only wakes the task. It then takes calls,
lets the device work, and brings messages and signals into guest memory. A discard is awaited inside a turn:
nothing else of the guest's is looked at meanwhile. The monitor is served all the time.
"""

import asyncio
import errno
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple, Protocol

from dynmem.dm.events import ActualChanged, StatusReported
from dynmem.errors import RemoteProtocolError
from dynmem.limits import VM_HYPERCALLS_PER_TURN, VM_PACKETS_PER_TURN
from dynmem.memory.backend import MemfdBackend
from dynmem.memory.discard import Discarder
from dynmem.units import NS_PER_S, PAGE_SHIFT
from dynmem.vm.clock import VirtualClock
from dynmem.vm.embedded import GuestProcess
from dynmem.vm.faults import Faults
from dynmem.vm.hardware import Hardware
from dynmem.vm.hv_balloon import HvBalloon
from dynmem.vm.hypercall import Hypercalls
from dynmem.vm.options import VmOptions
from dynmem.vm.recording import Recording
from dynmem.vm.synic import Synic
from dynmem.vmbus.host import Bus, BusState, ChannelClosed, ChannelFaulted, ChannelOpened, OutgoingMessage
from dynmem.vmbus.memory import FlatMemory
from dynmem.wire import hardware as wire
from dynmem.wire.layout import Direction
from dynmem.wire.synic import VMBUS_MESSAGE_TYPE, VMBUS_SINT, HvStatus, MessageSlot

_LOG: Final = logging.getLogger("dynmem.vm")


class Emit(Protocol):
    """Takes an event for the monitor's clients."""

    def __call__(self, event: str, data: Mapping[str, object] | None = None) -> None:
        """Send it."""


class Ending(NamedTuple):
    """Why the machine ended: what the SHUTDOWN event says, and a sentence when something went wrong."""

    guest: bool
    reason: str
    problem: str | None = None


class Machine:
    """A virtual machine with an embedded guest. `start`, then wait for `ended`, then `close`."""

    def __init__(self, options: VmOptions, emit: Emit) -> None:
        """Make memory and devices. Raises ConfigError and BackendError."""
        self.options: Final = options
        self._recording = Recording(
            events=options.trace, log=options.log, capture=options.capture, title=options.name
        )
        self.clock: Final = VirtualClock()
        self.faults: Final = Faults(self.clock.now_ns)
        self.channel_faults: Final[dict[int, int]] = {}
        self.ended: Final = asyncio.Event()
        self.ending: Ending | None = None
        self._emit = emit
        self._backend = MemfdBackend(options.memory_bytes, "guest-ram")
        self._memory = FlatMemory(self._backend.view)
        self._discards = ThreadPoolExecutor(1, "discard")
        self._hardware = Hardware(self._wake)
        self._synic = Synic(self._memory, self._hardware.interrupt, self.faults)
        self.balloon: Final = self._make_balloon()
        self.bus: Final = Bus(
            self._memory, [self.balloon.offer] if self.balloon else [], trace=self._recording.trace
        )
        self._hypercalls = Hypercalls(self._memory, self.bus, self._recording.capture)
        self._waiting: OutgoingMessage | None = None  # that found its slot full
        self._woken = asyncio.Event()
        self._at_work = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._guest: GuestProcess | None = None
        self._task: asyncio.Task[None] | None = None

    def _make_balloon(self) -> HvBalloon | None:
        options = self.options.balloon
        if options is None:
            return None
        return HvBalloon(
            identity=options.identity,
            memory_bytes=self.options.memory_bytes,
            discard=self._discard_with(Discarder(self._backend)),
            status_report=options.status_report,
            post_init_wait_ns=options.post_init_wait_ns,
            clock=self.clock,
            faults=self.faults,
            trace=self._recording.trace,
            capture=self._recording.capture,
        )

    def _discard_with(self, discarder: Discarder) -> Callable[[bytes], asyncio.Future[int]]:
        """Discards in the machine's worker thread, which lets go of the interpreter lock."""
        return lambda ranges: asyncio.get_running_loop().run_in_executor(
            self._discards, discarder.discard, ranges
        )

    # the machine as a whole

    @property
    def run_state(self) -> str:
        """``running``, ``paused`` or ``shutdown``, QEMU's words."""
        if self.ending is not None:
            return "shutdown"
        return "running" if self.clock.running else "paused"

    @property
    def guest_pid(self) -> int:
        """The guest's process."""
        assert self._guest is not None
        return self._guest.pid

    @property
    def resident_bytes(self) -> int:
        """Bytes of guest memory that the host has in memory now."""
        return self._backend.resident_bytes()

    def start(self) -> None:
        """Power on: hand the guest its hardware and start it. Raises ConfigError."""
        hardware = self._hardware
        hardware.map_slot(wire.MapSlot(0, 0, self._backend.size, 0), self._backend.fd)
        hardware.bind_sint(VMBUS_SINT)
        for channel in self.bus.channels.values():
            hardware.bind_doorbell(channel.connection_id)
        options = self.options
        self._guest = GuestProcess(
            options.guest, hardware.guest_end.fileno(), options.serial, self._guest_exited
        )
        hardware.guest_end.close()
        hardware.start()
        self._task = asyncio.create_task(self._work(), name="machine")
        self._task.add_done_callback(self._stopped_working)

    async def stop(self) -> None:
        """Freeze guest and clock when the turn that goes on is over; nothing happens when they are frozen."""
        async with self._at_work:
            if self.run_state != "running" or self._guest is None:
                return
            self._guest.freeze()
            self.clock.stop()
        self._emit("STOP")

    def resume(self) -> None:
        """Let guest and clock go on; nothing happens when they run."""
        if self.run_state != "paused" or self._guest is None:
            return
        self.clock.start()
        self._guest.thaw()
        self._emit("RESUME")
        self._wake()

    def set_balloon(self, size: int) -> None:
        """Ask the guest for a size in bytes."""
        assert self.balloon is not None
        self.balloon.set_target(size)
        self._wake()

    def end(self, ending: Ending) -> None:
        """Begin to end, once: SHUTDOWN is emitted, and `ended` is set."""
        if self.ending is not None:
            return
        self.ending = ending
        self._emit("SHUTDOWN", {"guest": ending.guest, "reason": ending.reason})
        self.ended.set()
        self._wake()

    async def close(self) -> None:
        """End the guest and let go of everything, after a discard that is still going on."""
        if self._guest is not None:
            self._guest.kill()
        if self.ending is None:
            self.ending = Ending(guest=False, reason="host-error")
        self._wake()
        if self._task is not None:
            await asyncio.wait((self._task,))
        if self._timer is not None:
            self._timer.cancel()
        self._discards.shutdown()
        self._hardware.close()
        self._memory.release()
        self._backend.close()
        self._recording.close()

    # the one task

    def _wake(self) -> None:
        self._woken.set()

    async def _work(self) -> None:
        while self.ending is None:
            await self._woken.wait()
            self._woken.clear()
            async with self._at_work:
                if self.run_state == "running":
                    await self._turn()

    def _stopped_working(self, task: "asyncio.Task[None]") -> None:
        """A machine whose task failed is no machine: that is a fault of ours, and it is said."""
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("the machine's own task failed", exc_info=error)
            self.end(Ending(guest=False, reason="host-error", problem=f"internal error: {error!r}"))

    async def _turn(self) -> None:
        """Take calls and packets, a bounded number of each, and bring what they cause to the guest."""
        if self._hardware.calls.ready:
            self._take_calls()
        for connection_id, doorbell in self._hardware.doorbells.items():
            if doorbell.ready:
                self._hardware.take_doorbell(connection_id)
                doorbell.arm()
        if self.balloon is not None:
            await self._serve(self.balloon)
        self._deliver()
        self._set_timer()

    async def _serve(self, balloon: HvBalloon) -> None:
        """Let the device work; guest and monitor hear of each step at once."""
        balloon.tick()
        for _ in range(VM_PACKETS_PER_TURN):
            if not balloon.receive():
                break
            self._deliver()
            await balloon.discard()
            balloon.send()
            self._report(balloon)
        else:
            self._wake()
        await balloon.discard()
        balloon.send()
        self._report(balloon)

    def _take_calls(self) -> None:
        for _ in range(VM_HYPERCALLS_PER_TURN):
            try:
                message = self._hardware.receive()
            except RemoteProtocolError as error:
                self.faults.note("hardware", str(error))
                continue
            except EOFError:
                assert self._guest is not None
                self._guest.hang_up()
                return
            if message is None:
                self._hardware.await_call()
                return
            self._call(message)
        self._wake()  # there may be more, but others first

    def _call(self, message: wire.Message) -> None:
        """Carry out one call and what follows from it before the guest hears that it is done."""
        if isinstance(message, wire.Hypercall):
            offered = self.bus.state is BusState.OFFERED
            status = self._hypercalls.call(message.control, message.input_gpa)
            self._follow_bus()
            if offered and self.bus.state is not BusState.OFFERED and self.balloon is not None:
                self.balloon.restarted()
        elif isinstance(message, wire.WriteMsr):
            status = self._synic.write_msr(message.msr, message.value)
        else:
            return
        self._deliver()
        if status is not HvStatus.SUCCESS:
            self.faults.note("call refused", f"{type(message).__name__} was answered with {status.name}")
        self._hardware.reply(message.sequence, status)

    def _follow_bus(self) -> None:
        """Tell the device what became of its channel."""
        for event in self.bus.take_events():
            if isinstance(event, ChannelOpened) and self.balloon is not None:
                self.balloon.opened(event.channel)
            elif isinstance(event, ChannelClosed) and self.balloon is not None:
                self.balloon.closed()
            elif isinstance(event, ChannelFaulted):
                self._channel_faulted(event)

    def _channel_faulted(self, event: ChannelFaulted) -> None:
        relid = event.channel.relid
        self.channel_faults[relid] = self.channel_faults.get(relid, 0) + 1
        text = f"channel {relid} ({event.channel.offer.name}): {event.reason}"
        self.faults.note("channel faulted", text)
        if self._recording.capture is not None:
            self._recording.capture.note(text)
        if self.balloon is not None:
            self.balloon.closed()

    def _deliver(self) -> None:
        """Bring messages and signals into guest memory, as far as there is room."""
        self._follow_bus()
        while (message := self.bus.next_message()) is not None:
            if not self._synic.deliver(message.sint, MessageSlot(VMBUS_MESSAGE_TYPE, message.payload)):
                if message is not self._waiting:
                    self._recording.trace("vmbus_msg_cb", -errno.EAGAIN)
                self._waiting = message
                break
            if self._recording.capture is not None:
                self._recording.capture.message(Direction.HOST_TO_GUEST, message.payload)
            self.bus.message_delivered()
        for signal in self.bus.take_signals():
            self._synic.signal(signal.sint, signal.flag)

    def _report(self, balloon: HvBalloon) -> None:
        """Tell the monitor's clients."""
        self._deliver()
        for event in balloon.take_events():
            if isinstance(event, ActualChanged):
                self._emit("BALLOON_CHANGE", {"actual": event.pages << PAGE_SHIFT})
            elif isinstance(event, StatusReported):
                self._emit(
                    "HV_BALLOON_STATUS_REPORT",
                    {"committed": event.committed_bytes, "available": event.available_bytes},
                )

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self.balloon.deadline_ns() if self.balloon is not None else None
        if deadline is not None:
            delay_s = max(0, deadline - self.clock.now_ns()) / NS_PER_S
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._wake)

    def _guest_exited(self) -> None:
        assert self._guest is not None
        how = self._guest.ending()
        if how is None:
            self.end(Ending(guest=True, reason="guest-shutdown"))
        else:
            problem = f"the guest of {self.options.name} is gone ({how}); its log is above"
            self.end(Ending(guest=True, reason="guest-panic", problem=problem))
