"""The monitor's commands on the balloon, with QEMU's names and error texts (QEMU qapi/machine.json)."""

from typing import Final

from dynmem.qmp.command import Arguments, Command
from dynmem.qmp.errors import DEVICE_NOT_ACTIVE, GENERIC_ERROR, QmpCommandError
from dynmem.qmp.types import wrong
from dynmem.units import PAGE_SHIFT, PAGE_SIZE, format_size
from dynmem.vm.balloon.device import HvBalloon
from dynmem.vm.machine import Machine
from dynmem.vm.monitor import schema

_OPERATIONS: Final = 8  # the device's last ones, in x-query-hv-balloon


def balloon_commands(machine: Machine) -> dict[str, Command]:
    """Return the commands on the balloon of `machine`; without one they all fail."""
    handlers: Final = _Handlers(machine)
    return {
        "balloon": Command(handlers.balloon, schema.VALUE),
        "query-balloon": Command(handlers.query_balloon, returns=schema.BALLOON_INFO),
        "query-hv-balloon-status-report": Command(handlers.query_status_report, returns=schema.STATUS_REPORT),
        "x-hot-remove": Command(handlers.hot_remove, schema.HOT_REMOVE),
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
        balloon = self._balloon()
        value = arguments["value"]
        assert isinstance(value, int)
        if value <= 0:
            raise QmpCommandError(GENERIC_ERROR, "Parameter 'value' expects a size")
        balloon.set_target(value)
        return {}

    def query_balloon(self, _: Arguments) -> object:
        return {"actual": self._balloon().actual_bytes}

    def query_status_report(self, _: Arguments) -> object:
        balloon = self._machine.balloon
        if balloon is None:
            raise QmpCommandError(GENERIC_ERROR, "no hv-balloon device present")
        if not balloon.options.status_report:
            raise QmpCommandError(GENERIC_ERROR, "guest memory status reporting not enabled")
        if balloon.status is None:
            raise QmpCommandError(GENERIC_ERROR, "no guest memory status report received yet")
        return {"committed": balloon.status.committed_bytes, "available": balloon.status.available_bytes}

    def hot_remove(self, arguments: Arguments) -> object:
        """Ask the guest to remove hot-added memory permanently; how much it removes is up to it.

        X_HV_BALLOON_HOT_REMOVED reports the end.
        """
        balloon = self._balloon()
        if ("pages" in arguments) == ("size" in arguments):
            raise wrong("exactly one of 'pages' and 'size' is required")
        name, unit = ("pages", 1) if "pages" in arguments else ("size", PAGE_SIZE)
        value = arguments[name]
        assert isinstance(value, int)
        if value <= 0 or value % unit:
            raise wrong(f"Parameter '{name}' expects whole pages of 4 KiB, at least one")
        pages = value // unit
        added = 0 if balloon.hot_added is None else balloon.hot_added.added_bytes
        if pages << PAGE_SHIFT > added:
            most = f"{added} bytes" if name == "size" else f"{added >> PAGE_SHIFT} pages"
            raise wrong(
                f"Parameter '{name}' expects at most what was hot-added, {most} ({format_size(added)})"
            )
        if not balloon.hot_remove(pages):
            raise wrong("the guest cannot hot remove memory, or another hot remove waits for it")
        return {}

    def query_hv_balloon(self, _: Arguments) -> object:
        """Return what the device is doing and did last: ``state`` in QEMU's names, sizes in bytes."""
        balloon = self._balloon()
        reporting = balloon.reporting
        reported = {} if reporting is None else {"free-page-reporting": reporting.figures()}
        return {
            "id": balloon.identity,
            "state": balloon.host.state.value,
            "target": balloon.target_bytes,
            "actual": balloon.actual_bytes,
            "resident": self._machine.resident_bytes,
            "at-floor": balloon.host.guest_at_floor,
            "resets": balloon.resets,
            **reported,
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
