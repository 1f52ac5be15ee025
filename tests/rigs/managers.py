"""Running managers for the tests: the real program in its own process, and VMs that do as they are told."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from tests.rigs.monitored import MEBIBYTE, FakeVm
from tests.rigs.scenes import PATIENCE_S

from dynmem.manager.api.messages import StatusReply

T = TypeVar("T")

DYNMEM = (sys.executable, "-c", "from dynmem.cli import main; main()")
PERIOD_S = 0.1
# With its period, a manager would wait 25 ms for a VM, which on a busy machine is a VM that does not reply.
_PATIENT = "from dynmem.manager import loop; loop.PATIENCE_SHARE = 0.1; from dynmem.cli import main; main()"
MANAGER = (sys.executable, "-c", _PATIENT)


class ObedientVm(FakeVm):
    """An hv-balloon VM of 256 MiB that takes every target at once and wants what `demand` says."""

    def __init__(self, demand_mib: int = 64, *, obeys: bool = True) -> None:
        self.actual = 256 * MEBIBYTE
        self.demand = demand_mib * MEBIBYTE
        self.reports = 0
        super().__init__(
            {
                "query-balloon": lambda _: {"actual": self.actual},
                "query-memory-size-summary": {"base-memory": 256 * MEBIBYTE},
                "query-hv-balloon-status-report": self._report,
                "balloon": self._take if obeys else {},
            }
        )

    def _report(self, _: Mapping[str, object]) -> dict[str, object]:
        self.reports += 1  # a page more or less makes it a new report
        committed = self.demand + 256 * MEBIBYTE - self.actual + 4096 * (self.reports % 2)
        return {"committed": committed, "available": max(0, self.actual - self.demand)}

    def _take(self, arguments: Mapping[str, object]) -> dict[str, object]:
        value = arguments["value"]
        assert isinstance(value, int)
        self.actual = value
        return {}

    @property
    def targets(self) -> list[int]:
        """What it was asked for, in MiB."""
        return [
            int(str(arguments["value"])) // MEBIBYTE for name, arguments in self.asked if name == "balloon"
        ]

    def sweeps_before_first_target(self, begin: int = 0) -> int:
        """How often it was looked at before it was first told anything, from the `begin`th command on."""
        names = [name for name, _ in self.asked[begin:]]
        return names[: names.index("balloon")].count("query-balloon")


def configured(folder: Path, mode: str, budget: str = "4GiB", **vms: str) -> Path:
    """A configuration with one [[vm]] a keyword: its value holds further lines ("" for none)."""
    text = f"""
        [host]
        budget = "{budget}"
        slush = "16MiB"
        [manager]
        mode = "{mode}"
        period = "{PERIOD_S}s"
        socket = "{folder}/run/api.sock"
        state = "{folder}/state"
    """
    for name, lines in vms.items():
        text += f"""
        [[vm]]
        name = "{name}"
        qmp = "{folder}/{name}.qmp"
        {lines or 'minimum = "32MiB"; maximum = "256MiB"'.replace("; ", chr(10))}
        """
    path = folder / "hosts.toml"
    path.write_text(text)
    return path


class RunningManager:
    """A `dynmem run` in a process; what it says is in `lines`."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.process = process
        self.socket = folder / "run" / "api.sock"
        self.lines: list[str] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        if self.process.stdout is None:
            return  # nobody reads it, on purpose
        while line := await self.process.stdout.readline():
            self.lines.append(line.decode().rstrip())

    async def ask(self, **request: object) -> dict[str, Any]:
        """One request over its socket."""
        reader, writer = await asyncio.open_unix_connection(self.socket, limit=1 << 20)
        writer.write(json.dumps(request).encode() + b"\n")
        reply = json.loads(await reader.readline())
        writer.close()
        await asyncio.sleep(0)  # what it said before it replied has come as well, and is in `lines` now
        assert isinstance(reply, dict)
        return reply

    async def status(self) -> StatusReply:
        """Return its status."""
        return msgspec.convert(await self.ask(command="status"), StatusReply)

    async def until(self, wanted: Callable[[StatusReply], object]) -> StatusReply:
        """Return its status once it is as wanted; fail with the last one and what the manager said."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            status = await self.status()
            if wanted(status):
                return status
            assert time.monotonic() < deadline, (status, self.lines)
            await asyncio.sleep(0.03)

    async def sweeps(self, count: int) -> None:
        """Wait for so many further sweeps."""
        now = (await self.status()).manager.sweeps
        await self.until(lambda status: status.manager.sweeps >= now + count)

    async def stays(self, value: Callable[[], T], sweeps: int) -> T:
        """Wait until something stays as it is for so many sweeps, and return it."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            before = value()
            await self.sweeps(sweeps)
            if value() == before:
                return before
            assert time.monotonic() < deadline, (before, value(), self.lines)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the exit code."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)
        code = await asyncio.wait_for(self.process.wait(), PATIENCE_S)
        await self._reading
        return code


@contextlib.asynccontextmanager
async def managing(config: Path) -> AsyncIterator[RunningManager]:
    """A manager that has said hello; killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *MANAGER, "run", "--config", config, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    manager = RunningManager(process, config.parent)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while process.returncode is None and not any("see it with" in line for line in manager.lines):
            assert time.monotonic() < deadline, f"it has not greeted: {manager.lines}"
            await asyncio.sleep(0.02)
        yield manager
    finally:
        await manager.end(signal.SIGKILL)


async def cli(*arguments: str | Path) -> tuple[int, str, str]:
    """Run a command of `dynmem` to its end: exit code, standard output, standard error."""
    process = await asyncio.create_subprocess_exec(
        *DYNMEM, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    except TimeoutError:
        process.kill()
        raise
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()
