"""Guests that post what a bus is not made for, or too much of it."""

import struct
import uuid

from tests.hostile.guests.cast import member
from tests.hostile.guests.kernel import GPADL, PAGES_MAX, RELIDS, RING_PAGES, Kernel
from tests.rigs.hostile_guest import CONTACT

from dynmem.units import PAGE_SIZE
from dynmem.wire import hardware as wire
from dynmem.wire import synic
from dynmem.wire import vmbus as bus
from dynmem.wire.heat_hint import COLD_DISCARD, EXT_CALL_MEMORY_HEAT_HINT, HINT_RANGES_MAX, Span, encode_hint

RINGS = GPADL + 1  # of the first channel


@member("it opens a channel over 8190 pages where no ring fits, again and again")
def refused_opens(guest: Kernel) -> None:
    guest.offered()
    guest.make_gpadl(GPADL, range(2048, 2048 + 2 * PAGES_MAX, 2))
    while True:
        guest.say(bus.OpenChannel(1, 1, GPADL, 0, PAGES_MAX - 1))


@member("it opens and closes its channel without end")
def open_and_close(guest: Kernel) -> None:
    guest.writer()
    while True:
        guest.say(bus.CloseChannel(1))
        guest.say(bus.OpenChannel(1, 1, RINGS, 0, RING_PAGES))


@member("it begins GPADLs and ends none")
def unfinished_gpadls(guest: Kernel) -> None:
    guest.offered()
    gpadl = 0
    while True:
        gpadl += 1
        ranges = struct.pack("<II", PAGES_MAX * PAGE_SIZE, 0) + bytes(8 * 20)
        guest.say(bus.GpadlHeader(1, gpadl, 8 + 8 * PAGES_MAX, 1, ranges))


@member("it sends bodies of a GPADL that hold no page")
def empty_bodies(guest: Kernel) -> None:
    guest.offered()
    ranges = struct.pack("<II", PAGES_MAX * PAGE_SIZE, 0)
    guest.say(bus.GpadlHeader(1, GPADL, 8 + 8 * PAGES_MAX, 1, ranges))
    while True:
        guest.say(bus.GpadlBody(0, GPADL, b""))


@member("it gives all its GPADLs the same id")
def one_id(guest: Kernel) -> None:
    guest.offered()
    while True:
        guest.make_gpadl(GPADL, range(40))


@member("it makes the greatest GPADL and tears it down, again and again")
def made_and_torn_down(guest: Kernel) -> None:
    guest.offered()
    while True:
        guest.make_gpadl(GPADL, range(0, 2 * PAGES_MAX, 2))
        guest.say(bus.GpadlTeardown(1, GPADL))


@member("it fills the bus with GPADLs of scattered pages, and tears all of them down")
def as_many_gpadls_as_there_may_be(guest: Kernel) -> None:
    guest.offered()
    while True:
        for gpadl in range(1, 60):
            guest.make_gpadl(gpadl, range(0, 2 * PAGES_MAX, 2))
        for gpadl in range(1, 60):
            guest.say(bus.GpadlTeardown(1, gpadl))


@member("it tears down the rings of its open channel")
def torn_from_under(guest: Kernel) -> None:
    guest.writer()
    while True:
        for relid in RELIDS:
            guest.say(bus.GpadlTeardown(relid, GPADL + relid))
        guest.open_again()


@member("it makes contact again and again, and asks for the offers each time")
def contact_storm(guest: Kernel) -> None:
    guest.offered()
    while True:
        guest.post(CONTACT)
        guest.say(bus.RequestOffers())


@member("it unloads the bus again and again")
def unload_storm(guest: Kernel) -> None:
    guest.offered()
    while True:
        guest.post(CONTACT)
        guest.say(bus.RequestOffers())
        guest.say(bus.Unload())


@member("it posts every message number with words of chance")
def chance_messages(guest: Kernel) -> None:
    guest.offered()
    words = (0, 1, 2, 16, 17, GPADL, 4096, 0xFFFF_FFFF, 1 << 16 | 24)
    while True:
        body = [guest.random.choice(words) for _ in range(guest.random.randrange(58))]
        guest.post(struct.pack(f"<II{len(body)}I", guest.random.randrange(32), 0, *body))


@member("it posts and posts, and takes no message out of its slot")
def full_slot(guest: Kernel) -> None:
    guest.offered()
    while True:
        message = synic.PostMessageInput(
            4, 1, bus.encode(bus.TlConnectRequest(uuid.UUID(int=1), uuid.UUID(int=2)))
        )
        guest.memory.write(guest.input, synic.encode_post(message))
        guest.call(0x5C, guest.input)


@member("it asks for sockets that nobody offers, without end")
def socket_requests(guest: Kernel) -> None:
    guest.offered()
    while True:
        guest.say(bus.TlConnectRequest(uuid.UUID(int=1), uuid.UUID(int=2)))


@member("it moves its message page and its event page about while messages come")
def moving_pages(guest: Kernel) -> None:
    guest.offered()
    while True:
        for msr in (synic.MSR_SIMP, synic.MSR_SIEFP, synic.MSR_SINT0 + 2, synic.MSR_SCONTROL):
            value = guest.random.choice((0, 1, 16 << 12 | 1, 1 << 60 | 1, 63 << 20 | 1))
            guest.socket.send(wire.encode(wire.WriteMsr(0, msr, value)))
        guest.post(CONTACT)


@member("it reports as free all memory that there could be, its own rings among it, and every second page")
def free_pages(guest: Kernel) -> None:
    guest.writer()
    everything = [Span(number << 20, 1 << 20) for number in range(4)]
    scattered = [Span(2 * number, 1) for number in range(HINT_RANGES_MAX)]
    while True:
        for spans in (everything, scattered):
            guest.memory.write(guest.input, encode_hint(COLD_DISCARD, spans))
            guest.call(EXT_CALL_MEMORY_HEAT_HINT | len(spans) << 32, guest.input)
            guest.post(CONTACT)


@member("it says that a released channel and one that never was are released")
def released_again(guest: Kernel) -> None:
    guest.writer()
    while True:
        for relid in (1, 2, 0, 2047, 0xFFFF_FFFF):
            guest.say(bus.RelidReleased(relid))
        guest.post(CONTACT)
        guest.say(bus.RequestOffers())
