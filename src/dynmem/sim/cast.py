"""The cast: guests that behave well and guests that do not, each drawn from a seed."""

from random import Random
from typing import Final

from dynmem.manager.step.facts import VmConfig
from dynmem.policy import PRIORITIES
from dynmem.sim.guest import MIB_PAGES, TICKS_PER_S, Character, Curve
from dynmem.units import MIB, PAGE_SIZE

CAST: Final = (
    Character("normal"),
    Character("growing", grow_per_tick=5 * MIB_PAGES),
    Character("slow", give_per_tick=2 * MIB_PAGES),
    Character("late", lag_ticks=12),
    Character("trickling", trickles=True),
    Character("dozing", dozes=True),
    Character("partly", own_floor_percent=60),
    Character("stubborn", own_floor_percent=100),
    Character("waking", first_report_ticks=150),
    Character("understating", report_percent=40),
    Character("overstating", report_percent=300),
    Character("keeping", keeps=True),
    Character("boasting", boasts=True),
    Character("silent", silent=True),
    Character("pausing", pauses=True),
    Character("mortal", dies=True),
    Character("resetting", resets=True),
    # what is documented of Windows (docs/windows.md) and matters here; it commits more than it uses, and
    # touches all of its memory when it boots (virtio-win/kvm-guest-drivers-windows, issues 821 and 964)
    Character("windows", settles_ticks=500, gives_whole=True, touches_all=True, report_percent=130),
)


def character(name: str) -> Character:
    """Return one of the cast by name."""
    return next(each for each in CAST if each.name == name)


def draw_config(index: int, random: Random) -> VmConfig:
    """Return the configuration of a VM of 256 MiB to 1 GiB."""
    maximum = random.randrange(128, 513) * 2 * MIB
    return VmConfig(
        name=f"vm{index}",
        minimum_bytes=random.randrange(64, 129) * MIB,
        maximum_bytes=maximum,
        buffer_percent=random.choice((0, 10, 20, 50)),
        weight=random.randrange(1, 10_001),
        priority=random.choice(PRIORITIES[::-1]),
    )


def draw_curve(config: VmConfig, random: Random) -> Curve:
    """Return a load that steps between 5 % and 80 % of the maximum and holds each level for a while."""
    pages = config.maximum_bytes // PAGE_SIZE
    hold = random.randrange(5, 31) * TICKS_PER_S
    offset = random.randrange(hold)
    levels = tuple(pages * random.randrange(5, 81) // 100 for _ in range(8))

    def curve(now: int) -> int:
        return levels[(now + offset) // hold % len(levels)]

    return curve


def constant(pages: int) -> Curve:
    """Return a load that never changes."""

    def curve(_: int) -> int:
        return pages

    return curve
