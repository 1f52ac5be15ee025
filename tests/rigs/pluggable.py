"""A VM with virtio-mem, and mostly a virtio-balloon, whose monitor replies as QEMU does; and its manager.

Time is the test's: a period passes with each `period`, without a wait.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from tests.rigs.monitored import QEMUS, FakeVm

from dynmem.manager.step import Manager, StepResult
from dynmem.manager.step.facts import Facts, HostFacts, ManagerSettings, VmConfig, VmFacts
from dynmem.manager.step.safeguards import ALL_ON, Safeguards
from dynmem.manager.step.view import VmView
from dynmem.manager.sweep.connection import VmConnection
from dynmem.manager.sweep.sweep import sweep
from dynmem.units import GIB, MIB, NS_PER_S

BOOT = 256 * MIB
KERNEL = 40 * MIB
BLOCK = 2 * MIB


class Device:
    """One virtio-mem. Bytes; `keeps` is what its guest cannot unplug, `takes` the most that it plugs."""

    def __init__(self, name: str, most: int, *, block: int = BLOCK, requested: int = 0) -> None:
        self.name, self.most, self.block, self.requested = name, most, block, requested
        self.size = self.keeps = 0
        self.takes = most

    def obey(self) -> None:
        """Do what is requested, as far as the guest can."""
        wanted = min(self.requested, self.takes)
        self.size = wanted if wanted > self.size else max(wanted, min(self.size, self.keeps))

    @property
    def listed(self) -> dict[str, Any]:
        """What `query-memory-devices` has of it (QEMU 7.2)."""
        data = {
            "memdev": f"/objects/{self.name}-ram",
            "memaddr": 4 * GIB,
            "block-size": self.block,
            "size": self.size,
            "node": 0,
            "max-size": self.most,
            "requested-size": self.requested,
            "id": self.name,
        }
        return {"type": "virtio-mem", "data": data}


class Pluggable(FakeVm):
    """A VM whose guest uses `used` bytes, and plugs and unplugs at once, unless a test says otherwise.

    `onlines`: whether its guest puts online what it plugs. `moves`: how its sizes follow what it is asked.
    """

    def __init__(self, *devices: Device, used: int = 100 * MIB, balloon: bool = True) -> None:
        self.devices = {f"/machine/peripheral/{each.name}": each for each in devices}
        self.used, self.onlines, self.has_balloon = used, True, balloon
        self.target = self.own = BOOT
        self.holds_at = 0  # the least that its balloon leaves it
        self.others: list[dict[str, str]] = []  # further devices, as `qom-list` has them
        self.online = 0
        self.moves: Callable[[], None] = self.obey
        self._reports = 0
        super().__init__(
            {
                "query-memory-size-summary": {"base-memory": BOOT},
                "query-memory-devices": lambda _: [each.listed for each in self.devices.values()],
                "query-balloon": (lambda _: {"actual": self.own})
                if balloon
                else Exception("No balloon device"),
                "qom-list": self._list,
                "qom-get memdev": lambda asked: self.devices[asked["path"]].listed["data"]["memdev"],
                "qom-get guest-stats": lambda _: self._statistics(),
                "qom-get guest-stats-polling-interval": 1,
                "qom-set": self._set,
                "balloon": self._balloon,
            },
            package=QEMUS,
        )

    def obey(self) -> None:
        """Follow every request."""
        for each in self.devices.values():
            before = each.size
            each.obey()
            if self.onlines or each.size < before:
                self.online = max(0, self.online + each.size - before)
        self.own = max(self.target, self.holds_at)

    @property
    def plugged(self) -> int:
        return sum(each.size for each in self.devices.values())

    @property
    def size(self) -> int:
        return self.own + self.plugged

    def _list(self, asked: Mapping[str, Any]) -> list[dict[str, str]]:
        if asked["path"] != "/machine/peripheral":
            return []
        found = [{"name": each.name, "type": "child<virtio-mem-pci>"} for each in self.devices.values()]
        found += [{"name": "balloon0", "type": "child<virtio-balloon-pci>"}] if self.has_balloon else []
        return found + self.others

    def _statistics(self) -> dict[str, Any]:
        self._reports += 1
        total = self.own - KERNEL + self.online
        available = max(0, total - self.used)
        stats = {
            "stat-total-memory": total,
            "stat-available-memory": available,
            "stat-free-memory": available,
        }
        return {"stats": stats, "last-update": 1_700_000_000 + self._reports}

    def _set(self, asked: Mapping[str, Any]) -> object:
        device, value = self.devices[asked["path"]], asked["value"]
        assert asked["property"] == "requested-size"
        if value % device.block:
            return Exception(f"'requested-size' has to be multiples of 'block-size' ({device.block:#x})")
        if value > device.most:
            return Exception(f"'requested-size' cannot exceed the memory backend size({device.most:#x})")
        device.requested = value
        return {}

    def _balloon(self, asked: Mapping[str, Any]) -> object:
        if not self.has_balloon:
            return Exception("No balloon device has been activated")
        self.target = min(asked["value"], BOOT)
        return {}

    @property
    def writes(self) -> list[tuple[str, int]]:
        """What it was told to do: the device, and MiB."""
        return [
            (str(asked.get("path", "balloon")).rpartition("/")[2], int(str(asked["value"])) // MIB)
            for name, asked in self.asked
            if name in ("balloon", "qom-set")
        ]


class Managed:
    """One VM under a manager, over a real socket; without `vm`, whoever listens there is moved by nobody."""

    def __init__(
        self, vm: Pluggable | None, path: Path, *, mode: str = "enforce", guards: Safeguards = ALL_ON
    ) -> None:
        self.config = VmConfig("web", 64 * MIB, GIB)
        self.settings = ManagerSettings(8 * GIB, 64 * MIB, NS_PER_S, mode)  # type: ignore[arg-type]
        self._vm, self.manager = vm, Manager(self.settings, [self.config], guards)
        self.connection = VmConnection("web", path, may_write=mode == "enforce", period_s=1)
        self.now_ns = 10**12
        self.available = 4 * GIB
        self.facts: VmFacts
        self.lines: list[str] = []

    def configure(self, **changed: Any) -> None:
        """Change settings of the host."""
        self.settings = replace(self.settings, **changed)
        self.manager.configure(self.settings, [self.config])

    async def period(self, times: int = 1) -> StepResult:
        """Let periods pass: look, step, send; return what the last step decided."""
        for _ in range(times):
            self.now_ns += NS_PER_S
            (self.facts,) = await sweep([self.connection], self.now_ns, 10.0)
            host = HostFacts(self.available, 16 * GIB)
            result = self.manager.step(Facts(self.now_ns, host, (self.facts,)))
            self.lines += result.changes
            for each in result.commands:
                await self.connection.set_balloon(each.target_bytes, each.parts)
                self.manager.was_sent(each.vm)
                self.lines += [each.news] if each.news else []
            if self._vm is not None:
                self._vm.moves()
        return result

    @property
    def view(self) -> VmView:
        """Its status."""
        return self.manager.status().vms[0]
