"""Hosts that are ours but for one mistake each, and the case that has to catch it."""

import struct

from dynmem.conformance.ours.host import OurHost, OurPages
from dynmem.dm.host import DynamicMemoryHost
from dynmem.dm.options import POST_INIT_WAIT_NS, HostOptions
from dynmem.dm.stores import GivenUp
from dynmem.errors import RemoteProtocolError
from dynmem.pages.ranges import page_count
from dynmem.wire import dm
from dynmem.wire import vmbus as wire
from dynmem.wire.versions import VERSION_4_1, VERSION_5_0, VERSION_WIN8_1

BALLOON_RESPONSE, UNBALLOON_REQUEST, UNBALLOON_RESPONSE = 7, 8, 9


def kind_of(data: bytes) -> int:
    return int.from_bytes(data[:2], "little")


def with_words_swapped(data: bytes) -> bytes:
    return data[:8] + data[12:16] + data[8:12] + data[16:]


class WritesUnballoonFieldsInBalloonOrder(OurHost):
    """The count first and then more_pages, as message 7 has them."""

    def sending(self, data: bytes) -> bytes:
        return with_words_swapped(data) if kind_of(data) == UNBALLOON_REQUEST else data


class ReadsBalloonFieldsInUnballoonOrder(OurHost):
    """The flags first and then the reserved word, as message 8 has them."""

    def receive(self, data: bytes) -> None:
        super().receive(with_words_swapped(data) if kind_of(data) == BALLOON_RESPONSE else data)


class CountsEveryPageNamed(OurHost):
    """A page given up twice counts twice."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = 0

    def receive(self, data: bytes) -> None:
        before = len(self.store.pages)
        super().receive(data)
        if kind_of(data) == BALLOON_RESPONSE:
            message = dm.decode(data)
            assert isinstance(message, dm.BalloonResponse)
            self.extra += page_count(message.ranges) - (len(self.store.pages) - before)

    def actual_pages(self) -> int:
        return self.dm.actual_pages - self.extra


class ReturnsAPageNeverGiven(OurHost):
    """Every range comes back one page too long."""

    def sending(self, data: bytes) -> bytes:
        if kind_of(data) != UNBALLOON_REQUEST:
            return data
        (word,) = struct.unpack_from("<Q", data, len(data) - 8)
        return data[:-8] + struct.pack("<Q", word + (1 << 40))


class ReturnsEverythingTwice(OurHost):
    """Its set of pages does not forget what it gave back."""

    def sending(self, data: bytes) -> bytes:
        if kind_of(data) == UNBALLOON_REQUEST:
            self.store.pages.add(data[16:24])
        return data


class LeavesRefusedGpadlsUnanswered(OurHost):
    """What is wrong with a GPADL is dropped in silence."""

    def take_message(self) -> bytes | None:
        message = super().take_message()
        if message is not None and message[0] == 10 and any(message[16:20]):
            return self.take_message()
        return message


class AnswersAGpadlBeforeItsLastBody(OurHost):
    """GPADL_CREATED after the header."""

    def __init__(self) -> None:
        super().__init__()
        self.early: list[bytes] = []

    def post_message(self, connection_id: int, message_type: int, payload: bytes) -> int:
        if payload[:1] == b"\x08" and int.from_bytes(payload[16:18], "little") > 8 + 8 * 26:
            self.early.append(struct.pack("<II", 10, 0) + payload[8:16] + bytes(4))
        return super().post_message(connection_id, message_type, payload)

    def take_message(self) -> bytes | None:
        return self.early.pop() if self.early else super().take_message()


class ExpectsItsOwnTransactionIds(OurHost):
    """A response with another id than the request's is dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_by = 0

    def sending(self, data: bytes) -> bytes:
        self.asked_by = int.from_bytes(data[4:8], "little")
        return data

    def receive(self, data: bytes) -> None:
        if kind_of(data) in (BALLOON_RESPONSE, UNBALLOON_RESPONSE) and data[4:8] != struct.pack(
            "<I", self.asked_by
        ):
            return
        super().receive(data)


class ForgetsTheGuestsTransactionIds(OurHost):
    """Answers of the handshake carry id 0."""

    def sending(self, data: bytes) -> bytes:
        return data[:4] + bytes(4) + data[8:]


class TrustsTheRangeCount(OurHost):
    """Reads as many ranges as the message says, whatever lies behind it."""

    def receive(self, data: bytes) -> None:
        if kind_of(data) == BALLOON_RESPONSE:
            count = min(int.from_bytes(data[12:16], "little") >> 1, 500)
            while len(data) < 16 + 8 * count:
                data += struct.pack("<Q", 0x2_0000 + len(data) | 1 << 40)
            data = (
                data[:2]
                + struct.pack("<H", len(data))
                + data[4:12]
                + struct.pack("<I", count << 1)
                + data[16:]
            )
        super().receive(data)


class IgnoresMorePages(OurHost):
    """Takes the first response to a request for the whole answer."""

    def receive(self, data: bytes) -> None:
        if kind_of(data) == BALLOON_RESPONSE:
            data = data[:12] + bytes([data[12] & 0xFE]) + data[13:]
        super().receive(data)


class AsksBeforeThePostInitWait(OurHost):
    """The wait that it promises is not waited."""

    def make_machine(self) -> DynamicMemoryHost:
        return DynamicMemoryHost(
            store=self.store,
            boot_pages=self.boot_pages,
            hot_add=self.hot_add,
            options=HostOptions(status_report=True, post_init_wait_ns=0),
        )


class AsksForMoreThanWindowsTakes(OurHost):
    """The whole difference in one request."""

    def make_machine(self) -> DynamicMemoryHost:
        return DynamicMemoryHost(
            store=self.store,
            boot_pages=self.boot_pages,
            options=HostOptions(
                status_report=True, post_init_wait_ns=POST_INIT_WAIT_NS, balloon_chunk_pages=1 << 24
            ),
        )


class IgnoresTheLeastPageCount(OurHost):
    """min_page_cnt of the capabilities is read as 0."""

    def receive(self, data: bytes) -> None:
        super().receive(data[:16] + bytes(8) + data[24:] if kind_of(data) == 3 else data)


class IgnoresMissingCapabilities(OurHost):
    """Every guest can balloon, it believes."""

    def receive(self, data: bytes) -> None:
        super().receive(data[:8] + bytes([data[8] | 1]) + data[9:] if kind_of(data) == 3 else data)


class DoesNotWaitForTheUnballoonResponse(OurHost):
    """Goes on when the last pages of a transaction are sent."""

    def _send(self) -> None:
        super()._send()
        if self.dm.state.value == "S_UNBALLOON_REPLY_WAIT":
            self.dm.receive(dm.encode(dm.UnballoonResponse(0)), self.now)
            super()._send()


class CountsPagesNobodyAskedFor(OurHost):
    """A response is taken at any time."""

    def receive(self, data: bytes) -> None:
        if kind_of(data) == BALLOON_RESPONSE and self.dm.state.value == "S_IDLE":
            self.store.pages.add(data[16:24])
        super().receive(data)


class CountsPagesOutsideMemory(OurHost):
    """Takes pages that the guest does not have for memory."""

    class Pages(OurPages):
        strange = 0

        @property
        def removed_pages(self) -> int:
            return len(self.pages) + self.strange

        def add_given(self, ranges: bytes) -> GivenUp:
            given = super().add_given(ranges)
            self.strange += given.rejected
            return given

    def make_machine(self) -> DynamicMemoryHost:
        self.store = self.Pages(self.boot_pages, self.hot_add)
        return super().make_machine()

    def actual_pages(self) -> int:
        return self.boot_pages - self.store.removed_pages


class ForgetsPagesOnClose(OurHost):
    """What was given up is lost with the channel."""

    def post_message(self, connection_id: int, message_type: int, payload: bytes) -> int:
        status = super().post_message(connection_id, message_type, payload)
        if payload[:1] == b"\x07":
            self.store.pages.clear()
        return status


class KeepsPagesOverReset(OurHost):
    """A new guest gets back what the old one gave."""

    def reset(self) -> None:
        kept = self.store.pages
        self.store.pages = OurPages(self.boot_pages, self.hot_add).pages
        super().reset()
        self.store.pages = kept


class RaisesTheWrongFlag(OurHost):
    """Event flag 0 for every channel, as before version 2.4."""

    def take_event_flags(self) -> list[int]:
        return [0 for _ in super().take_event_flags()]


class NeverAnswersUnload(OurHost):
    """Falls silent with the connection."""

    def take_message(self) -> bytes | None:
        message = super().take_message()
        return None if message is not None and message[0] == 17 else message


class DiesOfABodyTooMany(OurHost):
    """Asserts that a GPADL has room for what comes."""

    def __init__(self) -> None:
        super().__init__()
        self.whole: set[bytes] = set()

    def post_message(self, connection_id: int, message_type: int, payload: bytes) -> int:
        if payload[:1] == b"\x09":
            assert payload[12:16] not in self.whole
        return super().post_message(connection_id, message_type, payload)

    def take_message(self) -> bytes | None:
        message = super().take_message()
        if message is not None and message[0] == 10:
            self.whole.add(message[12:16])
        return message


class DiesOfAnAbsentProcessor(OurHost):
    """Looks up the virtual processor of a contact and finds none."""

    def post_message(self, connection_id: int, message_type: int, payload: bytes) -> int:
        if payload[:1] == b"\x0e":
            message = wire.decode(payload)
            assert isinstance(message, wire.InitiateContact)
            ["vp 0"][message.target_vcpu]
        return super().post_message(connection_id, message_type, payload)


class GivesUpOnASilentGuest(OurHost):
    """A deadline takes it back to idle, and it asks again."""

    def advance(self, ns: int) -> None:
        super().advance(ns)
        if self.dm.state.value == "S_STUCK":
            self.dm.receive(dm.encode(dm.BalloonResponse(0, False, b"")), self.now)
            self._send()


class InformsEveryVersion(OurHost):
    """Sends DM_INFO_MESSAGE to guests that do not know it."""

    def sending(self, data: bytes) -> bytes:
        if kind_of(data) == 4:
            assert self.channel is not None
            info = dm.InfoMessage(0, dm.INFO_TYPE_MAX_PAGE_CNT, bytes(8))
            assert self.channel.send(dm.encode(info))
        return data


class UnplugsInSilence(OurHost):
    """The guest finds out when nobody answers."""

    def take_message(self) -> bytes | None:
        message = super().take_message()
        return None if message is not None and message[0] == 2 else message


class ForgetsTheInterruptPage(OurHost):
    """Signals every version as the new ones."""

    def take_event_flags(self) -> list[int]:
        flags = super().take_event_flags()
        return [1 for _ in flags]


class HotAddsAfterNoMore(OurHost):
    """Takes "I add no more" for "not now"."""

    def receive(self, data: bytes) -> None:
        super().receive(data[:8] + bytes(8) if kind_of(data) == 11 else data)


class TakesNotNowForNever(OurHost):
    """Any hot add that added nothing was the last."""

    def receive(self, data: bytes) -> None:
        super().receive(data[:12] + b"\1" + data[13:] if kind_of(data) == 11 else data)


class HotAddsOffTheGuestsBoundary(OurHost):
    """Reads the alignment as 2^0 MiB."""

    def receive(self, data: bytes) -> None:
        super().receive(data[:8] + bytes([data[8] & ~0x3C]) + data[9:] if kind_of(data) == 3 else data)

    def make_machine(self) -> DynamicMemoryHost:
        self.hot_add.added_pages = 256  # a memory device that begins a MiB later
        return super().make_machine()


class HotAddsWithoutTheCapability(OurHost):
    """Every guest can take more memory, it believes."""

    def receive(self, data: bytes) -> None:
        super().receive(data[:8] + bytes([data[8] | 2]) + data[9:] if kind_of(data) == 3 else data)


class HotAddsAboveTheLastPage(OurHost):
    """Does not look at max_page_number."""

    def receive(self, data: bytes) -> None:
        super().receive(data[:24] + b"\xff" * 8 if kind_of(data) == 3 else data)


class HotAddsTheSamePagesTwice(OurHost):
    """Every request is for the first pages of the device."""

    def sending(self, data: bytes) -> bytes:
        if kind_of(data) != 10:
            return data
        word = (1 << 23 | int.from_bytes(data[13:16], "little") << 40).to_bytes(8, "little")
        return data[:8] + word + word


class KeepsTheTargetOverReset(OurHost):
    """The next guest is moved to the size of the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.target = 0

    def set_target(self, pages: int) -> None:
        self.target = pages
        super().set_target(pages)

    def reset(self) -> None:
        super().reset()
        self.dm.set_target(self.target, self.now)


class TakesAContactForTheSameGuest(OurHost):
    """What the kernel before gave is returned to the one after it."""

    def _begin_again(self) -> None:
        self.dm.reset(self.now)


class ClosesOverAMalformedMessage(OurHost):
    """A message that cannot be decoded breaks the channel."""

    def receive(self, data: bytes) -> None:
        try:
            super().receive(data)
        except RemoteProtocolError as error:
            assert self.channel is not None
            self.channel.break_off(str(error))


class ReadsAPageAtMost(OurHost):
    """Longer messages are passed over."""

    def receive(self, data: bytes) -> None:
        if len(data) <= 4096:
            super().receive(data)


class NamesAConnectionInEveryVersion(OurHost):
    """The last word of the reply to a contact is 1 where it is to be the version."""

    def take_message(self) -> bytes | None:
        message = super().take_message()
        if message is not None and message[0] == 15 and (self.bus.version or VERSION_5_0) < VERSION_5_0:
            return message[:12] + struct.pack("<I", 1)
        return message


class RepliesToWhateverProcessorAnOldContactNames(OurHost):
    """Before 3.0 that is garbage."""

    def take_message(self) -> bytes | None:
        message = super().take_message()
        return None if message is not None and message[0] == 15 and self.goes_elsewhere else message

    def post_message(self, connection_id: int, message_type: int, payload: bytes) -> int:
        version, target = struct.unpack_from("<II", payload.ljust(16, b"\0"), 8)
        self.goes_elsewhere = payload[:1] == b"\x0e" and version < VERSION_WIN8_1 and target != 0
        return super().post_message(connection_id, message_type, payload)


class ReadsASintOnConnection1(OurHost):
    """Whatever is there, it believes."""

    def post_message(self, connection_id: int, message_type: int, payload: bytes) -> int:
        if payload[:1] == b"\x0e" and connection_id == 1 and payload[16:18] != b"\x02\0":
            payload = payload[:8] + b"\xff" * 4 + payload[12:]  # which is refused
        return super().post_message(connection_id, message_type, payload)


class EndsTheConnectionForAnotherSint(OurHost):
    """A contact is a contact."""

    def post_message(self, connection_id: int, message_type: int, payload: bytes) -> int:
        if payload[:1] == b"\x0e" and connection_id == 4 and payload[16] != 2:
            self.bus.reset()
        return super().post_message(connection_id, message_type, payload)


class RefusesGpadlsOfARescindedChannel(OurHost):
    """The guest should have known."""

    def take_message(self) -> bytes | None:
        message = super().take_message()
        if message is not None and message[0] == 10 and self.bus.channels[1].is_rescinded:
            return message[:16] + struct.pack("<I", 0xC000_0001)
        return message


class LeavesCrossedOpensUnanswered(OurHost):
    """There is no such channel any more."""

    def take_message(self) -> bytes | None:
        message = super().take_message()
        if message is not None and message[0] == 6 and self.bus.channels[1].is_rescinded:
            return self.take_message()
        return message


class ForgetsDevicesThatAreReleased(OurHost):
    """A guest that lets its channel go never sees it again."""

    def post_message(self, connection_id: int, message_type: int, payload: bytes) -> int:
        status = super().post_message(connection_id, message_type, payload)
        if payload[:1] == b"\x0d":
            self.bus.rescind(self.bus.channels[1])
        return status


class NeverOffersABrokenChannelAgain(OurHost):
    """Rescinds it, and that is that."""

    def take_message(self) -> bytes | None:
        message = super().take_message()
        is_offer = message is not None and message[0] == 1
        return None if is_offer and self.channel_broke else message

    @property
    def channel_broke(self) -> bool:
        return bool(self.reoffers._records)


class EndsInterruptsOnRequest(OurHost):
    """MODIFYCHANNEL to no processor succeeds."""

    def post_message(self, connection_id: int, message_type: int, payload: bytes) -> int:
        if payload[:1] == b"\x16":
            payload = payload[:12] + bytes(4)
        return super().post_message(connection_id, message_type, payload)


class BeginsInterruptsOnRequest(OurHost):
    """MODIFYCHANNEL of a channel that was opened without any succeeds."""

    def post_message(self, connection_id: int, message_type: int, payload: bytes) -> int:
        if payload[:1] == b"\x16" and self.bus.channels[1].is_open:
            self.bus.channels[1].target_vp = 0
        return super().post_message(connection_id, message_type, payload)


class AnswersServicesInEveryVersion(OurHost):
    """TL_CONNECT_RESULT for a guest that does not know it."""

    def take_message(self) -> bytes | None:
        return self.answer.pop() if self.answer else super().take_message()

    def __init__(self) -> None:
        super().__init__()
        self.answer: list[bytes] = []

    def post_message(self, connection_id: int, message_type: int, payload: bytes) -> int:
        if payload[:1] == b"\x15" and (self.bus.version or 0) < VERSION_4_1:
            self.answer.append(struct.pack("<II", 23, 0) + payload[8:40] + struct.pack("<I", 0xC000_0236))
        return super().post_message(connection_id, message_type, payload)


CAUGHT_BY: dict[type[OurHost], str] = {
    WritesUnballoonFieldsInBalloonOrder: "session-unballoon",
    ReadsBalloonFieldsInUnballoonOrder: "session-balloon",
    CountsEveryPageNamed: "duplicates-counted-once",
    ReturnsAPageNeverGiven: "session-unballoon",
    ReturnsEverythingTwice: "session-unballoon",
    LeavesRefusedGpadlsUnanswered: "gpadl-misfit",
    AnswersAGpadlBeforeItsLastBody: "gpadl-of-27-pages",
    ExpectsItsOwnTransactionIds: "guests-count-their-own-ids",
    ForgetsTheGuestsTransactionIds: "session-handshake",
    TrustsTheRangeCount: "range-count-of-one-more",
    IgnoresMorePages: "balloon-more-pages",
    AsksBeforeThePostInitWait: "not-asked-before-post-init-wait",
    AsksForMoreThanWindowsTakes: "request-size",
    IgnoresTheLeastPageCount: "least-pages",
    IgnoresMissingCapabilities: "no-balloon-capability",
    DoesNotWaitForTheUnballoonResponse: "unballoon-one-at-a-time",
    CountsPagesNobodyAskedFor: "balloon-response-unasked",
    CountsPagesOutsideMemory: "pages-beyond-memory",
    ForgetsPagesOnClose: "close-keeps-pages",
    KeepsPagesOverReset: "reset-returns-everything",
    KeepsTheTargetOverReset: "reset-ends-the-target",
    TakesAContactForTheSameGuest: "new-contact-is-another-guest",
    ClosesOverAMalformedMessage: "malformed-messages-cost-themselves",
    ReadsAPageAtMost: "response-of-many-kilobytes",
    RaisesTheWrongFlag: "interrupt-by-event-flag",
    NeverAnswersUnload: "unload",
    DiesOfABodyTooMany: "gpadl-body-too-many",
    DiesOfAnAbsentProcessor: "contact-on-absent-vp",
    GivesUpOnASilentGuest: "late-answer",
    InformsEveryVersion: "messages-of-the-version",
    UnplugsInSilence: "rescind",
    NamesAConnectionInEveryVersion: "contact-reply-names-4.0",
    RepliesToWhateverProcessorAnOldContactNames: "contact-2.4-names-no-processor",
    ReadsASintOnConnection1: "contact-on-connection-1-names-no-sint",
    EndsTheConnectionForAnotherSint: "contact-for-another-sint",
    RefusesGpadlsOfARescindedChannel: "rescind-crosses-an-open",
    LeavesCrossedOpensUnanswered: "rescind-crosses-an-open",
    ForgetsDevicesThatAreReleased: "release-of-closed",
    NeverOffersABrokenChannelAgain: "ring-write-index-odd",
    EndsInterruptsOnRequest: "modify-channel-to-no-processor",
    BeginsInterruptsOnRequest: "modify-channel-without-interrupts",
    AnswersServicesInEveryVersion: "tl-connect-before-4.1",
    ForgetsTheInterruptPage: "interrupt-by-page",
    HotAddsAfterNoMore: "hot-add-never-again",
    TakesNotNowForNever: "hot-add-not-now",
    HotAddsOffTheGuestsBoundary: "hot-add-on-a-boundary-of-128-MiB",
    HotAddsWithoutTheCapability: "hot-add-without-capability",
    HotAddsAboveTheLastPage: "hot-add-below-last-page",
    HotAddsTheSamePagesTwice: "hot-add-in-pieces",
}
