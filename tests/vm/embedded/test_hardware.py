"""The machine's end of the guest's hardware socket."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tests.rigs.scenes import play

from dynmem.limits import HARDWARE_SLOTS_MAX
from dynmem.vm.embedded.hardware import Hardware
from dynmem.wire import hardware as wire
from dynmem.wire.synic import MSR_EOM, HvStatus

CALLS = 1000  # more than a socket holds replies for


class Served:
    """A machine that answers every call as long as it can."""

    def __init__(self) -> None:
        self.turns = 0
        self.calls = 0
        self.woken = asyncio.Event()
        self.hardware = Hardware(self.woken.set)

    async def work(self) -> None:
        while True:
            await self.woken.wait()
            self.woken.clear()
            self.turns += 1
            while (message := self.hardware.receive()) is not None:
                if isinstance(message, wire.WriteMsr):
                    self.calls += 1
                    self.hardware.reply(message.sequence, HvStatus.SUCCESS)
            self.hardware.await_call()


def test_a_guest_that_reads_no_replies_keeps_nobody_awake_and_loses_none() -> None:
    async def scene() -> None:
        served = Served()
        guest = served.hardware.guest_end
        guest.setblocking(False)
        served.hardware.start()
        assert isinstance(wire.decode(guest.recv(100)), wire.Start)
        working = asyncio.create_task(served.work())
        sent = 0
        with contextlib.suppress(BlockingIOError):
            for sent in range(CALLS):
                guest.send(wire.encode(wire.WriteMsr(sent, MSR_EOM, 0)))
                if sent % 20 == 0:
                    await asyncio.sleep(0)
        before = -1
        while before < served.calls:
            before = served.calls
            for _ in range(100):
                await asyncio.sleep(0)
        stuck, turns = served.calls, served.turns
        assert 0 < stuck < sent
        await asyncio.sleep(0.1)
        assert (served.calls, served.turns) == (stuck, turns)
        for expected in range(sent):
            while True:
                try:
                    reply = wire.decode(guest.recv(100))
                    break
                except BlockingIOError:
                    await asyncio.sleep(0)
            assert isinstance(reply, wire.Reply)
            assert reply.sequence == expected
        working.cancel()
        served.hardware.close()

    play(scene())


class Rig:
    """Both ends of a hardware socket, and the messages that the guest finds, with how many descriptors."""

    def __init__(self) -> None:
        self.hardware = Hardware(lambda: None)
        self.guest = self.hardware.guest_end
        self.guest.setblocking(False)
        self.fd = os.memfd_create("slot")

    async def heard(self) -> list[tuple[wire.Message, int]]:
        """All that arrives, as the machine gets to send it."""
        found = []
        for _ in range(200):
            with contextlib.suppress(BlockingIOError):
                while True:
                    data, descriptors, _, _ = socket.recv_fds(self.guest, 100, 4)
                    for descriptor in descriptors:
                        os.close(descriptor)
                    found.append((wire.decode(data), len(descriptors)))
            await asyncio.sleep(0)
        return found

    def say(self, message: wire.Message) -> None:
        self.guest.send(wire.encode(message))

    def close(self) -> None:
        self.hardware.close()
        os.close(self.fd)


def in_rig(scene: Callable[[Rig], Coroutine[Any, Any, None]]) -> None:
    async def story() -> None:
        rig = Rig()
        await scene(rig)
        rig.close()

    play(story())


def slot(number: int) -> wire.MapSlot:
    return wire.MapSlot(number, number << 27, 1 << 27, 0)


def test_more_slots_than_the_socket_holds_arrive_in_order_with_their_descriptors() -> None:
    async def scene(rig: Rig) -> None:
        for number in range(HARDWARE_SLOTS_MAX):
            rig.hardware.map_slot(slot(number), rig.fd)
        rig.hardware.start()
        heard = await rig.heard()
        assert heard == [(slot(number), 1) for number in range(HARDWARE_SLOTS_MAX)] + [(wire.Start(), 0)]

    in_rig(scene)


def test_a_slot_that_goes_before_the_guest_could_hear_of_it_is_never_mentioned() -> None:
    async def scene(rig: Rig) -> None:
        for number in range(HARDWARE_SLOTS_MAX):
            rig.hardware.map_slot(slot(number), rig.fd)
        last = HARDWARE_SLOTS_MAX - 1
        rig.hardware.plug(last)
        assert not rig.hardware.unmap_slot(last)
        assert rig.hardware.unmap_slot(0)
        heard = [message for message, _ in await rig.heard()]
        assert heard == [slot(number) for number in range(last)] + [wire.UnmapSlot(0)]

    in_rig(scene)


def test_acknowledgements_are_heard_while_a_reply_waits_for_room() -> None:
    """Else guest and machine would wait for each other, each with a full socket."""

    async def scene(rig: Rig) -> None:
        rig.hardware.start()
        for number in range(HARDWARE_SLOTS_MAX):
            rig.hardware.map_slot(slot(number), rig.fd)
        rig.say(wire.WriteMsr(1, MSR_EOM, 0))
        assert rig.hardware.receive() == wire.WriteMsr(1, MSR_EOM, 0)
        rig.hardware.reply(1, HvStatus.SUCCESS)
        rig.say(wire.SlotMapped(0))
        assert rig.hardware.receive() == wire.SlotMapped(0)
        rig.say(wire.WriteMsr(2, MSR_EOM, 0))
        assert rig.hardware.receive() is None  # the reply to the first has not left
        assert (await rig.heard())[-1] == (wire.Reply(1, HvStatus.SUCCESS), 0)
        assert rig.hardware.receive() == wire.WriteMsr(2, MSR_EOM, 0)

    in_rig(scene)


def test_a_guest_that_reads_nothing_holds_few_of_the_descriptors_that_its_user_may_have_in_flight() -> None:
    async def scene(rig: Rig) -> None:
        for number in range(HARDWARE_SLOTS_MAX):
            rig.hardware.map_slot(slot(number), rig.fd)
        in_flight = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                _, descriptors, _, _ = socket.recv_fds(rig.guest, 100, 1, socket.MSG_DONTWAIT)
                in_flight += len(descriptors)
                os.close(*descriptors)
        assert 0 < in_flight <= 32 < HARDWARE_SLOTS_MAX

    in_rig(scene)


def test_what_is_sent_to_a_guest_that_is_gone_is_no_error_of_the_machine() -> None:
    async def scene(rig: Rig) -> None:
        rig.guest.close()
        rig.hardware.map_slot(slot(0), rig.fd)
        rig.hardware.start()
        with pytest.raises(EOFError):
            rig.hardware.receive()

    in_rig(scene)
