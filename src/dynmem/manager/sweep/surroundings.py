"""What around a VM bounds what may be done with it: locks, what pins its memory, limits above it, its nodes.

Whatever may take long is read in a thread: /etc/pve is a file system of a program's own.
"""

from functools import partial
from typing import NamedTuple

from dynmem.discovery.pins import pins
from dynmem.discovery.processes import command_line
from dynmem.discovery.proxmox import ProxmoxLock
from dynmem.discovery.qemu_options import StartedAs, started_as
from dynmem.discovery.surroundings import NOTHING_SEEN, bound_to, look_around
from dynmem.errors import printable
from dynmem.manager.step.facts import GroupLimit, Pinned
from dynmem.manager.sweep.measuring import Measuring
from dynmem.manager.sweep.monitor import SELDOM, Monitor
from dynmem.qmp.errors import QmpCommandError
from dynmem.qmp.queries import DEVICE_FOLDERS


class Found(NamedTuple):
    """What was found around a VM.

    Attributes:
        pinned: What keeps its pages on the host; None: nothing that is known.
        limits: The memory limits above it, the tightest first.
        nodes: The NUMA nodes that its memory may come from; empty: not known.
    """

    pinned: Pinned | None = None
    limits: tuple[GroupLimit, ...] = ()
    nodes: tuple[int, ...] = ()


class Surroundings:
    """What is around one VM."""

    def __init__(self) -> None:
        self.found: Found = Found()
        self._next = 0
        self._is_new = True
        self._devices: tuple[str, ...] | None = None
        self._started: StartedAs | None = None

    async def ask(self, monitor: Monitor, number: int) -> None:
        """Ask for the VM's devices at look *number*, if it is time to.

        Raises as QmpClient.execute, but not QmpCommandError.
        """
        if number >= self._next:
            self.begin(number, await _device_types(monitor))

    def begin(self, number: int, devices: tuple[str, ...] = ()) -> None:
        """Have the VM looked around at look *number*, if it is time to.

        *devices* are the types of its devices, beside those of its command line.
        """
        if number >= self._next:
            self._devices = devices
            self._next = number + SELDOM

    async def look(self, pid: int, size: int, threads: Measuring) -> None:
        """Look around the VM after its devices were asked for; for that its monitor need not be connected.

        *pid* is its process (0: it cannot be seen), *size* what it booted with.
        """
        devices, self._devices = self._devices, None
        if self._is_new and devices is not None:
            self._next -= pid % SELDOM  # not all VMs at once
            self._is_new = False
        if devices is not None:
            if self._started is None:
                self._started = await threads.run(partial(_started_as, pid))
            self.found = await threads.run(partial(_around, pid, self._started, devices, size))


async def read_lock(proxmox: ProxmoxLock | None, threads: Measuring) -> str:
    """Return why another program wants a VM to be left alone; "" if none does."""
    return "" if proxmox is None else await threads.run(proxmox.read)


def _around(pid: int, started: StartedAs, devices: tuple[str, ...], size: int) -> Found:
    """Return what is around a process; it raises nothing."""
    seen = look_around(pid) if pid else NOTHING_SEEN
    found = tuple(pins(started, seen.links or (), devices, locked_bytes=seen.locked_bytes, size=size))
    pinned = None
    if found:
        reason = "; ".join(each.reason for each in found)
        pinned = Pinned(reason, all(each.leaves_virtio_mem for each in found))
    limits = tuple(GroupLimit(each.size, printable(str(each.file))) for each in seen.limits)
    bound = bound_to(started)
    nodes = tuple(each for each in seen.nodes if each in bound) if bound else seen.nodes
    return Found(pinned, limits, nodes)


def _started_as(pid: int) -> StartedAs:
    return started_as(command_line(pid) if pid else ())


async def _device_types(monitor: Monitor) -> tuple[str, ...]:
    """Return the types of a VM's devices, as far as its monitor lists them."""
    found: list[str] = []
    for folder in DEVICE_FOLDERS:
        try:
            listed = await monitor.query("qom-list", {"path": folder})
        except QmpCommandError:
            continue
        for entry in listed if isinstance(listed, list) else ():
            kind = entry.get("type") if isinstance(entry, dict) else None
            if isinstance(kind, str) and kind.startswith("child<"):
                found.append(kind.removeprefix("child<").removesuffix(">"))
    return tuple(found)
