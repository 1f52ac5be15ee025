"""A guest is taken past its boot size and back, and everybody's figures are held against each other."""

import asyncio
from pathlib import Path

import pytest
from tests.accept.memory import GIB, MIB, Plan, run


def test_a_guest_grows_past_its_boot_size_and_shrinks_below_it_without_a_wrong_byte(tmp_path: Path) -> None:
    plan = Plan(maximum=2 * GIB, top=640 * MIB, rounds=2)
    steps = asyncio.run(run(tmp_path, plan, print))
    assert [step.name for step in steps] == ["bottom", "top", "bottom", "top", "bottom"]


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_rounds_between_128_mib_and_4_gib_lose_nothing(tmp_path: Path) -> None:
    asyncio.run(run(tmp_path, Plan(rounds=100), print))
