"""Guests that say what they like in the Dynamic Memory Protocol."""

import itertools
import struct
from collections.abc import Callable

from tests.hostile.guests.cast import member
from tests.hostile.guests.kernel import Kernel, rest

from dynmem.wire import dm

RANGES = 510


def packed(*ranges: tuple[int, int]) -> bytes:
    """Return ranges of (first page, count)."""
    return struct.pack(f"<{len(ranges)}Q", *(start | count << 40 for start, count in ranges))


def responses(guest: Kernel, ranges: Callable[[], bytes], *, more_pages: bool = False) -> None:
    """Give these, message after message."""
    guest.chatter(lambda: dm.encode(dm.BalloonResponse(7, more_pages, ranges())))


@member("it says every message of the protocol at the wrong time")
def every_message(guest: Kernel) -> None:
    bodies = itertools.cycle([bytes(16), struct.pack("<QQ", 1, 5 | 3 << 40), b"\xff" * 40, b""])

    def make() -> bytes:
        body = next(bodies)
        return (
            struct.pack("<HHI", guest.random.randrange(1, 16), 8 + len(body), guest.random.randrange(9))
            + body
        )

    guest.chatter(make)


@member("it sends messages whose lengths lie")
def lying_lengths(guest: Kernel) -> None:
    def make() -> bytes:
        head = struct.pack("<HHI", guest.random.randrange(16), guest.random.getrandbits(16), 1)
        return head + guest.random.randbytes(8 * guest.random.randrange(40))

    guest.chatter(make)


@member("it answers a balloon request with more to come, for ever")
def more_for_ever(guest: Kernel) -> None:
    responses(guest, lambda: b"", more_pages=True)


@member("it gives ranges of no pages")
def ranges_of_nothing(guest: Kernel) -> None:
    nothing = packed(*[(5000, 0)] * RANGES)
    responses(guest, lambda: nothing)


@member("it gives the same page again and again")
def same_page(guest: Kernel) -> None:
    one = packed(*[(9000, 1)] * RANGES)
    responses(guest, lambda: one, more_pages=True)


@member("it gives every second page of its memory")
def every_second_page(guest: Kernel) -> None:
    firsts = itertools.cycle(range(6000, 16_000, 2 * RANGES))

    def ranges() -> bytes:
        first = next(firsts)
        return packed(*((first + 2 * number, 1) for number in range(RANGES)))

    responses(guest, ranges, more_pages=True)


@member("it gives all the memory that there could be in each range")
def all_there_is(guest: Kernel) -> None:
    everything = packed(*((number << 24, (1 << 24) - 1) for number in range(RANGES)))
    responses(guest, lambda: everything)


@member("it gives pages of chance, in packets as long as a packet can be")
def longest_responses(guest: Kernel) -> None:
    ranges = packed(*((guest.random.getrandbits(14), guest.random.getrandbits(9)) for _ in range(65_000)))
    whole = struct.pack("<HHIII", 7, 0xFFF8, 7, 1 | 65_000 << 1, 0)[:16] + ranges
    guest.chatter(lambda: whole)


@member("it gives its memory and writes to it all the same")
def given_and_used(guest: Kernel) -> None:
    given = packed((8192, 4096))

    def ranges() -> bytes:
        for page in range(8192, 12_288):
            guest.memory.write(page << 12, b"still mine")
        return given

    responses(guest, ranges)


@member("it floods its host with reports of its memory")
def report_flood(guest: Kernel) -> None:
    guest.chatter(lambda: dm.encode(dm.StatusReport(3, 100, guest.random.getrandbits(14), 5, 0, 0, 0)))


@member("it reports more memory than any machine has")
def absurd_reports(guest: Kernel) -> None:
    whole = dm.encode(dm.StatusReport(3, 0, 0, 0, 0, 0, 0))
    most = whole[:8] + b"\xff" * (len(whole) - 8)
    guest.chatter(lambda: most)


@member("it answers what it was not asked")
def unasked_answers(guest: Kernel) -> None:
    answers: itertools.cycle[dm.Message] = itertools.cycle(
        [
            dm.UnballoonResponse(3),
            dm.HotAddResponse(3, 32_768, 1),
            dm.HotRemoveResponse(3, 1, False, packed((40_000, 100))),
            dm.BalloonResponse(3, False, packed((7000, 1))),
        ]
    )
    guest.chatter(lambda: dm.encode(next(answers)))


@member("it says of every hot add that it went well with other pages than were added")
def wrong_hot_adds(guest: Kernel) -> None:
    counts = itertools.cycle([0, 1, 32_767, 32_769, 1 << 31, 0xFFFF_FFFF])
    guest.chatter(lambda: dm.encode(dm.HotAddResponse(guest.random.randrange(9), next(counts), 1)))


@member("it negotiates again and again")
def renegotiates(guest: Kernel) -> None:
    messages: itertools.cycle[dm.Message] = itertools.cycle(
        [
            dm.VersionRequest(1, dm.VERSION_WIN10, is_last_attempt=False),
            dm.VersionRequest(1, 7, is_last_attempt=True),
            dm.CapabilitiesReport(2, 0xFFFF_FFFF, 0, 0),
        ]
    )
    guest.chatter(lambda: dm.encode(next(messages)))


@member("it negotiates as it should and then never says a word")
def silent(guest: Kernel) -> None:
    guest.ask_to_balloon(guest.open_channel())
    rest()
