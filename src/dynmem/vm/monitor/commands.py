"""The monitor's commands on a machine, with QEMU's names, results and error texts (QEMU qapi/*.json).

Commands of our own begin with ``x-``.
"""

from typing import Final

from dynmem.memory.discard import DiscardError
from dynmem.memory.zero_pages import ZeroPages
from dynmem.qmp.command import Arguments, Command
from dynmem.qmp.errors import GENERIC_ERROR, QmpCommandError
from dynmem.vm.machine import Ending, Machine
from dynmem.vm.monitor import schema
from dynmem.vm.monitor.balloon_commands import balloon_commands
from dynmem.vm.monitor.memory_commands import memory_commands
from dynmem.vm.monitor.qom_tree import processor_path


def commands(machine: Machine) -> dict[str, Command]:
    """Return the commands of the monitor of `machine`, besides those of every monitor."""
    handlers: Final = _Handlers(machine)
    return {
        **balloon_commands(machine),
        **memory_commands(machine),
        "cont": Command(handlers.cont),
        "query-cpus-fast": Command(handlers.query_cpus, returns=schema.CPUS),
        "query-name": Command(handlers.query_name, returns=schema.NAME),
        "query-status": Command(handlers.query_status, returns=schema.STATUS),
        "quit": Command(handlers.quit),
        "stop": Command(handlers.stop),
        "system_reset": Command(handlers.system_reset),
        "x-punch-zero-pages": Command(handlers.punch_zero_pages, returns=schema.ZERO_PAGES),
        "x-query-channels": Command(handlers.query_channels, returns=schema.CHANNELS),
        "x-query-faults": Command(handlers.query_faults, returns=schema.FAULTS),
    }


class _Handlers:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def cont(self, _: Arguments) -> object:
        self._machine.resume()
        return {}

    async def stop(self, _: Arguments) -> object:
        await self._machine.stop()
        return {}

    def quit(self, _: Arguments) -> object:
        self._machine.end(Ending(guest=False, reason="host-qmp-quit"))
        return {}

    def system_reset(self, _: Arguments) -> object:
        self._machine.reset()
        return {}

    async def punch_zero_pages(self, _: Arguments) -> object:
        """Return the zero pages of a paused VM to the host; ``complete`` is false if it continued meanwhile.

        Sizes in bytes: what was looked at (only what holds data), what of it was zero, what was returned, and
        what was left out since it was set aside or others may write to it.
        """
        state = self._machine.run_state
        if state != "paused":
            raise QmpCommandError(
                GENERIC_ERROR,
                f"the VM is {state}, and its guest may write to what is looked at: stop it first",
            )
        pages = ZeroPages(self._machine.memory.backends)
        try:
            is_complete = await self._machine.while_paused(pages.steps())
        except (DiscardError, OSError) as error:
            raise QmpCommandError(GENERIC_ERROR, f"zero pages cannot be returned: {error}") from error
        return {
            "looked-at": pages.looked_at,
            "zero": pages.zero,
            "discarded": pages.discarded,
            "left-out": pages.left_out,
            "complete": is_complete,
        }

    def query_name(self, _: Arguments) -> object:
        return {"name": self._machine.options.name}

    def query_cpus(self, _: Arguments) -> object:
        """Return every virtual processor with its thread, 0 while no guest runs."""
        platform = self._machine.platform
        threads = dict(enumerate(platform.thread_ids))
        return [
            {
                "cpu-index": number,
                "qom-path": processor_path(number),
                "thread-id": threads.get(number, 0),
                "props": {"socket-id": 0, "core-id": number, "thread-id": 0},
                "target": "x86_64",
            }
            for number in range(platform.vp_count)
        ]

    def query_status(self, _: Arguments) -> object:
        state = self._machine.run_state
        return {"status": state, "running": state == "running"}

    def query_channels(self, _: Arguments) -> object:
        """Return every VMBus channel; ``fault`` is there while it is faulted, ``faults`` counts."""
        return [
            {
                "relid": relid,
                "name": channel.offer.name,
                "interface": str(channel.offer.interface),
                "instance": str(channel.offer.instance),
                "state": channel.state.value,
                "faults": self._machine.channel_faults.get(relid, 0),
                **({} if channel.fault is None else {"fault": channel.fault}),
            }
            for relid, channel in sorted(self._machine.bus.channels.items())
        ]

    def query_faults(self, _: Arguments) -> object:
        """Return how often the guest did what it should not, by kind."""
        rejected = {reason.value: count for reason, count in self._machine.bus.rejected.items()}
        counts = {**self._machine.faults.counts, **rejected}
        return [{"kind": kind, "count": count} for kind, count in sorted(counts.items())]
