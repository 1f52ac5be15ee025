"""A machine whose guest reports free pages: the host has them when the call returns, and says how much."""

from typing import Any

import pytest
from tests.rigs.fake_platform import BOOT, INPUT, Scene
from tests.rigs.scenes import plays, until

from dynmem.dm.states import HostState
from dynmem.memory.backend import MemfdBackend
from dynmem.units import MIB, PAGE_SIZE
from dynmem.vm.monitor.balloon_commands import balloon_commands
from dynmem.vm.options.machine import BalloonOptions
from dynmem.wire.heat_hint import COLD_DISCARD, Span, encode_hint
from dynmem.wire.synic import HvStatus, HypercallInput, hypercall_result

QUERY, HINT = 0x8001, 0x8003
OUTPUT = INPUT + PAGE_SIZE  # the guest posts from the page before
HINT_AT = INPUT + 2 * PAGE_SIZE
FREE = Span(16 * MIB // PAGE_SIZE, 8 * MIB // PAGE_SIZE)


async def called(scene: Scene, *calls: HypercallInput) -> list[int]:
    """Have the guest make these calls, and return their results."""
    guest = scene.guest
    guest.results.clear()
    guest.to_call += calls
    guest.wake()
    await until(lambda: len(guest.results) == len(calls))
    return guest.results


def hint(scene: Scene, *spans: Span, kind: int = COLD_DISCARD) -> HypercallInput:
    scene.guest.memory.write(HINT_AT, encode_hint(kind, spans))
    return HypercallInput(HINT | len(spans) << 32, HINT_AT)


def figures(scene: Scene) -> dict[str, Any] | None:
    """What the monitor says of it."""
    state = balloon_commands(scene.machine)["x-query-hv-balloon"].run({})
    assert isinstance(state, dict)
    return state.get("free-page-reporting")


@plays
async def test_pages_that_the_guest_reports_are_the_hosts_when_the_call_returns() -> None:
    scene = Scene()
    boot = scene.machine.memory.boot
    assert isinstance(boot, MemfdBackend)
    await scene.machine.start()
    await until(lambda: scene.balloon.host.state is HostState.IDLE)
    boot.view[8 * MIB : 24 * MIB] = b"x" * (16 * MIB)
    await called(scene, HypercallInput(QUERY, 0, OUTPUT), hint(scene, Span(HINT_AT // PAGE_SIZE + 1, 1)))
    before = boot.resident_bytes()
    in_use = Span(FREE.first_page - 1, 1)
    results = await called(scene, HypercallInput(QUERY, 0, OUTPUT), hint(scene, FREE))
    after = boot.resident_bytes()
    assert results == [hypercall_result(HvStatus.SUCCESS), hypercall_result(HvStatus.SUCCESS, 1)]
    assert scene.guest.memory.read(OUTPUT, 8) == (1 << 8).to_bytes(8, "little")
    assert before - after == FREE.pages * PAGE_SIZE
    assert scene.guest.memory.read(FREE.first_page * PAGE_SIZE, PAGE_SIZE) == bytes(PAGE_SIZE)
    assert scene.guest.memory.read(in_use.first_page * PAGE_SIZE, PAGE_SIZE) == b"x" * PAGE_SIZE
    assert figures(scene) == {"calls": 2, "ranges": 2, "discarded": (1 + FREE.pages) * PAGE_SIZE}
    assert scene.balloon.actual_bytes == BOOT  # the guest still has them
    await scene.machine.close()


@plays
async def test_pages_in_the_balloon_are_not_discarded_for_a_report() -> None:
    scene = Scene()
    scene.balloon.set_target(BOOT - 8 * MIB)  # the guest gives up what it reports then
    await scene.machine.start()
    await scene.until_actual(BOOT - 8 * MIB)
    await called(scene, hint(scene, Span(4096, 4 * MIB // PAGE_SIZE), Span(0, 1)))
    assert figures(scene) == {"calls": 1, "ranges": 2, "discarded": PAGE_SIZE}
    await scene.machine.close()


@plays
async def test_a_wrong_report_is_refused_and_counted() -> None:
    scene = Scene()
    await scene.machine.start()
    results = await called(scene, hint(scene, FREE, kind=1))
    assert results == [hypercall_result(HvStatus.INVALID_PARAMETER)]
    assert scene.machine.faults.counts == {"call refused": 1}
    assert figures(scene) == {"calls": 0, "ranges": 0, "discarded": 0}
    await scene.machine.close()


@pytest.mark.parametrize("call", [HypercallInput(QUERY, 0, OUTPUT), HypercallInput(HINT | 1 << 32, HINT_AT)])
def test_without_free_page_reporting_there_is_no_such_call(call: HypercallInput) -> None:
    @plays
    async def scene() -> None:
        scene = Scene(balloon=BalloonOptions(memdev="more", free_page_reporting=False))
        await scene.machine.start()
        assert await called(scene, call) == [hypercall_result(HvStatus.INVALID_HYPERCALL_CODE)]
        assert figures(scene) is None
        await scene.machine.close()

    scene()
