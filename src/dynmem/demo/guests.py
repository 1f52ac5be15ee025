"""The demonstration's guests behind one interface: start one, read its load's reports, stop it."""

from pathlib import Path
from typing import Final, Protocol, TypeVar

import msgspec

from dynmem.demo.processes import Program
from dynmem.demo.scenario import Member
from dynmem.json_errors import NOT_JSON
from dynmem.units import MIB, PAGE_SIZE

TAIL_BYTES: Final = 16384
_Report = TypeVar("_Report")


class LoadReport(msgspec.Struct, frozen=True):
    """The latest report of a guest's load (a JSON line of its serial console): what both kinds report."""

    wanted_pages: int
    held_pages: int
    wrong_bytes: int
    oom_kills: int = 0

    @property
    def wanted_bytes(self) -> int:
        """Bytes that the load wants."""
        return self.wanted_pages * PAGE_SIZE

    @property
    def held_bytes(self) -> int:
        """Bytes that the load holds, verified or not."""
        return self.held_pages * PAGE_SIZE


class Guest(Protocol):
    """One VM of the demonstration."""

    member: Member
    backend: str
    monitor: Path

    def start(self, seconds_gone: float, duration_s: float) -> None:
        """Boot the guest, `seconds_gone` into a run of `duration_s`."""

    @property
    def pid(self) -> int:
        """The process that holds its RAM."""

    def report(self) -> LoadReport | None:
        """Return the latest report of its load, or None before the first. Raises if the VM has ended."""

    def stop(self) -> None:
        """Stop the guest and leave nothing behind."""


_decoder: Final = msgspec.json.Decoder(LoadReport)


def last_report(serial: Path) -> LoadReport | None:
    """Return the last complete report in the file of a guest's serial console."""
    return last_decoded(serial, _decoder)


def last_decoded(serial: Path, decoder: msgspec.json.Decoder[_Report]) -> _Report | None:
    """Return the last whole line of a guest's serial console that a decoder takes."""
    try:
        with serial.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return None
    for line in reversed(lines[:-1]):
        try:
            return decoder.decode(line)
        except NOT_JSON:
            continue
    return None


def embedded_arguments(name: str, memory_bytes: int, monitor: Path, workload: str, serial: Path) -> list[str]:
    """Return the command line of `dynmem vm` for an embedded guest with this workload."""
    return [
        "vm",
        f"--name={name}",
        f"--memory={memory_bytes // MIB}M",
        "--device=hv-balloon,id=hvb,status-report=on",
        f"--qmp=unix:{monitor},server=on,wait=off",
        f"--guest=embedded,{workload}",
        f"--serial=file:{serial}",
    ]


class EmbeddedGuest:
    """A VM of `dynmem vm`: its guest is a process of this package that behaves like a guest."""

    backend = "embedded process"

    def __init__(self, member: Member, folder: Path, seed: int) -> None:
        self.member = member
        self.monitor: Path = folder / f"{member.name}.qmp"
        self._serial = folder / f"{member.name}.serial"
        self._program = Program(member.name, folder / f"{member.name}.log")
        self._seed = seed

    def start(self, seconds_gone: float, duration_s: float) -> None:
        member = self.member
        begin = max(0.0, member.peak_from * duration_s - seconds_gone)
        end = max(begin + 0.1, member.peak_to * duration_s - seconds_gone)
        workload = (
            f"workload=pulse,from={begin:.2f}s,to={end:.2f}s"
            f",low={member.load_low:.2%},high={member.load_high:.2%}"
            f",rate={member.rate_bytes // MIB}MiB,seed={self._seed}"
        )
        self._program.start(
            embedded_arguments(member.name, member.maximum_bytes, self.monitor, workload, self._serial)
        )

    @property
    def pid(self) -> int:
        return self._program.pid

    def report(self) -> LoadReport | None:
        self._program.check()
        return last_report(self._serial)

    def stop(self) -> None:
        self._program.stop()
