"""Guests that are ours but for one mistake each, and the case that has to catch it."""

import struct

from dynmem.conformance.adapter import Hypercalls
from dynmem.conformance.ours.guest import OurGuest
from dynmem.dm.guest import DynamicMemoryGuest
from dynmem.dm.habits import VERSIONS, Habits
from dynmem.dm.options import GuestOptions
from dynmem.wire import dm
from dynmem.wire.synic import CHANNEL_CONNECTION_ID_BASE

BALLOON_RESPONSE, UNBALLOON_REQUEST, UNBALLOON_RESPONSE = 7, 8, 9


def kind_of(data: bytes) -> int:
    return int.from_bytes(data[:2], "little")


def with_words_swapped(data: bytes) -> bytes:
    return data[:8] + data[12:16] + data[8:12] + data[16:]


class WritesBalloonFieldsInUnballoonOrder(OurGuest):
    """The count first and then the reserved word."""

    def sending(self, data: bytes) -> bytes:
        return with_words_swapped(data) if kind_of(data) == BALLOON_RESPONSE else data


class ReadsUnballoonFieldsInBalloonOrder(OurGuest):
    """The count first and then more_pages."""

    def receive(self, data: bytes) -> None:
        super().receive(with_words_swapped(data) if kind_of(data) == UNBALLOON_REQUEST else data)


class AnswersUnballoonBeforeItsEnd(OurGuest):
    """Every message of the transaction is taken for the last."""

    def receive(self, data: bytes) -> None:
        if kind_of(data) == UNBALLOON_REQUEST:
            data = data[:8] + bytes(4) + data[12:]
        super().receive(data)


class SaysThatThereIsNoMore(OurGuest):
    """more_pages is never set."""

    def sending(self, data: bytes) -> bytes:
        if kind_of(data) == BALLOON_RESPONSE:
            return data[:12] + bytes([data[12] & 0xFE]) + data[13:]
        return data


class GivesPagesTwice(OurGuest):
    """Its allocator has the pages of the balloon still for free."""

    def sending(self, data: bytes) -> bytes:
        if kind_of(data) == BALLOON_RESPONSE and len(data) > 16:
            self.seen = getattr(self, "seen", data[16:24])
            return data[:16] + self.seen + data[24:]
        return data


class GivesPagesThatItDoesNotHave(OurGuest):
    """Its page numbers are addresses."""

    def sending(self, data: bytes) -> bytes:
        if kind_of(data) == BALLOON_RESPONSE and len(data) > 16:
            (word,) = struct.unpack_from("<Q", data, 16)
            return data[:16] + struct.pack("<Q", word + self.total_pages) + data[24:]
        return data


class TrustsUnballoonedPages(OurGuest):
    """Takes whatever the host calls its own."""

    trusted = 0

    def receive(self, data: bytes) -> None:
        if kind_of(data) == UNBALLOON_REQUEST:
            self.trusted += len(data) - 16
        super().receive(data)

    def ballooned_pages(self) -> int:
        return max(0, self.dm.ballooned_pages - self.trusted)


class ReportsStatusThoughSuppressed(OurGuest):
    """Does not look at the flag."""

    def receive(self, data: bytes) -> None:
        if kind_of(data) == 4:
            data = data[:8] + bytes([data[8] & 3]) + data[9:]
        super().receive(data)


class GoesOnThoughCapabilitiesAreRefused(OurGuest):
    """Does not look at is_accepted."""

    def receive(self, data: bytes) -> None:
        super().receive(data[:8] + bytes([data[8] | 1]) + data[9:] if kind_of(data) == 4 else data)


class NeverSaysThatItIsItsLastAttempt(OurGuest):
    """The host waits for another."""

    def sending(self, data: bytes) -> bytes:
        return data[:12] + bytes(4) if kind_of(data) == 1 else data


class LeavesTheBalloonOutOfItsStatus(OurGuest):
    """Demand seems to fall with every page it gives."""

    def sending(self, data: bytes) -> bytes:
        if kind_of(data) == 5:
            (committed,) = struct.unpack_from("<Q", data, 16)
            return data[:16] + struct.pack("<Q", committed - self.dm.ballooned_pages) + data[24:]
        return data


class LeavesHotAddUnanswered(OurGuest):
    """What it does not know it drops."""

    def receive(self, data: bytes) -> None:
        if kind_of(data) != 10:
            super().receive(data)


class TakesACompletionForAMessage(OurGuest):
    """Does not look at the packet's type."""

    def deliver_event(self, flag: int) -> None:
        channel = self.channel
        while channel is not None and (packet := channel.receive()) is not None:
            self._take(packet.data)
        super().deliver_event(flag)


class NeverPostsAgain(OurGuest):
    """A message that finds no buffers is lost."""

    def start(self, hypercalls: Hypercalls) -> None:
        class Optimist:
            def post_message(self, connection_id: int, message_type: int, payload: bytes) -> int:
                hypercalls.post_message(connection_id, message_type, payload)
                return 0

            def signal_event(self, connection_id: int, flag: int) -> int:
                return hypercalls.signal_event(connection_id, flag)

        super().start(Optimist())


class NeverSignals(OurGuest):
    """The host will look by itself."""

    def _signal(self) -> None:
        self.client.take_doorbells()


class CannotReadPaddedMessages(OurGuest):
    """Insists on a message's exact length."""

    def deliver_message(self, payload: bytes) -> None:
        if payload[0] == 15 and len(payload) not in (10, 16):
            return
        super().deliver_message(payload)


class AsksForTheOldestVersionFirst(OurGuest):
    """Tries versions upwards."""

    def __init__(self) -> None:
        super().__init__()
        self.dm = DynamicMemoryGuest(
            pages=self.pages,
            total_pages=self.total_pages,
            options=GuestOptions(habits=Habits(versions=VERSIONS[::-1])),
        )


class DiesOfAnUnknownMessage(OurGuest):
    """Looks its handler up in a table that has none."""

    def receive(self, data: bytes) -> None:
        if len(data) >= 2:
            list(dm.MessageType)[kind_of(data)]
        super().receive(data)


class SaysThatItAddedMoreThanOffered(OurGuest):
    """Counts its whole memory blocks."""

    def sending(self, data: bytes) -> bytes:
        return data[:8] + b"\xff\xff\xff\x7f" + data[12:] if kind_of(data) == 11 else data


class RemovesWithTheWordsOfABalloonResponse(OurGuest):
    """more_pages first, then the count, as in other messages."""

    def sending(self, data: bytes) -> bytes:
        return data[:8] + data[16:24] + data[8:16] + data[24:] if kind_of(data) == 14 else data


class AddsTheSameMemoryTwice(OurGuest):
    """Does not know what it has."""

    def sending(self, data: bytes) -> bytes:
        return data[:8] + struct.pack("<II", 1 << 15, 1) if kind_of(data) == 11 else data


class DrivesEachDeviceOnce(OurGuest):
    """What was rescinded does not interest it any more."""

    def deliver_message(self, payload: bytes) -> None:
        if payload[0] == 1:
            if getattr(self, "was_offered", False):
                return
            self.was_offered = True
        super().deliver_message(payload)


class SignalsTheFirstChannel(OurGuest):
    """Whatever the offer says, it rings the doorbell of relid 1."""

    def start(self, hypercalls: Hypercalls) -> None:
        class Habit:
            def post_message(self, connection_id: int, message_type: int, payload: bytes) -> int:
                return hypercalls.post_message(connection_id, message_type, payload)

            def signal_event(self, connection_id: int, flag: int) -> int:
                if status := hypercalls.signal_event(CHANNEL_CONNECTION_ID_BASE + 1, flag):
                    raise OSError(f"signal refused with status {status}")
                return status

        super().start(Habit())


CAUGHT_BY: dict[type[OurGuest], str] = {
    WritesBalloonFieldsInUnballoonOrder: "guest-session-balloon",
    ReadsUnballoonFieldsInBalloonOrder: "guest-session-unballoon",
    AnswersUnballoonBeforeItsEnd: "guest-unballoon-in-parts",
    SaysThatThereIsNoMore: "guest-balloon-many-ranges",
    GivesPagesTwice: "guest-balloon-many-ranges",
    GivesPagesThatItDoesNotHave: "guest-session-balloon",
    TrustsUnballoonedPages: "guest-unballoon-never-given",
    ReportsStatusThoughSuppressed: "guest-suppressed-status",
    GoesOnThoughCapabilitiesAreRefused: "guest-capabilities-refused",
    NeverSaysThatItIsItsLastAttempt: "guest-last-attempt",
    LeavesTheBalloonOutOfItsStatus: "guest-status-counts-balloon",
    LeavesHotAddUnanswered: "guest-hot-add-short-form",
    TakesACompletionForAMessage: "guest-packet-of-other-type",
    SaysThatItAddedMoreThanOffered: "guest-hot-add",
    RemovesWithTheWordsOfABalloonResponse: "guest-hot-remove",
    AddsTheSameMemoryTwice: "guest-hot-add-again",
    DrivesEachDeviceOnce: "guest-offered-again-under-the-same-relid",
    SignalsTheFirstChannel: "guest-offered-again-under-another-relid",
    NeverPostsAgain: "guest-post-again",
    NeverSignals: "guest-signals",
    CannotReadPaddedMessages: "guest-padded-messages",
    AsksForTheOldestVersionFirst: "guest-session-handshake",
    DiesOfAnUnknownMessage: "guest-dm-unknown",
}
