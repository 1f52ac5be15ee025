"""``python -m tests.kvm_rig.unlucky_host vm ...``: as `dynmem vm`, with a host that a test makes unlucky.

It answers late (what it says is held until it is released), in another order or with a failure, and rescinds
its channel when a test says so. The commands that its monitor has besides:

    x-hold         what: "messages" (VMBus, to the guest), "packets" (to the guest), "hearing" (from it)
                   from: the name of the first message that is held, such as "OfferChannel"
    x-release      what; reversed: whether the messages come in the opposite order
    x-refuse       message: the next one of this name, such as "GpadlCreated", is a failure
    x-say          packet: send these bytes (hex) to the guest, whatever the state of the protocol
    x-rescind      rescind the balloon's channel
    x-offer        offer it again
    x-query-luck   the names of the messages that are held

With DYNMEM_RIG_HOLD=NAME in the environment, messages are held from the first one of this name on.
"""

import asyncio
import logging
import os
from typing import Any, Final

import msgspec

from dynmem.cli import main as cli
from dynmem.errors import ExitCode
from dynmem.qmp.command import Arguments, Command
from dynmem.qmp.server import QmpServer
from dynmem.qmp.types import ANY, BOOL, STR, Array, Member, Object
from dynmem.vm import main as vm_main
from dynmem.vm.balloon.device import HvBalloon
from dynmem.vm.kvm.guest import KvmGuest
from dynmem.vm.machine import Machine
from dynmem.vm.monitor.commands import commands
from dynmem.vm.monitor.schema import EVENTS
from dynmem.vm.options.machine import VmOptions
from dynmem.vm.platform import GuestCalls
from dynmem.vmbus import Channel, OutgoingMessage
from dynmem.wire import vmbus

_FAILURES: Final[dict[str, dict[str, Any]]] = {
    "GpadlCreated": {"creation_status": 0xC0000001},
    "OpenChannelResult": {"status": 0xC0000001},
}


class Luck:
    """What goes wrong at present."""

    def __init__(self) -> None:
        self.held: set[str] = set()
        self.hold_from = os.environ.get("DYNMEM_RIG_HOLD", "")
        self.refused = ""  # the name of a message
        self.kept: list[OutgoingMessage] = []  # held
        self.due: list[OutgoingMessage] = []  # released, and not delivered yet


class UnluckyGuest(KvmGuest):
    """Delivers messages when, how and in which order the test says."""

    luck: Luck

    def deliver(self, message: OutgoingMessage) -> bool:
        luck, meant = self.luck, vmbus.decode(message.payload)
        name = type(meant).__name__
        if name == luck.refused:
            luck.refused = ""
            payload = vmbus.encode(msgspec.structs.replace(meant, **_FAILURES[name]))
            message = msgspec.structs.replace(message, payload=payload)
        if name == luck.hold_from:
            luck.hold_from = ""
            luck.held.add("messages")
        if "messages" in luck.held:
            luck.kept.append(message)
        else:
            luck.due.append(message)
            self._deliver_due()
        return True

    async def serve(self, calls: GuestCalls) -> None:
        self._deliver_due()
        await super().serve(calls)

    def _deliver_due(self) -> None:
        """Deliver what there is room for: the guest asks for more when it has emptied its slot."""
        while self.luck.due and super().deliver(self.luck.due[0]):
            self.luck.due.pop(0)


class UnluckyBalloon(HvBalloon):
    """Neither hears nor speaks while the test says so."""

    luck: Luck

    def receive(self) -> int:
        return 0 if "hearing" in self.luck.held else super().receive()

    def send(self) -> None:
        if "packets" not in self.luck.held:
            super().send()


class _Handlers:
    def __init__(self, machine: Machine, luck: Luck) -> None:
        self._machine, self._luck = machine, luck

    def hold(self, arguments: Arguments) -> object:
        if "from" in arguments:
            self._luck.hold_from = str(arguments["from"])
        else:
            self._luck.held.add(str(arguments["what"]))
        return {}

    def release(self, arguments: Arguments) -> object:
        luck = self._luck
        luck.held.discard(str(arguments["what"]))
        if arguments["what"] == "messages":
            luck.due += luck.kept[::-1] if arguments.get("reversed") else luck.kept
            luck.kept.clear()
        self._machine.wake()
        return {}

    def refuse(self, arguments: Arguments) -> object:
        self._luck.refused = str(arguments["message"])
        return {}

    def say(self, arguments: Arguments) -> object:
        assert self._channel.send(bytes.fromhex(str(arguments["packet"])))
        self._machine.wake()
        return {}

    def rescind(self, _: Arguments) -> object:
        self._machine.bus.rescind(self._channel)
        self._machine.wake()
        return {}

    def offer(self, _: Arguments) -> object:
        assert self._machine.balloon is not None
        self._machine.bus.offer(self._machine.balloon.offer)
        self._machine.wake()
        return {}

    def query(self, _: Arguments) -> object:
        return [type(vmbus.decode(message.payload)).__name__ for message in self._luck.kept]

    @property
    def _channel(self) -> Channel:
        (channel,) = self._machine.bus.channels.values()
        return channel


def _commands(machine: Machine, luck: Luck) -> dict[str, Command]:
    handlers = _Handlers(machine, luck)
    what = Member("what", STR, is_optional=True)
    return {
        **commands(machine),
        "x-hold": Command(handlers.hold, Object((what, Member("from", STR, is_optional=True)))),
        "x-release": Command(handlers.release, Object((what, Member("reversed", BOOL, is_optional=True)))),
        "x-refuse": Command(handlers.refuse, Object((Member("message", STR),))),
        "x-say": Command(handlers.say, Object((Member("packet", STR),))),
        "x-rescind": Command(handlers.rescind),
        "x-offer": Command(handlers.offer),
        "x-query-luck": Command(handlers.query, returns=Array(ANY)),
    }


async def _run(options: VmOptions) -> int:
    luck = Luck()
    UnluckyGuest.luck = UnluckyBalloon.luck = luck
    servers: list[QmpServer] = []

    def emit(event: str, data: Any = None) -> None:
        for server in servers:
            server.emit(event, data)

    machine = Machine(options, emit, make_platform=UnluckyGuest, make_balloon=UnluckyBalloon)
    assert options.qmp is not None
    server = QmpServer(
        options.qmp,
        commands=_commands(machine, luck),
        events=EVENTS,
        version=vm_main.SPOKEN,
        package="unlucky",
    )
    try:
        await server.listen()
        servers.append(server)
        await machine.start()
        await server.start()
        await machine.ended.wait()
    finally:
        await machine.close()
        await server.close()
    return ExitCode.OK


def run(options: VmOptions) -> int:
    """Run the machine until it ends."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return asyncio.run(_run(options))


if __name__ == "__main__":
    vm_main.run = run
    cli()
