"""A virtual machine's process, from its options to its exit code."""

import asyncio
import faulthandler
import logging
import signal
import sys
from collections.abc import Mapping
from typing import Final

from dynmem import __version__
from dynmem.errors import DynmemError, ExitCode
from dynmem.qmp.server import QmpServer
from dynmem.vm.commands import commands
from dynmem.vm.machine import Ending, Machine
from dynmem.vm.objects import allow_descriptors
from dynmem.vm.options import VmOptions
from dynmem.vm.schema import EVENTS

SPOKEN: Final = (10, 2, 2)  # the QEMU whose commands these are
_LOG: Final = logging.getLogger("dynmem.vm")
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run(options: VmOptions) -> int:
    """Run one machine until it ends: the exit code. DynmemError when it cannot start, or its guest dies."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format=f"%(asctime)s {options.name}: %(message)s"
    )
    allow_descriptors()
    # memory in a file that is cut short, or on a full tmpfs, ends this process by SIGBUS: let it say so
    faulthandler.enable(2)
    return asyncio.run(_run(options))


class _Monitor:
    """The monitor, if there is one: events go nowhere before it listens."""

    def __init__(self) -> None:
        self.server: QmpServer | None = None

    def emit(self, event: str, data: Mapping[str, object] | None = None) -> None:
        if self.server is not None:
            self.server.emit(event, data)


async def _run(options: VmOptions) -> int:
    loop = asyncio.get_running_loop()
    monitor = _Monitor()
    machine = Machine(options, monitor.emit)
    try:
        for number in _SIGNALS:
            loop.add_signal_handler(number, machine.end, Ending(guest=False, reason="host-signal"))
        if options.qmp is not None:
            server = QmpServer(
                options.qmp,
                commands=commands(machine),
                events=EVENTS,
                version=SPOKEN,
                package=f"dynmem {__version__}",
            )
            await server.start()
            monitor.server = server
        machine.start()
        await machine.ended.wait()
    finally:
        await machine.close()
        if monitor.server is not None:
            await monitor.server.close()
    assert machine.ending is not None
    if machine.ending.problem is not None:
        raise DynmemError(machine.ending.problem)
    _LOG.info("ended: %s", machine.ending.reason)
    return ExitCode.OK
