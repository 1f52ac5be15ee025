"""Monitors that lie, flood and die starve no neighbour: honest VMs beside them are served as soon as in calm.

`make test` plays a few of the cast, `make hostile` all of it, in groups and at once.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.hostile.monitors import CAST
from tests.hostile.neighbours import Neighbours, neighbours, played
from tests.rigs.monitored import MEBIBYTE
from tests.rigs.scenes import play

PERIOD_S = 0.5
QUICK_PERIOD_S = 0.3
ALL_PERIOD_S = 1.0  # seventy processes share a few processors
GROWTH_MAX_BYTES = 64 * MEBIBYTE
LATER_PERIODS_MAX = 2.0
STATUS_S_MAX = 2.0
_GROUP = 9
_NAMES = sorted(CAST)
FEW = (
    "AnotherEachTime",
    "BaseOfHalfAnExbibyte",
    "ClosesInTheMiddle",
    "FloodOfLargeResets",
    "FloodOfReplies",
    "GreetsNever",
    "MappedInPieces",
    "RepliesLists",
    "ReplacesItsSocket",
    "ReportNegative",
    "SizeOfHalfAnExbibyte",
)


async def rounds(beside: Neighbours, count: int) -> list[float]:
    """Play rounds, each after a while in which everybody settles; return how long each took, in periods."""
    took: list[float] = []
    for _ in range(count):
        await beside.manager.sweeps(4)
        await beside.status()
        took.append(await beside.round())
    return took


async def until_named(beside: Neighbours, names: Sequence[str]) -> dict[str, str]:
    """Look until the manager has said of each monitor what it does; return what it says of those missing."""
    missing = {name: "" for name in names if CAST[name].said}
    for _ in range(60):
        status = await beside.status()
        for name in list(missing):
            missing[name] = beside.said_of(name, status)
            if re.search(CAST[name].said, missing[name]):
                del missing[name]
        if not missing:
            break
        await asyncio.sleep(PERIOD_S)
    return missing


async def scene(
    folder: Path,
    names: Sequence[str],
    period_s: float = PERIOD_S,
    times: int = 4,
    of: Callable[[list[float]], float] = max,
) -> None:
    """Play it; `of` is which of the rounds with hostile monitors counts."""
    async with neighbours(folder, names, period_s) as beside:
        async with played(folder, names, honest=True):
            calm = max(await rounds(beside, 2))
        beside.begin_again()
        before = beside.resident_bytes()
        async with played(folder, names):
            hostile = of(await rounds(beside, times))
            missing = await until_named(beside, names)
        assert missing == {}
        assert beside.silent == []
        assert beside.said_of_the_honest() == []
        assert hostile <= calm + LATER_PERIODS_MAX
        assert beside.resident_bytes("VmHWM") - before <= GROWTH_MAX_BYTES
        assert beside.slowest_status_s <= STATUS_S_MAX
        assert not [line for line in beside.manager.lines if "Traceback" in line or "never retrieved" in line]


def test_beside_some_hostile_monitors_honest_vms_are_served_as_soon_as_in_calm(tmp_path: Path) -> None:
    # The quicker of two: on a busy machine the floods, which are played here, and the rest of the suite hold
    # each other up for seconds. Whoever starves honest VMs does it in both; `make hostile` takes the slowest.
    play(scene(tmp_path, FEW, QUICK_PERIOD_S, 2, min))


@pytest.mark.hostile
@pytest.mark.parametrize("names", [_NAMES[at : at + _GROUP] for at in range(0, len(_NAMES), _GROUP)])
def test_beside_a_group_of_hostile_monitors_honest_vms_are_served_as_soon_as_in_calm(
    names: list[str], tmp_path: Path
) -> None:
    play(scene(tmp_path, names))


@pytest.mark.hostile
def test_beside_all_hostile_monitors_at_once_honest_vms_are_served_as_soon_as_in_calm(tmp_path: Path) -> None:
    assert len(_NAMES) >= 40
    play(scene(tmp_path, _NAMES, ALL_PERIOD_S))
