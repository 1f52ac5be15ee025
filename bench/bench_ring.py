"""Round trips between two processes that sleep until signalled: our ring, a socket, a bare eventfd."""

import mmap
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

from bench.figures import Figure
from dynmem.units import PAGE_SIZE
from dynmem.vmbus import ring
from dynmem.vmbus.memory import FlatMemory, GpadlMemory
from dynmem.wire.packet import Packet, PacketType

TRIPS: Final = 3000
ROUNDS: Final = 5
PAGES: Final = 4  # two rings of a control page and a data page each
BODY: Final = bytes(16)


class RingEnd:
    """One process's end of two rings: it writes into the one, and sleeps until something is in the other."""

    def __init__(self, ram: int, bell: int, wakes: int, *, first: bool) -> None:
        pages = GpadlMemory(FlatMemory(memoryview(mmap.mmap(ram, PAGES * PAGE_SIZE))), range(PAGES))
        self._writer = ring.RingWriter(pages, 0 if first else 2, 2)
        self._reader = ring.RingReader(pages, 2 if first else 0, 2)
        self._bell, self._wakes = bell, wakes

    def send(self) -> None:
        """Send one packet."""
        assert self._writer.write(Packet(PacketType.INBAND, 0, 1, BODY))
        if self._writer.take_signal():
            os.eventfd_write(self._bell, 1)

    def receive(self) -> None:
        """Wait for one packet."""
        while self._reader.read() is None:
            os.eventfd_read(self._wakes)


class SocketEnd:
    """The same over a datagram socket."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)

    def send(self) -> None:
        """Send one datagram."""
        self._socket.send(BODY)

    def receive(self) -> None:
        """Wait for one datagram."""
        self._socket.recv(64)


class EventEnd:
    """Nothing but the two signals: what the kernel costs."""

    def __init__(self, bell: int, wakes: int) -> None:
        self._bell, self._wakes = bell, wakes

    def send(self) -> None:
        """Signal."""
        os.eventfd_write(self._bell, 1)

    def receive(self) -> None:
        """Wait for a signal."""
        os.eventfd_read(self._wakes)


End = RingEnd | SocketEnd | EventEnd


def answer(kind: str, descriptors: list[int]) -> None:
    """The other process: sends back whatever comes, until it has done so often enough."""
    end = _end(kind, descriptors, first=False)
    for _trip in range(TRIPS * ROUNDS):
        end.receive()
        end.send()


def _end(kind: str, descriptors: list[int], *, first: bool) -> End:
    if kind == "socket":
        return SocketEnd(descriptors[0 if first else 1])
    bell, wakes = descriptors[:2] if first else descriptors[1::-1]
    return RingEnd(descriptors[2], bell, wakes, first=first) if kind == "ring" else EventEnd(bell, wakes)


def _descriptors(kind: str) -> list[int]:
    if kind == "socket":
        return [one.detach() for one in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)]
    descriptors = [os.eventfd(0), os.eventfd(0)]
    if kind == "ring":
        ram = os.memfd_create("ring")
        os.ftruncate(ram, PAGES * PAGE_SIZE)
        pages = GpadlMemory(FlatMemory(memoryview(mmap.mmap(ram, PAGES * PAGE_SIZE))), range(PAGES))
        ring.initialize(pages, 0)
        ring.initialize(pages, 2)
        descriptors.append(ram)
    return descriptors


def _trips_per_second(kind: str) -> float:
    descriptors = _descriptors(kind)
    arguments = [sys.executable, "-m", "bench.bench_ring", kind, *map(str, descriptors)]
    with subprocess.Popen(arguments, pass_fds=descriptors) as other:
        end = _end(kind, descriptors, first=True)
        rates = [_round(end.send, end.receive) for _ in range(ROUNDS)]
        other.wait()
    return statistics.median(rates)


def _round(send: Callable[[], None], receive: Callable[[], None]) -> float:
    begin = time.perf_counter()
    for _trip in range(TRIPS):
        send()
        receive()
    return TRIPS / (time.perf_counter() - begin)


def run() -> Iterator[Figure]:
    """The ring between a bare signal and a socket."""
    rates = {kind: _trips_per_second(kind) for kind in ("ring", "socket", "event")}
    yield Figure("ring round trips", rates["ring"], "a second")
    yield Figure("the same over a SOCK_SEQPACKET socket", rates["socket"], "a second")
    yield Figure("two bare eventfds, no data", rates["event"], "a second")
    yield Figure("ring beside socket", rates["ring"] / rates["socket"], "x")


if __name__ == "__main__":
    answer(sys.argv[1], [int(number) for number in sys.argv[2:]])
