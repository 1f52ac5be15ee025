"""What a day of 60 VMs costs to simulate under each rule: processor time, from a part of it.

Rows of a minute, as a week of a history has them; the levels of all VMs wander, and each minute has its peak.
The parts of a longer time are played side by side, one on each processor.
"""

import random
import time
from collections.abc import Iterator

from bench.figures import Figure
from dynmem.simulation.load import Load, VmLoad
from dynmem.simulation.play import parts, played
from dynmem.simulation.rules import RULES
from dynmem.simulation.stage import Guests
from dynmem.units import GIB, MIB, PAGE_SIZE

VMS = 60
MINUTES = 20
# Ten more are played before what is measured.
SETTLING_MINUTES = 10
GUESTS = Guests(64 * MIB // PAGE_SIZE // 10, 1000 * MIB // PAGE_SIZE // 10)


def load(minutes: int) -> Load:
    """Return VMs of 4 GiB that need between a tenth and a half of that."""
    vms = []
    for number in range(1, VMS + 1):
        source, vm = random.Random(number), VmLoad(number, 512 * MIB, 4 * GIB, reserve_bytes=64 * MIB)
        level = source.uniform(0.1, 0.5)
        for minute in range(minutes):
            level = max(0.1, min(0.5, level + source.uniform(-0.02, 0.02)))
            mean = int(level * 4 * GIB) // PAGE_SIZE
            spread = source.uniform(0, 0.04)
            vm.add(minute * 600, 600, mean, int(mean * (1 - spread)), int(mean * (1 + 3 * spread)))
        vms.append(vm)
    return Load(VMS * GIB * 7 // 4, 4 * GIB, minutes * 600, vms, 600)


def run() -> Iterator[Figure]:
    """Play a part of a day under each rule."""
    made = load(MINUTES)
    for rule in RULES:
        (part,) = parts(made, (rule,), GUESTS, 1)
        begin = time.process_time()
        played(part)
        spent = time.process_time() - begin
        yield Figure(
            f"a day under {rule}", spent * 24 * 60 / (MINUTES + SETTLING_MINUTES), "s of a processor"
        )
