"""One virtual machine: its memory, bus, device and guest, and the one task that owns their state.

Whatever the guest does (calls, doorbells), whatever time does and whatever the monitor asks only wakes the
task. It then takes a turn (`turn`), or resets the machine. The monitor is served all the time.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, NamedTuple

from dynmem.errors import DynmemError
from dynmem.memory.backend import Backend
from dynmem.memory.discard import Discarder
from dynmem.space.memory_device import DeviceMemory
from dynmem.units import NS_PER_S
from dynmem.vm.advice import shortages
from dynmem.vm.balloon.device import HvBalloon
from dynmem.vm.clock import VirtualClock
from dynmem.vm.dimms import Devices
from dynmem.vm.embedded.guest import Processor
from dynmem.vm.events import Emit
from dynmem.vm.faults import Faults
from dynmem.vm.memory_map import MachineMemory
from dynmem.vm.objects import Objects
from dynmem.vm.options.hints import naming
from dynmem.vm.options.machine import VmOptions
from dynmem.vm.recording import Recording
from dynmem.vm.turn import Turn
from dynmem.vmbus import Bus

_LOG: Final = logging.getLogger("dynmem.vm")


class Ending(NamedTuple):
    """Why the machine ended: what the SHUTDOWN event says, and a sentence when something went wrong."""

    guest: bool
    reason: str
    problem: str | None = None
    detail: str | None = None
    """More for the log than the reason has, like which signal it was."""


class Machine:
    """A virtual machine with an embedded guest. `start`, then wait for `ended`, then `close`."""

    def __init__(self, options: VmOptions, emit: Emit) -> None:
        """Make memory and devices. Raises ConfigError."""
        self.options: Final = options
        self._recording = Recording(
            events=options.trace, log=options.log, capture=options.capture, title=options.name
        )
        self.clock: Final = VirtualClock()
        self.faults: Final = Faults(self.clock.now_ns)
        self.ended: Final = asyncio.Event()
        self.ending: Ending | None = None
        self._emit = emit
        self.memory: Final = MachineMemory(options, self.faults)
        self._discards = ThreadPoolExecutor(1, "discard")
        try:
            self.hot_added: Final = self.memory.plug_hot_added(options, self._recording.trace)
            self.balloon: Final = self._make_balloon()
            self.devices: Final = Devices(
                self.memory, self.balloon, emit, self.faults, slots=options.memory.slots
            )
            for dimm in options.dimms:
                name = f"'{dimm.identity}'" if dimm.identity else f"pc-dimm,memdev={dimm.memdev}"
                with naming(f"--device {name}", partial(self.memory.device_hint, options, dimm.memdev)):
                    self.devices.plug(dimm)
        except DynmemError:
            self.memory.close()
            raise
        self.bus: Final = Bus(
            self.memory.guest, [self.balloon.offer] if self.balloon else [], trace=self._recording.trace
        )
        self._turn: Final = Turn(
            memory=self.memory,
            devices=self.devices,
            bus=self.bus,
            balloon=self.balloon,
            wake=self._wake,
            emit=emit,
            faults=self.faults,
            recording=self._recording,
        )
        self.channel_faults: Final = self._turn.channel_faults
        self._processor: Processor | None = None
        self._woken = asyncio.Event()
        self._at_work = asyncio.Lock()
        self._reset_asked: str | None = None
        self._is_prelaunch = False
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def _make_balloon(self) -> HvBalloon | None:
        options = self.options.balloon
        if options is None:
            return None
        return HvBalloon(
            identity=options.identity,
            boot=self.memory.boot,
            discarding=self._discard_with,
            wake=self._wake,
            status_report=options.status_report,
            post_init_wait_ns=options.post_init_wait_ns,
            clock=self.clock,
            faults=self.faults,
            hot_added=self.hot_added,
            trace=self._recording.trace,
            capture=self._recording.capture,
        )

    def _discard_with(self, backend: Backend) -> Callable[[bytes], asyncio.Future[int]]:
        """Discards in the machine's worker thread, which lets go of the interpreter lock."""
        discard = Discarder(backend).discard
        return lambda ranges: asyncio.get_running_loop().run_in_executor(self._discards, discard, ranges)

    @property
    def run_state(self) -> str:
        """``running``, ``paused``, ``prelaunch`` (reset while paused) or ``shutdown``, QEMU's words."""
        if self.ending is not None:
            return "shutdown"
        if self.clock.running:
            return "running"
        return "prelaunch" if self._is_prelaunch else "paused"

    @property
    def guest_pid(self) -> int:
        """The guest's process."""
        assert self._processor is not None
        return self._processor.pid

    @property
    def resident_bytes(self) -> int:
        """Bytes of guest memory that the host has in memory now."""
        return self.memory.resident_bytes

    @property
    def objects(self) -> Objects:
        """Memory backends by id."""
        return self.memory.objects

    @property
    def device_memory(self) -> DeviceMemory:
        """The memory devices that are plugged, hv-balloon's memory among them."""
        return self.memory.devices

    # what the monitor asks

    def start(self) -> None:
        """Power on. Raises ConfigError."""
        self._power_on(again=False)
        self._task = asyncio.create_task(self._work(), name="machine")
        self._task.add_done_callback(self._stopped_working)

    async def stop(self) -> None:
        """Freeze guest and clock when the turn that goes on is over; nothing happens when they are frozen."""
        async with self._at_work:
            if self.run_state != "running" or self._processor is None:
                return
            self._processor.freeze()
            self.clock.stop()
        self._emit("STOP")

    def resume(self) -> None:
        """Let guest and clock go on; nothing happens when they run."""
        if self.run_state not in ("paused", "prelaunch") or self._processor is None:
            return
        self._is_prelaunch = False
        self.clock.start()
        self._processor.thaw()
        self._emit("RESUME")
        self._wake()

    def reset(self, reason: str = "host-qmp-system-reset") -> None:
        """Ask for a reset, which begins when the turn that goes on is over; RESET is emitted when it is done.

        A machine that is paused stays so.
        """
        self._reset_asked = reason
        self._wake()

    def set_balloon(self, size: int) -> None:
        """Ask the guest for a size in bytes."""
        assert self.balloon is not None
        self.balloon.set_target(size)
        self._wake()

    def hot_remove(self, pages: int) -> bool:
        """Ask the guest for hot-added pages back, for good; whether it knows how, and no other wish waits."""
        assert self.balloon is not None
        is_asked = self.balloon.hot_remove(pages)
        self._wake()
        return is_asked

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
        if self.ending is None:
            self.ending = Ending(guest=False, reason="host-error")
        if self._processor is not None:
            self._processor.hang_up()
        self._wake()
        if self._task is not None:
            await asyncio.wait((self._task,))
        if self._processor is not None:
            await self._processor.power_off()
        if self._timer is not None:
            self._timer.cancel()
        if self.balloon is not None:
            await self.balloon.settled()
        self._discards.shutdown()
        self.memory.close()
        self._recording.close()

    # the one task

    def _wake(self) -> None:
        self._woken.set()

    async def _work(self) -> None:
        while self.ending is None:
            await self._woken.wait()
            self._woken.clear()
            await asyncio.sleep(0)  # the monitor has its turn, however busy the guest keeps this task
            async with self._at_work:
                if self._reset_asked is not None:
                    await self._power_cycle(self._reset_asked)
                if self.run_state == "running" and self._processor is not None:
                    await self._turn.take(self._processor)
                    self._set_timer()

    def _stopped_working(self, task: "asyncio.Task[None]") -> None:
        """A machine whose task failed is no machine: that is a fault of ours, and it is said."""
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("the machine's own task failed", exc_info=error)
            self.end(Ending(guest=False, reason="host-error", problem=f"internal error: {error!r}"))

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self.balloon.deadline_ns() if self.balloon is not None else None
        if deadline is not None:
            delay_s = max(0, deadline - self.clock.now_ns()) / NS_PER_S
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._wake)

    # power

    def _power_on(self, *, again: bool) -> None:
        """Give a new guest its hardware and start it. Raises ConfigError."""
        processor = self._processor = Processor(
            self.memory.guest, self.bus, wake=self._wake, faults=self.faults, capture=self._recording.capture
        )
        self.memory.slots.connect(processor.hardware)
        self.devices.guest_changed(processor.hardware)
        processor.power_on(self.options.guest, self.options.serial, self._guest_exited, again=again)

    async def _power_cycle(self, reason: str) -> None:
        """End the guest, bring devices back to where they were at the start, start another guest."""
        assert self._processor is not None
        await self._processor.power_off()
        self.memory.slots.disconnect()
        self.devices.guest_changed(None)
        self._turn.power_off()
        if self.balloon is not None:
            await self.balloon.reset()
        self._reset_asked = None
        if self.ending is not None:
            return
        try:
            self._power_on(again=True)
        except DynmemError as error:
            self.end(Ending(guest=False, reason="host-error", problem=str(error)))
            return
        if not self.clock.running:
            self._processor.freeze()
            self._is_prelaunch = True
        self._emit("RESET", {"guest": False, "reason": reason})
        self._wake()

    def _guest_exited(self) -> None:
        assert self._processor is not None
        how = self._processor.ending()
        if how is None:
            self.end(Ending(guest=True, reason="guest-shutdown"))
        else:
            why = "".join(f"; {text}" for text in shortages(self.objects)) if "SIGBUS" in how else ""
            problem = f"the guest of {self.options.name} is gone ({how}){why}; its log is above"
            self.end(Ending(guest=True, reason="guest-panic", problem=problem))
