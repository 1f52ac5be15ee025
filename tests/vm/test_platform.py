"""The seam below a machine, with a platform of a test's own: nothing of the embedded guest runs."""

import asyncio
from collections.abc import Callable, Iterable

from tests.rigs.balloon_device import CAPS
from tests.rigs.pages import packed
from tests.rigs.scenes import plays, until

from dynmem import vmbus
from dynmem.dm.states import HostState
from dynmem.space.address_space import Section
from dynmem.units import GIB, MIB
from dynmem.vm.budget import Budget
from dynmem.vm.faults import Faults
from dynmem.vm.machine import Machine
from dynmem.vm.options.machine import BalloonOptions, VmOptions
from dynmem.vm.options.memory import BackendOptions, DimmOptions, MemoryOptions
from dynmem.vm.platform import GuestCalls, GuestEnding
from dynmem.vmbus import GuestMemory, OutgoingMessage, Signal
from dynmem.wire import dm
from dynmem.wire.packet import Packet, PacketType
from dynmem.wire.synic import (
    HYPERCALL_POST_MESSAGE,
    VMBUS_MESSAGE_TYPE,
    HvStatus,
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
    """A `Platform` whose guest is a client of the bus in this process; it does what it is asked."""

    def __init__(
        self,
        options: VmOptions,
        memory: GuestMemory,
        *,
        wake: Callable[[], None],
        exited: Callable[[], None],
        faults: Faults,
    ) -> None:
        self.memory = memory
        self.wake = wake
        self.exited = exited
        self.slots = Slots()
        self.calls: list[str] = []  # power and DIMMs, in order
        self.ending: GuestEnding | None = None
        self.is_busy = False  # its message slot is
        self.answers: list[tuple[int, bool]] = []

    async def power_on(self, doorbells: Iterable[int]) -> None:
        self.calls.append(f"power on, {len(list(doorbells))} doorbell")
        self.client = vmbus.Client(self.memory)
        self.channel: vmbus.GuestChannel | None = None
        self.client.connect()
        self.wake()

    async def power_off(self) -> None:
        self.calls.append("power off")

    async def freeze(self) -> None:
        self.calls.append("freeze")

    def thaw(self) -> None:
        self.calls.append("thaw")

    def plug(self, address: int) -> None:
        self.calls.append("plug")

    def unplug(self, address: int) -> bool:
        self.answers.append((address, True))
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
                self.channel.open(range(16, 26), 5)
            elif isinstance(event, vmbus.Opened):
                self.say(dm.VersionRequest(1, dm.VERSION_WIN10, is_last_attempt=False))
                self.say(dm.CapabilitiesReport(2, CAPS, 0, (1 << 40) - 1))
        for post in self.client.take_posts():
            message = PostMessageInput(post.connection_id, VMBUS_MESSAGE_TYPE, post.payload)
            self.memory.write(INPUT, encode_post(message))
            assert await calls.hypercall(HYPERCALL_POST_MESSAGE, INPUT) is HvStatus.SUCCESS
        while self.channel is not None and (packet := self.channel.receive()) is not None:
            self.obey(dm.decode(packet.data))
        for address, is_done in self.answers:
            await calls.unplug_answered(address, is_done=is_done)
        self.answers.clear()

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

    def __init__(self) -> None:
        self.events: list[str] = []
        self.machine = Machine(
            OPTIONS, lambda event, _=None: self.events.append(event), make_platform=FakePlatform
        )
        assert isinstance(self.machine.platform, FakePlatform)
        self.guest = self.machine.platform
        assert self.machine.balloon is not None
        self.balloon = self.machine.balloon

    async def until_actual(self, size: int) -> None:
        await until(lambda: self.balloon.actual_bytes == size)


@plays
async def test_a_platform_of_another_kind_runs_a_guest_that_shrinks_grows_and_is_reset() -> None:
    scene = Scene()
    machine, guest = scene.machine, scene.guest
    scene.balloon.set_target(BOOT - 8 * MIB)
    await machine.start()
    await scene.until_actual(BOOT - 8 * MIB)
    scene.balloon.set_target(BOOT + 128 * MIB)
    await scene.until_actual(BOOT + 128 * MIB)
    assert len(guest.slots.sections) == 2
    machine.reset()
    await until(lambda: "RESET" in scene.events)
    await scene.until_actual(BOOT)  # the target was the former guest's
    await machine.stop()
    machine.resume()
    await machine.close()
    assert guest.calls == [
        "power on, 1 doorbell",
        "power off",
        "power on, 1 doorbell",
        "freeze",
        "thaw",
        "power off",
    ]
    assert scene.events.count("RESET") == 1


@plays
async def test_a_platform_of_another_kind_announces_dimms_and_answers_for_them() -> None:
    scene = Scene()
    machine, guest = scene.machine, scene.guest
    await machine.start()
    dimm = machine.dimms.plug(DimmOptions("a", "x"))
    assert guest.calls[-1] == "plug"
    await scene.until_actual(BOOT + 2 * MIB)
    machine.dimms.request_unplug("x")
    await scene.until_actual(BOOT)
    assert "DEVICE_DELETED" in scene.events
    assert dimm.get_addr() not in {section.address for section in guest.slots.sections}
    await machine.close()


class Hurried(Budget):
    """A budget that is spent after this many packets."""

    def __init__(self, packets: int) -> None:
        super().__init__()
        self._packets = packets
        self._left = 0

    def begin(self) -> None:
        self._left = self._packets

    def spend(self, size: int) -> None:
        assert size == 40 or not size  # a descriptor, two words, no data and a footer: or there was no packet
        self._left -= 1

    @property
    def is_spent(self) -> bool:
        return self._left <= 0


@plays
async def test_a_turn_that_has_spent_its_budget_leaves_the_other_packets_to_the_next_one() -> None:
    scene = Scene()
    machine, guest = scene.machine, scene.guest
    await machine.start()
    await until(lambda: scene.balloon.host.state is HostState.IDLE)
    await machine.stop()
    assert guest.channel is not None
    assert guest.channel._writer is not None
    for _ in range(7):
        assert guest.channel._writer.write(Packet(PacketType.XFER_PAGES, 0, 0, b"", bytes(16)))
    machine._turn._budget = Hurried(3)
    taken = []
    for _ in range(4):
        machine._woken.clear()
        await machine._turn.take()
        taken.append(machine.faults.counts.get("unexpected packet", 0))
        assert machine._woken.is_set() == (taken[-1] < 7)  # or what is left would wait for the guest
    assert taken == [3, 6, 7, 7]
    machine.resume()
    await machine.close()


@plays
async def test_a_message_that_finds_no_room_is_delivered_when_the_platform_says_that_there_is() -> None:
    scene = Scene()
    machine, guest = scene.machine, scene.guest
    guest.is_busy = True
    scene.balloon.set_target(BOOT - MIB)
    await machine.start()
    for _ in range(20):
        await asyncio.sleep(0)
    assert guest.channel is None
    guest.is_busy = False
    machine._turn.retry_messages()
    await scene.until_actual(BOOT - MIB)
    await machine.close()


@plays
async def test_a_machine_ends_with_what_its_platform_says_of_its_guest() -> None:
    scene = Scene()
    await scene.machine.start()
    scene.guest.ending = GuestEnding("it lost all its processors")
    scene.guest.exited()
    assert scene.machine.ending is not None
    assert "it lost all its processors" in (scene.machine.ending.problem or "")
    assert scene.events == ["SHUTDOWN"]
    await scene.machine.close()
