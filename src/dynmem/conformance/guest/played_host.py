"""The host that the suite plays against a guest under test: it does what a case says and trusts nothing.

It checks in every case that the guest's messages and packets are sound, that its rings are empty when it
opens them, that it signals when it must, and that it gives up only pages that it owns.
"""

import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from dynmem.conformance import layouts as dm
from dynmem.conformance.adapter import GuestUnderTest
from dynmem.conformance.case import DeviationError, fail, must
from dynmem.conformance.layouts import Dm, Span
from dynmem.errors import RemoteProtocolError
from dynmem.units import NS_PER_MS, NS_PER_S, PAGE_SIZE
from dynmem.vmbus import ring
from dynmem.vmbus.memory import GpadlMemory
from dynmem.wire import vmbus as wire
from dynmem.wire.dm import BALLOON_DEVICE_TYPE
from dynmem.wire.packet import Packet, PacketType
from dynmem.wire.synic import (
    CHANNEL_CONNECTION_ID_BASE,
    MESSAGE_CONNECTION_ID,
    MESSAGE_CONNECTION_ID_4,
    VMBUS_MESSAGE_TYPE,
    VMBUS_SINT,
)
from dynmem.wire.versions import VERSION_5_0, VERSION_5_3, VERSION_WIN8

RELID: Final = 1
PATIENCE_NS: Final = 8 * NS_PER_S  # a guest that replies at all has replied by then
STEP_NS: Final = 10 * NS_PER_MS
POSTS_MAX: Final = 4096
VERSIONS_MAX: Final = 32  # more than exist, of either protocol

_M = TypeVar("_M", bound=wire.Message)


class PlayedHost:
    """One host and its state; it also serves the hypercalls of the guest under test.

    Attributes:
        guest: The guest under test.
        version: The VMBus version agreed on.
        refusals: Hypercall statuses for the next posts, before posts are accepted again.
        posts: Messages that were accepted but not read yet, with their connection ids.
        given: The pages in the balloon.
        added: Ranges that the guest has added to its boot memory.
        caps: The guest's capability bits.
        statuses: The status reports received.
        signals: How often the guest signalled its channel.

    """

    def __init__(self, guest: GuestUnderTest) -> None:
        self.guest = guest
        self.version: int = 0
        self.refusals: deque[int] = deque()
        self.refused: list[bytes] = []
        self.posts: deque[tuple[int, bytes]] = deque()
        self.given: set[int] = set()
        self.added: list[Span] = []
        self.caps: int = 0
        self.statuses: list[tuple[int, ...]] = []
        self.signals: int = 0
        self.trans_id: int = 1000
        self.relid: int = RELID
        self.gpadl: int = 0
        self.pfns: list[int] = []
        self.downstream: int = 0
        self._reader: ring.RingReader | None = None
        self._writer: ring.RingWriter | None = None

    # the guest's hypercalls

    def post_message(self, connection_id: int, message_type: int, payload: bytes) -> int:
        if self.refusals:
            self.refused.append(payload)
            return self.refusals.popleft()
        must(message_type == VMBUS_MESSAGE_TYPE, f"a message of hypervisor type {message_type} is posted")
        must(8 <= len(payload) <= 240, f"a message of {len(payload)} bytes is posted")
        must(len(self.posts) < POSTS_MAX, "the guest's posts have no end")
        if connection_id not in (MESSAGE_CONNECTION_ID, MESSAGE_CONNECTION_ID_4):
            return 18
        self.posts.append((connection_id, payload))
        return 0

    def signal_event(self, connection_id: int, flag: int) -> int:
        if connection_id != CHANNEL_CONNECTION_ID_BASE + self.relid:
            return 18
        if flag:
            return 17
        self.signals += 1
        return 0

    # VMBus messages

    def waited(self, there: Callable[[], object]) -> bool:
        """Let time pass in small steps until something arrives. Returns whether it did."""
        for step in range(PATIENCE_NS // STEP_NS):
            self.guest.advance(STEP_NS if step else 0)
            if there():
                return True
        return False

    def next_post(self, kind: type[_M]) -> _M:
        """Return the next message, which must be of `kind`."""
        name = wire.TABLE.by_class[kind].name
        must(self.waited(lambda: self.posts), f"expected {name}, received nothing")
        message = self.peek_post()
        self.posts.popleft()
        if not isinstance(message, kind):
            fail(f"expected {name}, received {wire.TABLE.of(message).name}")
        return message

    def peek_post(self) -> wire.Message:
        """Return the next message, which must exist."""
        payload = self.posts[0][1]
        try:
            return wire.decode(payload, self.version)
        except RemoteProtocolError as error:
            fail(f"the guest posted {payload[:16].hex()}...: {error}")

    def no_post(self, when: str) -> None:
        """Check that nothing was posted."""
        self.guest.advance(NS_PER_S)
        must(not self.posts, f"{when} the guest posted {self.posts and self.posts[0][1][:16].hex()}")

    def say(self, message: wire.Message, pad: int = 0) -> None:
        """Put a message into the guest's slot, padded by `pad` bytes as some hosts do."""
        self.guest.deliver_message(wire.encode(message) + bytes(pad))

    def refuse_every_version(self) -> None:
        """Reject contacts until none comes."""
        for _ in range(VERSIONS_MAX):
            contact = self.next_post(wire.InitiateContact)
            self.say(wire.VersionResponse(False, 0, 0 if contact.version >= VERSION_5_0 else None))
            if not self.waited(lambda: self.posts):
                return
        fail("the guest tries versions without end")

    def refuse_versions_above(self, newest: int) -> wire.InitiateContact:
        """Reject contacts until one has a version of `newest` or older. Returns that one."""
        last = 1 << 32
        for _ in range(VERSIONS_MAX):
            contact = self.next_post(wire.InitiateContact)
            must(contact.version < last, f"version {contact.version:#x} is tried after {last:#x}")
            last = contact.version
            if contact.version <= newest:
                return contact
            self.say(wire.VersionResponse(False, 0, 0 if contact.version >= VERSION_5_0 else None))
        raise DeviationError("the guest tries versions without end")

    def connect(self, newest: int = VERSION_5_3, *, pad: int = 0) -> None:
        """Accept a version and offer the device."""
        self.guest.start(self)
        contact = self.refuse_versions_above(newest)
        must(contact.version >= VERSION_WIN8, "the guest knows no version of 2.4 or later")
        self.version = contact.version
        modern = contact.version >= VERSION_5_0
        if modern:
            must(contact.message_sint == VMBUS_SINT, f"messages are requested at SINT {contact.message_sint}")
        self.say(wire.VersionResponse(True, 0, MESSAGE_CONNECTION_ID_4 if modern else None), pad)
        self.next_post(wire.RequestOffers)
        self.offer(pad)
        self.say(wire.AllOffersDelivered(), pad)

    def offer(self, pad: int = 0, *, relid: int = RELID) -> None:
        """Offer the Dynamic Memory device under that number."""
        self.relid = relid
        self.say(
            wire.OfferChannel(
                interface=BALLOON_DEVICE_TYPE,
                instance=BALLOON_DEVICE_TYPE,
                channel_flags=0,
                mmio_megabytes=0,
                user_defined=wire.NO_USER_DATA,
                sub_channel_index=0,
                mmio_megabytes_optional=0,
                child_relid=relid,
                monitor_id=0,
                monitor_allocated=False,
                is_dedicated_interrupt=True,
                connection_id=CHANNEL_CONNECTION_ID_BASE + relid,
            ),
            pad,
        )

    def rescind(self) -> None:
        """Rescind the channel, and wait until the guest has released it."""
        self.say(wire.RescindChannelOffer(self.relid))
        self._reader = self._writer = None
        for _ in range(8):
            must(self.waited(lambda: self.posts), "RELID_RELEASED does not come")
            message = self.peek_post()
            self.posts.popleft()
            if isinstance(message, wire.RelidReleased):
                must(message.child_relid == self.relid, f"relid {message.child_relid} is released")
                return
            if isinstance(message, wire.GpadlTeardown):
                self.say(wire.GpadlTorndown(message.gpadl))
        fail("RELID_RELEASED does not come")

    def take_gpadl(self) -> wire.GpadlHeader:
        """Return a GPADL from its header and bodies, checked. It has no reply yet."""
        header = self.next_post(wire.GpadlHeader)
        must(header.child_relid == self.relid, f"a GPADL for relid {header.child_relid}")
        must(header.range_count == 1, f"a GPADL of {header.range_count} ranges")
        byte_count, byte_offset = struct.unpack_from("<II", header.ranges)
        pages = byte_count // PAGE_SIZE
        must(byte_offset == 0 and pages and byte_count % PAGE_SIZE == 0, "a GPADL is not of whole pages")
        must(header.range_buflen == 8 + 8 * pages, "a GPADL's two lengths do not agree")
        words = header.ranges[8:]
        while len(words) < 8 * pages:
            body = self.next_post(wire.GpadlBody)
            must(body.gpadl == header.gpadl, "a body of another GPADL comes in between")
            words += body.pfns
        self.pfns = list(struct.unpack(f"<{pages}Q", words[: 8 * pages]))
        must(len(set(self.pfns)) == pages, "a page is in the GPADL twice")
        self.gpadl = header.gpadl
        return header

    def take_open(self) -> wire.OpenChannel:
        """Create the GPADL and accept the open, without a reply yet. The rings must be empty."""
        self.take_gpadl()
        self.say(wire.GpadlCreated(self.relid, self.gpadl, 0))
        request = self.next_post(wire.OpenChannel)
        must(request.child_relid == self.relid, f"relid {request.child_relid} is opened")
        must(request.ringbuffer_gpadl == self.gpadl, "the channel is opened over another GPADL")
        self.downstream = request.downstream_page_offset
        must(
            2 <= self.downstream <= len(self.pfns) - 2, f"downstream at {self.downstream} of {len(self.pfns)}"
        )
        memory = GpadlMemory(self.guest.memory, self.pfns)
        for first in (0, self.downstream):
            words = [
                memory.load32(first * PAGE_SIZE + offset) for offset in (ring.WRITE_INDEX, ring.READ_INDEX)
            ]
            must(words == [0, 0], f"a ring is opened with indices {words}")
        return request

    def open(self) -> None:
        """Open the channel."""
        request = self.take_open()
        memory = GpadlMemory(self.guest.memory, self.pfns)
        self._reader = ring.RingReader(memory, 0, self.downstream)
        self._writer = ring.RingWriter(memory, self.downstream, len(self.pfns) - self.downstream)
        self.say(wire.OpenChannelResult(self.relid, request.openid, 0))

    # packets

    def write(self, packet: Packet) -> None:
        """Put a packet into the ring, and raise the event flag if the guest may sleep."""
        must(self._writer is not None, "the channel is not open")
        assert self._writer is not None
        try:
            must(self._writer.write(packet), "the guest leaves the ring full")
        except RemoteProtocolError as error:
            fail(f"the guest damaged the ring: {error}")
        if self._writer.take_signal():
            self.guest.deliver_event(self.relid)

    def send(self, data: bytes) -> None:
        """Send one message."""
        self.write(Packet(PacketType.INBAND, 0, 0, data))

    def packets(self) -> list[Dm]:
        """Return every message in the ring except status reports, which are checked and recorded."""
        found: list[Dm] = []
        while self._reader is not None:
            try:
                packet = self._reader.read()
            except RemoteProtocolError as error:
                fail(f"the guest wrote a malformed packet: {error}")
            if self._reader.take_signal():
                self.guest.deliver_event(self.relid)
            if packet is None:
                break
            must(packet.type == PacketType.INBAND, f"the guest sent a packet of type {packet.type}, not 6")
            message = dm.read(packet.data)
            if message.kind == dm.STATUS_REPORT:
                self.statuses.append(dm.fields(message, dm.STATUS_REPORT, "<QQQQII"))
            else:
                found.append(message)
        return found

    def arrived(self) -> list[Dm]:
        """Return what arrives first, given time; empty if nothing does."""
        for step in range(PATIENCE_NS // STEP_NS):
            self.guest.advance(STEP_NS if step else 0)
            if found := self.packets():
                return found
        return []

    def expect(self, kind: int) -> Dm:
        """Return the next message that is not a status report; it must be of `kind`, and the only one."""
        found = self.arrived()
        must(len(found) == 1 and found[0].kind == kind, f"expected {dm.NAMES[kind]}, received {names(found)}")
        return found[0]

    def silent(self, when: str, ns: int = NS_PER_S) -> None:
        """Check that nothing but status reports arrives."""
        found: list[Dm] = []
        for _ in range(10):
            self.guest.advance(ns // 10)
            found += self.packets()
        must(not found, f"{when} the guest sent {names(found)}")

    def next_id(self) -> int:
        """Return this host's next transaction id."""
        self.trans_id += 1
        return self.trans_id

    # the Dynamic Memory Protocol

    def version_request(self) -> tuple[int, int, bool]:
        """Return the expected version request: its id, the version, whether it is the last attempt."""
        request = self.expect(dm.VERSION_REQUEST)
        version, flags = dm.fields(request, dm.VERSION_REQUEST, "<II")
        must(flags in (0, 1), f"reserved bits of {request.name} are set: {flags:#x}")
        return request.trans_id, version, bool(flags)

    def negotiate(self, newest: int = dm.DM_2_0) -> int:
        """Reject versions until one of `newest` or older comes, accept it and return it."""
        for _ in range(VERSIONS_MAX):
            trans_id, version, last = self.version_request()
            self.send(dm.version_response(trans_id, accepted=version <= newest))
            if version <= newest:
                return version
            must(not last, f"version {version:#x} is the guest's last")
        raise DeviationError("the guest requests versions without end")

    def capabilities(self, *, accepted: bool = True, suppress: bool = False) -> tuple[int, ...]:
        """Accept the capabilities. Returns caps, min_page_cnt and max_page_number."""
        report = self.expect(dm.CAPABILITIES_REPORT)
        told = dm.fields(report, dm.CAPABILITIES_REPORT, "<QQQ")
        self.caps = told[0]
        self.send(dm.capabilities_response(report.trans_id, accepted=accepted, suppress=suppress))
        return told

    def begin(self, *, newest: int = dm.DM_2_0, suppress: bool = True) -> "PlayedHost":
        """Do everything up to a guest that is ready for requests."""
        self.connect()
        self.open()
        self.negotiate(newest)
        self.capabilities(suppress=suppress)
        self.silent("after the handshake")
        return self

    def balloon(self, pages: int) -> list[list[Span]]:
        """Request pages. Returns the ranges of each response, which must be the guest's and new."""
        self.send(dm.balloon_request(self.next_id(), pages))
        responses: list[list[Span]] = []
        more = True
        while more:
            must(len(responses) < POSTS_MAX, "the responses to a balloon request have no end")
            found = self.arrived()
            must(found, "a balloon request gets no final response")
            for response in found:
                must(more, f"{response.name} follows the response with more_pages 0")
                gift = dm.read_gift(response)
                must(
                    response.kind == dm.BALLOON_RESPONSE,
                    f"{response.name} is the response to a balloon request",
                )
                self.take(gift.spans)
                responses.append(gift.spans)
                more = gift.more
        total = sum(count for spans in responses for _, count in spans)
        must(total <= pages, f"{total} pages are given where {pages} are requested")
        return responses

    def take(self, spans: Sequence[Span]) -> None:
        """Record pages that the guest gives up: they must be its own, each once."""
        must(len(spans) <= dm.RANGES_MAX, f"{len(spans)} ranges do not fit a page")
        for start, count in spans:
            memory = [(0, self.guest.total_pages), *self.added]
            inside = any(first <= start and start + count <= first + length for first, length in memory)
            must(inside, f"pages {start:#x}+{count:#x} are not the guest's")
            pages = range(start, start + count)
            must(self.given.isdisjoint(pages), f"pages {start:#x}+{count:#x} are given up twice")
            must(set(pages).isdisjoint(self.pfns), f"a page of the rings is given up at {start:#x}")
            self.given.update(pages)

    def unballoon(self, parts: Sequence[Sequence[Span]]) -> None:
        """Return pages in that many messages. The response must follow the last one, not before."""
        for number, spans in enumerate(parts):
            more = number < len(parts) - 1
            self.send(dm.unballoon_request(self.next_id(), spans, more=more))
            self.given.difference_update(dm.pages_in(spans))
            if more:
                self.silent("before the end of an unballoon transaction")
        answer = self.expect(dm.UNBALLOON_RESPONSE)
        must(not answer.body, f"{answer.name} has {len(answer.body) + 8} bytes, not 8")

    def alive(self) -> None:
        """Check that the guest still gives pages and accepts them back."""
        spans = [span for response in self.balloon(64) for span in response]
        must(sum(count for _, count in spans) == 64, "the guest no longer gives 64 pages")
        self.unballoon([spans])

    def holds(self, pages: int) -> None:
        """Check the guest's own count of ballooned pages, if it reports one."""
        told = self.guest.ballooned_pages()
        must(told in (None, pages), f"the balloon holds {pages} pages, the guest reports {told}")


def names(messages: Sequence[Dm]) -> str:
    """Return the names of the messages received."""
    return ", ".join(message.name for message in messages) or "nothing"
