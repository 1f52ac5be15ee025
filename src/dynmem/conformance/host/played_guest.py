"""The guest that the suite plays against a host under test: it does what a case says and trusts nothing.

What it insists on in every case: the host's messages and packets are sound, answers carry the ids of what
they answer, and pages come back only if this guest has given them and does not have them back.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Final

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
_FIRST_PAGE: Final = 0x1000  # pages below 16 MiB are left alone: firmware, kernel, the rings of the suite


class PlayedGuest:
    """One guest and what it knows.

    Attributes:
        host: The host under test.
        offers: What it has offered, in order.
        version: The VMBus version agreed on.
        monitor_pages: Guest physical addresses of two pages for the host, or zeros.
        interrupt_page: Guest physical address of a page for the bits of versions before 2.4, or zero.
        given: The pages that the host has.
        flags: Event flags seen so far.
        infos: Types and data of the information that came.

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
        """Post a message; the hypercall's status."""
        payload = message if isinstance(message, bytes) else wire.encode(message)
        number = self._connection_id if connection_id is None else connection_id
        return self.host.post_message(number, VMBUS_MESSAGE_TYPE, payload)

    def take(self) -> list[wire.Message]:
        """Every message the host has for the slot."""
        taken: list[wire.Message] = []
        while (payload := self.host.take_message()) is not None:
            must(len(taken) < _PACKETS_MAX, "the host's messages have no end")
            try:
                taken.append(wire.decode(payload, self.version or 0))
            except RemoteProtocolError as error:
                fail(f"the host sent {payload[:16].hex()}...: {error}")
        return taken

    def ask(self, message: wire.Message | bytes) -> list[wire.Message]:
        """Post a message that must be taken; the answers."""
        status = self.post(message)
        must(status == 0, f"the host refused {_name(message)} with hypercall status {status}")
        return self.take()

    def contact(self, version: int, *, target_vcpu: int = 0) -> wire.VersionResponse | None:
        """Ask for a version; the answer, None if the host does not know the connection id."""
        modern = version >= VERSION_5_0
        self._connection_id = MESSAGE_CONNECTION_ID_4 if modern else MESSAGE_CONNECTION_ID
        self.version = version
        target = wire.contact_target(VMBUS_SINT) if modern else self.interrupt_page
        status = self.post(wire.InitiateContact(version, target_vcpu, target, *self.monitor_pages))
        if status:
            self.version = None
            must(status in (3, 18), f"a contact was refused with hypercall status {status}")
            return None
        answers = self.take()
        must(
            len(answers) == 1 and isinstance(answers[0], wire.VersionResponse),
            f"a contact is answered by one VERSION_RESPONSE, not by {_names(answers)}",
        )
        answer = answers[0]
        assert isinstance(answer, wire.VersionResponse)
        if not answer.version_supported or answer.connection_state:
            self.version = None
        elif modern and answer.message_connection_id:
            self._connection_id = answer.message_connection_id
        return answer

    def connect(self, versions: Iterable[int] = LINUX_VERSIONS) -> None:
        """Contact the host as Linux does, and take the offers."""
        for version in versions:
            answer = self.contact(version)
            if answer is not None and self.version is not None:
                break
        else:
            fail("the host agrees to no version of VMBus that Linux knows")
        self.request_offers()

    def request_offers(self) -> None:
        """Ask for the offers; one of them is the Dynamic Memory device's."""
        answers = self.ask(wire.RequestOffers())
        must(
            answers and isinstance(answers[-1], wire.AllOffersDelivered),
            f"offers end with ALLOFFERS_DELIVERED, not with {_names(answers[-1:])}",
        )
        self.offers = [answer for answer in answers[:-1] if isinstance(answer, wire.OfferChannel)]
        must(len(self.offers) == len(answers) - 1, f"among the offers there are {_names(answers[:-1])}")
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
        """Tell the host pages, in a header and as many bodies as they need; the id and all answers."""
        gpadl = self._next_gpadl
        self._next_gpadl += 1
        words = struct.pack(f"<{len(pfns)}Q", *pfns)
        head, step = 8 * wire.GPADL_HEADER_PFNS_MAX, 8 * wire.GPADL_BODY_PFNS_MAX
        ranges = struct.pack("<II", len(pfns) * PAGE_SIZE, 0) + words[:head]
        answers = self.ask(wire.GpadlHeader(self.relid, gpadl, 8 + len(words), 1, ranges))
        for number, start in enumerate(range(head, len(words), step), start=1):
            must(not answers, "a GPADL is answered before its last body")
            answers = self.ask(wire.GpadlBody(number, gpadl, words[start : start + step]))
        return gpadl, answers

    def must_make_gpadl(self, pfns: Sequence[int]) -> int:
        """Make a GPADL that a host has no reason to refuse; its id."""
        gpadl, answers = self.make_gpadl(pfns)
        must(
            answers == [wire.GpadlCreated(self.relid, gpadl, 0)],
            f"a whole GPADL is answered by one GPADL_CREATED with status 0, not by {answers}",
        )
        return gpadl

    def open(self, *, pages: int = 10, downstream: int = 5, first: int = 0) -> None:
        """Make rings over fresh pages and open the channel."""
        self.pfns = self.host.scratch[first : first + pages]
        memory = GpadlMemory(self.host.memory, self.pfns)
        ring.initialize(memory, 0)
        ring.initialize(memory, downstream)
        self.gpadl = self.must_make_gpadl(self.pfns)
        self._writer = ring.RingWriter(memory, 0, downstream)
        self._reader = ring.RingReader(memory, downstream, pages - downstream)
        answers = self.ask(wire.OpenChannel(self.relid, self.relid, self.gpadl, 0, downstream))
        must(
            answers == [wire.OpenChannelResult(self.relid, self.relid, 0)],
            f"an open is answered by OPENCHANNEL_RESULT with its openid and status 0, not by {answers}",
        )

    def close(self) -> None:
        """Close the channel and ask for the pages back."""
        self._writer = self._reader = None
        answers = self.ask(wire.CloseChannel(self.relid))
        must(not answers, f"CLOSECHANNEL has no answer; {answers} came")
        answers = self.ask(wire.GpadlTeardown(self.relid, self.gpadl))
        must(
            answers == [wire.GpadlTorndown(self.gpadl)],
            f"a teardown is answered by GPADL_TORNDOWN of the same GPADL, not by {answers}",
        )

    # packets

    def signal(self) -> None:
        """Signal the host's end of the channel."""
        status = self.host.signal_event(self.offer.connection_id, 0)
        must(status == 0, f"the host refused a signal for its channel with status {status}")

    def write(self, packet: Packet) -> bool:
        """Put a packet into the ring and signal as Linux does; whether there was room."""
        must(self._writer is not None, "the channel is not open")
        assert self._writer is not None
        try:
            written = self._writer.write(packet)
        except RemoteProtocolError as error:
            fail(f"the host broke the ring: {error}")
        if self._writer.take_signal():
            self.signal()
        return written

    def send(self, data: bytes) -> None:
        """Send one message; the host must make room for it."""
        packet = Packet(PacketType.INBAND, 0, 0, data)
        if not self.write(packet):
            self.signal()
            must(self.write(packet), "the host leaves the ring full")

    def next_id(self) -> int:
        """A transaction id of this guest's own."""
        self.trans_id += 1
        return self.trans_id

    def packets(self) -> list[Dm]:
        """Every message in the ring, but for information, which is read and kept.

        A host may have to be told that there is room again.
        """
        found: list[Dm] = []
        self.host.advance(0)
        while self._reader is not None:
            try:
                packet = self._reader.read()
            except RemoteProtocolError as error:
                fail(f"the host wrote no sound packet: {error}")
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
        """The one message that must be there now."""
        found = self.packets()
        must(len(found) == 1, f"one message must come now; {_dm_names(found)} came")
        return found[0]

    def silent(self, when: str) -> None:
        """Nothing may have come."""
        found = self.packets()
        must(not found, f"{when} the host sent {_dm_names(found)}")

    # the Dynamic Memory Protocol

    def negotiate(self, version: int = dm.DM_2_0, *, last: bool = False) -> bool:
        """Ask for a version; whether the host takes it."""
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
        """Tell the capabilities, which must be accepted; the answer's bits."""
        trans_id = self.next_id()
        self.send(dm.capabilities_report(trans_id, caps, least, largest))
        answer = self.expect()
        must(
            answer.trans_id == trans_id,
            f"{answer.name} has id {answer.trans_id}, not {trans_id}",
        )
        (flags,) = dm.fields(answer, dm.CAPABILITIES_RESPONSE, "<Q")
        must(flags & 1, "the host refuses the capabilities")
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
        """Everything up to the moment at which the host may ask: bus, channel, handshake, wait."""
        self.connect()
        self.open()
        must(self.negotiate(version), f"the host refuses protocol version {version:#x}")
        self.capabilities(caps, least=least, largest=largest)
        self.host.advance(self.host.post_init_wait_ns)
        self.silent("before any target")
        return self

    def start_with_target(self) -> "PlayedGuest":
        """As `start`, where a target may stand from before, which this guest has no pages for."""
        self.connect()
        self.open()
        self.restart()
        for request in self.packets():
            if request.kind == dm.BALLOON_REQUEST:
                self.give([])
        return self

    def restart(self, caps: int = dm.CAP_BALLOON) -> None:
        """The handshake once more, on a channel that was opened anew."""
        must(self.negotiate(), "the host refuses version 2.0 the second time")
        self.capabilities(caps)
        self.host.advance(self.host.post_init_wait_ns)

    def asked(self) -> int:
        """The balloon request that must be there now: how many pages."""
        request = self.expect()
        pages, reserved = dm.fields(request, dm.BALLOON_REQUEST, "<II")
        must(pages, "the host asks for no pages")
        must(reserved == 0, f"the reserved word of {request.name} is {reserved:#x}")
        return pages

    def free_span(self, pages: int) -> Span:
        """Pages that were not given before, side by side."""
        start = self._next_page
        must(start + pages <= self.host.boot_pages, "the case needs a larger guest")
        self._next_page += pages
        return start, pages

    def give(self, spans: Sequence[Span], *, more: bool = False) -> None:
        """Give pages up, so that the host may give them back later."""
        self.given.update(dm.pages_in(spans))
        self.send(dm.balloon_response(self.next_id(), spans, more=more))

    def get_back(self) -> list[int]:
        """Take what the host gives back, to the end of the transaction, and answer; the pages."""
        got: list[int] = []
        more = True
        while more:
            found = self.packets()
            must(found, "an unballoon transaction ends with more_pages 0; the host says nothing")
            for request in found:
                must(more, f"{request.name} came before the answer to the unballoon request")
                must(request.kind == dm.UNBALLOON_REQUEST, f"{request.name} came, no DM_UNBALLOON_REQUEST")
                gift = dm.read_gift(request)
                self._check_gift(gift)
                got += dm.pages_in(gift.spans)
                more = gift.more
        self.send(dm.unballoon_response(self.next_id()))
        return got

    def _check_gift(self, gift: Gift) -> None:
        must(gift.spans or not gift.more, "a part of an unballoon transaction has no pages")
        must(len(gift.spans) <= dm.RANGES_MAX, f"{len(gift.spans)} ranges do not fit a page")
        must(gift.pages <= len(self.given), f"{gift.pages} pages come back, {len(self.given)} were given")
        for page in dm.pages_in(gift.spans):
            must(page in self.given, f"page {page:#x} comes back, which the host does not have")
            self.given.remove(page)

    def balloon(self, pages: int) -> list[Span]:
        """Have the host ask for so many pages and give them in one span; what was given."""
        self.host.set_target(self.host.boot_pages - len(self.given) - pages)
        asked = self.asked()
        must(asked == pages, f"{asked} pages are asked for where the target is {pages} away")
        spans = [self.free_span(pages)]
        self.give(spans)
        return spans

    def return_all(self) -> None:
        """Have the host give everything back: exactly what it was given."""
        if not self.given:
            self.host.set_target(self.host.boot_pages)
            self.silent("with nothing to give back")
            return
        self.host.set_target(self.host.boot_pages)
        while self.given:
            must(self.get_back(), f"{len(self.given)} pages do not come back")
        self.silent("when everything was given back")

    def alive(self) -> None:
        """After whatever happened: a new contact works, up to a handshake on a new channel."""
        self.connect()
        self.open(first=256)
        self.restart()

    def actual(self, pages: int) -> None:
        """The host's figure of the guest's size, if it tells one."""
        told = self.host.actual_pages()
        must(told in (None, pages), f"the guest has {pages} pages, the host says {told}")

    def needs_version(self, version: int, what: str) -> None:
        """Skip the case where the host does not speak so late a version."""
        if self.version is None or self.version < version:
            raise NotApplicableError(f"the host agrees to no version with {what}")


def settle_ns(host: HostUnderTest) -> int:
    """Long enough for any deadline of a host."""
    return host.post_init_wait_ns + 3600 * NS_PER_S


def _name(message: wire.Message | bytes) -> str:
    if isinstance(message, bytes):
        return f"message {int.from_bytes(message[:4], 'little')}"
    return wire.TABLE.of(message).name


def _names(messages: Sequence[wire.Message]) -> str:
    return ", ".join(_name(message) for message in messages) or "nothing"


def _dm_names(messages: Sequence[Dm]) -> str:
    return ", ".join(message.name for message in messages) or "nothing"
