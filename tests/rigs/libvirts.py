"""A libvirt that a test is in command of: for what a real one does too seldom, which is to fail."""

import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from dynmem.discovery.processes import command_line
from dynmem.domains.api import Listed, Look
from dynmem.domains.errors import LibvirtError, LibvirtLostError, LibvirtRefusedError
from dynmem.domains.link import Link
from dynmem.manager.config import Config, load
from dynmem.manager.domains.roster import Roster
from dynmem.units import KIB, MIB

# Of this process alone: tests that run beside these have domains of their own.
UUID, OTHER = str(uuid4()), str(uuid4())
POLICY = '<p:policy xmlns:p="urn:dynmem:policy:1" {}/>'


def xml(
    name: str = "web", uuid: str = UUID, *, policy: str | None = None, more: str = "", **changed: str
) -> str:
    """A definition as libvirt writes it; *policy* is the attributes of one."""
    said = {
        "memory": f"{256 * KIB}",
        "balloon": "<memballoon model='virtio'><stats period='1'/></memballoon>",
    }
    said |= changed
    metadata = "" if policy is None else f"<metadata>{POLICY.format(policy)}</metadata>"
    return (
        f"<domain type='qemu' id='1'><name>{name}</name><uuid>{uuid}</uuid>{metadata}"
        f"<memory unit='KiB'>{said['memory']}</memory><currentMemory unit='KiB'>131072</currentMemory>"
        f"<devices>{said['balloon']}{more}</devices></domain>"
    )


class FakeDomain:
    """One domain of it; what a test changes is true from the next call on."""

    def __init__(self, definition: str, name: str = "web", uuid: str = UUID, number: int = 1) -> None:
        self.definition = definition
        self.name, self.uuid, self.number = name, uuid, number
        self.state, self.reason = 1, 1
        self.job: int | None = None
        self.size_kib = 256 * KIB
        self.usable_kib = 200 * KIB
        self.updated = 1000
        self.faults = 1000
        self.asked = 0
        self.set: list[tuple[str, int]] = []
        self.obeys = True
        self.error: LibvirtError | None = None
        self.hangs: threading.Event | None = None

    def look(self) -> Look:
        """One look, after which its guest has reported again."""
        statistics: dict[str, object] | None = None
        if self.job is None:
            self.asked += 1
            self.updated += 1
            statistics = {
                "actual": self.size_kib,
                "usable": self.usable_kib,
                "unused": self.usable_kib,
                "minor_fault": self.faults,
                "last_update": self.updated,
                "rss": 1,
            }
        return Look(self.state, self.reason, self.job, self.size_kib, statistics)


class FakeLibvirt:
    """Its connections, all with the same domains."""

    def __init__(self, *domains: FakeDomain) -> None:
        self.all = list(domains)
        self.opened = 0
        self.closed: list[str] = []
        self.is_down = False
        self.rebooted: Callable[[str], None] = lambda _: None

    def open(self, uri: str, read_only: bool, rebooted: Callable[[str], None]) -> "FakeLibvirt":
        """Count a connection."""
        self.opened += 1
        self.rebooted = rebooted
        self._check()
        return self

    def link(self, rebooted: Callable[[str], None] = lambda _: None, **how: Any) -> Link:
        """A way to it."""
        return Link("qemu:///system", rebooted=rebooted, opener=self.open, **how)

    def domains(self) -> list[Listed]:
        self._check()
        return [Listed(each.uuid, each.name, each.number) for each in self.all]

    def definition(self, uuid: str) -> str:
        return self._domain(uuid).definition

    def look(self, uuid: str) -> Look:
        domain = self._domain(uuid)
        if domain.hangs is not None:
            domain.hangs.wait(60)
        return domain.look()

    def set_balloon(self, uuid: str, size_kib: int) -> None:
        domain = self._domain(uuid)
        domain.set.append(("balloon", size_kib))
        if domain.obeys:
            domain.size_kib = size_kib

    def set_statistics_period(self, uuid: str, seconds: int) -> None:
        self._domain(uuid).set.append(("period", seconds))

    def close(self) -> None:
        self.closed.append(threading.current_thread().name)

    def _domain(self, uuid: str) -> FakeDomain:
        self._check()
        found = next((each for each in self.all if each.uuid == uuid), None)
        if found is None:
            raise LibvirtRefusedError("Domain not found")
        if found.error is not None:
            raise found.error
        return found

    def _check(self) -> None:
        if self.is_down:
            raise LibvirtLostError("Cannot recv data: Connection reset by peer")


@contextmanager
def qemu_process(uuid: str = UUID) -> Iterator[subprocess.Popen[bytes]]:
    """A process that looks like the QEMU of a domain, and holds no guest."""
    words = ["qemu-system-x86_64", "-c", "import sys; sys.stdin.read()", "-uuid", uuid]
    with subprocess.Popen(words, executable=sys.executable, stdin=subprocess.PIPE) as process:
        try:
            while not command_line(process.pid):
                time.sleep(0.001)  # its parent goes on a little before the kernel shows its words
            yield process
        finally:
            process.kill()


def mebibytes(size: int | None) -> int | None:
    """A size in MiB."""
    return None if size is None else size // MIB


FILE = """
    [host]
    budget = "1GiB"
    slush = "64MiB"
    [manager]
    libvirt = "qemu:///system"
"""
NAMED = """
    [[vm]]
    name = "{}"
    libvirt = "{}"
    minimum = "32MiB"
    maximum = "256MiB"
"""


def config(folder: Path, more: str = "") -> Config:
    """A configuration that names a libvirt, and what is *more*."""
    path = folder / "hosts.toml"
    path.write_text(FILE + more)
    return load(path)


async def passed(roster: Roster) -> None:
    """One more pass over the domains, whenever the next one would be due."""
    roster._next_s = 0.0
    await roster.first(60)


@asynccontextmanager
async def seen(libvirt: FakeLibvirt, lines: list[str] | None = None) -> AsyncIterator[Roster]:
    """The roster of a libvirt after its first pass."""
    report = (lines if lines is not None else []).append
    roster = Roster(lambda rebooted: libvirt.link(rebooted, deadline_s=60.0), report)
    try:
        await roster.first(60)
        yield roster
    finally:
        for each in libvirt.all:
            if each.hangs is not None:
                each.hangs.set()
        await roster.close()
