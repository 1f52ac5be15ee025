"""How many visits are made at a time, and in which order."""

import asyncio

import pytest
from tests.rigs.scenes import plays

from dynmem.manager.sweep.gate import PLACES, PLACES_MAX, PLACES_MIN, Gate


@pytest.mark.parametrize(
    ("share", "after_one", "after_many"),
    [(0.4, PLACES + 1, PLACES_MAX), (0.6, PLACES, PLACES), (0.8, PLACES - 1, PLACES_MIN)],
)
def test_short_visits_make_places_and_long_ones_take_them(
    share: float, after_one: int, after_many: int
) -> None:
    gate = Gate()
    gate.took(share)
    assert gate.places == after_one
    for _ in range(100):
        gate.took(share)
    assert gate.places == after_many


@plays
async def test_visits_begin_in_their_order_as_places_become_free_and_one_that_gives_up_holds_none() -> None:
    gate, begun, ends = Gate(), list[int](), [asyncio.Event() for _ in range(PLACES + 3)]

    async def visit(number: int) -> None:
        async with gate:
            begun.append(number)
            await ends[number].wait()

    visits = [asyncio.create_task(visit(number)) for number in range(len(ends))]
    await asyncio.sleep(0.01)
    assert begun == list(range(PLACES))
    visits[PLACES].cancel()  # while it waits
    ends[0].set()
    await asyncio.sleep(0.01)
    assert begun == [*range(PLACES), PLACES + 1]
    ends[1].set()
    await visits[1]
    visits[PLACES + 2].cancel()  # when it is let in, and does not know yet
    await asyncio.gather(*visits[PLACES:][::2], return_exceptions=True)
    for each in ends:
        each.set()
    await asyncio.gather(*visits, return_exceptions=True)
    for _ in range(PLACES):
        await asyncio.wait_for(gate.__aenter__(), 60)
