"""The events of a machine's monitor, their names and members: QEMU's (qapi/*.json), and ours, with ``X_``."""

from collections.abc import Mapping
from typing import Final, Protocol

from dynmem.dm.events import ActualChanged, HostEvent, HotRemoveFinished, StatusReported
from dynmem.units import PAGE_SHIFT
from dynmem.vm.guest_crash import GuestCrash
from dynmem.vm.options.actions import PanicAction

_PANIC_WORDS: Final[Mapping[PanicAction, str]] = {
    PanicAction.PAUSE: "pause",
    PanicAction.SHUTDOWN: "poweroff",
    PanicAction.EXIT_FAILURE: "poweroff",
    PanicAction.NONE: "run",
}
GUEST_RESET: Final = "guest-reset"  # why a machine was reset, in the words of the monitor


class Emit(Protocol):
    """Takes an event for the monitor's clients."""

    def __call__(self, event: str, data: Mapping[str, object] | None = None) -> None:
        """Send it."""


class Events:
    """What the parts of a machine report to the monitor's clients."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit

    # the machine

    def stopped(self) -> None:
        """Report that guest and clock stand still."""
        self._emit("STOP")

    def resumed(self) -> None:
        """Report that guest and clock run again."""
        self._emit("RESUME")

    def was_reset(self, reason: str) -> None:
        """Report that another guest has started, or waits to run."""
        self._emit("RESET", {"guest": reason == GUEST_RESET, "reason": reason})

    def panicked(self, crash: GuestCrash, action: PanicAction) -> None:
        """Report the crash of a guest and what it leads to (QEMU qapi/run-state.json)."""
        arguments = {f"arg{number}": value for number, value in enumerate(crash.parameters, 1)}
        info = {"type": "hyper-v", **arguments}
        self._emit("GUEST_PANICKED", {"action": _PANIC_WORDS[action], "info": info})

    def shut_down(self, reason: str, *, by_guest: bool) -> None:
        """Report that the machine ends."""
        self._emit("SHUTDOWN", {"guest": by_guest, "reason": reason})

    # devices

    def device_deleted(self, path: str, identity: str | None) -> None:
        """Report that a device is unplugged."""
        self._emit("DEVICE_DELETED", _device(path, identity))

    def unplug_refused(self, path: str, identity: str | None) -> None:
        """Report that the guest does not release a device."""
        self._emit("DEVICE_UNPLUG_GUEST_ERROR", _device(path, identity))

    def slot_reported(self, status: Mapping[str, object]) -> None:
        """Report what a guest says by ACPI of a slot for DIMMs and of what is in it (QEMU qapi/acpi.json)."""
        self._emit("ACPI_DEVICE_OST", {"info": status})

    def memory_device_resized(self, identity: str, size: int) -> None:
        """Report the bytes of a memory device that the guest can use now."""
        path = f"/machine/peripheral/{identity}"
        self._emit("MEMORY_DEVICE_SIZE_CHANGE", {"id": identity, "size": size, "qom-path": path})

    def of_balloon(self, identity: str, event: HostEvent) -> None:
        """Report what hv-balloon's protocol did, if the monitor has an event for it."""
        if isinstance(event, ActualChanged):
            self._emit("BALLOON_CHANGE", {"actual": event.pages << PAGE_SHIFT})
        elif isinstance(event, StatusReported):
            memory = {"committed": event.committed_bytes, "available": event.available_bytes}
            self._emit("HV_BALLOON_STATUS_REPORT", memory)
        elif isinstance(event, HotRemoveFinished):
            sizes = {"asked": event.asked << PAGE_SHIFT, "removed": event.got << PAGE_SHIFT}
            self._emit("X_HV_BALLOON_HOT_REMOVED", {"id": identity, **sizes})


def _device(path: str, identity: str | None) -> dict[str, object]:
    return {"path": path} if identity is None else {"path": path, "device": identity}
