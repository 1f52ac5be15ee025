"""Reading the configuration again while the manager runs, and noticing that it would have to be.

SIGHUP asks for it, as is usual for a daemon. A file with a mistake changes nothing. A reload does what a
restart with the new file would do, without forgetting what is known of the VMs that stay:

* limits, weights, priorities, the budget, the mode and the period are in force from the next sweep on;
* a new VM is watched, and managed once two sweeps found it the same;
* a VM that is no longer in the file is left alone at the size it has, as every VM is when the manager ends;
* manager.socket, manager.state and manager.status_socket stay as they are: clients and the journal are there.
"""

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from dynmem.errors import ConfigError, RemoteProtocolError
from dynmem.manager.config import Config, check_monitors, load, warnings
from dynmem.manager.drop_ins import files_of
from dynmem.manager.step.facts import VmConfig
from dynmem.procfs import meminfo
from dynmem.units import NS_PER_S, format_size

# Clients are at the sockets, and the journal in the folder.
_STAYS: Final = ("socket", "state", "status_socket", "status_group")


class ConfigWatch:
    """The file in force, and what is known of a newer one.

    Attributes:
        file: What the file said when it was read.
        config: What is in force: the file, and the domains of libvirt that have a policy of their own.
        problem: Why the file and what is in force differ, with the next step; None if they do not.

    """

    def __init__(self, config: Config) -> None:
        self.file: Config = config
        self.config: Config = config
        self.problem: str | None = None
        self._seen = _signature(config.path)

    def take_in(self, found: Sequence[VmConfig], domains: Mapping[str, str]) -> None:
        """Add the VMs that libvirt has beside the file's; *domains* has their UUIDs by their names."""
        self.config = msgspec.structs.replace(
            self.file,
            vms=(*self.file.vms, *found),
            domains={**self.file.domains, **domains},
        )

    def look(self) -> str | None:
        """Return a line for the operator if the file has changed since it was last read or last reported."""
        seen = _signature(self.config.path)
        if seen == self._seen or not seen:
            return None
        self._seen = seen
        again = f"kill -HUP {os.getpid()}"
        self.problem = f"{self.config.path} has changed since it was read: to read it again, run: {again}"
        return self.problem

    async def read_again(self) -> list[str]:
        """Read the file and put it in force; return lines for the operator. A wrong file changes nothing."""
        before = self.file
        self._seen = _signature(before.path)
        try:
            read = await asyncio.to_thread(_loaded, before.path)
        except ConfigError as error:
            self.problem = f"{error}; what was read before stays in force"
            return [f"configuration not read: {self.problem}"]
        stays = {name: getattr(before, name) for name in _STAYS}
        self.file = self.config = msgspec.structs.replace(read, **stays)
        kept = [
            f"manager.{name} stays {old}: restart `dynmem run` to move it to {getattr(read, name)}"
            for name, old in stays.items()
            if old != getattr(read, name)
        ]
        self.problem = "; ".join(kept) or None
        found = list(changes(before, self.file)) or ["nothing has changed"]
        return [f"configuration read again: {line}" for line in (*found, *kept, *_notes(self.file))]


def _loaded(path: Path) -> Config:
    config = load(path)
    check_monitors(config)
    return config


def _notes(config: Config) -> list[str]:
    try:
        (total_bytes,) = meminfo("MemTotal")
    except (OSError, RemoteProtocolError):
        return []  # the sweep that follows reports it
    return [f"note: {each}" for each in warnings(config, total_bytes)]


def _signature(path: Path) -> tuple[tuple[object, ...], ...]:
    """Return what changes when the file or a drop-in does; empty while one of them cannot be seen."""
    found = []
    try:
        for each in files_of(path):
            there = each.stat()
            found.append((each, there.st_dev, there.st_ino, there.st_size, there.st_mtime_ns))
    except (OSError, ConfigError):
        return ()
    return tuple(found)


def changes(before: Config, after: Config) -> Iterator[str]:
    """Yield what is different, in words."""
    old, new = before.settings, after.settings
    yield from _differences(
        ("budget", format_size(old.budget_bytes), format_size(new.budget_bytes)),
        ("slush", format_size(old.slush_bytes), format_size(new.slush_bytes)),
        ("mode", old.mode, new.mode),
        ("period", f"{old.period_ns / NS_PER_S:g} s", f"{new.period_ns / NS_PER_S:g} s"),
        ("metrics", str(before.metrics or "off"), str(after.metrics or "off")),
        ("libvirt", before.libvirt or "none", after.libvirt or "none"),
    )
    known = {vm.name: vm for vm in before.vms}
    now = {vm.name: vm for vm in after.vms}
    old_ways, new_ways = before.ways, after.ways
    for name, vm in now.items():
        if name not in known:
            yield f"{name}: added"
            continue
        was = known[name]
        for difference in _differences(
            ("minimum", format_size(was.minimum_bytes), format_size(vm.minimum_bytes)),
            ("maximum", format_size(was.maximum_bytes), format_size(vm.maximum_bytes)),
            ("buffer", f"{was.buffer_percent} %", f"{vm.buffer_percent} %"),
            ("weight", str(was.weight), str(vm.weight)),
            ("priority", was.priority, vm.priority),
            ("takeover", str(was.takeover).lower(), str(vm.takeover).lower()),
            ("reached by", old_ways[name], new_ways[name]),
        ):
            yield f"{name}: {difference}"
    for name in known:
        if name in now:
            continue
        if name in before.domains:
            yield f"{name}: no longer a domain of libvirt with a policy, nor in the file: left alone"
        else:
            yield (
                f"{name}: no longer in the file: left alone at the size it has; to give it its full size, put"
                f" it back and run: dynmem release {name}"
            )


def _differences(*values: tuple[str, str, str]) -> Iterator[str]:
    return (f"{name} {old} -> {new}" for name, old, new in values if old != new)
