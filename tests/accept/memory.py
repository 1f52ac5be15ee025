"""The acceptance of dynamic memory: a small guest is taken far past its boot size and back, again and again.

Every step is measured three times over: by the guest (its console), by the VM (its monitor) and by the host
(the blocks of the VM's memory files). At the top the guest's load holds most of what there is, at the bottom
next to nothing, and every page that it ever held is checked byte by byte when it is let go.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.rigs.vms import BALLOON, Vm, running

MIB = 1 << 20
GIB = 1 << 30
PAGE = 4096
STEP_SECONDS = 120  # no step takes so long on any machine that the rest is worth trying on
SLACK_BYTES = 24 * MIB  # rings, kernel pages, and fragments of pages that the host rounds up


class Plan(NamedTuple):
    """What a run goes through. The defaults are those of the acceptance."""

    boot: int = 256 * MIB
    maximum: int = 8 * GIB
    top: int = 4 * GIB
    bottom: int = 128 * MIB
    at_top: str = "80%"  # of the memory that the guest can use
    at_bottom: int = 32 * MIB
    rounds: int = 10


class Step(NamedTuple):
    """One line: who says what at the end of a step; bytes, but for the seconds that it took."""

    round: int
    name: str
    seconds: float
    guest_total: int  # the guest's own: all its memory, the balloon's part of it, what its load holds
    guest_ballooned: int
    guest_held: int
    vm_actual: int  # the VM's: query-balloon, and boot and plugged memory of query-memory-size-summary
    vm_base: int
    vm_plugged: int
    host_resident: int  # the host's: blocks of the VM's memory files
    checked: int  # bytes checked since the guest's start, and those that were wrong
    wrong: int

    def line(self) -> str:
        """It as a line of the table."""
        sizes = (
            self.guest_total,
            self.guest_ballooned,
            self.guest_held,
            self.vm_actual,
            self.vm_base + self.vm_plugged,
            self.host_resident,
        )
        columns = " ".join(f"{size / MIB:9.1f}" for size in sizes)
        return (
            f"{self.round:5} {self.name:<6} {self.seconds:6.1f} {columns} "
            f"{self.checked / GIB:9.2f} {self.wrong:6}"
        )


HEADER = (
    "                     ---------- guest, MiB ---------  ------ VM, MiB ----- host, MiB\n"
    "round step        s     total ballooned      held    actual boot+plug. resident   checked  wrong\n"
    "                                                                                      GiB  bytes"
)


class NotAcceptedError(Exception):
    """A step did not come to what it must: the sentence says what was seen."""


async def run(folder: Path, plan: Plan, show: Callable[[str], None]) -> list[Step]:
    """Go through the plan in `folder`; the steps. Raises NotAcceptedError."""
    wish = folder / "wish"
    wish.write_text("8M")
    steps: list[Step] = []
    show(HEADER)
    async with running(
        folder,
        memory=f"{plan.boot // MIB}M,maxmem={plan.maximum // MIB}M",
        device=BALLOON,
        guest=f"embedded,workload=told,path={wish},rate=4GiB,seed=7",
    ) as (vm, client):
        observer = _Observer(vm, client, wish)
        for number in range(plan.rounds + 1):
            for name, act in (("top", _to_the_top), ("bottom", _to_the_bottom)):
                if number == 0 and name == "top":
                    continue  # round 0 is the way down from the boot size
                begun = time.monotonic()
                await act(observer, plan)
                step = await observer.look(number, name, time.monotonic() - begun)
                show(step.line())
                _hold(step, plan)
                steps.append(step)
    if steps[-1].checked == 0:
        raise NotAcceptedError("no byte was ever checked")
    return steps


async def _to_the_top(observer: "_Observer", plan: Plan) -> None:
    await observer.balloon(plan.top)
    await observer.until(observer.actual_is(plan.top), f"the guest does not grow to {plan.top // MIB} MiB")
    observer.tell(plan.at_top)
    await observer.until(observer.has_what_it_wants, "the load does not get what it wants")


async def _to_the_bottom(observer: "_Observer", plan: Plan) -> None:
    observer.tell(f"{plan.at_bottom // MIB}M")
    await observer.until(observer.has_what_it_wants, "the load does not let go")
    await observer.balloon(plan.bottom)
    await observer.until(
        observer.actual_is(plan.bottom), f"the guest does not shrink to {plan.bottom // MIB} MiB"
    )
    # the guest has given it up; the last of it is being discarded beside the protocol
    await observer.until(observer.is_resident_within(plan.bottom), "the host does not get its memory back")


def _hold(step: Step, plan: Plan) -> None:
    """Hold one step against what must be."""
    top = step.name == "top"
    size = plan.top if top else plan.bottom
    least = int(0.79 * (plan.top - plan.boot)) if top else 0  # some of the boot memory is the kernel's
    checks = (
        (step.wrong == 0, f"{step.wrong} bytes were wrong"),
        (step.vm_actual == size, f"the VM says {step.vm_actual}, not {size}"),
        (
            step.guest_total - step.guest_ballooned == size,
            f"the guest says {step.guest_total - step.guest_ballooned}, not {size}",
        ),
        (step.guest_total == step.vm_base + step.vm_plugged, "guest and VM count different memory"),
        (step.host_resident <= size + SLACK_BYTES, f"{step.host_resident} bytes are resident of {size}"),
        (step.host_resident >= step.guest_held, "less is resident than the load holds"),
        (step.guest_held >= least, f"the load holds only {step.guest_held}"),
        (top or step.guest_held <= 40 * MIB, f"the load still holds {step.guest_held}"),
    )
    for holds, text in checks:
        if not holds:
            raise NotAcceptedError(f"round {step.round}, {step.name}: {text}")


class _Observer:
    """Asks everybody."""

    def __init__(self, vm: Vm, client: Any, wish: Path) -> None:
        self._vm = vm
        self._client = client
        self._wish = wish
        self._told = 0

    async def balloon(self, size: int) -> None:
        await self._client.execute("balloon", {"value": size})

    def tell(self, wish: str) -> None:
        """Tell the load what to hold."""
        self._told = len(self._vm.console())
        new = self._wish.with_suffix(".new")
        new.write_text(wish)
        new.replace(self._wish)

    def actual_is(self, size: int) -> Callable[[], Awaitable[bool]]:
        async def check() -> bool:
            return bool((await self._client.execute("query-balloon"))["actual"] == size)

        return check

    def is_resident_within(self, size: int) -> Callable[[], Awaitable[bool]]:
        async def check() -> bool:
            return self._vm.resident_bytes() <= size + SLACK_BYTES

        return check

    async def has_what_it_wants(self) -> bool:
        """Whether the load has heard the last word, and done it."""
        reports = self._vm.console()[self._told + 2 :]
        last = reports[-1] if reports else None
        return last is not None and last["held_pages"] == last["wanted_pages"]

    async def until(self, check: Callable[[], Awaitable[bool]], otherwise: str) -> None:
        deadline = time.monotonic() + STEP_SECONDS
        while not await check():
            if time.monotonic() > deadline or self._vm.process.poll() is not None:
                raise NotAcceptedError(f"{otherwise}; the last report: {self._vm.console()[-1:]}")
            await asyncio.sleep(0.1)

    async def look(self, number: int, name: str, seconds: float) -> Step:
        """Everybody's figures, when a report of the guest has come that is newer than the question."""
        seen = len(self._vm.console())

        async def has_reported() -> bool:
            return len(self._vm.console()) > seen + 1

        await self.until(has_reported, "the guest reports no more")
        report = self._vm.console()[-1]
        summary = await self._client.execute("query-memory-size-summary")
        return Step(
            number,
            name,
            seconds,
            guest_total=report["total_pages"] * PAGE,
            guest_ballooned=report["ballooned_pages"] * PAGE,
            guest_held=report["held_pages"] * PAGE,
            vm_actual=(await self._client.execute("query-balloon"))["actual"],
            vm_base=summary["base-memory"],
            vm_plugged=summary["plugged-memory"],
            host_resident=self._vm.resident_bytes(),
            checked=report["verified_pages"] * PAGE,
            wrong=report["wrong_bytes"],
        )
