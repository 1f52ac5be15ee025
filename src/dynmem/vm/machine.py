"""One virtual machine: its memory, bus, device and guest, and the one task that owns their state.

Guest (calls, doorbells), clock and monitor only wake the task. It then takes a turn (`turn`), or resets the
machine. The monitor is served all the time.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, NamedTuple

from dynmem.errors import DynmemError
from dynmem.space.memory_device import DeviceMemory
from dynmem.units import NS_PER_S
from dynmem.vm.advice import shortages
from dynmem.vm.balloon.device import HvBalloon
from dynmem.vm.balloon.discards import DiscardThread
from dynmem.vm.clock import VirtualClock
from dynmem.vm.dimms import Dimms
from dynmem.vm.embedded.guest import EmbeddedGuest
from dynmem.vm.events import GUEST_RESET, Emit, Events
from dynmem.vm.faults import Faults
from dynmem.vm.guest_crash import GuestCrash
from dynmem.vm.guest_memory import MappedMemory
from dynmem.vm.memory_map import MachineMemory
from dynmem.vm.objects import Objects
from dynmem.vm.options.actions import PanicAction, RebootAction
from dynmem.vm.options.hints import naming
from dynmem.vm.options.machine import VmOptions
from dynmem.vm.platform import MakePlatform, ShortageError
from dynmem.vm.recording import Recording
from dynmem.vm.turn import Turn
from dynmem.vmbus import Bus

_LOG: Final = logging.getLogger("dynmem.vm")
_PAUSED: Final = "paused"
_PRELAUNCH: Final = "prelaunch"
_PANICKED: Final = "guest-panicked"
_START_DELAYS_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # between attempts to start a guest


class Ending(NamedTuple):
    """Why the machine ended.

    Attributes:
        guest: Whether the guest ended it, for the SHUTDOWN event.
        reason: The reason in that event.
        problem: A sentence if something went wrong.
        detail: What the log says instead of the reason, such as which signal it was.

    """

    guest: bool
    reason: str
    problem: str | None = None
    detail: str | None = None


def _platform_for(options: VmOptions) -> MakePlatform:
    """Return what makes the platform that runs this guest."""
    platform: MakePlatform = EmbeddedGuest
    if options.boot is not None:
        from dynmem.vm.kvm.guest import KvmGuest

        platform = KvmGuest
    return platform


class Machine:
    """A virtual machine. `start`, then wait for `ended`, then `close`.

    Attributes:
        memory: All its memory.
        platform: What runs its guest.
        hot_added: The memory that hv-balloon adds, if it has any.
        balloon: hv-balloon, if it has one.
        dimms: Its DIMMs.
        bus: Its VMBus.
        channel_faults: How often each channel was faulted, by relid.
        ended: Set when it ends; `ending` says why.

    """

    def __init__(
        self,
        options: VmOptions,
        emit: Emit,
        *,
        make_platform: MakePlatform | None = None,
        make_discard_thread: Callable[[], DiscardThread] = DiscardThread,
        make_balloon: type[HvBalloon] = HvBalloon,
    ) -> None:
        """Make memory and devices. Raises ConfigError."""
        self.options: Final = options
        self._recording = Recording(
            events=options.trace, log=options.log, capture=options.capture, title=options.name
        )
        self.clock: Final = VirtualClock()
        self.faults: Final = Faults(self.clock.now_ns)
        self.ended: Final = asyncio.Event()
        self.ending: Ending | None = None
        self._events = Events(emit)
        guest_memory = MappedMemory()
        make_platform = make_platform or _platform_for(options)
        self.platform: Final = make_platform(options, guest_memory, self, self.faults)
        try:
            self.memory: Final = MachineMemory(
                options,
                guest_memory,
                self.platform.slots,
                ram_hole=self.platform.ram_hole,
                addresses=self.platform.addresses,
            )
        except DynmemError:
            self.platform.close()
            raise
        self._discard_thread = make_discard_thread()
        try:
            self.hot_added: Final = self.memory.plug_hot_added(options, self._recording.trace)
            self.balloon: Final = self._make_balloon(make_balloon)
            self.dimms: Final = self._plug_dimms()
        except DynmemError:
            self.platform.close()
            self.memory.close()
            raise
        self.bus: Final = Bus(
            guest_memory,
            [self.balloon.offer] if self.balloon else [],
            vp_count=self.platform.vp_count,
            max_version=options.vmbus_version,
            trace=self._recording.trace,
        )
        self._turn: Final = Turn(
            platform=self.platform,
            memory=guest_memory,
            bus=self.bus,
            clock=self.clock,
            balloon=self.balloon,
            dimms=self.dimms,
            wake=self.wake,
            events=self._events,
            faults=self.faults,
            recording=self._recording,
        )
        self.channel_faults: Final = self._turn.channel_faults
        self._woken = asyncio.Event()
        self._at_work = asyncio.Lock()
        self._reset_reason: str | None = None  # of a reset that was asked for
        self._halted_as = _PAUSED
        self._must_halt = False  # the guest has crashed, and --action panic=pause keeps it as it is
        self._has_held_reset = False  # that it asked for in the meantime
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def _plug_dimms(self) -> Dimms:
        options = self.options
        slots = options.memory.slots
        dimms = Dimms(self.memory, self.platform, self.balloon, self._events, self.faults, slots=slots)
        for dimm in options.dimms:
            name = f"'{dimm.identity}'" if dimm.identity else f"pc-dimm,memdev={dimm.memdev}"
            with naming(f"--device {name}", partial(self.memory.device_hint, options, dimm.memdev)):
                dimms.plug(dimm, hotplugged=False)
        return dimms

    def _make_balloon(self, make: type[HvBalloon]) -> HvBalloon | None:
        options = self.options.balloon
        if options is None:
            return None
        return make(
            options,
            self.memory.boot,
            self.memory.boot_ram,
            starter=self._discard_thread.starter,
            wake=self.wake,
            clock=self.clock,
            faults=self.faults,
            hot_added=self.hot_added,
            trace=self._recording.trace,
            capture=self._recording.capture,
        )

    @property
    def run_state(self) -> str:
        """QEMU's word: ``running``, ``paused``, ``prelaunch`` (reset while paused) and so on."""
        if self.ending is not None:
            return "shutdown"
        return "running" if self.clock.running else self._halted_as

    @property
    def resident_bytes(self) -> int:
        """Bytes of guest memory that the host holds now, in RAM or swap."""
        return self.memory.resident_bytes

    @property
    def objects(self) -> Objects:
        """Memory backends by id."""
        return self.memory.objects

    @property
    def device_memory(self) -> DeviceMemory:
        """The plugged memory devices, hv-balloon's memory among them."""
        return self.memory.devices

    # what the monitor asks

    async def start(self) -> None:
        """Power on. Raises ConfigError, or ShortageError if the host stays short of what a guest needs."""
        async with self._at_work:
            await self._power_on()
            self._task = asyncio.create_task(self._work(), name="machine")
            self._task.add_done_callback(self._stopped_working)

    async def stop(self) -> None:
        """Freeze guest and clock when the current turn is over; does nothing when they are frozen."""
        async with self._at_work:
            await self._halt(_PAUSED)

    async def _halt(self, state: str) -> None:
        """Freeze guest and clock, if they run."""
        if self.run_state != "running" or self._task is None:
            return
        await self.platform.freeze()
        self.clock.stop()
        self._halted_as = state
        self._events.stopped()

    def resume(self) -> None:
        """Let guest and clock run again; does nothing when they run."""
        if self.clock.running or self.ending is not None or self._task is None:
            return
        self.clock.start()
        self._events.resumed()
        if self._has_held_reset:  # it asked for it, and runs no instruction before it has it
            self.wants_reset()
        else:
            self.platform.thaw()
        self.wake()

    async def while_paused(self, steps: Iterator[None]) -> bool:
        """Take `steps` one by one while the machine is paused; return whether all of them were taken.

        No guest runs during a step, and no turn and no reset happens until the last one. `resume` ends them
        early.
        """
        async with self._at_work:
            while self.run_state == _PAUSED:
                if next(steps, self) is self:
                    return True
                await asyncio.sleep(0)
            return False

    def reset(self, reason: str = "host-qmp-system-reset") -> None:
        """Ask for a reset, which begins when the current turn is over; RESET is emitted when it is done.

        A machine that is paused stays so. With ``--no-reboot`` the machine ends instead.
        """
        if self.options.actions.reboot is RebootAction.SHUTDOWN:
            self.end(Ending(guest=reason == GUEST_RESET, reason=reason, detail=f"{reason}, and no reboot"))
            return
        self._reset_reason = reason
        self.wake()

    def end(self, ending: Ending) -> None:
        """Begin to end: emit SHUTDOWN and set `ended`. Only the first call counts."""
        if self.ending is not None:
            return
        self.ending = ending
        self._events.shut_down(ending.reason, by_guest=ending.guest)
        self.platform.kill()  # a turn may wait for a discard, and that for what the guest does to its file
        self.ended.set()
        self.wake()

    async def close(self) -> None:
        """End the guest and release everything, after a discard that is still in flight."""
        if self.ending is None:
            self.ending = Ending(guest=False, reason="host-error")
        self.wake()
        if self._task is not None:
            await asyncio.wait((self._task,))
        async with self._at_work:  # a request to stop may be waiting for the guest
            await self.platform.power_off()
        if self._timer is not None:
            self._timer.cancel()
        if self.balloon is not None:
            await self.balloon.settled()
        self._discard_thread.close()
        self.platform.close()
        self.memory.close()
        self._recording.close()

    # what its platform reports: it is the platform's `Owner`

    def wake(self) -> None:
        """Have the machine's task take a turn."""
        self._woken.set()

    def exited(self) -> None:
        """End the machine as its guest ended."""
        ending = self.platform.ending
        if ending is None:
            self.end(Ending(guest=True, reason="guest-shutdown"))
            return
        causes = shortages(self.objects) if ending.lacks_memory else []
        why = "".join(f"; {cause}" for cause in causes)
        problem = f"the guest of {self.options.name} is gone ({ending.how}){why}; its log is above"
        self.end(Ending(guest=True, reason="guest-panic", problem=problem))

    def wants_reset(self) -> None:
        """Reset the machine: the guest asks for it. A crashed guest that is paused waits for `resume`."""
        self._has_held_reset = self._must_halt or self.run_state == _PANICKED
        if not self._has_held_reset:
            self.reset(GUEST_RESET)

    def asked_to_end(self) -> None:
        """End the machine, as QEMU is ended by its user interface."""
        self.end(Ending(guest=False, reason="host-ui"))

    def crashed(self, crash: GuestCrash) -> None:
        """Report that the guest crashed, and pause or end the machine as ``--action`` says."""
        self.faults.note("guest crash", crash.described())
        action = self.options.actions.panic
        self._events.panicked(crash, action)
        if action is PanicAction.PAUSE:
            self._must_halt = True
            self.wake()
        elif action is not PanicAction.NONE:
            problem = f"the guest of {self.options.name} crashed: {crash.described()}"
            is_failure = action is PanicAction.EXIT_FAILURE
            self.end(
                Ending(
                    guest=True,
                    reason="guest-panic",
                    problem=problem if is_failure else None,
                    detail="the guest crashed",
                )
            )

    # the one task

    async def _work(self) -> None:
        while self.ending is None:
            await self._woken.wait()
            self._woken.clear()
            await asyncio.sleep(0)  # let the monitor run, however busy the guest keeps this task
            async with self._at_work:
                if self._must_halt:
                    self._must_halt = False
                    await self._halt(_PANICKED)
                if self._reset_reason is not None:
                    await self._power_cycle(self._reset_reason)
                if self.run_state == "running":
                    await self._turn.take()
                    self._set_timer()

    def _stopped_working(self, task: "asyncio.Task[None]") -> None:
        """End the machine if its task failed, which is a bug of ours, and log it."""
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("the machine's own task failed", exc_info=error)
            self.end(Ending(guest=False, reason="host-error", problem=f"internal error: {error!r}"))

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._turn.deadline_ns()
        if deadline is not None:
            delay_s = max(0, deadline - self.clock.now_ns()) / NS_PER_S
            self._timer = asyncio.get_running_loop().call_later(delay_s, self.wake)

    # power

    async def _power_on(self) -> None:
        """Start a guest, again and again while the host is short of what it needs, or until the machine ends.

        Raises ConfigError, and ShortageError after the last attempt.
        """
        for delay_s in (*_START_DELAYS_S, None):
            try:
                await self.platform.power_on(channel.connection_id for channel in self.bus.channels.values())
            except ShortageError as error:
                if delay_s is None:
                    raise
                _LOG.warning("%s; trying again", error)
            else:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ended.wait(), delay_s)
                return

    async def _power_cycle(self, reason: str) -> None:
        """End the guest, reset the devices, start another guest."""
        await self.platform.power_off()
        self.dimms.guest_gone()
        self._turn.power_off()
        if self.balloon is not None:
            await self.balloon.reset()
        self._reset_reason = None
        self._has_held_reset = self._must_halt = False
        if self.ending is not None:
            return
        try:
            await self._power_on()
        except DynmemError as error:
            self.end(Ending(guest=False, reason="host-error", problem=str(error)))
            return
        if not self.clock.running:
            await self.platform.freeze()
            self._halted_as = _PRELAUNCH
        self._events.was_reset(reason)
        self.wake()
