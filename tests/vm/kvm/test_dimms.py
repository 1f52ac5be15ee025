"""DIMMs of a guest with its own kernel, some hundred bytes that drive the slots, on this host's KVM."""

import asyncio
from pathlib import Path
from typing import Any

from qemu.qmp import EventListener
from tests.rigs.assembled import assemble
from tests.rigs.mini_guest import needs_kvm
from tests.rigs.scenes import play, until
from tests.rigs.vms import running

pytestmark = needs_kvm

SOURCE = Path(__file__).parents[2] / "rigs" / "dimm_guest.S"


def status(device: str | None, slot: int, code: int) -> dict[str, Any]:
    """What ACPI_DEVICE_OST says of an ejection."""
    info: dict[str, Any] = {"slot": str(slot), "slot-type": "DIMM", "source": 3, "status": code}
    return {"info": info if device is None else {"device": device, **info}}


def test_dimms_come_at_the_start_and_later_are_refused_and_ejected_and_stay_over_a_reset(
    tmp_path: Path,
) -> None:
    kernel = tmp_path / "kernel"
    assemble(SOURCE, kernel)
    options = ["-kernel", str(kernel), "--device", "pc-dimm,id=first,memdev=a,slot=1"]
    for name in ("a", "b"):
        options += ["--object", f"memory-backend-memfd,id={name},size=128M"]

    async def scene() -> None:
        async with running(tmp_path, memory="32M,maxmem=1G,slots=2", guest=None, options=tuple(options)) as (
            vm,
            client,
        ):
            events = EventListener(("ACPI_DEVICE_OST", "DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR"))
            client.register_listener(events)

            async def shows(text: str) -> None:
                await until(lambda: vm.serial.exists() and vm.serial.read_text() == text)

            async def came(count: int) -> list[tuple[str, Any]]:
                found = [await asyncio.wait_for(events.get(), 60) for _ in range(count)]
                return [(str(event["event"]), event["data"]) for event in found]

            await shows("=1.")
            assert await client.execute("query-balloon") == {"actual": 160 << 20}
            await client.execute("device_add", {"driver": "pc-dimm", "id": "second", "memdev": "b"})
            await shows("=1.+0")
            await client.execute("device_del", {"id": "first"})
            path = "/machine/peripheral/first"
            assert await came(2) == [
                ("ACPI_DEVICE_OST", status("first", 1, 0x82)),
                ("DEVICE_UNPLUG_GUEST_ERROR", {"device": "first", "path": path}),
            ]
            await client.execute("device_del", {"id": "first"})
            await shows("=1.+0!1-1")
            assert await came(3) == [
                ("ACPI_DEVICE_OST", status("first", 1, 0x84)),
                ("DEVICE_DELETED", {"device": "first", "path": path}),
                ("ACPI_DEVICE_OST", status(None, 1, 0)),
            ]
            assert await client.execute("query-acpi-ospm-status") == [
                {"device": "second", "slot": "0", "slot-type": "DIMM", "source": 0, "status": 0},
                status(None, 1, 0)["info"],
            ]
            await client.execute("object-del", {"id": "a"})
            await client.execute("system_reset")
            await shows("=1.+0!1-1=0.")
            devices = await client.execute("query-memory-devices")
            assert [each["data"]["id"] for each in devices if each["type"] == "dimm"] == ["second"]

    play(scene())
