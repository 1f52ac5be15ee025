"""Each dynamic memory message encoded and decoded, beside two other codecs; a whole handshake."""

import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Final

import construct as c
from tests.wire import second_decoder

from bench.figures import Figure
from dynmem import vmbus
from dynmem.dm import DynamicMemoryHost, GivenUp, HostOptions
from dynmem.dm.guest import DynamicMemoryGuest
from dynmem.dm.states import HostState
from dynmem.errors import RemoteProtocolError
from dynmem.pages import ranges
from dynmem.units import PAGE_SIZE
from dynmem.vmbus.memory import FlatMemory
from dynmem.wire import dm
from dynmem.wire.synic import VMBUS_MESSAGE_TYPE

ROUNDS: Final = 7
CALLS: Final = 400
GUEST_PAGES: Final = 1 << 20
_HEAD: Final = ("type" / c.Int16ul, "size" / c.Int16ul, "trans_id" / c.Int32ul)
_U32, _U64 = c.Int32ul, c.Int64ul


def _words(*names: str, kind: c.Construct = _U64) -> c.Construct:
    return c.Struct(*_HEAD, *(name / kind for name in names))


# flags stay inside their words here, which spares construct some work that the other two do
CONSTRUCT: Final[dict[int, c.Construct]] = {
    0: c.Struct(*_HEAD, "data" / c.GreedyBytes),
    1: _words("version", "flags", kind=_U32),
    2: _words("flags"),
    3: _words("caps", "min_page_cnt", "max_page_number"),
    4: _words("flags"),
    5: c.Struct(
        *_HEAD,
        *(name / _U64 for name in ("num_avail", "num_committed", "page_file_size", "zero_free")),
        "page_file_writes" / _U32,
        "io_diff" / _U32,
    ),
    6: _words("num_pages", "reserved", kind=_U32),
    7: c.Struct(*_HEAD, "reserved" / _U32, "word" / _U32, "ranges" / _U64[c.this.word >> 1]),
    8: c.Struct(*_HEAD, "word" / _U32, "count" / _U32, "ranges" / _U64[c.this.count]),
    9: c.Struct(*_HEAD),
    10: _words("range", "region"),
    11: _words("page_count", "result", kind=_U32),
    12: c.Struct(
        *_HEAD,
        *(name / _U32 for name in ("reserved", "info_size", "info_type", "data_size")),
        "data" / c.Bytes(c.this.data_size),
    ),
    13: _words("virtual_node", "page_count", "qos_flags", "reserved", kind=_U32),
    14: c.Struct(*_HEAD, "result" / _U32, "count" / _U32, "word" / _U64, "ranges" / _U64[c.this.count]),
}
TEN_RANGES: Final = b"".join((at * 1000 | 64 << 40).to_bytes(8, "little") for at in range(10))
MESSAGES: Final[tuple[dm.Message, ...]] = (
    dm.DmError(1, b"data"),
    dm.VersionRequest(1, dm.VERSION_WIN10, False),
    dm.VersionResponse(1, True),
    dm.CapabilitiesReport(1, 0x1F, 0, GUEST_PAGES),
    dm.CapabilitiesResponse(1, True, True, False),
    dm.StatusReport(1, 50_000, 60_000, 0, 0, 0, 0),
    dm.BalloonRequest(1, 1000),
    dm.BalloonResponse(1, True, TEN_RANGES),
    dm.UnballoonRequest(1, False, TEN_RANGES),
    dm.UnballoonResponse(1),
    dm.HotAddRequest(1, 5 | 512 << 40, 5 | 1024 << 40),
    dm.HotAddResponse(1, 512, 1),
    dm.InfoMessage(1, 0, bytes(8)),
    dm.HotRemoveRequest(1, 0, 512, 1),
    dm.HotRemoveResponse(1, 1, False, TEN_RANGES),
)


def _microseconds(*calls: Callable[[], object]) -> list[float]:
    """The median time of each call; they take turns, so that a slow moment hits all of them."""
    taken: list[list[float]] = [[] for _ in calls]
    for _round in range(ROUNDS):
        for call, times in zip(calls, taken, strict=True):
            begin = time.perf_counter()
            for _call in range(CALLS):
                call()
            times.append((time.perf_counter() - begin) / CALLS * 1e6)
    return [statistics.median(times) for times in taken]


def _message(message: dm.Message) -> Iterator[Figure]:
    layout = dm.TABLE.of(message)
    octets = dm.encode(message)
    other = CONSTRUCT[layout.number]
    shape = "m10_long" if layout.number == 10 else f"m{layout.number}"
    third = getattr(second_decoder.dm, shape)
    built, read = other.parse(octets), third(octets)
    assert other.build(built) == read.dumps() == octets
    for way, calls in (
        ("encode", (lambda: dm.encode(message), lambda: other.build(built), read.dumps)),
        ("decode", (lambda: dm.decode(octets), lambda: other.parse(octets), lambda: third(octets))),
    ):
        ours, by_construct, by_cstruct = _microseconds(*calls)
        beside = f"us  (construct {by_construct:.3g}, dissect.cstruct {by_cstruct:.3g})"
        yield Figure(f"{layout.name} {way}", ours, beside, at_most=min(by_construct, by_cstruct))


def _checked(octets: bytes) -> int:
    """A balloon response as far as a device trusts nothing of it: decoded, its ranges inside the guest."""
    message = dm.decode(octets)
    assert isinstance(message, dm.BalloonResponse)
    starts, counts = ranges.unpack(message.ranges)
    if int((starts + counts).max()) > GUEST_PAGES or not counts.all():
        raise RemoteProtocolError("ranges outside the guest")
    return len(starts)


class _NoPages:
    """Neither end moves a page in a handshake."""

    removed_pages = available_pages = committed_pages = 0

    def add_given(self, ranges: bytes) -> GivenUp:
        return GivenUp(0, 0, 0)

    def remove_for_guest(self, max_pages: int, max_ranges: int) -> bytes:
        return b""

    def undo(self, ranges: bytes) -> None:
        raise AssertionError(ranges)

    def allocate_for_balloon(self, pages: int) -> bytes:
        return b""

    def free_from_balloon(self, ranges: bytes) -> None:
        raise AssertionError(ranges)


def handshake(memory: FlatMemory) -> int:
    """Contact, offers, GPADL, opening, version and capabilities; how many messages that took."""
    offer = vmbus.Offer(dm.BALLOON_DEVICE_TYPE, uuid.UUID(int=1), "balloon")
    bus, client = vmbus.Bus(memory, [offer]), vmbus.Client(memory)
    steps = 0

    def carry() -> None:
        nonlocal steps
        while posts := client.take_posts():
            for post in posts:
                bus.post_message(post.connection_id, VMBUS_MESSAGE_TYPE, post.payload)
            while (message := bus.next_message()) is not None:
                bus.message_delivered()
                client.receive_message(message.payload)
                steps += 1
            steps += len(posts)

    client.connect()
    carry()
    client.channels[1].open(range(16, 26), 5)
    carry()
    ours = DynamicMemoryHost(
        store=_NoPages(), boot_pages=1024, options=HostOptions(status_report=False, post_init_wait_ns=0)
    )
    theirs = DynamicMemoryGuest(pages=_NoPages(), total_pages=1024)
    ours.reset(0)
    ours.channel_opened(0)
    theirs.channel_opened(0)
    while ours.state is not HostState.IDLE:
        for end, other, out, into in (
            (theirs, ours, client.channels[1], bus.channels[1]),
            (ours, theirs, bus.channels[1], client.channels[1]),
        ):
            while (data := end.next_message()) is not None:
                out.send(data)
                end.message_sent(0)
            while (packet := into.receive()) is not None:
                other.receive(packet.data, 0)
                steps += 1
        ours.tick(0)
    return steps


def run() -> Iterator[Figure]:
    """Every message, the longest response, and the whole way from contact to S_IDLE."""
    for message in MESSAGES:
        yield from _message(message)
    many = b"".join((at * 2000 | 64 << 40).to_bytes(8, "little") for at in range(510))
    octets = dm.encode(dm.BalloonResponse(1, False, many))
    construct_read, cstruct_read = CONSTRUCT[7], second_decoder.dm.m7
    assert _checked(octets) == 510
    ours, by_construct, by_cstruct = _microseconds(
        lambda: _checked(octets), lambda: construct_read.parse(octets), lambda: cstruct_read(octets)
    )
    yield Figure("a response of 510 ranges, decoded and checked", ours, "us", promised=10)
    yield Figure("  beside dissect.cstruct", by_cstruct / ours, "x", at_least=4)
    yield Figure("  by construct, unchecked", by_construct, "us")
    yield Figure("  by dissect.cstruct, unchecked", by_cstruct, "us")
    memory = FlatMemory(memoryview(bytearray(32 * PAGE_SIZE)))
    steps = handshake(memory)
    (took,) = _microseconds(lambda: handshake(memory))
    yield Figure(f"a handshake of {steps} messages, contact to S_IDLE", took, "us")
    yield Figure("steps of a handshake", steps / took * 1e6, "a second")
