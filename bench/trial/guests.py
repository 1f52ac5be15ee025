"""The guests of the trial behind one interface: real Linux under QEMU, and embedded guests of `dynmem vm`.

A guest is started again after it ended, which is its next life: its clock and its counters begin again.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec

from bench.trial.contenders.contender import Terms
from bench.trial.script import Script
from dynmem.demo.guests import embedded_arguments, last_decoded
from dynmem.demo.processes import Program
from dynmem.lab.qemu import Accelerator, QemuGuest
from dynmem.lab.workload import Load
from dynmem.units import GIB, MIB, PAGE_SIZE

DISK_BYTES: Final = 1 * GIB


class Report(msgspec.Struct, frozen=True):
    """What both kinds of guests report on their consoles; see their own classes for the fields."""

    t: float
    wanted_pages: int
    held_pages: int
    free_pages: int
    oom_kills: int = 0
    oom_messages: int = 0
    read_pages: int = 0
    wrong_bytes: int = 0

    @property
    def kills(self) -> int:
        """Processes that were killed out of memory: the kernel's counter and its log may differ."""
        return max(self.oom_kills, self.oom_messages)

    @property
    def free_bytes(self) -> int:
        """Free memory."""
        return self.free_pages * PAGE_SIZE


class Guest(Protocol):
    """One guest.

    `monitor` is the socket that nothing but the contender may use, `observed` the one that the trial uses.
    `lives` counts how often it was started before.
    """

    name: str
    monitor: Path
    observed: Path
    lives: int

    def start(self) -> None:
        """Start its machine; its load is the base."""

    @property
    def pid(self) -> int:
        """The process that holds its memory."""

    def order(self, load_bytes: int, cache_bytes: int, rate_bytes: int) -> None:
        """Send its load a new size; a load that was killed starts again."""

    def step(self) -> None:
        """Do what is due of its last order."""

    def report(self) -> Report | None:
        """Return the latest report of this life, or None before the first. Raises if the machine ended."""

    def stop(self) -> None:
        """End it, at once. May be called twice."""


class LinuxGuest:
    """A stock cloud kernel under QEMU, without a parachute: `deflate-on-oom` is off."""

    def __init__(
        self, name: str, script: Script, folder: Path, accel: Accelerator, *, free_page_reporting: bool
    ) -> None:
        self.name = name
        self.lives = -1
        self._script = script
        self._folder = folder
        self._accel: Accelerator = accel
        self._free_page_reporting = free_page_reporting
        self._machine = self._made()
        self.monitor: Path = self._machine.qmp_path
        self.observed: Path = self._machine.lab_qmp_path

    def _made(self) -> QemuGuest:
        script = self._script
        return QemuGuest(
            self.name,
            script.maximum_bytes,
            self._folder,
            load=Load(high_bytes=script.base_bytes, rate_bytes=script.rate_bytes),
            accel=self._accel,
            free_page_reporting=self._free_page_reporting,
            disk_bytes=DISK_BYTES,
        )

    def start(self) -> None:
        self.lives += 1
        if self.lives:
            self._machine = self._made()
        self._machine.start()

    @property
    def pid(self) -> int:
        return self._machine.pid

    def order(self, load_bytes: int, cache_bytes: int, rate_bytes: int) -> None:
        load = Load(high_bytes=load_bytes, cache_bytes=cache_bytes, rate_bytes=rate_bytes, revive=True)
        self._machine.order(load)

    def step(self) -> None:
        pass

    def report(self) -> Report | None:
        self._machine.check()
        latest = self._machine.read_serial()
        return msgspec.convert(latest, Report, from_attributes=True) if latest is not None else None

    def stop(self) -> None:
        self._machine.stop()


class EmbeddedGuest:
    """A guest of `dynmem vm`: a process that uses and returns memory, and waits where Linux would kill.

    Its load reads the size that it wants from a file. It has a rate of its own, so a slower order is written
    there step by step.
    """

    def __init__(self, name: str, script: Script, folder: Path) -> None:
        self.name = name
        self.lives = -1
        self.monitor: Path = folder / f"{name}.qmp"
        self.observed: Path = self.monitor  # our monitor serves any number of clients
        self._script = script
        self._folder = folder
        self._serial = folder / f"{name}.serial"
        self._wanted = folder / f"{name}.wanted"
        self._program = Program(name, folder / f"{name}.log")
        self._goal = self._now = script.base_bytes
        self._rate = script.rate_bytes
        self._began_s = 0.0

    def start(self) -> None:
        self.lives += 1
        script = self._script
        self._write(script.base_bytes)
        self._serial.unlink(missing_ok=True)
        self._program = Program(self.name, self._folder / f"{self.name}.log")
        workload = f"workload=told,path={self._wanted},rate={script.rate_bytes // MIB}MiB,seed={script.seed}"
        self._program.start(
            embedded_arguments(self.name, script.maximum_bytes, self.monitor, workload, self._serial)
        )

    @property
    def pid(self) -> int:
        return self._program.pid

    def order(self, load_bytes: int, cache_bytes: int, rate_bytes: int) -> None:
        del cache_bytes  # it has none
        self._goal, self._rate, self._began_s = load_bytes, rate_bytes, time.monotonic()
        if rate_bytes >= self._script.rate_bytes or load_bytes < self._now:
            self._write(load_bytes)

    def step(self) -> None:
        if self._now == self._goal:
            return
        now_s = time.monotonic()
        self._write(min(self._goal, self._now + int((now_s - self._began_s) * self._rate)))
        self._began_s = now_s

    def report(self) -> Report | None:
        self._program.check()
        return last_decoded(self._serial, _decoder)

    def stop(self) -> None:
        self._program.stop()

    def _write(self, size: int) -> None:
        self._now = size
        partial = self._wanted.with_suffix(".new")
        partial.write_text(f"{size}")
        partial.rename(self._wanted)


_decoder: Final = msgspec.json.Decoder(Report)


def make(
    script: Script, folder: Path, *, accel: Accelerator | None, free_page_reporting: bool
) -> Sequence[Guest]:
    """Return the guests of a script, not started; without an accelerator they are embedded ones."""
    if accel is None:
        return [EmbeddedGuest(name, script, folder) for name in script.names]
    return [
        LinuxGuest(name, script, folder, accel, free_page_reporting=free_page_reporting)
        for name in script.names
    ]


def terms(script: Script) -> Terms:
    """Return what an operator has decided for a script."""
    return Terms(
        script.names, script.minimum_bytes, script.maximum_bytes, script.budget_bytes, script.slush_bytes
    )
