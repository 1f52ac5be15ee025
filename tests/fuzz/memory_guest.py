"""A machine's memory as a target: boot RAM beside a hole, two DIMMs, memory to add, and a guest that lies.

There is no process: the guest's ends of the ring and of the hardware socket are the target's own, and so are
the moments at which discards end. An input is a list of moves, most of them about pages near a border. After
each move hold:

- a page goes back to the guest only when the guest gave it up and has not got it back;
- nothing is discarded that is the guest's;
- what is hot-added is whole steps of memory that lies in the device's range and was not added already;
- the guest's size is what it has of all memories less what it gave up, and never negative;
- what waits for the guest is bounded, whatever it acknowledges.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from tests.fuzz.engine import Target
from tests.rigs.embedded import GuestWithoutProcess
from tests.rigs.pages import bounds_of

from dynmem import vmbus
from dynmem.errors import DynmemError
from dynmem.limits import HARDWARE_SLOTS_MAX
from dynmem.memory.backend import Backend
from dynmem.memory.discard import DiscardError
from dynmem.pages import ranges as page_ranges
from dynmem.units import MIB, NS_PER_MS, PAGE_SHIFT
from dynmem.vm.balloon.accounts import Memory
from dynmem.vm.balloon.discards import DiscardThread, StartDiscard
from dynmem.vm.machine import Machine
from dynmem.vm.options.machine import BalloonOptions, VmOptions
from dynmem.vm.options.memory import BackendOptions, DimmOptions, MemoryOptions
from dynmem.vmbus import BusState, ChannelState
from dynmem.vmbus.memory import FlatMemory
from dynmem.wire import dm
from dynmem.wire import hardware as wire
from dynmem.wire.synic import VMBUS_MESSAGE_TYPE

BOOT = 32 * MIB >> PAGE_SHIFT
HOLE = range(4096, 4608)  # pages in the midst of boot memory's addresses
BOOT_END = BOOT + len(HOLE)
ADDED = 384 * MIB
UNIT = MIB >> PAGE_SHIFT
BLOCK = 128 * MIB >> PAGE_SHIFT  # of one slot
FIRST = 32 << 30 >> PAGE_SHIFT  # where memory devices begin
LAST = FIRST + (ADDED >> PAGE_SHIFT)
DIMMS = {"d0": 2 * MIB, "d1": 4 * MIB}
BURST = 16
CAPS = dm.CAP_BALLOON | dm.CAP_HOT_ADD | dm.CAP_HOT_REMOVE
ALIGNMENTS = (0, 0, 1, 7, 15)  # powers of two of MiB
BORDERS = (0, 16, HOLE.start, BOOT_END, FIRST, FIRST + UNIT, FIRST + BLOCK, LAST)
PAGES = (*BORDERS, LAST + 512, LAST + 1024, 1 << 28)
NEAR = (0, 0, 0, 1, 7, 100, 255, 256, 511, 512, -1, -2, -100, -512)
COUNTS = (0, 1, 1, 2, 9, 255, 256, 257, 512, 1024, 4000, BOOT, BLOCK, BLOCK + 1, (1 << 24) - 1)
SIZES = (1, 24, 28, 31, 32, 33, 40, 100, 160, 161, 290, 416, 418, 500, 1 << 20)  # MiB
OPTIONS = VmOptions(
    name="fuzzed",
    memory=MemoryOptions(BOOT << PAGE_SHIFT, (BOOT << PAGE_SHIFT) + ADDED + sum(DIMMS.values()), len(DIMMS)),
    objects=(
        BackendOptions("memory-backend-memfd", "hv", ADDED),
        BackendOptions("memory-backend-memfd", "d0", DIMMS["d0"]),
        BackendOptions("memory-backend-ram", "d1", DIMMS["d1"]),
    ),
    balloon=BalloonOptions(memdev="hv", startup_last=True),
)

Flags = npt.NDArray[np.bool_]


class HeldDiscards(DiscardThread):
    """Discards that end when the target says so."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.loop = loop
        self.flights: list[tuple[Backend, bytes, asyncio.Future[int]]] = []

    def starter(self, backend: Backend) -> StartDiscard:
        def discard(ranges: bytes) -> "asyncio.Future[int]":
            future: asyncio.Future[int] = self.loop.create_future()
            self.flights.append((backend, ranges, future))
            return future

        return discard

    def end_oldest(self, *, fails: bool) -> None:
        """The oldest discard is over."""
        if self.flights:
            _, _, future = self.flights.pop(0)
            if fails:
                future.set_exception(DiscardError("no", 1, 0))
                future.exception()  # the run may end before the device has asked for it
            else:
                future.set_result(0)


class Area:
    """What the guest was told, and has said, of one memory; one flag a page."""

    def __init__(self, backend: Backend, *firsts: int, border: int | None = None) -> None:
        """The guest has it from `firsts` on, the second for what lies behind own page `border`."""
        pages = backend.size >> PAGE_SHIFT
        borders = (0, pages) if border is None else (0, border, pages)
        self._pieces = list(zip(firsts, borders[:-1], borders[1:], strict=True))
        self.named = np.zeros(pages, np.bool_)  # given up, not got back
        self.posted = np.zeros(pages, np.bool_)  # hot-added, or about to be
        self.released = np.zeros(pages, np.bool_)  # given back for good, not got again

    def parts(self, start: int, end: int) -> list[slice]:
        """The own pages of each piece that lie from guest page `start` to `end`."""
        found = []
        for first, low, high in self._pieces:
            at = min(max(start - first + low, low), high)
            found.append(slice(at, min(max(end - first + low, at), high)))
        return found

    def part(self, start: int, end: int) -> slice:
        """The same of a memory in one piece."""
        (found,) = self.parts(start, end)
        return found


class GuestWithHole(GuestWithoutProcess):
    """A platform whose guest has its boot memory in two pieces."""

    ram_hole = range(HOLE.start << PAGE_SHIFT, HOLE.stop << PAGE_SHIFT)


class MemoryRig:
    """The machine, the guest's ends, and what may be true."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.discards = HeldDiscards(self.loop)
        self.machine = Machine(
            OPTIONS,
            lambda *_: None,
            make_platform=GuestWithHole,
            make_discard_thread=lambda: self.discards,
        )
        assert isinstance(self.machine.platform, GuestWithHole)
        self.guest = self.machine.platform
        assert self.machine.balloon is not None
        assert self.machine.hot_added is not None
        self.balloon, self.hot_added = self.machine.balloon, self.machine.hot_added
        self.now = 0
        self.machine.clock._source, self.machine.clock._origin = lambda: self.now, 0
        self.areas = {
            self.machine.memory.boot: Area(self.machine.memory.boot, 0, HOLE.stop, border=HOLE.start),
            self.hot_added.backend: Area(self.hot_added.backend, FIRST),
        }
        self.count = 0
        self.is_prompt = False

    def __del__(self) -> None:
        self.loop.close()
        self.machine.memory.close()

    # lives of the guest

    def restart(self) -> None:
        """Power cycle: the next guest negotiates."""
        is_kept = self.count // BURST % 4 == 3
        object.__setattr__(self.balloon.options, "startup_last", is_kept)  # frozen otherwise
        self.wait(self.power_cycle())
        for area in self.areas.values():
            for flags in (area.named, area.posted, area.released):
                flags[:] = False
        for section in self.machine.memory.space.sections:
            if section.backend is self.hot_added.backend:  # its slots that stayed are added whole
                first = section.offset >> PAGE_SHIFT
                posted = self.areas[self.hot_added.backend].posted
                posted[first : first + (section.size >> PAGE_SHIFT)] = True
        self.connect()

    async def power_cycle(self) -> None:
        await self.machine._power_cycle("fuzz")
        self.slots: list[int] = []  # that the guest heard of
        self.leaving: list[int] = []  # that it is to unmap
        self.unplugging: list[int] = []

    def connect(self) -> None:
        """The guest finds its device and opens the channel."""
        self.client = vmbus.Client(FlatMemory(self.machine.memory.boot.view))
        self.client.connect()
        (self.channel,) = (each.channel for each in self.pump() if isinstance(each, vmbus.Offered))
        self.open()

    def open(self) -> None:
        self.channel.open(range(16, 26), 5)
        self.pump()
        self.asked: dm.Message | None = None
        caps = CAPS | ALIGNMENTS[self.count // BURST % len(ALIGNMENTS)] << dm.HOT_ADD_ALIGNMENT_SHIFT
        self.say(dm.encode(dm.VersionRequest(1, dm.VERSION_WIN10, is_last_attempt=False)))
        self.say(dm.encode(dm.CapabilitiesReport(2, caps, 0, (1 << 40) - 1)))

    def pump(self) -> list[vmbus.ClientEvent]:
        """Bring the client's posts to the bus, and the bus's messages to it, as hypercalls and SynIC do."""
        events: list[vmbus.ClientEvent] = []
        bus = self.machine.bus
        for _ in range(8):
            for post in self.client.take_posts():
                offered = bus.state is BusState.OFFERED
                bus.post_message(post.connection_id, VMBUS_MESSAGE_TYPE, post.payload)
                self.machine._turn._follow_bus()
                if offered and bus.state is not BusState.OFFERED:
                    self.wait(self.balloon.restarted())
            while (message := bus.next_message()) is not None:
                bus.message_delivered()
                self.client.receive_message(message.payload)
            events += self.client.take_events()
        return events

    def wait(self, coroutine: Coroutine[Any, Any, None], *, patient: int = 0) -> None:
        """Let a step of the machine's run. One that is not over soon waits for discards: they end then."""

        async def to_its_end() -> None:
            task = asyncio.create_task(coroutine)
            for _ in range(patient):
                await asyncio.sleep(0)
            while not task.done():
                self.discards.end_oldest(fails=False)
                await asyncio.sleep(0)
            task.result()

        self.loop.run_until_complete(to_its_end())

    def turn(self) -> None:
        """The machine's turn, then what the guest finds in its ring and its socket."""
        self.guest.hardware.calls.ready = True
        self.wait(self.machine._turn.take(), patient=3)
        for name in DIMMS.keys() - self.machine.dimms.by_name.keys():
            self.areas.pop(self.machine.objects[name], None)
        while (packet := self.channel.receive()) is not None:
            self.hear(dm.decode(packet.data))
        self.hear_hardware()
        self.check()

    def say(self, message: bytes) -> None:
        if self.machine.bus.channels[1].state is not ChannelState.OPEN:
            return
        if self.channel.send(message):
            self.turn()

    # what the guest is told

    def hear(self, message: dm.Message) -> None:
        if isinstance(message, dm.UnballoonRequest):
            for start, end in bounds_of(message.ranges):
                self.got_back(start, end)
            if message.more_pages:
                return
        elif isinstance(message, dm.HotAddRequest):
            start, count = message.range & (1 << 40) - 1, message.range >> 40
            assert start % UNIT == count % UNIT == 0
            area = self.areas[self.hot_added.backend]
            part = area.part(start, start + count)
            assert part.stop - part.start == count > 0, "memory outside of the device is added"
            assert not (area.posted & ~area.released)[part].any(), "memory is added that the guest has"
            area.posted[part], area.released[part] = True, False
            area.named[part] = False
        elif not isinstance(message, dm.BalloonRequest | dm.HotRemoveRequest):
            return
        self.asked = message

    def got_back(self, start: int, end: int) -> None:
        parts = [(area, part) for area in self.areas.values() for part in area.parts(start, end)]
        assert sum(part.stop - part.start for _, part in parts) == end - start
        for area, part in parts:
            assert area.named[part].all(), "a page goes back that was not given up"
            area.named[part] = False

    def hear_hardware(self) -> None:
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self.guest.hardware.guest_end, 64, 4)
            except BlockingIOError:
                return
            for fd in fds:
                os.close(fd)
            message = wire.decode(data)
            if isinstance(message, wire.MapSlot):
                self.slots.append(message.slot)
                if self.is_prompt:
                    self.guest.hardware.guest_end.send(wire.encode(wire.SlotMapped(message.slot)))
                    self.slots.clear()
            elif isinstance(message, wire.UnmapSlot):
                self.leaving.append(message.slot)
            elif isinstance(message, wire.UnplugMemory):
                self.unplugging.append(message.slot)

    # what must hold

    def check(self) -> None:
        balloon, host = self.balloon, self.balloon.host
        held = host.held_pages
        dimms = sum(DIMMS[name] for name in self.machine.dimms.by_name) >> PAGE_SHIFT
        has = BOOT + dimms + self.hot_added.added_pages
        assert 0 <= host.actual_pages == has - balloon.pages.removed_pages - held
        assert host.boot_pages == BOOT + dimms
        assert len(self.guest.hardware._unsent) <= 4 * HARDWARE_SLOTS_MAX
        assert len(self.guest.slots._numbers) <= HARDWARE_SLOTS_MAX
        for backend, ranges, _ in self.discards.flights:
            area = self.areas[backend]  # or a DIMM is discarded that is gone
            nobodys = area.named | area.released
            for start, end in bounds_of(ranges):
                assert nobodys[start:end].all(), "what is the guest's is discarded"

    def check_sets(self) -> None:
        """The accounts agree with themselves."""
        for memory in self.balloon.pages._memories:
            check_memory(memory)

    # moves

    def feed(self, data: bytes) -> None:
        if self.count % BURST == 0:
            self.restart()
        self.count += 1
        self.is_prompt = len(data) % 4 > 0  # a guest that has mapped what it is told to before anything else
        moves = iter(data)
        for code in moves:
            MOVES[code % len(MOVES)](self, moves)
            self.turn()
        self.check_sets()
        assert len(self.machine.faults.counts) <= 64


def check_memory(memory: Memory) -> None:
    """A set's size is its counter; what is pending, failed or in flight is a part of what was given up."""
    everything = page_ranges.span(0, memory.pages)
    assert len(memory.given) == page_ranges.page_count(memory.given.intersect(everything))
    pending = memory.pending.snapshot()
    failed = memory.guest_only.intersect(everything)
    for ranges in (failed, pending.parts, pending.long, pending.blocks, pending.flight):
        assert page_ranges.page_count(memory.given.intersect(ranges)) == page_ranges.page_count(ranges)


Moves = Iterator[int]


def draw(moves: Moves, table: tuple[int, ...]) -> int:
    return table[next(moves, 0) % len(table)]


def ranges_of(moves: Moves) -> bytes:
    words = []
    for _ in range(next(moves, 0) % 5):
        start = max(0, draw(moves, PAGES) + draw(moves, NEAR))
        words.append((start | draw(moves, COUNTS) << 40).to_bytes(8, "little"))
    return b"".join(words)


def give_up(rig: MemoryRig, moves: Moves) -> None:
    more, ranges = bool(next(moves, 0) & 1), ranges_of(moves)
    for start, end in bounds_of(ranges):
        for area in rig.areas.values():
            for part in area.parts(start, end):
                area.named[part] = True
    rig.say(dm.encode(dm.BalloonResponse(7, more, ranges)))


def add_memory(rig: MemoryRig, moves: Moves) -> None:
    asked, answer, result = rig.asked, next(moves, 0), next(moves, 0) % 3
    count = COUNTS[answer % len(COUNTS)]
    if isinstance(asked, dm.HotAddRequest):
        start, wanted = asked.range & (1 << 40) - 1, asked.range >> 40
        count = (wanted, wanted, wanted - 1, wanted + 1, 0, count, count)[answer % 7]
        area = rig.areas[rig.hot_added.backend]
        if count < wanted:
            area.posted[area.part(start + count, start + wanted)] = False
        rig.asked = None
    rig.say(dm.encode(dm.HotAddResponse(7, count, result)))


def give_for_good(rig: MemoryRig, moves: Moves) -> None:
    more, result, ranges = bool(next(moves, 0) & 1), next(moves, 0) & 1, ranges_of(moves)
    area = rig.areas[rig.hot_added.backend]
    for start, end in bounds_of(ranges):
        area.released[area.part(start, end)] = True
    rig.say(dm.encode(dm.HotRemoveResponse(7, result, more, ranges)))


def take_back(rig: MemoryRig, moves: Moves) -> None:
    rig.say(dm.encode(dm.UnballoonResponse(next(moves, 0))))


def say_anything(rig: MemoryRig, moves: Moves) -> None:
    if next(moves, 0) % 8 == 0:
        rig.say(bytes(moves))
    else:
        rig.say(dm.encode(dm.StatusReport(1, 100, next(moves, 0) << 8, 0, 0, 0, 0)))


def acknowledge(rig: MemoryRig, moves: Moves) -> None:
    """Mostly all that it was told of, in order; now and then anything."""
    kind, which = next(moves, 0) % 4, next(moves, 0)
    known = (rig.slots, rig.leaving, rig.unplugging, rig.unplugging)[kind]
    slots = list(known) if which % 8 else [(which >> 3, 0, 508, 0xFFFF_FFFF)[which % 4]]
    known.clear()
    for slot in slots:
        message: wire.Message = wire.UnplugAnswered(slot, is_done=kind == 3)
        if kind < 2:
            message = (wire.SlotMapped, wire.SlotUnmapped)[kind](slot)
        rig.guest.hardware.guest_end.send(wire.encode(message))


def set_size(rig: MemoryRig, moves: Moves) -> None:
    rig.balloon.set_target(draw(moves, SIZES) * MIB + draw(moves, (0, 0, 4096, -4096, 1)))


def hot_remove(rig: MemoryRig, moves: Moves) -> None:
    rig.balloon.hot_remove(draw(moves, COUNTS[1:]))


def plug(rig: MemoryRig, moves: Moves) -> None:
    """Plug a DIMM, or ask for it back."""
    which, devices = next(moves, 0), rig.machine.dimms
    name = f"d{which & 1}"
    try:
        if which & 2:
            devices.request_unplug(name)
            return
        options = DimmOptions(name, name, address=draw(moves, (0, 0, LAST, FIRST, LAST + 512)) << PAGE_SHIFT)
        dimm = devices.plug(options)
    except DynmemError:
        return
    backend = rig.machine.objects[name]
    rig.areas[backend] = Area(backend, dimm.get_addr() >> PAGE_SHIFT)


def end_discards(rig: MemoryRig, moves: Moves) -> None:
    fails = next(moves, 0) % 4 == 0
    for _ in range(1 + next(moves, 0) % 4):
        rig.discards.end_oldest(fails=fails)


def pass_time(rig: MemoryRig, moves: Moves) -> None:
    rig.now += draw(moves, (1, 50, 100, 10_000, 25_000)) * NS_PER_MS


def reload_driver(rig: MemoryRig, _: Moves) -> None:
    if rig.machine.bus.channels[1].state is ChannelState.OPEN:
        rig.channel.close()
        rig.pump()
        rig.open()


def power_cycle(rig: MemoryRig, moves: Moves) -> None:
    if next(moves, 0) % 4 == 0:
        rig.restart()


MOVES: tuple[Callable[[MemoryRig, Moves], None], ...] = (
    give_up,
    add_memory,
    acknowledge,
    set_size,
    end_discards,
    take_back,
    pass_time,
    give_for_good,
    plug,
    hot_remove,
    give_up,
    acknowledge,
    say_anything,
    reload_driver,
    power_cycle,
)


def move(function: Callable[..., None], *arguments: int) -> bytes:
    return bytes((MOVES.index(function), *arguments))


GROW = move(set_size, 11) + move(acknowledge, 0, 1) + move(add_memory, 0, 1)
SHRINK = move(set_size, 1) + move(give_up, 0, 2, 2, 0, 9, 4, 3, 5) + move(end_discards, 1, 3)
SEEDS = (
    GROW + SHRINK,
    move(set_size, 9) + move(acknowledge, 0, 1) + move(add_memory, 0, 1) + GROW,
    GROW + move(set_size, 6) + move(give_up, 1, 2, 4, 0, 9, 6, 12, 8) + move(give_up, 0, 1, 5, 0, 6),
    SHRINK + move(set_size, 5) + move(take_back, 1) + move(end_discards, 1, 1),
    GROW + SHRINK + move(set_size, 13) + move(end_discards, 1, 3) + move(take_back, 1),
    GROW + move(hot_remove, 8) + move(give_for_good, 0, 1, 2, 4, 0, 12, 5, 3, 7) + move(end_discards, 1, 0),
    GROW + move(hot_remove, 8) + move(give_for_good, 0, 1, 1, 4, 0, 12) + move(end_discards, 1, 3) + GROW,
    move(plug, 0, 0) + move(acknowledge, 0, 1) + SHRINK + move(give_up, 0, 1, 7, 0, 9) + move(plug, 2)
    + move(acknowledge, 3, 1) + move(acknowledge, 1, 1),
    move(plug, 1, 2) + move(plug, 3) + move(acknowledge, 3, 1) + GROW + move(power_cycle, 0),
    move(set_size, 10) + move(add_memory, 4, 0) + move(pass_time, 3) + move(acknowledge, 1, 1) + GROW,
    SHRINK + move(reload_driver) + move(set_size, 4) + GROW,
)  # fmt: skip


def memories() -> Callable[[bytes], None]:
    """All memory of a machine, against any guest."""
    return MemoryRig().feed


MEMORY_MACHINES = (Target("memory", memories, SEEDS, cost=160),)
