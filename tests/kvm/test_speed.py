"""How fast a stock guest starts, gives memory, gets it back and gets more: ours beside QEMU's two balloons.

All in one run, with the same kernel and as much memory, all of it memory files of pages of 4 KiB, and after
the guest has written to what it then gives. Free page reporting is off: it would leave nothing to take.
QEMU's hv-balloon keeps its first request for 50 s, and is measured after that.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from tests.kvm.figures import Figures
from tests.kvm_rig.guests import (
    BALLOON,
    MIB,
    Guest,
    qemu_command,
    qemu_virtio_command,
    running,
    stock_command,
)
from tests.kvm_rig.place import all_kernels
from tests.kvm_rig.shell import READY_S

from dynmem.units import GIB

_BOOT_MIB: Final = 192
_BOOT: Final = _BOOT_MIB * MIB
_MOVED: Final = 64 * MIB
_WRITTEN_MIB: Final = 100  # almost all that is free
_ADDED: Final = 256 * MIB
_ROUNDS: Final = 2
_SETTLED_S: Final = 0.3
_BESIDE_VIRTIO: Final = 1.0  # 1.9 to 13 were measured


def _ours(folder: Path) -> list[str]:
    device = f"{BALLOON},free-page-reporting=off"
    return stock_command(folder, all_kernels()[-1], memory=f"{_BOOT_MIB}M,maxmem=1G", device=device)


_VIRTIO: Final = "QEMU's virtio-balloon"
_SIDES: Final[dict[str, Callable[[Path], list[str]]]] = {
    "ours": _ours,
    "QEMU's hv-balloon": lambda folder: qemu_command(folder, all_kernels()[-1], memory_mib=_BOOT_MIB),
    _VIRTIO: lambda folder: qemu_virtio_command(folder, all_kernels()[-1], memory_mib=_BOOT_MIB),
}


class Rates(NamedTuple):
    """Bytes a second, over all rounds.

    Attributes:
        shrink: From the order until monitor and host say that the memory is there.
        give_back: From the order until the guest itself has it free.
    """

    shrink: float
    give_back: float


async def seconds_to_shrink(guest: Guest) -> float:
    """Take memory; return how long it is until the host has the last of it."""
    before, begun = guest.resident_bytes(), time.monotonic()
    await guest.balloon(_BOOT - _MOVED)
    resident, done = guest.resident_bytes(), time.monotonic()
    while time.monotonic() < done + _SETTLED_S:
        if (now := guest.resident_bytes()) < resident:
            resident, done = now, time.monotonic()
        await asyncio.sleep(0.01)
    assert before - resident > _MOVED // 2  # not all that is free was ever used
    return done - begun


async def seconds_to_grow(guest: Guest, size: int, figure: str, value: int) -> float:
    """Return how long it is from an order until a figure of the guest's /proc/meminfo has a value.

    Monitors differ on when a guest has what it was given: QEMU's hv-balloon counts it as soon as it is sent.
    """
    begun = time.monotonic()
    await guest.order(size)
    while await guest.meminfo(figure) < value:
        assert time.monotonic() < begun + READY_S, f"{figure} stays below {value}"
    return time.monotonic() - begun


async def rates(guest: Guest) -> Rates:
    """Measure a guest."""
    await guest.balloon(_BOOT - MIB)  # QEMU's hv-balloon keeps its first request
    await guest.balloon(_BOOT)
    write = f"dd if=/dev/zero of=/tmp/file bs=1M count={_WRITTEN_MIB} 2>/dev/null; rm /tmp/file"
    shrinks, returns = 0.0, 0.0
    for _ in range(_ROUNDS):
        await guest.shell.sh(write)
        free = await guest.meminfo("MemFree")
        shrinks += await seconds_to_shrink(guest)
        returns += await seconds_to_grow(guest, _BOOT, "MemFree", free - _MOVED // 8)
    return Rates(_ROUNDS * _MOVED / shrinks, _ROUNDS * _MOVED / returns)


async def hot_add_rate(guest: Guest) -> float:
    """Return how many bytes a second a guest gets beyond its boot size."""
    total = await guest.meminfo("MemTotal")
    return _ADDED / await seconds_to_grow(guest, _BOOT + _ADDED, "MemTotal", total + _ADDED * 9 // 10)


@pytest.mark.soak  # a comparison of times: for a machine that does nothing else, and so not for the gate
def test_a_stock_guest_gives_memory_faster_than_with_virtio_balloon(folder: Path, figures: Figures) -> None:
    async def scene() -> None:
        measured: dict[str, Rates] = {}
        for name, command in _SIDES.items():
            place = folder / str(len(measured))
            place.mkdir()
            begun = time.monotonic()
            async with running(place, command(place)) as guest:
                figures.add(f"{name}: start to drivers loaded", time.monotonic() - begun, "s")
                side = measured[name] = await rates(guest)
                figures.add(f"{name}: shrink", side.shrink / GIB, "GiB/s")
                figures.add(f"{name}: give back", side.give_back / GIB, "GiB/s")
                if name != _VIRTIO:
                    figures.add(f"{name}: hot add", await hot_add_rate(guest) / GIB, "GiB/s")
        ours = measured.pop("ours")
        for name, side in measured.items():
            least = _BESIDE_VIRTIO if name == _VIRTIO else None
            figures.add(f"ours beside {name}: shrink", ours.shrink / side.shrink, "x", at_least=least)
            figures.add(f"ours beside {name}: give back", ours.give_back / side.give_back, "x")

    asyncio.run(scene())
    assert figures.missed == []
