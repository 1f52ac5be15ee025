"""The manager over stock guests of two monitors at once: two on ours, and one on QEMU's own hv-balloon.

Memory goes to the guest whose load rises, and comes from those whose load is over; one guest starts again
meanwhile. What is true is asked of all that know it: `dynmem status`, the monitors, the guests, the host.

QEMU's hv-balloon can abort when a target is set (honesty.md), so the manager has leave to stop that guest
meanwhile. It aborts also by a timer of its own, once, 50 s after the driver has started, if a message of the
guest is waiting then; its log of commands tells the two apart.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final

from tests.kvm_rig.guests import MIB, Guest, qemu_command, qmp_path, running, stock_command
from tests.kvm_rig.place import all_kernels
from tests.kvm_rig.shell import READY_S
from tests.rigs.managers import RunningManager, cli, managing

from dynmem.manager.api.messages import StatusReply

_BOOT: Final = 320 * MIB
_MAXIMUM: Final = 448 * MIB  # one block of Linux more
_BUDGET: Final = 864 * MIB
_SLUSH: Final = 32 * MIB
_LEFT: Final = 16 * MIB  # what may be resident beyond a guest's size: what is being discarded
_LOAD_MIB: Final = 208
_STEP_MIB: Final = 26
_LOOK_S: Final = 0.5  # between two looks at what is waited for: in an emulated host, looking costs as well
# What the balloon takes is not written to first: emulated, that takes seconds, in which no other guest runs.
_APPEND: Final = "init_on_alloc=0"
_MONITOR: Final = "for-the-manager"
_COMMANDS: Final = "commands"
_ABORT: Final = "gpadl_iter_seek: Assertion `iter->active' failed"


def test_memory_moves_by_demand_between_stock_guests_of_our_monitor_and_of_qemus(folder: Path) -> None:
    first, second = folder / "1", folder / "2"
    try:
        _play(first)
    except Exception:
        if not _aborted_by_its_own_timer(first / "qemu"):
            raise
        _play(second)


def _play(folder: Path) -> None:
    async def scene() -> None:
        async with contextlib.AsyncExitStack() as stack:
            guests = await _guests(stack, folder)
            old, new, qemu = guests.values()
            manager = await stack.enter_async_context(managing(_configuration(folder, guests)))
            await _until(manager, lambda status: all(vm.standing == "movable" for vm in status.vms))
            await _until(manager, _fits)
            await _moves(manager, old, guests)
            await _empties(old)
            await _moves(manager, qemu, guests, meanwhile=_starts_again(manager, new))
            await _empties(qemu)
            await _moves(manager, new, guests)
            await _agree(manager, guests)
            await _releases(manager, guests)
            for guest in guests.values():
                assert await guest.shell.sh("grep ^oom_kill /proc/vmstat") == "oom_kill 0"
                assert await guest.complaints() == []

    folder.mkdir()
    asyncio.run(scene())


def _aborted_by_its_own_timer(place: Path) -> bool:
    """Return whether this QEMU aborted in its ring, and the last that it was told was not a target."""
    commands = (place / _COMMANDS).read_text(errors="replace").splitlines()
    return _ABORT in (place / "log").read_text(errors="replace") and '"balloon"' not in commands[-1]


async def _guests(stack: contextlib.AsyncExitStack, folder: Path) -> Mapping[str, Guest]:
    """Start the guests at once and return them by name when all have booted."""
    old, new = all_kernels()
    mib = _BOOT // MIB
    places = {name: folder / name for name in ("old", "new", "qemu")}
    for place in places.values():
        place.mkdir()
    memory = f"{mib}M,maxmem=1G"
    options = ["-qmp", f"unix:{places['qemu'] / _MONITOR},server=on,wait=off"]
    options += ["-trace", "handle_qmp_command", "-D", str(places["qemu"] / _COMMANDS)]
    commands = {
        "old": stock_command(places["old"], old, memory=memory, append=_APPEND),
        "new": stock_command(places["new"], new, memory=memory, append=_APPEND),
        "qemu": qemu_command(places["qemu"], new, memory_mib=mib, append=_APPEND, options=options),
    }
    guests = {
        name: await stack.enter_async_context(running(places[name], command, wait=False))
        for name, command in commands.items()
    }
    await asyncio.gather(*(guest.shell.ready() for guest in guests.values()))
    return guests


def _configuration(folder: Path, guests: Mapping[str, Guest]) -> Path:
    text = f"""
        [host]
        budget = {_BUDGET}
        slush = {_SLUSH}
        [manager]
        mode = "enforce"
        period = "2s"
        socket = "{folder}/run/api.sock"
        state = "{folder}/state"
    """
    for name, guest in guests.items():
        monitor = guest.folder / _MONITOR if name == "qemu" else qmp_path(guest.folder)
        text += f"""
        [[vm]]
        name = "{name}"
        qmp = "{monitor}"
        minimum = "128MiB"
        maximum = {_MAXIMUM}
        may_stop = {str(name == "qemu").lower()}
        """
    path = folder / "hosts.toml"
    path.write_text(text)
    return path


async def _until(manager: RunningManager, wanted: Callable[[StatusReply], object]) -> StatusReply:
    """Return the manager's status once it is as wanted."""
    deadline = time.monotonic() + READY_S
    while not wanted(status := await manager.status()):
        assert time.monotonic() < deadline, "\n".join([str(status), *manager.lines])
        await asyncio.sleep(_LOOK_S)
    return status


def _fits(status: StatusReply) -> bool:
    """Return whether the guests' sizes fit the budget, and the host has back what they do not have."""
    sizes = [(vm.actual_bytes or 0, vm.resident_bytes or 0) for vm in status.vms]
    return sum(size for size, _ in sizes) <= _BUDGET - _SLUSH and all(
        resident <= size + _LEFT for size, resident in sizes
    )


async def _moves(
    manager: RunningManager,
    guest: Guest,
    guests: Mapping[str, Guest],
    meanwhile: Coroutine[Any, Any, None] | None = None,
) -> None:
    """Load a guest: it gets more than it booted with, and each of the others has less."""
    total = await guest.meminfo("MemTotal")
    task = asyncio.create_task(meanwhile) if meanwhile is not None else None
    await _fills(guest)
    if task is not None:
        await task
    name = guest.folder.name

    def has_moved(status: StatusReply) -> bool:
        own, others = status.vm(name), [vm for vm in status.vms if vm.name != name]
        has_all = (own.actual_bytes or 0) > _BOOT and own.short_bytes == 0
        return has_all and all((vm.actual_bytes or 0) < _BOOT for vm in others) and _fits(status)

    await _until(manager, has_moved)
    assert await guest.meminfo("MemTotal") > total
    sizes = {each: await guests[each].actual() for each in guests}
    assert sizes[name] > _BOOT
    assert sum(sizes.values()) <= _BUDGET - _SLUSH


async def _fills(guest: Guest) -> None:
    """Fill a file in memory step by step, each when there is room for more than that."""
    deadline = time.monotonic() + READY_S
    for step in range(_LOAD_MIB // _STEP_MIB):
        while await guest.meminfo("MemAvailable") < 2 * _STEP_MIB * MIB:
            assert time.monotonic() < deadline, guest.said()
            await asyncio.sleep(_LOOK_S)
        await guest.shell.sh(f"dd if=/dev/zero of=/tmp/{step} bs=1M count={_STEP_MIB} 2>/dev/null")


async def _empties(guest: Guest) -> None:
    await guest.shell.sh("rm /tmp/*")


async def _starts_again(manager: RunningManager, guest: Guest) -> None:
    """Have a guest reboot: it counts with all that it boots with until it reports."""
    await guest.shell.send("0 reboot -f")
    assert (await guest.event("RESET"))["guest"] is True
    name = guest.folder.name
    counted = f"{name}: reset, counts {_BOOT // MIB} MiB until it reports"
    await _until(manager, lambda _: any(counted in line for line in manager.lines))
    await guest.shell.ready()
    await _until(manager, lambda status: status.vm(name).standing == "movable")


async def _agree(manager: RunningManager, guests: Mapping[str, Guest]) -> None:
    """What `dynmem status --json` shows is what monitors, host and guests say."""
    await manager.sweeps(2)
    code, out, _ = await cli("status", "--json", "--socket", manager.socket)
    assert code == 0
    for vm in json.loads(out)["vms"]:
        guest = guests[vm["name"]]
        assert vm["actual_bytes"] == await guest.actual()
        assert abs(vm["resident_bytes"] - guest.resident_bytes()) < 16 * MIB
        assert abs(vm["available_bytes"] - await guest.meminfo("MemAvailable")) < 32 * MIB


async def _releases(manager: RunningManager, guests: Mapping[str, Guest]) -> None:
    code, _, error = await cli("release", "--all", "--socket", manager.socket)
    assert code == 0, error
    await _until(manager, lambda status: all(vm.actual_bytes == _MAXIMUM for vm in status.vms))
    for guest in guests.values():
        assert await guest.actual() == _MAXIMUM
