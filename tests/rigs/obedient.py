"""A host whose guests obey at once: for questions about the manager rather than about guests.

Each sweep is one period after the last; the commands of the last one have been carried out, and reports are
younger than that. Single facts of a VM can be overridden, to see what one of them changes.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from dynmem.manager.step import Manager
from dynmem.manager.step.facts import (
    ABSENT,
    RUNNING,
    Demand,
    Facts,
    HostFacts,
    ManagerSettings,
    VmConfig,
    VmFacts,
)
from dynmem.manager.step.results import StepResult
from dynmem.manager.step.safeguards import Safeguards
from dynmem.units import MIB

REPORT_AGE_NS: Final = 1
KERNEL_BYTES: Final = 24 * MIB
# Nothing is expected and nothing kept ready, so that every figure can be computed by hand.
CALM: Final = Safeguards(growth=False, ready=False)


class ObedientHost:
    """Some VMs, a manager, and as much host memory as is required. Sizes in bytes.

    Attributes:
        demands: What each guest needs; a VM that is not in it is absent.
        sizes: The present size of each.
        overrides: By VM, fields of VmFacts with another value.
        news: What was reported of commands that were sent.
    """

    def __init__(
        self,
        settings: ManagerSettings,
        configs: Sequence[VmConfig],
        demands: Mapping[str, int],
        *,
        available_bytes: int = 1 << 50,
        safeguards: Safeguards = CALM,
    ) -> None:
        self.settings = settings
        self.configs = {config.name: config for config in configs}
        self.demands = dict(demands)
        self.sizes = {name: self.configs[name].maximum_bytes for name in demands}
        self.available_bytes = available_bytes
        self.overrides: dict[str, dict[str, object]] = {}
        self.news: list[str] = []
        self.now_ns = 0
        self.manager = Manager(settings, configs, safeguards)

    def sweep(self, times: int = 1) -> StepResult:
        """Sweep, step, obey; return the last step's result."""
        result = self._sweep()
        for _ in range(times - 1):
            result = self._sweep()
        return result

    def facts(self) -> Facts:
        """Return what a sweep finds now."""
        vms = tuple(self._vm(name) for name in self.configs)
        return Facts(self.now_ns, HostFacts(self.available_bytes, self.available_bytes), vms)

    def _sweep(self) -> StepResult:
        self.now_ns += self.settings.period_ns
        result = self.manager.step(self.facts())
        for command in result.commands:
            self.manager.was_sent(command.vm)
            self.news += [command.news] if command.news else []
            self.sizes[command.vm] = command.target_bytes
        return result

    def _vm(self, name: str) -> VmFacts:
        if name not in self.demands:
            return VmFacts(name, "", ABSENT)
        size = self.sizes.setdefault(name, self.configs[name].maximum_bytes)
        demand = self.demands[name]
        facts = VmFacts(
            name=name,
            incarnation=f"{name}.1",
            run_state=RUNNING,
            device="hv-balloon",
            boot_bytes=self.configs[name].maximum_bytes,
            actual_bytes=size,
            resident_bytes=min(size, demand + KERNEL_BYTES),
            resident_source="st_blocks",
            demand=Demand(demand, max(0, size - demand), "committed", REPORT_AGE_NS),
        )
        changed = self.overrides.get(name)
        return msgspec.structs.replace(facts, **changed) if changed else facts
