"""The monitor's commands on a machine, with QEMU's names, results and error texts (QEMU qapi/*.json).

Commands of our own begin with ``x-``.
"""

from typing import Final

from dynmem.qmp.command import Arguments, Command
from dynmem.qmp.errors import DEVICE_NOT_ACTIVE, GENERIC_ERROR, QmpCommandError
from dynmem.units import PAGE_SHIFT
from dynmem.vm.balloon.device import HvBalloon
from dynmem.vm.machine import Ending, Machine
from dynmem.vm.monitor import schema
from dynmem.vm.monitor.memory_commands import memory_commands

_OPERATIONS: Final = 8  # the last ones of the device's, that x-query-hv-balloon tells of


def commands(machine: Machine) -> dict[str, Command]:
    """What the monitor of `machine` can do, besides what every monitor can."""
    handlers: Final = _Handlers(machine)
    return {
        **memory_commands(machine),
        "balloon": Command(handlers.balloon, schema.VALUE),
        "cont": Command(handlers.cont),
        "query-balloon": Command(handlers.query_balloon, returns=schema.BALLOON_INFO),
        "query-hv-balloon-status-report": Command(handlers.query_status_report, returns=schema.STATUS_REPORT),
        "query-name": Command(handlers.query_name, returns=schema.NAME),
        "query-status": Command(handlers.query_status, returns=schema.STATUS),
        "quit": Command(handlers.quit),
        "stop": Command(handlers.stop),
        "system_reset": Command(handlers.system_reset),
        "x-query-channels": Command(handlers.query_channels, returns=schema.CHANNELS),
        "x-query-faults": Command(handlers.query_faults, returns=schema.FAULTS),
        "x-query-hv-balloon": Command(handlers.query_hv_balloon, returns=schema.HV_BALLOON_STATE),
    }


class _Handlers:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def _balloon(self) -> HvBalloon:
        if self._machine.balloon is None:
            raise QmpCommandError(DEVICE_NOT_ACTIVE, "No balloon device has been activated")
        return self._machine.balloon

    def balloon(self, arguments: Arguments) -> object:
        self._balloon()
        value = arguments["value"]
        assert isinstance(value, int)
        if value <= 0:
            raise QmpCommandError(GENERIC_ERROR, "Parameter 'value' expects a size")
        self._machine.set_balloon(value)
        return {}

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

    def query_balloon(self, _: Arguments) -> object:
        return {"actual": self._balloon().actual_bytes}

    def query_status_report(self, _: Arguments) -> object:
        balloon = self._machine.balloon
        if balloon is None:
            raise QmpCommandError(GENERIC_ERROR, "no hv-balloon device present")
        if not balloon.status_report:
            raise QmpCommandError(GENERIC_ERROR, "guest memory status reporting not enabled")
        if balloon.status is None:
            raise QmpCommandError(GENERIC_ERROR, "no guest memory status report received yet")
        return {"committed": balloon.status.committed_bytes, "available": balloon.status.available_bytes}

    def query_name(self, _: Arguments) -> object:
        return {"name": self._machine.options.name}

    def query_status(self, _: Arguments) -> object:
        state = self._machine.run_state
        return {"status": state, "running": state == "running"}

    def query_channels(self, _: Arguments) -> object:
        """Every VMBus channel; ``fault`` is there while it is faulted, ``faults`` counts."""
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
        """How often the guest did what it should not, by kind."""
        counts = {**self._machine.faults.counts, **self._machine.bus.rejected}
        return [{"kind": kind, "count": count} for kind, count in sorted(counts.items())]

    def query_hv_balloon(self, _: Arguments) -> object:
        """What the device is doing and did last: ``state`` in QEMU's names, sizes in bytes."""
        balloon = self._balloon()
        return {
            "id": balloon.identity,
            "state": balloon.host.state.value,
            "target": balloon.target_bytes,
            "actual": balloon.actual_bytes,
            "resident": self._machine.resident_bytes,
            "at-floor": balloon.host.guest_at_floor,
            "resets": balloon.resets,
            "operations": [
                {
                    "kind": operation.kind,
                    "asked": operation.asked << PAGE_SHIFT,
                    "posted": operation.posted << PAGE_SHIFT,
                    "answered": operation.answered << PAGE_SHIFT,
                    "outcome": operation.outcome,
                }
                for operation in balloon.host.journal.operations[-_OPERATIONS:]
            ],
        }
