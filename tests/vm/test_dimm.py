"""DIMMs of a machine with a real guest: plugged at the start or while it runs, and unplugged by its leave."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.rigs.scenes import play, until

from dynmem.space.region import MemoryDeviceError
from dynmem.units import GIB, MIB
from dynmem.vm.dimms import DeviceError, NoSuchDeviceError
from dynmem.vm.embedded.guest import EmbeddedGuest
from dynmem.vm.machine import Machine
from dynmem.vm.objects import ObjectError
from dynmem.vm.options.console import ConsoleKind, ConsoleOptions
from dynmem.vm.options.machine import BalloonOptions, GuestOptions, VmOptions
from dynmem.vm.options.memory import BackendOptions, DimmOptions, MemoryOptions

BOOT = 64 * MIB
SIZE = 128 * MIB
Event = tuple[str, Mapping[str, object]]


def backend(identity: str, size: int = SIZE) -> BackendOptions:
    return BackendOptions("memory-backend-ram", identity, size)


class Rig:
    """A machine in this process; its guest is a process of its own."""

    def __init__(self, folder: Path, *, dimms: tuple[DimmOptions, ...], workload: str) -> None:
        self.console = folder / "serial"
        self.events: list[Event] = []
        options = VmOptions(
            name="one",
            memory=MemoryOptions(BOOT, 2 * GIB, 3),
            objects=tuple(backend(identity) for identity in ("a", "b", "c", "d")),
            balloon=BalloonOptions(),
            dimms=dimms,
            guest=GuestOptions(workload),
            console=ConsoleOptions(ConsoleKind.FILE, self.console),
        )
        self.machine = Machine(options, self._emit)

    def _emit(self, event: str, data: Mapping[str, object] | None = None) -> None:
        self.events.append((event, data or {}))

    def heard(self, name: str) -> list[Mapping[str, object]]:
        return [data for event, data in self.events if event == name]

    def report(self) -> dict[str, Any]:
        """The guest's last whole line; nothing before there is one."""
        lines = self.console.read_text().splitlines(keepends=True) if self.console.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        return dict(json.loads(whole[-1])) if whole else {}

    def total_is(self, size: int) -> Callable[[], bool]:
        return lambda: self.report().get("total_pages") == size // 4096


@contextlib.asynccontextmanager
async def started(
    folder: Path, *, dimms: tuple[DimmOptions, ...] = (), workload: str = "idle"
) -> AsyncIterator[Rig]:
    rig = Rig(folder, dimms=dimms, workload=workload)
    try:
        await rig.machine.start()
        await until(rig.report)
        yield rig
    finally:
        await rig.machine.close()


def test_a_dimm_that_is_there_at_the_start_is_memory_from_boot_on_and_after_a_reset(tmp_path: Path) -> None:
    async def scene() -> None:
        async with started(tmp_path, dimms=(DimmOptions("a", "dimm1"),)) as rig:
            await until(rig.total_is(BOOT + SIZE))
            guest = rig.machine.platform
            assert isinstance(guest, EmbeddedGuest)
            pid = guest.pid
            rig.machine.reset()
            await until(lambda: rig.heard("RESET"))
            assert guest.pid != pid
            await until(rig.total_is(BOOT + SIZE))
            assert rig.machine.balloon is not None
            assert rig.machine.balloon.actual_bytes == BOOT + SIZE

    play(scene())


def test_a_dimm_may_be_plugged_while_the_guest_boots(tmp_path: Path) -> None:
    async def scene() -> None:
        rig = Rig(tmp_path, dimms=(), workload="idle")
        try:
            await rig.machine.start()
            for identity in ("a", "b"):
                rig.machine.dimms.plug(DimmOptions(identity))
                await asyncio.sleep(0.1)
            await until(rig.total_is(BOOT + 2 * SIZE))
        finally:
            await rig.machine.close()

    play(scene())


def test_dimms_come_and_go_while_the_guest_runs_and_no_byte_is_wrong(tmp_path: Path) -> None:
    async def scene() -> None:
        workload = "sine,period=400ms,low=2%,high=30%,rate=2GiB"
        async with started(tmp_path, workload=workload) as rig:
            machine = rig.machine
            for identity in ("a", "b", "c"):
                machine.dimms.plug(DimmOptions(identity, f"dimm-{identity}"))
            assert not {"a", "b", "c"} - {name for name in machine.objects if machine.objects.is_busy(name)}
            with pytest.raises(ObjectError, match="object 'a' is in use, can not be deleted"):
                machine.objects.remove("a")
            await until(rig.total_is(BOOT + 3 * SIZE))
            machine.dimms.request_unplug("dimm-b")
            machine.dimms.request_unplug("dimm-b")  # the same request
            assert machine.dimms.is_unplugging("dimm-b")
            await until(lambda: rig.heard("DEVICE_DELETED"))
            assert rig.heard("DEVICE_DELETED") == [{"device": "dimm-b", "path": "/machine/peripheral/dimm-b"}]
            await until(rig.total_is(BOOT + 2 * SIZE))
            machine.objects.remove("b")
            machine.objects.make(backend("b"))
            machine.dimms.plug(DimmOptions("b"))
            await until(rig.total_is(BOOT + 3 * SIZE))
            machine.dimms.request_unplug("device[0]")
            await until(lambda: len(rig.heard("DEVICE_DELETED")) == 2)
            assert rig.heard("DEVICE_DELETED")[1] == {"path": "/machine/peripheral-anon/device[0]"}
            await until(rig.total_is(BOOT + 2 * SIZE))
            assert rig.report()["wrong_bytes"] == 0

    play(scene())


def test_a_guest_keeps_a_dimm_while_the_balloon_has_pages_of_it(tmp_path: Path) -> None:
    async def scene() -> None:
        async with started(tmp_path, dimms=(DimmOptions("a", "x"),)) as rig:
            machine = rig.machine
            assert machine.balloon is not None
            await until(rig.total_is(BOOT + SIZE))
            machine.balloon.set_target(80 * MIB)
            await until(lambda: machine.balloon is not None and machine.balloon.actual_bytes == 80 * MIB)
            machine.dimms.request_unplug("x")
            await until(lambda: rig.heard("DEVICE_UNPLUG_GUEST_ERROR"))
            assert rig.heard("DEVICE_UNPLUG_GUEST_ERROR") == [
                {"device": "x", "path": "/machine/peripheral/x"}
            ]
            assert machine.balloon.actual_bytes == 80 * MIB
            machine.balloon.set_target(BOOT + SIZE)
            await until(lambda: machine.balloon is not None and machine.balloon.actual_bytes == BOOT + SIZE)
            machine.dimms.request_unplug("x")  # it may be asked again
            await until(lambda: rig.heard("DEVICE_DELETED"))
            assert machine.balloon.actual_bytes == BOOT

    play(scene())


def test_what_cannot_be_plugged_changes_nothing(tmp_path: Path) -> None:
    async def scene() -> None:
        async with started(tmp_path, dimms=(DimmOptions("a", "x", slot=0),)) as rig:
            machine = rig.machine
            wrong: list[tuple[DimmOptions, type[Exception], str]] = [
                (DimmOptions("b", "x"), DeviceError, "Duplicate device ID 'x'"),
                (DimmOptions("b", "hv-balloon"), DeviceError, "Duplicate device ID 'hv-balloon'"),
                (DimmOptions("nix", "y"), NoSuchDeviceError, "Device 'nix' not found"),
                (DimmOptions("a", "y"), MemoryDeviceError, "can't use already busy memdev: a"),
                (DimmOptions("b", "y", slot=0), MemoryDeviceError, "slot 0 is busy"),
                (DimmOptions("b", "y", slot=3), MemoryDeviceError, "invalid slot number 3"),
                (DimmOptions("b", "y", address=GIB), MemoryDeviceError, "usable range for memory devices"),
            ]
            for options, kind, text in wrong:
                with pytest.raises(kind, match=text):
                    machine.dimms.plug(options)
                assert not machine.objects.is_busy("b")
                assert list(machine.dimms.by_name) == ["x"]
            with pytest.raises(NoSuchDeviceError, match="Device 'y' not found"):
                machine.dimms.request_unplug("y")
            machine.dimms.plug(DimmOptions("b", "y"))
            machine.dimms.plug(DimmOptions("c", "z"))
            with pytest.raises(MemoryDeviceError, match="no free slots available"):
                machine.dimms.plug(DimmOptions("d"))
            await until(rig.total_is(BOOT + 3 * SIZE))

    play(scene())


def test_a_request_that_the_old_guest_did_not_answer_is_forgotten_with_it(tmp_path: Path) -> None:
    async def scene() -> None:
        async with started(tmp_path, dimms=(DimmOptions("a", "x"),)) as rig:
            await rig.machine.stop()
            rig.machine.dimms.request_unplug("x")
            rig.machine.reset()
            await until(lambda: rig.heard("RESET"))
            assert not rig.machine.dimms.is_unplugging("x")
            rig.machine.resume()
            rig.machine.dimms.request_unplug("x")
            await until(lambda: rig.heard("DEVICE_DELETED"))

    play(scene())
