"""What an exit of a guest costs that Python serves, alone and beside a thread that computes; a doorbell."""

import asyncio
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.rigs.mini_guest import DOORBELLS, EXITS, MiniGuest, assemble, running

from bench.figures import Figure
from dynmem.units import NS_PER_S
from dynmem.vm.kvm.host import DEVICE
from dynmem.wire import dm

TURNS: Final = 3000
ROUNDS: Final = 5
_DEFAULT_SWITCH_INTERVAL_S: Final = 0.005
# Takes a decoder a while: more ranges than it names, over and over.
_MESSAGE: Final = dm.encode(
    dm.BalloonResponse(1, more_pages=False, ranges=b"".join(n.to_bytes(8, "little") for n in range(400)))
)


@contextmanager
def _decoding() -> Iterator[None]:
    """A thread that decodes messages without a pause, as a hostile guest could make it."""
    is_over = threading.Event()

    def decode() -> None:
        while not is_over.is_set():
            dm.decode(_MESSAGE)

    thread = threading.Thread(target=decode)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


async def _each_ns(guest: MiniGuest, command: int, turns: int) -> float:
    """Return what one turn of a command costs, in the middle one of some rounds."""
    costs = []
    for _ in range(ROUNDS):
        done = guest.result("reads") + 1
        begun = time.perf_counter_ns()
        assert guest.command(command, turns)
        await guest.until("reads", done)
        costs.append((time.perf_counter_ns() - begun) / turns)
    return statistics.median(costs)


async def _measure(kernel: Path) -> list[Figure]:
    async with running(kernel) as guest:
        exit_ns = await _each_ns(guest, EXITS, TURNS)
        before = guest.exits
        doorbell_ns = await _each_ns(guest, DOORBELLS, TURNS)
        doorbell_exits = (guest.exits - before) / TURNS / ROUNDS
        with _decoding():
            busy_ns = await _each_ns(guest, EXITS, TURNS // 10)
            ours = sys.getswitchinterval()
            sys.setswitchinterval(_DEFAULT_SWITCH_INTERVAL_S)
            try:
                default_ns = await _each_ns(guest, EXITS, TURNS // 100)
            finally:
                sys.setswitchinterval(ours)
    return [
        Figure("exit served by Python", exit_ns / 1000, "us"),
        Figure("exits a second", NS_PER_S / exit_ns, "a second"),
        Figure("exit beside a thread that decodes", busy_ns / 1000, "us"),
        Figure("the same with the interpreter's default switch interval", default_ns / 1000, "us"),
        Figure("doorbell, which KVM serves", doorbell_ns / 1000, "us"),
        Figure("exits of a doorbell", doorbell_exits, "", at_most=0.01),
    ]


def run() -> Iterator[Figure]:
    """The figures; none where there is no DEVICE."""
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return
    with tempfile.TemporaryDirectory() as folder:
        yield from asyncio.run(_measure(assemble(Path(folder))))
