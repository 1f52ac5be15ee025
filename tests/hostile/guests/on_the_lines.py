"""Guests that misuse the sockets that are their hardware."""

import contextlib
import os
import signal
import socket
import struct
import time

from tests.hostile.guests.cast import member
from tests.hostile.guests.kernel import Kernel, rest

from dynmem.wire import hardware as wire
from dynmem.wire import synic
from dynmem.wire import vmbus as bus


@member("it calls without end and reads no reply")
def deaf(guest: Kernel) -> None:
    while True:
        guest.socket.send(struct.pack("<IIQQQ", 7, 1, 0x5C, 0, 0))


@member("it calls without end, and every call is wrong")
def wrong_calls(guest: Kernel) -> None:
    while True:
        guest.call(guest.random.choice((0x5C, 0x5D, 0x1_005D, 0, 0xFFFF)), guest.random.getrandbits(64))


@member("it writes its message registers without end")
def register_storm(guest: Kernel) -> None:
    while True:
        guest.socket.send(wire.encode(wire.WriteMsr(0, synic.MSR_EOM, 0)))
        guest.drain()


@member("it rings its doorbell without end")
def doorbell_storm(guest: Kernel) -> None:
    guest.writer()
    while True:
        guest.hardware.signal(17)
        guest.drain()


@member("it makes its lines blocking, fills them and takes what is in them")
def lines_filled(guest: Kernel) -> None:
    guest.writer()
    while True:
        for line in guest.lines():
            os.set_blocking(line, False)
            with contextlib.suppress(OSError):
                os.write(line, b"\xff" * 8 * 4096)
            os.set_blocking(line, True)
        with contextlib.suppress(OSError):
            os.read(guest.lines()[0], 1)
        guest.hardware.signal(17)
        guest.drain()


@member("it reads no interrupt, whatever is sent to it")
def line_never_read(guest: Kernel) -> None:
    guest.offered()
    for line in guest.lines():
        os.set_blocking(line, True)
    while True:
        guest.post(b"\x0e\0\0\0\0\0\0\0\0\0\x04\0" + bytes(28))


@member("it shuts its lines down and goes on")
def lines_shut(guest: Kernel) -> None:
    guest.offered()
    for line in guest.lines():
        socket.socket(fileno=os.dup(line)).shutdown(socket.SHUT_RDWR)
    while True:
        guest.post(b"\x0e\0\0\0\0\0\0\0\0\0\x04\0" + bytes(28))


@member("it closes its lines and its console, and keeps its hardware")
def lines_closed(guest: Kernel) -> None:
    for line in (*guest.lines(), 1, 2):
        os.close(line)
    while True:
        guest.socket.send(wire.encode(wire.WriteMsr(0, synic.MSR_EOM, 0)))
        guest.drain()


@member("it shuts its hardware down for sending and lives on")
def half_closed(guest: Kernel) -> None:
    guest.socket.shutdown(socket.SHUT_WR)
    rest()


@member("it shuts its hardware down for receiving and calls on")
def half_deaf(guest: Kernel) -> None:
    guest.socket.shutdown(socket.SHUT_RD)
    while True:
        with contextlib.suppress(OSError):
            guest.socket.send(struct.pack("<IIQQQ", 7, 1, 0x5C, 0, 0))


@member("it closes its hardware and lives on")
def closed(guest: Kernel) -> None:
    guest.socket.close()
    rest()


@member("it sends datagrams of every length that are no message")
def garbage(guest: Kernel) -> None:
    while True:
        guest.socket.send(guest.random.randbytes(guest.random.randrange(1 << guest.random.randrange(17))))
        guest.drain()


@member("it sends the first half of every message")
def halves(guest: Kernel) -> None:
    while True:
        for number in range(14):
            guest.socket.send(struct.pack("<IIQQQ", number, 1, 2, 3, 4)[: guest.random.randrange(1, 32)])
        guest.drain()


@member("it sends only empty datagrams, which look like the end")
def empty_datagrams(guest: Kernel) -> None:
    while True:
        guest.socket.send(b"")
        time.sleep(0.01)


@member("it sends descriptors with every message")
def descriptors_with_messages(guest: Kernel) -> None:
    message = wire.encode(wire.WriteMsr(0, synic.MSR_EOM, 0))
    while True:
        with contextlib.suppress(OSError):
            socket.send_fds(guest.socket, [message], [0] * 200)
        guest.drain()


@member("it keeps as many descriptors in flight as it may")
def descriptors_in_flight(guest: Kernel) -> None:
    ends = []
    while True:
        try:
            ours, theirs = socket.socketpair()
            ends.append((ours, theirs))
            ours.setblocking(False)
            while True:
                socket.send_fds(ours, [b"x"], [0] * 200)
        except OSError:
            time.sleep(0.001)
        guest.drain()


@member("it acknowledges slots that it was not sent, and answers for DIMMs that are not there")
def false_answers(guest: Kernel) -> None:
    while True:
        slot = guest.random.randrange(1 << guest.random.randrange(1, 33))
        for message in (
            wire.SlotMapped(slot),
            wire.SlotUnmapped(slot),
            wire.UnplugAnswered(slot, is_done=True),
        ):
            guest.socket.send(wire.encode(message))
        guest.drain()


@member("it stops in the middle of a message")
def stopped_in_the_middle(guest: Kernel) -> None:
    guest.offered()
    guest.say(bus.GpadlHeader(1, 5, 8 + 800, 1, struct.pack("<II", 409_600, 0)))
    os.kill(os.getpid(), signal.SIGSTOP)
    rest()
