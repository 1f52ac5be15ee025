"""Interrupt lines and doorbells, whose other end a guest holds and does with as it likes."""

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable

from tests.rigs.scenes import PATIENCE_S, plays, until

from dynmem.vm.embedded.hardware import Hardware
from dynmem.wire import hardware as wire

SINT, CONNECTION = 2, 17


class Held:
    """A machine's hardware, and the descriptors that its guest got with it."""

    def __init__(self) -> None:
        self.woken = 0
        self.hardware = Hardware(self._wake)
        self.hardware.bind_sint(SINT)
        self.hardware.bind_doorbell(CONNECTION)
        self.hardware.start()
        self.line, self.bell = self._received(wire.BindSint), self._received(wire.BindDoorbell)

    def _wake(self) -> None:
        self.woken += 1

    def _received(self, kind: type) -> int:
        data, (descriptor,), _, _ = socket.recv_fds(self.hardware.guest_end, 100, 4)
        assert isinstance(wire.decode(data), kind)
        return descriptor

    @property
    def doorbell(self) -> bool:
        """Whether the machine has heard the doorbell."""
        return self.hardware.doorbells[CONNECTION].ready

    def take(self) -> None:
        self.hardware.doorbells[CONNECTION].take()

    def close(self) -> None:
        self.hardware.close()
        for descriptor in (self.line, self.bell):
            with contextlib.suppress(OSError):
                os.close(descriptor)


async def in_time(action: Callable[[], object]) -> None:
    """Do it in a thread: one that waits for ever is a failure, and no suite that hangs."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    await until(lambda: not thread.is_alive(), seconds=PATIENCE_S / 10)


def fill(descriptor: int) -> None:
    """Write until there is no room, whatever it is, and leave it blocking."""
    os.set_blocking(descriptor, False)
    for data in ((1 << 64) - 2).to_bytes(8, "little"), b"\1":
        with contextlib.suppress(OSError):
            while True:
                os.write(descriptor, data)
    os.set_blocking(descriptor, True)


@plays
async def test_an_interrupt_never_waits_for_a_guest_that_reads_none_and_makes_its_line_blocking() -> None:
    held = Held()
    fill(held.line)

    def storm() -> None:
        for _ in range(2000):
            held.hardware.interrupt(SINT)

    await in_time(storm)
    assert os.read(held.line, 1 << 20)
    held.close()


@plays
async def test_a_doorbell_is_reset_without_waiting_whatever_the_guest_made_of_it() -> None:
    held = Held()
    os.set_blocking(held.bell, True)
    await in_time(held.take)  # which rings not at all
    os.write(held.bell, b"12345678")
    await until(lambda: held.doorbell)
    held.take()
    assert not held.doorbell
    os.write(held.bell, b"12345678")
    await until(lambda: held.doorbell)
    held.close()


@plays
async def test_a_storm_on_a_doorbell_is_taken_in_bounded_pieces_and_rings_until_it_is_taken() -> None:
    held = Held()
    os.write(held.bell, bytes(10_000))
    for _ in range(3):
        await until(lambda: held.doorbell)
        held.take()
        assert not held.doorbell
    for _ in range(20):
        await asyncio.sleep(0)
    assert held.woken == 3
    held.close()


@plays
async def test_a_line_that_the_guest_has_shut_down_costs_nothing_more() -> None:
    held = Held()
    for descriptor in (held.line, held.bell):
        with socket.socket(fileno=os.dup(descriptor)) as end:
            end.shutdown(socket.SHUT_RDWR)
    await until(lambda: held.doorbell)
    held.take()
    woken = held.woken
    held.hardware.interrupt(SINT)
    for _ in range(20):
        await asyncio.sleep(0)
    assert held.woken == woken
    held.close()
