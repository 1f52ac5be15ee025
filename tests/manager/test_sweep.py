"""A sweep looks at all VMs at once, and one that is late costs the others no more than its patience."""

import asyncio

from tests.rigs.scenes import plays

from dynmem.manager.step.facts import RUNNING, SILENT, VmFacts
from dynmem.manager.sweep.looks import Looks
from dynmem.manager.sweep.measuring import Measuring
from dynmem.manager.sweep.sweep import sweep


class Played:
    """A VM whose looks end when `gate` is set."""

    def __init__(self, name: str, *, replies: bool = True) -> None:
        self.name, self.looked, self.gate = name, 0, asyncio.Event()
        self.looks = Looks(name, Measuring(), was_late=lambda: not self.gate.is_set())
        if replies:
            self.gate.set()

    def begin(self, now_ns: int) -> asyncio.Future[VmFacts] | None:
        self.looks.drop_late()
        if not self.looks.is_looking:
            self.looks.begin(self._look())
        return self.looks.awaited

    def found(self, now_ns: int) -> VmFacts:
        found = self.looks.take()
        self.looks.is_slow |= found is None
        return found or VmFacts(self.name, "", SILENT)

    async def _look(self) -> VmFacts:
        self.looked += 1
        await self.gate.wait()
        return VmFacts(self.name, "", RUNNING)


async def states(vms: list[Played], patience_s: float) -> list[str]:
    return [each.run_state for each in await sweep(vms, 1, patience_s)]  # type: ignore[arg-type]


@plays
async def test_all_are_looked_at_before_one_is_waited_for_and_each_has_its_own_facts() -> None:
    first, second, third = Played("a", replies=False), Played("b"), Played("c")
    sweeping = asyncio.create_task(states([first, second, third], 1000))
    await asyncio.sleep(0.01)
    assert [each.looked for each in (first, second, third)] == [1, 1, 1]
    assert not sweeping.done()
    first.gate.set()
    assert await sweeping == [RUNNING] * 3
    assert await states([], 1000) == []


@plays
async def test_one_that_was_late_is_waited_for_again_only_after_it_has_replied() -> None:
    hung, good = Played("a", replies=False), Played("b")
    assert await states([hung, good], 0.001) == [SILENT, RUNNING]
    for _ in range(3):
        assert await asyncio.wait_for(states([hung, good], 1000), 60) == [SILENT, RUNNING]
    assert (hung.looked, good.looked) == (1, 4)
    hung.gate.set()
    await asyncio.sleep(0.01)
    assert await states([hung, good], 1000) == [RUNNING, RUNNING]  # what it replied before is not used
    assert (hung.looked, hung.looks.is_slow) == (2, False)


@plays
async def test_a_slow_one_that_replies_while_others_are_waited_for_is_slow_no_more() -> None:
    slow, other = Played("a"), Played("b", replies=False)
    slow.looks.is_slow = True
    asyncio.get_running_loop().call_later(0.01, other.gate.set)
    assert await states([slow, other], 1000) == [RUNNING, RUNNING]
    assert not slow.looks.is_slow
