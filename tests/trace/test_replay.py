"""Recordings of real systems played again with one end replaced by ours, which does and says the same."""

import mmap
import struct
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.rigs.pages import packed, pages_of
from tests.rigs.stores import PlainSource, SetStore
from tests.rigs.traced_host import TracedHost

from dynmem.direction import Direction
from dynmem.dm.blocks import Added
from dynmem.dm.guest import DynamicMemoryGuest
from dynmem.dm.host import DynamicMemoryHost
from dynmem.dm.options import GuestOptions, HostOptions
from dynmem.dm.states import GuestState, HostState
from dynmem.trace.decode import Decoder, Entry
from dynmem.trace.lines import EventLine, MessageLine, PacketLine, parse
from dynmem.trace_events import BY_NAME, Trace, matching
from dynmem.units import MIB, PAGE_SHIFT
from dynmem.vmbus import Bus, ChannelOpened, Client, Offer, OffersDelivered, Opened
from dynmem.vmbus.guest import FIRST_GPADL_ID
from dynmem.vmbus.memory import FlatMemory, GpadlMemory
from dynmem.vmbus.ring import RingReader, RingWriter
from dynmem.wire import dm, packet, vmbus
from dynmem.wire.synic import VMBUS_MESSAGE_TYPE, HvStatus

CAPTURES = Path(__file__).resolve().parent.parent / "captures"
UP = Direction.GUEST_TO_HOST
MEMORY_BYTES = 256 * MIB  # of the captured guests
BOOT_PAGES = MEMORY_BYTES >> PAGE_SHIFT
ADDED_AT = 0x100000  # where the captured host added memory
RINGS = range(0x53F0, 0x53FA)  # the pages of the captured guest's rings, five each
DOWN_PAGE = 5
INSTANCE = uuid.UUID("1eccfd72-4b41-45ef-b73a-4a6e44c12924")


@pytest.fixture
def memory() -> Iterator[FlatMemory]:
    """The guest's memory; only what is touched is there."""
    with mmap.mmap(-1, MEMORY_BYTES) as area:
        flat = FlatMemory(memoryview(area))
        yield flat
        flat.release()


def captured() -> list[MessageLine | PacketLine]:
    lines = [parse(line) for line in (CAPTURES / "wire.log").read_text().splitlines()]
    assert len(lines) == 22
    return [line for line in lines if isinstance(line, MessageLine | PacketLine)]


def without(message: Any, *names: str) -> dict[str, object]:
    """The message's fields and name, without what is each end's own choice."""
    fields = msgspec.structs.asdict(message)
    return {"": type(message).__name__} | {name: fields[name] for name in fields if name not in names}


def alike(ours: dm.Message, theirs: dm.Message) -> bool:
    """Whether two messages say the same; ids are anyone's own, and ranges may be joined."""
    own = {"trans_id", "ranges", "hot_remove"}  # the captured host knew no hot remove
    names = own.intersection(ours.__struct_fields__)
    if without(ours, *names) != without(theirs, *(own.intersection(theirs.__struct_fields__))):
        return False
    ranges = [getattr(message, "ranges", b"") for message in (ours, theirs)]
    return sorted(pages_of(ranges[0])) == sorted(pages_of(ranges[1]))


class OurHost:
    """Our bus and our protocol end; the captured guest's packets go through real rings."""

    def __init__(self, memory: FlatMemory) -> None:
        self.memory = memory
        self.bus = Bus(memory, [Offer(dm.BALLOON_DEVICE_TYPE, INSTANCE, "hv-balloon")])
        self.dm = DynamicMemoryHost(
            store=SetStore(ADDED_AT),
            boot_pages=BOOT_PAGES,
            hot_add=PlainSource(ADDED_AT, 2 * BOOT_PAGES),
            options=HostOptions(status_report=True, post_init_wait_ns=0, hot_add_region=False),
        )
        self.dm.reset(0)
        rings = GpadlMemory(memory, RINGS)
        self.to_host, self.to_guest = (
            RingWriter(rings, 0, DOWN_PAGE),
            RingReader(rings, DOWN_PAGE, DOWN_PAGE),
        )

    def heard(self, line: MessageLine | PacketLine, now: int) -> None:
        """The guest says it."""
        if isinstance(line, MessageLine):
            assert self.bus.post_message(4, VMBUS_MESSAGE_TYPE, line.payload) is HvStatus.SUCCESS
            if any(isinstance(event, ChannelOpened) for event in self.bus.take_events()):
                self.dm.channel_opened(now)
            return
        assert self.to_host.write(line.packet)
        received = self.bus.channels[1].receive()
        assert received is not None
        self.dm.receive(received.data, now)

    def says(self, now: int) -> vmbus.Message | dm.Message:
        """What our host says next."""
        if (posted := self.bus.next_message()) is not None:
            self.bus.message_delivered()
            return vmbus.decode(posted.payload, self.bus.version or 0)
        message = self.dm.next_message()
        assert message is not None
        assert self.bus.channels[1].send(message)
        self.dm.message_sent(now)
        received = self.to_guest.read()
        assert received is not None
        return dm.decode(received.data)


def test_our_host_answers_the_captured_linux_guest_as_its_own_host_did(memory: FlatMemory) -> None:
    ours = OurHost(memory)
    targets: dict[type, int] = {
        dm.BalloonRequest: BOOT_PAGES - 16384,
        dm.UnballoonRequest: BOOT_PAGES,
        dm.HotAddRequest: 2 * BOOT_PAGES,
    }
    for now, line in enumerate(captured()):
        ours.dm.tick(now)
        if line.direction is UP:
            ours.heard(line, now)
            continue
        if isinstance(line, MessageLine):
            theirs: Any = vmbus.decode(line.payload, ours.bus.version or 0)
            own = ("connection_id",) if isinstance(theirs, vmbus.OfferChannel) else ()
            assert without(ours.says(now), *own) == without(theirs, *own)
            continue
        theirs = dm.decode(line.packet.data)
        if type(theirs) in targets:
            ours.dm.set_target(targets[type(theirs)], now)
        said = ours.says(now)
        assert alike(said, theirs), said  # type: ignore[arg-type]
    assert ours.bus.next_message() is None
    assert ours.dm.next_message() is None
    assert ours.bus.rejected == {}
    assert ours.dm.state is HostState.IDLE
    assert ours.dm.actual_pages == ours.dm.target_pages == 2 * BOOT_PAGES


class CapturedKernel:
    """Allocates for the balloon, and adds, what the captured guest did."""

    available_pages = 48456
    committed_pages = 24700
    alignment_pages = 1 << 15

    def __init__(self, ranges: bytes) -> None:
        self.ranges = ranges
        self.given: list[int] = []

    def allocate_for_balloon(self, pages: int) -> bytes:
        assert pages == len(pages_of(self.ranges))
        self.given = pages_of(self.ranges)
        return self.ranges

    def free_from_balloon(self, ranges: bytes) -> None:
        for page in pages_of(ranges):
            self.given.remove(page)

    def hot_add(self, start: int, pages: int) -> Added:
        assert start == ADDED_AT
        return Added(pages)

    def hot_remove(self, pages: int, virtual_node: int, qos_flags: int) -> bytes:
        raise AssertionError("nobody asked")

    def put_back(self, ranges: bytes) -> None:
        raise AssertionError("nobody asked")


class OurGuest:
    """Our driver and our protocol end; the captured host's packets go through real rings."""

    def __init__(self, memory: FlatMemory, kernel: CapturedKernel) -> None:
        self.client = Client(memory, monitor_pages=(0x533A000, 0x5339000))
        self.dm = DynamicMemoryGuest(
            pages=kernel,
            total_pages=BOOT_PAGES,
            blocks=kernel,
            options=GuestOptions(page_limit=ADDED_AT + BOOT_PAGES, status_delay_ns=1 << 60),
        )
        self.posts: list[bytes] = []
        rings = GpadlMemory(memory, RINGS)
        self.from_guest = RingReader(rings, 0, DOWN_PAGE)
        self.to_guest = RingWriter(rings, DOWN_PAGE, DOWN_PAGE)
        self.client.connect()

    def heard(self, line: MessageLine | PacketLine, now: int) -> None:
        """The host says it."""
        if isinstance(line, PacketLine):
            assert self.to_guest.write(line.packet)
            received = self.client.channels[1].receive()
            assert received is not None
            self.dm.receive(received.data, now)
            return
        payload = line.payload
        message = vmbus.decode(payload)
        if isinstance(message, vmbus.OpenChannelResult):  # the captured guest chose another number
            payload = vmbus.encode(msgspec.structs.replace(message, openid=FIRST_GPADL_ID))
        self.client.receive_message(payload)
        for event in self.client.take_events():
            if isinstance(event, OffersDelivered):
                self.client.channels[1].open(RINGS, DOWN_PAGE)
            elif isinstance(event, Opened):
                self.dm.channel_opened(now)

    def says(self, now: int) -> vmbus.Message | dm.Message:
        """What our guest says next."""
        self.posts += [post.payload for post in self.client.take_posts()]
        if self.posts:
            return vmbus.decode(self.posts.pop(0))
        self.dm.tick(now)
        message = self.dm.next_message()
        assert message is not None
        assert self.client.channels[1].send(message)
        self.dm.message_sent(now)
        received = self.from_guest.read()
        assert received is not None
        return dm.decode(received.data)


def test_our_guest_answers_the_captured_host_as_linux_did(memory: FlatMemory) -> None:
    messages = [dm.decode(line.packet.data) for line in captured() if isinstance(line, PacketLine)]
    kernel = CapturedKernel(
        next(message.ranges for message in messages if isinstance(message, dm.BalloonResponse))
    )
    ours = OurGuest(memory, kernel)
    for now, line in enumerate(captured()):
        if line.direction is not UP:
            ours.heard(line, now)
        elif isinstance(line, MessageLine):
            own = "openid"
            theirs = vmbus.decode(line.payload)
            names = (own,) if own in theirs.__struct_fields__ else ()
            assert without(ours.says(now), *names) == without(theirs, *names)
        elif not isinstance(response := dm.decode(line.packet.data), dm.StatusReport):  # by the clock
            said = ours.says(now)
            assert isinstance(said, type(response))
            if isinstance(said, dm.CapabilitiesReport) and isinstance(response, dm.CapabilitiesReport):
                assert said.caps & ~dm.CAP_HOT_REMOVE == response.caps
            else:
                assert alike(said, response), said
    assert ours.dm.state is GuestState.INITIALIZED
    assert kernel.given == []


QEMU_TARGETS = (160, 256, 512, 768, 300)  # MiB: the balloon commands of that session


class QemuSession(TracedHost):
    """Our protocol end in the place of QEMU's, told what QEMU was told."""

    def __init__(self) -> None:
        super().__init__("hv_balloon*")
        self.targets = iter(QEMU_TARGETS)

    def told(self, event: EventLine, removed: tuple[int, int]) -> None:
        """What happened around QEMU's end when it logged `event`; `removed` is what comes of a response."""
        now, values = event.time_ns or 0, event.values
        match event.name, values.get("tostr"):
            case "hv_balloon_state_change", "S_POST_RESET_CLOSED":
                self.dm.reset(now)
            case "hv_balloon_state_change", "S_VERSION":
                self.dm.channel_opened(now)
            case "hv_balloon_state_change", "S_IDLE":
                self.dm.tick(now)
            case "hv_balloon_state_change", "S_BALLOON_RB_WAIT" | "S_UNBALLOON_RB_WAIT" | "S_HOT_ADD_SETUP":
                self.dm.set_target(next(self.targets) * MIB >> PAGE_SHIFT, now)
            case "hv_balloon_incoming_version", _:
                self.receive(dm.VersionRequest(1, int(values["major"]) << 16, False), now)
            case "hv_balloon_incoming_caps", _:
                self.receive(dm.CapabilitiesReport(2, int(values["caps"]), 0, (1 << 64) - 1), now)
            case "hv_balloon_incoming_balloon", _:
                start, pages = removed
                each = pages // int(values["range_count"])
                ranges = packed(*((page, each) for page in range(start, start + pages, each)))
                self.receive(dm.BalloonResponse(int(values["trans_id"]), False, ranges), now)
            case "hv_balloon_incoming_unballoon", _:
                self.receive(dm.UnballoonResponse(int(values["trans_id"])), now)
            case "hv_balloon_incoming_hot_add", _:
                numbers = (int(values[name]) for name in ("trans_id", "count", "result"))
                self.receive(dm.HotAddResponse(*numbers), now)
        self.send()

    def receive(self, message: dm.Message, now: int) -> None:
        self.dm.receive(dm.encode(message), now)


@pytest.mark.parametrize("file", ["trace.log", "trace-linux-6.1.log"])
def test_our_host_goes_through_the_states_of_qemus_and_logs_the_same(file: str) -> None:
    lines = [parse(line) for line in (CAPTURES / file).read_text().splitlines()]
    events = [line for line in lines if isinstance(line, EventLine) and line.name.startswith("hv_balloon")]
    session = QemuSession()
    for position, event in enumerate(events):
        removed = (0, 0)
        if event.name == "hv_balloon_incoming_balloon":
            values = events[position + 1].values
            removed = int(values["start"]), int(values["count"])
        session.told(event, removed)
    assert session.lines == [
        f"{event.name} {BY_NAME[event.name].text(list(event.values.values()))}" for event in events
    ]
    assert session.dm.actual_pages == QEMU_TARGETS[-1] * MIB >> PAGE_SHIFT


def posted_by_the_guest(event: EventLine) -> vmbus.Message | None:
    """The message that a guest posted when QEMU logged `event`."""
    numbers = {name: int(value) for name, value in event.values.items()}
    match event.name:
        case "vmbus_initiate_contact":
            version = numbers["major"] << 16 | numbers["minor"]
            pages = (numbers["interrupt_page"], numbers["monitor_page1"], numbers["monitor_page2"])
            return vmbus.InitiateContact(version, numbers["vcpu"], *pages)
        case "vmbus_send_offer":
            return vmbus.RequestOffers()
        case "vmbus_gpadl_header":
            pfns = struct.pack(f"<{len(RINGS)}Q", *RINGS)
            ranges = struct.pack("<II", len(RINGS) << PAGE_SHIFT, 0) + pfns
            assert numbers["num_gfns"] == len(RINGS)
            return vmbus.GpadlHeader(1, numbers["gpadl_id"], len(ranges), 1, ranges)
        case "vmbus_open_channel":
            gpadl = numbers["gpadl_id"]
            return vmbus.OpenChannel(numbers["chan_id"], gpadl, gpadl, numbers["target_vp"], DOWN_PAGE)
    return None


@pytest.mark.parametrize("file", ["trace.log", "trace-linux-6.1.log"])
def test_our_bus_logs_for_the_same_guest_what_qemus_logged(file: str, memory: FlatMemory) -> None:
    lines = [parse(line) for line in (CAPTURES / file).read_text().splitlines()]
    theirs = [line for line in lines if isinstance(line, EventLine) and line.name.startswith("vmbus")]
    ours: list[EventLine] = []

    def sink(name: str, text: str) -> None:
        line = parse(f"{name} {text}")
        assert isinstance(line, EventLine)
        ours.append(line)

    bus = Bus(
        memory,
        [Offer(dm.BALLOON_DEVICE_TYPE, INSTANCE, "hv-balloon")],
        max_version=4 << 16,
        trace=Trace(matching(["vmbus*"]), sink),
    )
    for event in theirs:
        message = posted_by_the_guest(event)
        if message is not None:
            assert bus.post_message(1, VMBUS_MESSAGE_TYPE, vmbus.encode(message)) is HvStatus.SUCCESS
            while bus.next_message() is not None:
                bus.message_delivered()
    assert bus.channels[1].is_open
    flow = ("vmbus_channel_notify_guest", "vmbus_msg_cb")  # of packets, and of retries
    for name in {line.name for line in theirs if line.name not in flow}:
        assert told(ours, name) == told(theirs, name), name


def told(events: list[EventLine], name: str) -> list[dict[str, int | str]]:
    """What the events of a name say but for sizes (some pad), addresses, and retries (which come twice)."""
    values = [
        {key: value for key, value in event.values.items() if key not in ("size", "dev")}
        for event in events
        if event.name == name
    ]
    if name in ("vmbus_post_msg", "vmbus_terminate_offers"):
        return [one for position, one in enumerate(values) if values[position - 1 : position] != [one]]
    return values


def test_the_packets_of_the_memory_dump_are_ours_byte_for_byte() -> None:
    count = 0
    for line in (CAPTURES / "ring-packets.txt").read_text().splitlines():
        descriptor, body = line.split(" desc ")[1].split(" body ")
        if len(body) // 2 != 8 * int(struct.unpack("<HHH", bytes.fromhex(descriptor)[:6])[2]) - 16:
            continue  # the two that are cut
        parsed = parse(line)
        assert isinstance(parsed, PacketLine)
        assert parsed.packet.type == packet.PacketType.INBAND
        entry = Decoder().decode(parsed)
        assert isinstance(entry, Entry)
        message = dm.decode(parsed.packet.data)
        again = dm.encode(message)
        assert again + bytes(-len(again) % 8) == bytes.fromhex(body), line
        whole = packet.encode(packet.Packet(6, 0, parsed.packet.trans_id, again), 0)
        assert whole[:16].hex() == descriptor
        count += 1
    assert count == len((CAPTURES / "ring-packets.txt").read_text().splitlines()) - 2
