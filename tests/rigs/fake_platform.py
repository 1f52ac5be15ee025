"""A platform of a test's own under a real machine: its guest is a client of the bus in this process."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from tests.rigs.balloon_device import CAPS
from tests.rigs.pages import packed
from tests.rigs.scenes import until

from dynmem import vmbus
from dynmem.space.address_space import Section
from dynmem.space.dimm import PcDimm
from dynmem.units import GIB, MIB
from dynmem.vm.faults import Faults
from dynmem.vm.machine import Machine
from dynmem.vm.options.machine import BalloonOptions, VmOptions
from dynmem.vm.options.memory import BackendOptions, MemoryOptions
from dynmem.vm.platform import GuestCalls, GuestEnding, Owner
from dynmem.vmbus import GuestMemory, OutgoingMessage, Signal
from dynmem.wire import dm
from dynmem.wire.synic import (
    HYPERCALL_POST_MESSAGE,
    VMBUS_MESSAGE_TYPE,
    HvStatus,
    HypercallInput,
    PostMessageInput,
    encode_post,
)

BOOT = 64 * MIB
INPUT = 32 * MIB  # where the guest keeps the input of a hypercall
OPTIONS = VmOptions(
    name="one",
    memory=MemoryOptions(BOOT, 2 * GIB, 1),
    objects=(
        BackendOptions("memory-backend-memfd", "more", 256 * MIB),
        BackendOptions("memory-backend-memfd", "a", 2 * MIB),
    ),
    balloon=BalloonOptions(memdev="more"),
)


class Slots:
    """Slots that are acknowledged at once."""

    name = "fake"
    slots_max = 509

    def __init__(self) -> None:
        self.sections: list[Section] = []

    @property
    def slots_free(self) -> int:
        return self.slots_max - len(self.sections)

    def section_added(self, section: Section) -> None:
        self.sections.append(section)

    def section_removed(self, section: Section) -> None:
        self.sections.remove(section)

    def is_mapped(self, address: int, size: int) -> bool:
        return any(
            each.address <= address < address + size <= each.address + each.size for each in self.sections
        )


class FakePlatform:
    """A `Platform` whose guest does what it is asked, and drives again what was rescinded or closed."""

    ram_hole = range(0)
    addresses = 1 << 48
    vp = 0  # that gets what the host sends
    has_acpi = False  # its guest says by itself what it does to a DIMM, in `acts`

    def __init__(
        self,
        options: VmOptions,
        memory: GuestMemory,
        owner: Owner,
        faults: Faults,
    ) -> None:
        self.memory = memory
        self.owner = owner
        self.wake = owner.wake
        self.exited = owner.exited
        self.vp_count = options.vp_count
        self.thread_ids: tuple[int, ...] = ()
        self.slots = Slots()
        self.calls: list[str] = []  # power and DIMMs, in order
        self.ending: GuestEnding | None = None
        self.is_busy = False  # its message slot is
        self.answers: list[tuple[int, bool]] = []
        self.acts: list[tuple[int, tuple[int, int] | None]] = []  # a slot with a report; None: it is ejected
        self.to_call: list[HypercallInput] = []  # besides its posts
        self.results: list[int] = []

    async def power_on(self, doorbells: Iterable[int]) -> None:
        self.calls.append(f"power on, {len(list(doorbells))} doorbell")
        self.thread_ids = tuple(range(1000, 1000 + self.vp_count))
        self.vp = 0
        self.connect()

    def connect(self) -> None:
        """A kernel contacts the bus; the one before it, if there was one, is gone."""
        self.client = vmbus.Client(self.memory, target_vp=self.vp)
        self.channel: vmbus.GuestChannel | None = None
        self.client.connect()
        self.wake()

    async def power_off(self) -> None:
        self.calls.append("power off")
        self.thread_ids = ()

    def close(self) -> None:
        pass

    def kill(self) -> None:
        self.calls.append("kill")

    async def freeze(self) -> None:
        self.calls.append("freeze")

    def thaw(self) -> None:
        self.calls.append("thaw")

    def plug(self, dimm: PcDimm) -> None:
        self.calls.append("plug")

    def unplug(self, dimm: PcDimm) -> bool:
        self.calls.append("unplug")
        if self.has_acpi:
            return True
        self.answers.append((dimm.get_addr(), True))
        self.wake()
        return True

    def deliver(self, message: OutgoingMessage) -> bool:
        if self.is_busy:
            return False
        self.client.receive_message(message.payload)
        self.wake()
        return True

    def signal(self, signal: Signal) -> None:
        self.wake()

    async def serve(self, calls: GuestCalls) -> None:
        for event in self.client.take_events():
            if isinstance(event, vmbus.Offered):
                self.channel = event.channel
                self.channel.open(range(16, 26), 5, target_vp=self.vp)
            elif isinstance(event, vmbus.Closed) and self._may_open(event.channel):
                event.channel.open(range(16, 26), 5, target_vp=self.vp)
            elif isinstance(event, vmbus.Opened):
                self.say(dm.VersionRequest(1, dm.VERSION_WIN10, is_last_attempt=False))
                self.say(dm.CapabilitiesReport(2, CAPS, 0, (1 << 40) - 1))
        for post in self.client.take_posts():
            message = PostMessageInput(post.connection_id, VMBUS_MESSAGE_TYPE, post.payload)
            self.memory.write(INPUT, encode_post(message))
            assert await calls.hypercall(HypercallInput(HYPERCALL_POST_MESSAGE, INPUT)) == HvStatus.SUCCESS
        while self.channel is not None and (packet := self.channel.receive()) is not None:
            self.obey(dm.decode(packet.data))
        while self.to_call:
            self.results.append(await calls.hypercall(self.to_call.pop(0)))
        for address, is_done in self.answers:
            await calls.unplug_answered(address, is_done=is_done)
        self.answers.clear()
        for slot, report in self.acts:
            if report is None:
                await calls.dimm_ejected(slot)
            else:
                calls.dimm_reported(slot, *report)
        self.acts.clear()

    def _may_open(self, channel: vmbus.GuestChannel) -> bool:
        """Whether a channel has closed by itself: neither the bus nor the channel is on its way out."""
        is_connected = self.client.state is vmbus.ClientState.CONNECTED
        return is_connected and channel.state is vmbus.GuestChannelState.CLOSED

    def obey(self, message: dm.Message) -> None:
        if isinstance(message, dm.BalloonRequest):
            self.say(dm.BalloonResponse(3, more_pages=False, ranges=packed((4096, message.num_pages))))
        elif isinstance(message, dm.UnballoonRequest) and not message.more_pages:
            self.say(dm.UnballoonResponse(4))
        elif isinstance(message, dm.HotAddRequest):
            self.say(dm.HotAddResponse(5, message.range >> 40, 1))

    def say(self, message: dm.Message) -> None:
        assert self.channel is not None
        assert self.channel.send(dm.encode(message))
        self.wake()


class Scene:
    """A machine on the fake platform, and what its monitor reported."""

    def __init__(self, **options: Any) -> None:
        self.events: list[str] = []
        self.reported: list[Mapping[str, object]] = []  # with each of them
        self.machine = Machine(
            dataclasses.replace(OPTIONS, **options),
            self._emit,
            make_platform=FakePlatform,
        )
        assert isinstance(self.machine.platform, FakePlatform)
        self.guest = self.machine.platform
        assert self.machine.balloon is not None
        self.balloon = self.machine.balloon

    def _emit(self, event: str, data: Mapping[str, object] | None = None) -> None:
        self.events.append(event)
        self.reported.append(data or {})

    async def acts(self, *acts: tuple[int, tuple[int, int] | None]) -> None:
        """Have the guest do this to its DIMMs, and wait until the machine has heard of it."""
        self.guest.acts += acts
        self.guest.wake()
        await until(lambda: not self.guest.acts)

    async def until_actual(self, size: int) -> None:
        await until(lambda: self.balloon.actual_bytes == size)
