"""Memory is hot-added in blocks: growth goes by whole steps, and stopping at one is no refusal."""

import pytest
from tests.rigs.obedient import ObedientHost

from dynmem.manager.step.facts import ManagerSettings, VmConfig
from dynmem.manager.step.results import StepResult
from dynmem.units import GIB, MIB, NS_PER_S

BOOT = 256 * MIB
BLOCK = 128 * MIB
TOLD = pytest.mark.parametrize("is_told", [True, False], ids=["told", "untold"])


class BlockyHost(ObedientHost):
    """VMs that boot with 256 MiB and are given more in blocks, as much of what they are asked for as goes."""

    def __init__(
        self, budget: int, demands: dict[str, int], *, block: int = BLOCK, is_told: bool = True
    ) -> None:
        settings = ManagerSettings(budget, 0, NS_PER_S, "enforce")
        super().__init__(
            settings, [VmConfig(name, 64 * MIB, 2 * GIB, buffer_percent=0) for name in demands], demands
        )
        self.block, self.is_told = block, is_told
        self.blocks = dict.fromkeys(demands, 0)
        self.takes = dict.fromkeys(demands, 2 * GIB)
        self.lines: list[str] = []
        for name in demands:
            self.sizes[name] = BOOT
            self._tell(name)

    def _tell(self, name: str) -> None:
        added = self.blocks[name] * self.block if self.is_told else None
        self.overrides[name] = {"boot_bytes": BOOT, "limit_bytes": 2 * GIB, "added_bytes": added}

    def _sweep(self) -> StepResult:
        result = super()._sweep()
        self.lines += result.changes
        for command in result.commands:
            target, name = min(command.target_bytes, self.takes[command.vm]), command.vm
            self.blocks[name] = max(self.blocks[name], (target - BOOT) // self.block)
            self.sizes[name] = min(target, BOOT + self.blocks[name] * self.block)
            self._tell(name)
        return result

    def held(self) -> int:
        """What the VMs may have at worst."""
        return sum(self.manager.claims.pages(name) for name in self.demands) * 4096

    def told_of(self, word: str) -> list[str]:
        return [line for line in self.lines if word in line]


@TOLD
def test_vms_that_grow_in_blocks_come_to_rest_in_a_budget_of_no_whole_blocks(
    is_told: bool,
) -> None:
    host = BlockyHost(1284 * MIB, {"web": 700 * MIB, "db": 436 * MIB}, is_told=is_told)
    for _ in range(20):
        host.sweep()
        assert host.held() <= 1284 * MIB
    assert host.sizes["web"] >= 700 * MIB
    assert host.sizes["db"] >= 436 * MIB
    said = len(host.lines)
    host.sweep(60)
    assert host.lines[said:] == []
    assert host.told_of("takes no more") == []


@TOLD
def test_what_a_block_leaves_over_goes_to_a_vm_that_can_use_it(is_told: bool) -> None:
    host = BlockyHost(1000 * MIB, {"web": 800 * MIB, "db": 60 * MIB}, is_told=is_told)
    host.sweep(12)
    # 1000 - 64 would be 936 MiB for web: it can have 896
    assert host.sizes["web"] == 896 * MIB
    assert host.sizes["db"] == 104 * MIB


def test_growth_that_ends_within_a_block_of_its_target_has_arrived() -> None:
    host = BlockyHost(BOOT + 110 * MIB, {"web": BOOT + 90 * MIB})
    host.manager.restore("web", "web.1", BOOT + 100 * MIB)  # by a manager that knew nothing of blocks
    host.sweep(20)
    assert len(host.told_of("it grows in steps of 128 MiB")) == 1
    assert host.told_of("takes no more") == []
    assert host.held() == BOOT


def test_a_status_calls_maximum_only_what_is_the_maximum() -> None:
    host = BlockyHost(4 * GIB, {"web": 3 * GIB})
    host.takes["web"] = 700 * MIB
    host.sweep(8)
    assert host.sizes["web"] == 640 * MIB
    assert host.told_of("takes no more at 640 MiB")
    (vm,) = host.manager.status().vms
    assert vm.maximum_bytes == 2 * GIB
    assert "takes no more than 640 MiB" in vm.reason
    assert "maximum 640 MiB" not in vm.reason


def test_demand_that_rises_beyond_what_it_has_ends_the_wait_of_a_vm_that_took_no_more() -> None:
    host = BlockyHost(4 * GIB, {"web": 600 * MIB})
    host.takes["web"] = 500 * MIB
    host.sweep(8)
    assert host.told_of("takes no more")
    host.takes["web"] = 2 * GIB
    host.sweep()
    assert host.sizes["web"] < 600 * MIB
    host.demands["web"] += 40 * MIB
    host.sweep(2)
    assert host.sizes["web"] >= 640 * MIB


def test_a_guest_with_larger_blocks_grows_as_soon_as_a_whole_one_is_needed() -> None:
    host = BlockyHost(2 * GIB, {"web": 300 * MIB, "db": 300 * MIB}, block=512 * MIB)
    host.demands["web"] = 700 * MIB
    for _ in range(40):
        host.sweep()
        assert host.held() <= 2 * GIB
    assert host.sizes["web"] == BOOT + 512 * MIB
