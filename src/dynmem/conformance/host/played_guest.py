"""The guest that the suite plays against a host under test: it does what a case says and trusts nothing.

It checks in every case that the host's messages and packets are sound, that replies carry the id of their
request, and that only pages are returned that this guest gave and has not received back.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

from dynmem.conformance import layouts as dm
from dynmem.conformance.adapter import HostUnderTest
from dynmem.conformance.case import NotApplicableError, fail, must
from dynmem.conformance.layouts import Dm, Gift, Span
from dynmem.errors import RemoteProtocolError
from dynmem.units import NS_PER_S, PAGE_SIZE
from dynmem.vmbus import ring
from dynmem.vmbus.memory import GpadlMemory
from dynmem.wire import vmbus as wire
from dynmem.wire.dm import BALLOON_DEVICE_TYPE
from dynmem.wire.packet import Packet, PacketType
from dynmem.wire.synic import MESSAGE_CONNECTION_ID, MESSAGE_CONNECTION_ID_4, VMBUS_MESSAGE_TYPE, VMBUS_SINT
from dynmem.wire.versions import (
    VERSION_4_1,
    VERSION_5_0,
    VERSION_5_1,
    VERSION_5_2,
    VERSION_5_3,
    VERSION_WIN8,
    VERSION_WIN8_1,
    VERSION_WIN10,
)

_M = TypeVar("_M", bound=wire.Message)

LINUX_VERSIONS: Final = (
    VERSION_5_3,
    VERSION_5_2,
    VERSION_5_1,
    VERSION_5_0,
    VERSION_4_1,
    VERSION_WIN10,
    VERSION_WIN8_1,
    VERSION_WIN8,
)
FIRST_GPADL: Final = 0xE1E10
_PACKETS_MAX: Final = 4096  # more at once than any sound host sends
_FIRST_PAGE: Final = 0x1000  # pages below 16 MiB are not used: firmware, kernel, the rings of the suite


class PlayedGuest:
    """One guest and its state.

    Attributes:
        host: The host under test.
        offers: The host's offers, in order.
        version: The VMBus version agreed on.
        monitor_pages: Guest physical addresses of two pages for the host, or zeros.
        interrupt_page: Guest physical address of a page for the bits of versions before 2.4, or zero.
        given: The pages in the balloon.
        flags: Event flags seen so far.
        infos: Types and data of the information received.

    """

    def __init__(self, host: HostUnderTest) -> None:
        self.host = host
        self.version: int | None = None
        self.offers: list[wire.OfferChannel] = []
        self.monitor_pages: tuple[int, int] = (0, 0)
        self.interrupt_page = 0
        self.given: set[int] = set()
        self.flags: list[int] = []
        self.infos: list[tuple[int, bytes]] = []
        self._connection_id = MESSAGE_CONNECTION_ID
        self._next_gpadl = FIRST_GPADL
        self._next_page = max(_FIRST_PAGE, host.scratch.stop)
        self.trans_id: int = 0
        self.gpadl: int = 0
        self.pfns: Sequence[int] = ()
        self._writer: ring.RingWriter | None = None
        self._reader: ring.RingReader | None = None

    # VMBus messages

    def post(self, message: wire.Message | bytes, connection_id: int | None = None) -> int:
        """Post a message. Returns the hypercall's status."""
        payload = message if isinstance(message, bytes) else wire.encode(message)
        number = self._connection_id if connection_id is None else connection_id
        return self.host.post_message(number, VMBUS_MESSAGE_TYPE, payload)

    def take(self) -> list[wire.Message]:
        """Return every message that the host has for the slot."""
        taken: list[wire.Message] = []
        while (payload := self.host.take_message()) is not None:
            must(len(taken) < _PACKETS_MAX, "the host's messages have no end")
            try:
                taken.append(wire.decode(payload, self.version or 0))
            except RemoteProtocolError as error:
                fail(f"the host sent {payload[:16].hex()}...: {error}")
        return taken

    def ask(self, message: wire.Message | bytes) -> list[wire.Message]:
        """Post a message that must be accepted. Returns the replies."""
        status = self.post(message)
        must(status == 0, f"the host rejected {_name(message)} with hypercall status {status}")
        return self.take()

    def must_get(self, kind: type[_M], message: wire.Message) -> _M:
        """Post a message that must be accepted and get one reply, of that kind. Returns it."""
        answers = self.ask(message)
        if len(answers) != 1 or not isinstance(answers[0], kind):
            wanted = wire.TABLE.by_class[kind].name
            fail(f"the reply to {_name(message)} is one {wanted}, not {_names(answers)}")
        return answers[0]

    def contact(self, version: int, *, target_vcpu: int = 0) -> wire.VersionResponse | None:
        """Request a version. Returns the reply, or None if the host does not know the connection id."""
        modern = version >= VERSION_5_0
        self._connection_id = MESSAGE_CONNECTION_ID_4 if modern else MESSAGE_CONNECTION_ID
        self.version = version
        target = wire.contact_target(VMBUS_SINT) if modern else self.interrupt_page
        status = self.post(wire.InitiateContact(version, target_vcpu, target, *self.monitor_pages))
        if status:
            self.version = None
            must(status in (3, 18), f"a contact was rejected with hypercall status {status}")
            return None
        answers = self.take()
        must(
            len(answers) == 1 and isinstance(answers[0], wire.VersionResponse),
            f"the reply to a contact is one VERSION_RESPONSE, not {_names(answers)}",
        )
        answer = answers[0]
        assert isinstance(answer, wire.VersionResponse)
        if not answer.version_supported or answer.connection_state:
            self.version = None
        elif modern and answer.version_or_connection_id:
            self._connection_id = answer.version_or_connection_id
        return answer

    def connect(self, versions: Iterable[int] = LINUX_VERSIONS) -> None:
        """Contact the host as Linux does, and receive the offers."""
        for version in versions:
            answer = self.contact(version)
            if answer is not None and self.version is not None:
                break
        else:
            fail("the host agrees to no version of VMBus that Linux knows")
        self.request_offers()

    def request_offers(self) -> None:
        """Request the offers, one of which must be the Dynamic Memory device's."""
        answers = self.ask(wire.RequestOffers())
        must(
            answers and isinstance(answers[-1], wire.AllOffersDelivered),
            f"offers end with ALLOFFERS_DELIVERED, not with {_names(answers[-1:])}",
        )
        self.offers = [answer for answer in answers[:-1] if isinstance(answer, wire.OfferChannel)]
        must(len(self.offers) == len(answers) - 1, f"among the offers are {_names(answers[:-1])}")
        must(self.offer, "no Dynamic Memory device is offered")

    @property
    def offer(self) -> wire.OfferChannel:
        """The Dynamic Memory device's offer."""
        found = [offer for offer in self.offers if offer.interface == BALLOON_DEVICE_TYPE]
        must(len(found) == 1, f"{len(found)} Dynamic Memory devices are offered, not one")
        return found[0]

    @property
    def relid(self) -> int:
        """The number of its channel."""
        return self.offer.child_relid

    def make_gpadl(self, pfns: Sequence[int]) -> tuple[int, list[wire.Message]]:
        """Send page numbers in a header and as many bodies as needed. Returns the id and all replies."""
        gpadl = self._next_gpadl
        self._next_gpadl += 1
        words = struct.pack(f"<{len(pfns)}Q", *pfns)
        head, step = 8 * wire.GPADL_HEADER_PFNS_MAX, 8 * wire.GPADL_BODY_PFNS_MAX
        ranges = struct.pack("<II", len(pfns) * PAGE_SIZE, 0) + words[:head]
        answers = self.ask(wire.GpadlHeader(self.relid, gpadl, 8 + len(words), 1, ranges))
        for number, start in enumerate(range(head, len(words), step), start=1):
            must(not answers, "a GPADL gets a reply before its last body")
            answers = self.ask(wire.GpadlBody(number, gpadl, words[start : start + step]))
        return gpadl, answers

    def must_make_gpadl(self, pfns: Sequence[int]) -> int:
        """Make a GPADL that a host has no reason to reject. Returns its id."""
        gpadl, answers = self.make_gpadl(pfns)
        must(
            answers == [wire.GpadlCreated(self.relid, gpadl, 0)],
            f"the reply to a complete GPADL is one GPADL_CREATED with status 0, not {answers}",
        )
        return gpadl

    def open(self, *, pages: int = 10, downstream: int = 5, first: int = 0, target_vp: int = 0) -> None:
        """Make rings over new pages and open the channel."""
        self.pfns = self.host.scratch[first : first + pages]
        memory = GpadlMemory(self.host.memory, self.pfns)
        ring.initialize(memory, 0)
        ring.initialize(memory, downstream)
        self.gpadl = self.must_make_gpadl(self.pfns)
        self._writer = ring.RingWriter(memory, 0, downstream)
        self._reader = ring.RingReader(memory, downstream, pages - downstream)
        answers = self.ask(wire.OpenChannel(self.relid, self.relid, self.gpadl, target_vp, downstream))
        must(
            answers == [wire.OpenChannelResult(self.relid, self.relid, 0)],
            f"the reply to an open is OPENCHANNEL_RESULT with its openid and status 0, not {answers}",
        )

    def close(self) -> None:
        """Close the channel and tear down the GPADL."""
        self._writer = self._reader = None
        answers = self.ask(wire.CloseChannel(self.relid))
        must(not answers, f"CLOSECHANNEL has no reply; received {answers}")
        answers = self.ask(wire.GpadlTeardown(self.relid, self.gpadl))
        must(
            answers == [wire.GpadlTorndown(self.gpadl)],
            f"the reply to a teardown is GPADL_TORNDOWN of the same GPADL, not {answers}",
        )

    def mend(self, *, first: int) -> None:
        """Open a channel again that was broken, over new pages.

        A host may have rescinded it: then it is to offer the device again when the channel is released.
        """
        told = self.take()
        if not told:
            self.close()
        else:
            must(told == [wire.RescindChannelOffer(self.relid)], f"a broken channel is followed by {told}")
            self.come_back()
        self.open(first=first)

    def come_back(self) -> None:
        """Release the rescinded channel, and take the offer that must follow."""
        self._writer = self._reader = None
        before = self.offer
        again = self.must_get(wire.OfferChannel, wire.RelidReleased(self.relid))
        must(
            (again.interface, again.instance) == (before.interface, before.instance),
            f"another device is offered: {again}",
        )
        self.offers = [again if offer is before else offer for offer in self.offers]

    # packets

    def signal(self) -> None:
        """Signal the host's end of the channel."""
        status = self.host.signal_event(self.offer.connection_id, 0)
        must(status == 0, f"the host rejected a signal for its channel with status {status}")

    def write(self, packet: Packet) -> bool:
        """Put a packet into the ring and signal as Linux does. Returns whether there was room."""
        must(self._writer is not None, "the channel is not open")
        assert self._writer is not None
        try:
            written = self._writer.write(packet)
        except RemoteProtocolError as error:
            fail(f"the host damaged the ring: {error}")
        if self._writer.take_signal():
            self.signal()
        return written

    def send(self, data: bytes) -> None:
        """Send a message, for which the host must make room."""
        packet = Packet(PacketType.INBAND, 0, 0, data)
        if not self.write(packet):
            self.signal()
            must(self.write(packet), "the host leaves the ring full")

    def next_id(self) -> int:
        """Return this guest's next transaction id."""
        self.trans_id += 1
        return self.trans_id

    def packets(self) -> list[Dm]:
        """Return every message in the ring except information, which is read and recorded.

        The host may need a signal that there is room again.
        """
        found: list[Dm] = []
        self.host.advance(0)
        while self._reader is not None:
            try:
                packet = self._reader.read()
            except RemoteProtocolError as error:
                fail(f"the host wrote a malformed packet: {error}")
            if self._reader.take_signal():
                self.signal()
            if packet is None:
                break
            must(packet.type == PacketType.INBAND, f"the host sent a packet of type {packet.type}, not 6")
            must(len(found) < _PACKETS_MAX, "the host's packets have no end")
            message = dm.read(packet.data)
            if message.kind == dm.INFO_MESSAGE:
                self.infos.append(dm.read_info(message))
            else:
                found.append(message)
        self.flags += self.host.take_event_flags()
        return found

    def expect(self) -> Dm:
        """Return the one message that is expected now."""
        found = self.packets()
        must(len(found) == 1, f"expected one message, received {_dm_names(found)}")
        return found[0]

    def silent(self, when: str) -> None:
        """Check that nothing was received."""
        found = self.packets()
        must(not found, f"{when} the host sent {_dm_names(found)}")

    # the Dynamic Memory Protocol

    def negotiate(self, version: int = dm.DM_2_0, *, last: bool = False) -> bool:
        """Request a version. Returns whether the host accepts it."""
        trans_id = self.next_id()
        self.send(dm.version_request(trans_id, version, last=last))
        answer = self.expect()
        must(
            answer.trans_id == trans_id,
            f"{answer.name} has id {answer.trans_id}, not {trans_id}",
        )
        (flags,) = dm.fields(answer, dm.VERSION_RESPONSE, "<Q")
        must(flags in (0, 1), f"reserved bits of {answer.name} are set: {flags:#x}")
        return bool(flags)

    def capabilities(self, caps: int, *, least: int = 0, largest: int = (1 << 64) - 1) -> int:
        """Report the capabilities, which must be accepted. Returns the response's bits."""
        trans_id = self.next_id()
        self.send(dm.capabilities_report(trans_id, caps, least, largest))
        answer = self.expect()
        must(
            answer.trans_id == trans_id,
            f"{answer.name} has id {answer.trans_id}, not {trans_id}",
        )
        (flags,) = dm.fields(answer, dm.CAPABILITIES_RESPONSE, "<Q")
        must(flags & 1, "the host rejects the capabilities")
        must(flags < 8, f"reserved bits of {answer.name} are set: {flags:#x}")
        return flags

    def start(
        self,
        *,
        caps: int = dm.CAP_BALLOON,
        version: int = dm.DM_2_0,
        least: int = 0,
        largest: int = (1 << 64) - 1,
    ) -> "PlayedGuest":
        """Do everything until the host may send requests: bus, channel, handshake, wait."""
        self.connect()
        self.open()
        must(self.negotiate(version), f"the host rejects protocol version {version:#x}")
        self.capabilities(caps, least=least, largest=largest)
        self.host.advance(self.host.post_init_wait_ns)
        self.silent("before any target")
        return self

    def start_with_target(self) -> "PlayedGuest":
        """Do as `start`, where an earlier target may remain for which this guest has no pages."""
        self.connect()
        self.open()
        self.restart()
        for request in self.packets():
            if request.kind == dm.BALLOON_REQUEST:
                self.give([])
        return self

    def restart(self, caps: int = dm.CAP_BALLOON) -> None:
        """Repeat the handshake on a reopened channel."""
        must(self.negotiate(), "the host rejects version 2.0 the second time")
        self.capabilities(caps)
        self.host.advance(self.host.post_init_wait_ns)

    def asked(self) -> int:
        """Return the number of pages in the balloon request that is expected now."""
        request = self.expect()
        pages, reserved = dm.fields(request, dm.BALLOON_REQUEST, "<II")
        must(pages, "the host requests no pages")
        must(reserved == 0, f"the reserved word of {request.name} is {reserved:#x}")
        return pages

    def free_span(self, pages: int) -> Span:
        """Return adjacent pages that were not given before."""
        start = self._next_page
        must(start + pages <= self.host.boot_pages, "the case needs a larger guest")
        self._next_page += pages
        return start, pages

    def give(self, spans: Sequence[Span], *, more: bool = False) -> None:
        """Give pages, which the host may return later."""
        self.given.update(dm.pages_in(spans))
        self.send(dm.balloon_response(self.next_id(), spans, more=more))

    def get_back(self) -> list[int]:
        """Accept the host's pages to the end of the transaction, and respond. Returns the pages."""
        got: list[int] = []
        more = True
        while more:
            found = self.packets()
            must(found, "an unballoon transaction ends with more_pages 0, but the host is silent")
            for request in found:
                must(more, f"{request.name} was received before the response to the unballoon request")
                must(
                    request.kind == dm.UNBALLOON_REQUEST,
                    f"expected DM_UNBALLOON_REQUEST, received {request.name}",
                )
                gift = dm.read_gift(request)
                self._check_gift(gift)
                got += dm.pages_in(gift.spans)
                more = gift.more
        self.send(dm.unballoon_response(self.next_id()))
        return got

    def _check_gift(self, gift: Gift) -> None:
        must(gift.spans or not gift.more, "a part of an unballoon transaction has no pages")
        must(len(gift.spans) <= dm.RANGES_MAX, f"{len(gift.spans)} ranges do not fit a page")
        must(gift.pages <= len(self.given), f"{gift.pages} pages are returned, {len(self.given)} were given")
        for page in dm.pages_in(gift.spans):
            must(page in self.given, f"page {page:#x} is returned, which is not in the balloon")
            self.given.remove(page)

    def balloon(self, pages: int) -> list[Span]:
        """Make the host request that many pages, and give them in one span. Returns that span."""
        self.host.set_target(self.host.boot_pages - len(self.given) - pages)
        asked = self.asked()
        must(asked == pages, f"{asked} pages are requested where the target is {pages} away")
        spans = [self.free_span(pages)]
        self.give(spans)
        return spans

    def return_all(self) -> None:
        """Make the host return everything: exactly what it was given."""
        if not self.given:
            self.host.set_target(self.host.boot_pages)
            self.silent("with nothing to return")
            return
        self.host.set_target(self.host.boot_pages)
        while self.given:
            must(self.get_back(), f"{len(self.given)} pages are not returned")
        self.silent("when everything was returned")

    def alive(self) -> None:
        """Check that a new contact works, up to a handshake on a new channel."""
        self.connect()
        self.open(first=256)
        self.restart()

    def actual(self, pages: int) -> None:
        """Check the host's figure for the guest's size, if it reports one."""
        told = self.host.actual_pages()
        must(told in (None, pages), f"the guest has {pages} pages, the host reports {told}")

    def needs_version(self, version: int, what: str) -> None:
        """Skip the case if the host does not support a version that late."""
        if self.version is None or self.version < version:
            raise NotApplicableError(f"the host agrees to no version with {what}")


def settle_ns(host: HostUnderTest) -> int:
    """Return a time beyond any deadline of a host."""
    return host.post_init_wait_ns + 3600 * NS_PER_S


def _name(message: wire.Message | bytes) -> str:
    if isinstance(message, bytes):
        return f"message {int.from_bytes(message[:4], 'little')}"
    return wire.TABLE.of(message).name


def _names(messages: Sequence[wire.Message]) -> str:
    return ", ".join(_name(message) for message in messages) or "nothing"


def _dm_names(messages: Sequence[Dm]) -> str:
    return ", ".join(message.name for message in messages) or "nothing"
