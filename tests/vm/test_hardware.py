"""The machine's end of the guest's hardware socket."""

import asyncio
import contextlib

from dynmem.vm.hardware import Hardware
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
        await asyncio.sleep(0.05)
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

    asyncio.run(asyncio.wait_for(scene(), 10))
