"""Simulated hosts on which not all VMs fit, even at their minimums: who does not is never grown."""

from random import Random

import msgspec
import pytest

from dynmem.sim.world import World, draw_world
from dynmem.units import MIB


def crowded(seed: int) -> World:
    """The world of a seed with minimums of nine tenths of the maximums, and VMs that start unasked."""
    drawn = draw_world(seed)
    for part in drawn.parts:
        minimum = part.config.maximum_bytes * 9 // 10 // MIB * MIB
        part.config = msgspec.structs.replace(part.config, minimum_bytes=minimum)
    return World(drawn.parts, drawn.settings, random=Random(seed), admit=False)


@pytest.mark.parametrize("seed", range(4))
def test_on_a_host_that_is_too_full_no_invariant_breaks_and_somebody_is_never_grown(seed: int) -> None:
    world = crowded(seed)
    world.run(20)
    books = [vm.books for vm in world.manager.status().vms if vm.books is not None]
    assert {each.may_allocate for each in books} == {True, False}
    assert all(bool(each.may_not_allocate_why) is not each.may_allocate for each in books)
    world.restart_manager()
    world.run(8)
