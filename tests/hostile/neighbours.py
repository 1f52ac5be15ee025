"""A manager with two honest VMs and any number of other monitors: what the honest ones get, and how soon.

The two honest VMs, `web` and `db`, do not fit into the budget, and are so large that this remains true when
others are absent and leave them their part. Each round one of them needs more, and the other has to give it.
A round is measured in periods, from the need to the memory.
"""

import asyncio
import contextlib
import re
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path

from tests.rigs.managers import ObedientVm, RunningManager, managing
from tests.rigs.monitored import MEBIBYTE, listening
from tests.rigs.scenes import until

from dynmem.manager.api.messages import StatusReply

_OTHERS_MAX_MIB = 64
# What the processes of the others hold besides.
_OVERHEAD_MIB = 16
_SLUSH_MIB = 16


def _honest_mib(others: int) -> int:
    """How large each honest VM is beside so many others."""
    return max(256, 48 * others)


class HonestVm(ObedientVm):
    """An obedient VM of any size; none of it is real."""

    def __init__(self, size_mib: int) -> None:
        super().__init__()
        self.size = self.actual = size_mib * MEBIBYTE
        self.little, self.much = self.size // 8, self.size * 3 // 4
        self.demand = self.little
        self.answers["query-memory-size-summary"] = {"base-memory": self.size}

    def _report(self, _: Mapping[str, object]) -> dict[str, object]:
        self.reports += 1
        committed = self.demand + self.size - self.actual + 4096 * (self.reports % 2)
        return {"committed": committed, "available": max(0, self.actual - self.demand)}


class Neighbours:
    """Two honest VMs beside others, under one manager.

    Attributes:
        manager: The manager.
        silent: What was seen of an honest VM that was called silent or gone.
    """

    def __init__(self, manager: RunningManager, web: HonestVm, db: HonestVm, period_s: float) -> None:
        self.manager = manager
        self.silent: list[str] = []
        self._vms = (web, db)
        self._period_s = period_s
        self._hungry = 0
        self._slowest_status_s = 0.0
        self._lines_before = 0

    async def round(self) -> float:
        """Let one honest VM need more; return after how many periods it has it."""
        self._hungry = 1 - self._hungry
        hungry, sated = self._vms[self._hungry], self._vms[1 - self._hungry]
        sated.demand, hungry.demand = sated.little, hungry.much
        began = time.monotonic()
        await until(lambda: hungry.actual >= hungry.much)
        return (time.monotonic() - began) / self._period_s

    async def settled(self) -> StatusReply:
        """Wait until both honest VMs are managed."""
        return await self.manager.until(
            lambda status: all(status.vm(name).standing == "movable" for name in ("web", "db"))
        )

    async def status(self) -> StatusReply:
        """Return the status, and note what it says of the honest VMs."""
        began = time.monotonic()
        status = await self.manager.status()
        self._slowest_status_s = max(self._slowest_status_s, time.monotonic() - began)
        for name in ("web", "db"):
            if status.vm(name).run_state != "running":
                self.silent.append(f"{name} is {status.vm(name).run_state}: {status.vm(name).reason}")
        return status

    def said_of_the_honest(self) -> list[str]:
        """What the manager said of an honest VM that it says of one in trouble."""
        said = re.compile(r" (?:web|db): (?:frozen|absent|gone|reset|counted|adopting|its )")
        return [line for line in self.manager.lines[self._lines_before :] if said.search(line)]

    @property
    def slowest_status_s(self) -> float:
        """The longest that a status took."""
        return self._slowest_status_s

    def resident_bytes(self, what: str = "VmRSS") -> int:
        """What the manager holds of memory, or has held at most (`VmHWM`)."""
        lines = Path(f"/proc/{self.manager.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{what}:"))

    def begin_again(self) -> None:
        """Forget what was said, and what the manager held at most (proc_pid_clear_refs(5))."""
        self._lines_before = len(self.manager.lines)
        Path(f"/proc/{self.manager.process.pid}/clear_refs").write_text("5")

    def said_of(self, name: str, status: StatusReply) -> str:
        """Everything that the manager says of one VM."""
        vm = status.vm(name)
        lines = [line for line in self.manager.lines[self._lines_before :] if f" {name}: " in line]
        return "\n".join([vm.run_state, vm.reason, vm.problem or "", *lines])


def configured_beside(folder: Path, others: Iterable[str], period_s: float) -> Path:
    """Write a configuration of `web`, `db` and the others; each other may have 64 MiB."""
    names = list(others)
    honest_mib = _honest_mib(len(names))
    budget_mib = honest_mib * 11 // 10 + _SLUSH_MIB + (_OTHERS_MAX_MIB + _OVERHEAD_MIB) * len(names)
    text = f"""
        [host]
        budget = "{budget_mib}MiB"
        slush = "{_SLUSH_MIB}MiB"
        [manager]
        mode = "enforce"
        period = "{period_s}s"
        socket = "{folder}/run/api.sock"
        state = "{folder}/state"
    """
    for name in ("web", "db", *names):
        most_mib = honest_mib if name in ("web", "db") else _OTHERS_MAX_MIB
        text += f"""
        [[vm]]
        name = "{name}"
        qmp = "{folder}/{name}.qmp"
        minimum = "32MiB"
        maximum = "{most_mib}MiB"
        """
    path = folder / "hosts.toml"
    path.write_text(text)
    return path


@contextlib.asynccontextmanager
async def neighbours(folder: Path, others: Iterable[str], period_s: float) -> AsyncIterator[Neighbours]:
    """Run a manager with the two honest VMs; the others are started by `played`."""
    names = list(others)
    web, db = (HonestVm(_honest_mib(len(names))) for _ in range(2))
    async with (
        listening(folder / "web.qmp", web.serve),
        listening(folder / "db.qmp", db.serve),
        managing(configured_beside(folder, names, period_s)) as manager,
    ):
        found = Neighbours(manager, web, db, period_s)
        await found.settled()
        yield found


@contextlib.asynccontextmanager
async def played(folder: Path, names: Iterable[str], *, honest: bool = False) -> AsyncIterator[None]:
    """Play monitors of the cast, each in a process of its own."""
    options = ["--honest"] if honest else []
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.hostile.monitors", str(folder), *names, *options),
        stdin=asyncio.subprocess.PIPE,
    )
    try:
        yield
    finally:
        process.kill()
        await process.wait()
