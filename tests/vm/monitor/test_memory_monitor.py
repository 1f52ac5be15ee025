"""A whole machine over its monitor: memory given back for good, a DIMM's life, and what it says of itself."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import ExecuteError
from tests.rigs.processes import descriptors, memory_files
from tests.rigs.scenes import play, until
from tests.rigs.vms import BALLOON, MIB, Vm, running

BOOT = 256 * MIB
ADDED = "memfd:hv-balloon-memory"


def played(
    tmp_path: Path, scene: Callable[[Vm, Any], Awaitable[None]], *, memory: str, guest: str = "embedded"
) -> None:
    async def story() -> None:
        async with running(tmp_path, memory=memory, device=BALLOON, guest=guest) as (vm, client):
            await scene(vm, client)

    play(story())


def resident(vm: Vm, name: str) -> int:
    """What a memory file of the machine's occupies."""
    return sum(memory_files(vm.process.pid, name).values())


def test_memory_that_was_added_is_given_back_for_good_and_the_host_has_it(tmp_path: Path) -> None:
    wish = tmp_path / "wish"
    wish.write_text("8M")

    async def scene(vm: Vm, client: Any) -> None:
        async def plugged() -> int:
            return int((await client.execute("query-memory-size-summary"))["plugged-memory"])

        async def holds(megabytes: int) -> None:
            wish.write_text(f"{megabytes}M")
            await until(vm.console)
            await until(lambda: abs(vm.console()[-1]["held_pages"] * 4096 - megabytes * MIB) < 8 * MIB)

        await client.execute("balloon", {"value": 1024 * MIB})
        await until(lambda: _is(plugged, 768 * MIB))
        await holds(800)  # the guest uses what was added, then leaves it
        used = resident(vm, ADDED)
        assert used > 400 * MIB
        await holds(8)
        assert resident(vm, ADDED) == used
        with client.listener("X_HV_BALLOON_HOT_REMOVED") as listener:
            assert await client.execute("x-hot-remove", {"size": 512 * MIB}) == {}
            removed = (await listener.get())["data"]
            assert removed == {"id": "hvb", "asked": 512 * MIB, "removed": 512 * MIB}
        last = (await client.execute("x-query-hv-balloon"))["operations"][-1]
        asked = dict.fromkeys(("asked", "posted", "answered"), 512 * MIB)
        assert last == {"kind": "hot remove", **asked, "outcome": "done"}
        await until(lambda: _is(plugged, 256 * MIB))
        assert await client.execute("query-balloon") == {"actual": 512 * MIB}
        await until(lambda: resident(vm, ADDED) <= 256 * MIB)
        await until(lambda: vm.console()[-1]["total_pages"] * 4096 == 512 * MIB)

    guest = f"embedded,workload=told,path={wish},rate=4GiB"
    played(tmp_path, scene, memory="256M,maxmem=2G", guest=guest)


async def _is(told: Callable[[], Awaitable[int]], expected: int) -> bool:
    return await told() == expected


def test_a_dimm_comes_and_goes_while_the_guest_runs(tmp_path: Path) -> None:
    async def scene(vm: Vm, client: Any) -> None:
        def guest_has(size: int) -> Callable[[], bool]:
            return lambda: bool(vm.console()) and vm.console()[-1]["total_pages"] * 4096 == size

        await until(guest_has(BOOT))
        memory = {"qom-type": "memory-backend-ram", "id": "more", "size": 128 * MIB}
        await client.execute("object-add", memory)
        await client.execute("device_add", {"driver": "pc-dimm", "id": "d", "memdev": "more"})
        await until(guest_has(BOOT + 128 * MIB))
        with pytest.raises(ExecuteError, match="object 'more' is in use, can not be deleted"):
            await client.execute("object-del", {"id": "more"})
        with client.listener(("DEVICE_DELETED",)) as listener:
            await client.execute("device_del", {"id": "d"})
            event = await asyncio.wait_for(listener.get(), 100)
        assert event["data"] == {"device": "d", "path": "/machine/peripheral/d"}
        await until(guest_has(BOOT))
        with pytest.raises(ExecuteError, match="Device 'd' not found"):
            await client.execute("device_del", {"id": "d"})
        assert any("memfd:more" in name for name in descriptors(vm.process.pid))
        await client.execute("object-del", {"id": "more"})
        assert not any("memfd:more" in name for name in descriptors(vm.process.pid))
        assert await client.execute("x-query-faults") == []

    played(tmp_path, scene, memory="256M,maxmem=2G,slots=2")


def fits(schema: dict[str, Any], name: str, value: Any) -> bool:
    """Whether a value is what the schema's type `name` says, as a client of QEMU's reads it."""
    entry = schema[name]
    kind = entry["meta-type"]
    if kind == "builtin":
        types = {"string": str, "int": int, "boolean": bool, "value": object}
        return isinstance(value, types[entry["json-type"]])
    if kind == "enum":
        return value in [member["name"] for member in entry["members"]]
    if kind == "array":
        return all(fits(schema, entry["element-type"], item) for item in value)
    members = list(entry["members"])
    for variant in entry.get("variants", []):
        if variant["case"] == value[entry["tag"]]:
            members += schema[variant["type"]]["members"]
    wanted = {member["name"] for member in members if "default" not in member}
    types_of = {member["name"]: member["type"] for member in members}
    return wanted <= set(value) <= set(types_of) and all(
        fits(schema, types_of[key], item) for key, item in value.items()
    )


def test_every_answer_and_event_of_a_running_machine_is_what_its_schema_says(tmp_path: Path) -> None:
    async def scene(vm: Vm, client: Any) -> None:
        told = await client.execute("query-qmp-schema")
        schema = {entry["name"]: entry for entry in told}
        events: list[Any] = []
        with client.listener() as listener:
            await client.execute("balloon", {"value": 512 * MIB})
            await until(lambda: bool(vm.console()) and vm.console()[-1]["total_pages"] * 4096 == 512 * MIB)
            await client.execute("stop")
            await client.execute("cont")
            await client.execute("system_reset")
            for wanted in (
                "MEMORY_DEVICE_SIZE_CHANGE",
                "STOP",
                "RESUME",
                "RESET",
                "HV_BALLOON_STATUS_REPORT",
            ):
                while not any(event["event"] == wanted for event in events):
                    events.append(await asyncio.wait_for(listener.get(), 100))
        for event in events:
            assert fits(schema, schema[event["event"]]["arg-type"], event.get("data", {})), event
        names = [command["name"] for command in await client.execute("query-commands")]
        assert sorted(names) == sorted(
            name for name, entry in schema.items() if entry["meta-type"] == "command"
        )
        refused = {"query-hv-balloon-status-report", "query-acpi-ospm-status"}  # by this machine
        for name in names:
            if "query-" in name and name not in refused:
                answer = await client.execute(name)
                assert fits(schema, schema[name]["ret-type"], answer), (name, json.dumps(answer))

    played(tmp_path, scene, memory="256M,maxmem=2G")
