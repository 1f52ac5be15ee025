"""A small host of real processes: `dynmem run`, and one `dynmem vm` for each VM, in a folder.

What is known of it comes from three sources that know nothing of each other: the manager's books
(`dynmem status --json`), the monitors of the VMs, and the kernel.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.rigs.managers import RunningManager, cli, managing
from tests.rigs.processes import descendants, memory_files
from tests.rigs.scenes import until
from tests.rigs.vms import BALLOON, Vm

from dynmem.manager.api.messages import StatusReply
from dynmem.qmp.client import QmpClient
from dynmem.units import MIB, PAGE_SIZE

Status = dict[str, Any]


class NotAcceptedError(Exception):
    """A scene did not get to its figures: the sentence says what was waited for."""


class Plan(NamedTuple):
    """One VM as the manager's file describes it; sizes in MiB."""

    name: str
    boot: int
    minimum: int
    priority: str = "normal"
    buffer: int = 20
    holds: int = 0  # what the guest's load is told at first


class Host:
    """The folder, the file and the VMs of one host.

    Attributes:
        socket: Where its manager listens.
        vms: Those that were started, by name.
    """

    def __init__(
        self,
        folder: Path,
        plans: tuple[Plan, ...],
        *,
        budget: int,
        slush: int = 16,
        period_s: float = 0.5,
    ) -> None:
        """Write the file. Sizes in MiB."""
        self.budget = budget * MIB
        self.slush = slush * MIB
        self.period_s = period_s
        self.plans: Final = {plan.name: plan for plan in plans}
        self.socket: Final = folder / "run" / "api.sock"
        self.vms: Final[dict[str, Vm]] = {}
        self._folder: Final = folder
        self._config: Final = folder / "hosts.toml"
        text = f"""
            [host]
            budget = "{budget}MiB"
            slush = "{slush}MiB"
            ready = "0"
            [manager]
            mode = "enforce"
            period = "{period_s}s"
            socket = "{self.socket}"
            state = "{folder}/state"
        """
        for plan in plans:
            (folder / plan.name / "run").mkdir(mode=0o700, parents=True)
            text += f"""
            [[vm]]
            name = "{plan.name}"
            qmp = "{self._qmp(plan.name)}"
            minimum = "{plan.minimum}MiB"
            maximum = "{plan.boot}MiB"
            priority = "{plan.priority}"
            buffer = {plan.buffer}
            """
        self._config.write_text(text)

    def start(self, name: str, *, boot: int = 0, options: tuple[str, ...] = ()) -> Vm:
        """Start one VM, with *boot* MiB if that is not what the file allows it; it ends with `ended`."""
        plan = self.plans[name]
        self.order(name, plan.holds)
        self.vms[name] = Vm(
            self._folder / name,
            memory=f"{boot or plan.boot}M",
            device=BALLOON,
            guest=f"embedded,workload=told,path={self._wish(name)},rate=4GiB,seed=7",
            options=options,
            name=name,
        )
        return self.vms[name]

    def order(self, name: str, mib: int) -> None:
        """Tell the load of a guest how much to hold."""
        new = self._folder / name / "wish.new"
        new.write_text(f"{mib}M")
        new.replace(self._wish(name))

    def command(self, name: str, boot: int) -> tuple[str, ...]:
        """Return the command line, after `dynmem`, that asks the manager to admit a VM of *boot* MiB."""
        monitor = f"unix:{self._qmp(name)},server=on,wait=off"
        return (
            *("vm", "--name", name, "-m", f"{boot}M", "--device", BALLOON),
            *("--qmp", monitor, "--manager", str(self.socket)),
        )

    def has_monitor(self, name: str) -> bool:
        """Return whether a VM has made its monitor."""
        return self._qmp(name).exists()

    def managing(self) -> contextlib.AbstractAsyncContextManager[RunningManager]:
        """Run the manager."""
        return managing(self._config)

    async def status(self) -> Status:
        """Return what `dynmem status --json` prints."""
        code, out, err = await cli("status", "--json", "--socket", self.socket)
        if code:
            raise NotAcceptedError(f"`dynmem status` ended with {code}: {err.strip()}")
        status: Status = json.loads(out)
        return status

    async def sizes(self) -> dict[str, int]:
        """Return the size of each VM's guest as its monitor reports it. Bytes."""
        return {name: await self._size(name) for name in self.vms}

    async def balloon(self, name: str, size: int) -> None:
        """Set the size of a VM by its monitor, as nobody but the manager should. Bytes."""
        async with await QmpClient.connect(self._qmp(name)) as client:
            await client.execute("balloon", {"value": size})

    def resident(self, name: str) -> int:
        """Return the blocks of a VM's memory files. Bytes."""
        return sum(memory_files(self.vms[name].process.pid).values())

    def processes(self, name: str) -> list[int]:
        """Return the processes of a VM: its own, and those of its guest."""
        pid = self.vms[name].process.pid
        return [pid, *descendants(pid)]

    def held(self, name: str) -> int:
        """Return what the load of a guest holds, by its console. Bytes."""
        vm = self.vms[name]
        if vm.process.poll() is not None:
            raise NotAcceptedError(f"the VM {name} ended: {vm.log.read_text()[-1000:]}")
        reports = vm.console() if vm.serial.exists() else []
        return int(reports[-1]["held_pages"]) * PAGE_SIZE if reports else 0

    def wrong_bytes(self) -> int:
        """Return the bytes that the guests found wrong, by their consoles."""
        return sum(int(vm.console()[-1]["wrong_bytes"]) for vm in self.vms.values())

    async def until_loads_are(self, holds: Mapping[str, int]) -> None:
        """Wait until guests hold what they were told to, in MiB."""
        for name, mib in holds.items():
            await until(partial(self._holds, name, mib * MIB))

    async def until_quiet(self, manager: RunningManager, seconds: float) -> Status:
        """Return the status once the books have been the same, and nothing was sent, for as long.

        A guest reports once a second, so what it wants is known to be settled after some seconds only.
        """
        await manager.until(self._has_reports)
        before, same = await self.status(), 0
        while same * self.period_s < seconds:
            number = before["manager"]["sweeps"]
            await manager.sweeps(1)
            now = await self.status()
            is_same = books(now) == books(before) and last_changes(now) == last_changes(before)
            same = same + now["manager"]["sweeps"] - number if is_same else 0
            before = now
        return before

    @contextlib.contextmanager
    def ended(self) -> Iterator[None]:
        """End all VMs when the block ends."""
        try:
            yield
        finally:
            for vm in self.vms.values():
                vm.kill()

    def _qmp(self, name: str) -> Path:
        return self._folder / name / "run" / "qmp"

    def _wish(self, name: str) -> Path:
        return self._folder / name / "wish"

    def _holds(self, name: str, size: int) -> bool:
        return self.held(name) == size

    def _has_reports(self, status: StatusReply) -> bool:
        return all(status.vm(name).demand_bytes is not None for name in self.vms)

    async def _size(self, name: str) -> int:
        async with await QmpClient.connect(self._qmp(name)) as client:
            reply = await client.execute("query-balloon")
            assert isinstance(reply, dict)
            size = reply["actual"]
            assert isinstance(size, int)
            return size


@contextlib.asynccontextmanager
async def running(host: Host, *names: str) -> AsyncIterator[RunningManager]:
    """Start VMs, then the manager once their loads are up; all end with the block."""
    with host.ended():
        for name in names or host.plans:
            host.start(name)
        await host.until_loads_are({name: host.plans[name].holds for name in host.vms})
        async with host.managing() as manager:
            yield manager


def vm_of(status: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return what a status says of one VM."""
    found: dict[str, Any] = next(vm for vm in status["vms"] if vm["name"] == name)
    return found


def books(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return every figure of the books in a status by its path: totals, VMs and reservations."""
    found = dict(_leaves("books", status["books"]))
    for vm in status["vms"]:
        found[f"{vm['name']}.claim_bytes"] = vm["claim_bytes"]
        found |= dict(_leaves(f"{vm['name']}.books", vm["books"]))
    for each in status["reservations"]:
        found[f"reservation {each['name']}"] = each["size_bytes"]
    return found


def last_changes(status: Mapping[str, Any]) -> list[object]:
    """Return when each VM was last changed."""
    return [(vm["last_change"] or {}).get("at_ns") for vm in status["vms"]]


def _leaves(path: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _leaves(f"{path}.{key}", each)
    elif value is not None:
        yield path, value
