"""A virtual machine's process, from its options to its exit code."""

import asyncio
import faulthandler
import logging
import signal
from collections.abc import Mapping
from typing import Final

from dynmem import __version__
from dynmem.errors import DynmemError, ExitCode
from dynmem.limits import VM_DESCRIPTORS_SPARE, VM_OBJECTS_MAX, VM_SLOT_FILES_MAX
from dynmem.procfs import allow_descriptors
from dynmem.qmp.server import QmpServer
from dynmem.vm.advice import memory_note, shortages
from dynmem.vm.last_words import LastWords
from dynmem.vm.log import HastyStream, LogHandler
from dynmem.vm.machine import Ending, Machine
from dynmem.vm.monitor.commands import commands
from dynmem.vm.monitor.schema import EVENTS
from dynmem.vm.options.machine import VmOptions

SPOKEN: Final = (10, 2, 2)  # the QEMU whose commands these are
_LOG: Final = logging.getLogger("dynmem.vm")
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run(options: VmOptions) -> int:
    """Run one machine until it ends; return the exit code. Raises DynmemError if it or its guest fails."""
    handler = LogHandler(HastyStream())
    logging.basicConfig(
        handlers=[handler], level=logging.INFO, format=f"%(asctime)s {options.name}: %(message)s"
    )
    allow_descriptors(VM_OBJECTS_MAX + VM_SLOT_FILES_MAX + VM_DESCRIPTORS_SPARE)
    # memory in a truncated file, or on a full tmpfs, ends this process by SIGBUS: log where
    faulthandler.enable(2)
    return asyncio.run(_run(options))


class _Monitor:
    """The monitor, if there is one: events before it listens are lost."""

    def __init__(self) -> None:
        self.server: QmpServer | None = None

    def emit(self, event: str, data: Mapping[str, object] | None = None) -> None:
        if self.server is not None:
            self.server.emit(event, data)


async def _run(options: VmOptions) -> int:
    loop = asyncio.get_running_loop()
    monitor = _Monitor()
    if (note := memory_note(options.memory_bytes)) is not None:
        _LOG.warning("%s", note)
    machine = Machine(options, monitor.emit)
    try:
        for number in _SIGNALS:
            ending = Ending(guest=False, reason="host-signal", detail=f"stopped by {number.name}")
            loop.add_signal_handler(number, machine.end, ending)
        if options.qmp is not None:
            server = QmpServer(
                options.qmp,
                commands=commands(machine),
                events=EVENTS,
                version=SPOKEN,
                package=f"dynmem {__version__}",
            )
            await server.listen()
            monitor.server = server
        await machine.start()
        if monitor.server is not None:
            await monitor.server.start()  # whoever is answered finds a guest
        with LastWords(lambda: _last_words(machine)):
            await machine.ended.wait()
    finally:
        await machine.close()
        if monitor.server is not None:
            await monitor.server.close()
    assert machine.ending is not None
    if machine.ending.problem is not None:
        raise DynmemError(machine.ending.problem)
    _LOG.info("ended: %s", machine.ending.detail or machine.ending.reason)
    return ExitCode.OK


def _last_words(machine: Machine) -> str:
    """Return what to write if the machine itself touches guest memory that the host lacks."""
    why = shortages(machine.objects) or ["guest memory that this process touched is missing"]
    return f"dynmem: {machine.options.name} is ended by SIGBUS: {'; '.join(why)}"
