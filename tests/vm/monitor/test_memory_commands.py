"""Objects, devices and their properties over the monitor, on a machine whose guest has not been started.

That the words are QEMU's is tested against a QEMU elsewhere.
"""

import asyncio
import contextlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rigs.machine_wide import huge_pages_held
from tests.rigs.own_process import mappings
from tests.rigs.scenes import play

from dynmem.memory import backend
from dynmem.memory.host_memory import HostMemory
from dynmem.qmp.command import checked_arguments, find_command
from dynmem.qmp.errors import QmpCommandError
from dynmem.qmp.types import read
from dynmem.units import GIB, MIB
from dynmem.vm.balloon.memory_device import HotAddedMemory
from dynmem.vm.machine import Machine
from dynmem.vm.monitor.commands import commands
from dynmem.vm.objects import ObjectError
from dynmem.vm.options.machine import BalloonOptions, VmOptions
from dynmem.vm.options.memory import BackendOptions, DimmOptions, MemoryOptions

BOOT = 64 * MIB
RAM: dict[str, object] = {"qom-type": "memory-backend-ram", "id": "r", "size": 128 * MIB}
MEMFD = RAM | {"qom-type": "memory-backend-memfd"}
OBJECTS = (
    BackendOptions("memory-backend-memfd", "plain", 128 * MIB),
    BackendOptions("memory-backend-ram", "small", 128 * MIB),
)
COMMANDS = (
    "device_add",
    "device_del",
    "object-add",
    "object-del",
    "qom-get",
    "qom-list",
    "qom-set",
    "x-hot-remove",
)
DIMM: dict[str, object] = {"driver": "pc-dimm", "id": "d", "memdev": "plain"}


class Monitor:
    """The commands of a machine, asked as a client asks, every answer held against the schema."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._commands = commands(machine)

    def __call__(self, name: str, arguments: Mapping[str, object] | None = None, **named: object) -> Any:
        command = find_command(self._commands, name)
        answer = command.run(checked_arguments(command, {**(arguments or {}), **named}))
        if inspect.iscoroutine(answer):
            answer = play(answer)
        read(command.returns, answer, "answer")
        return answer

    def problem(self, name: str, arguments: Mapping[str, object] | None = None, **named: object) -> str:
        """What is wrong with a command, which changes nothing."""
        before = self.everything()
        with pytest.raises(QmpCommandError) as error:
            self(name, arguments, **named)
        assert self.everything() == before
        found = error.value
        return found.desc if found.error_class == "GenericError" else f"{found.error_class}: {found.desc}"

    def everything(self) -> list[object]:
        return [
            self("query-memdev"),
            self("query-memory-devices"),
            self("query-memory-size-summary"),
            *(self("qom-list", path=path) for path in ("/objects", "/machine/peripheral")),
            self.machine.device_memory.slot_use,
            len(self.machine.memory.space.sections),
        ]

    def get(self, path: str, name: str) -> Any:
        return self("qom-get", path=path, property=name)


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Monitor]:
    options = VmOptions(
        name="one",
        memory=MemoryOptions(BOOT, 2 * GIB, 3),
        objects=(
            *OBJECTS,
            BackendOptions("memory-backend-ram", "first", 128 * MIB),
            BackendOptions("memory-backend-ram", "added", 256 * MIB),
        ),
        balloon=BalloonOptions("hvb", status_report=True, post_init_wait_ns=5_000_000, memdev="added"),
        dimms=(DimmOptions("first", "zero"),),
        log=tmp_path / "log",
    )
    machine = Machine(options, lambda *_: None)
    yield Monitor(machine)
    play(machine.close())


def test_an_object_that_is_made_can_be_read_and_deleted(monitor: Monitor) -> None:
    assert monitor("object-add", RAM, share=True, dump=False) == {}
    told = {memory["id"]: memory for memory in monitor("query-memdev")}["r"]
    assert told == {
        "id": "r",
        "size": 128 * MIB,
        "share": True,
        "dump": False,
        "merge": True,
        "prealloc": False,
        "reserve": True,
        "host-nodes": [],
        "policy": "default",
    }
    for name in set(told) - {"id"}:
        assert monitor.get("/objects/r", name) == told[name]
    assert monitor("object-del", id="r") == {}
    assert monitor.problem("object-del", id="r") == "object 'r' not found"
    assert monitor("object-add", MEMFD) == {}  # the name is free again
    assert monitor.get("r", "share") is True
    assert monitor.get("r", "type") == "memory-backend-memfd"


def test_memory_that_is_to_be_there_at_once_is_resident(monitor: Monitor) -> None:
    monitor("object-add", RAM, size=4 * MIB, prealloc=True)
    assert monitor.machine.objects["r"].resident_bytes() == 4 * MIB
    monitor("object-add", RAM, id="later", size=4 * MIB)
    assert monitor.machine.objects["later"].resident_bytes() == 0
    for value in (False, True, False):  # memory that is there stays
        monitor("qom-set", path="later", property="prealloc", value=value)
    assert monitor.machine.objects["later"].resident_bytes() == 4 * MIB
    assert monitor.get("later", "prealloc") is True


def objects_mapped(identity: str) -> int:
    return sum(f"/memfd:{identity} " in mapping for mapping in mappings())


def test_of_two_who_make_one_object_at_once_the_first_has_it_and_the_other_leaves_nothing(
    monitor: Monitor,
) -> None:
    objects = monitor.machine.objects
    wanted = [BackendOptions("memory-backend-ram", "r", size, prealloc=True) for size in (MIB, 2 * MIB)]

    async def race() -> list[object]:
        return await asyncio.gather(*map(objects.make_beside, wanted), return_exceptions=True)

    before = objects_mapped("r")
    found = play(race())
    assert [type(each) for each in found].count(ObjectError) == 1
    assert objects["r"] in found
    assert objects_mapped("r") == before + 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id": "plain"}, "attempt to add duplicate property 'plain' to object (type 'container')"),
        ({"id": "pc.ram"}, "attempt to add duplicate property 'pc.ram' to object (type 'container')"),
        ({"id": "5x"}, "Parameter 'id' expects an identifier"),
        ({"id": "a/b"}, "Parameter 'id' expects an identifier"),
        ({"size": "1M"}, "Parameter 'size' expects uint64"),
        ({"size": 0}, "property 'size' of memory-backend-ram doesn't take value '0'"),
        ({"size": -1}, "backend 'memory-backend-ram' memory size must be multiple of 4 KiB"),
        ({"size": 1 << 62}, "cannot set up guest memory 'r': Cannot allocate memory"),
        ({"share": 1}, "Invalid parameter type for 'share', expected: boolean"),
        ({"hugetlb": True}, "Parameter 'hugetlb' is unexpected"),
        ({"qom-type": "nix"}, "Parameter 'qom-type' does not accept value 'nix'"),
        (
            {"qom-type": "memory-backend-memfd", "hugetlb": True, "hugetlbsize": 0},
            "Property 'memory-backend-memfd.hugetlbsize' doesn't take value '0'",
        ),
        (
            {"qom-type": "memory-backend-memfd", "hugetlb": True, "hugetlbsize": 3 * MIB},
            "Hugepage size must be a power of 2",
        ),
        ({"qom-type": "memory-backend-file"}, "Parameter 'mem-path' is missing"),
        (
            {"qom-type": "memory-backend-file", "mem-path": "", "share": True},
            "can't open backing store  for guest RAM: No such file or directory",
        ),
        (
            {"qom-type": "memory-backend-file", "mem-path": "/nix/x", "share": True},
            "can't open backing store /nix/x for guest RAM: No such file or directory",
        ),
        (
            {"qom-type": "memory-backend-file", "mem-path": "/dev/null", "share": True},
            "unable to map backing store for guest RAM: No such device",
        ),
        (
            {"qom-type": "memory-backend-file", "mem-path": "/proc/version", "share": True},
            "unable to map backing store for guest RAM: Input/output error",
        ),
    ],
)
def test_an_object_that_cannot_be_is_refused_and_leaves_nothing(
    monitor: Monitor, changes: dict[str, object], said: str
) -> None:
    assert monitor.problem("object-add", RAM | changes) == said


def test_a_file_with_private_pages_is_refused_in_words_that_help(monitor: Monitor, tmp_path: Path) -> None:
    file = RAM | {"qom-type": "memory-backend-file", "mem-path": str(tmp_path / "memory")}
    assert "add share=on" in monitor.problem("object-add", file)
    monitor("object-add", file, share=True)
    assert monitor.get("r", "mem-path") == str(tmp_path / "memory")


def test_objects_that_are_used_are_not_deleted(monitor: Monitor) -> None:
    for name in ("first", "added", "pc.ram"):
        assert monitor.problem("object-del", id=name) == f"object '{name}' is in use, can not be deleted"


def test_a_dimm_that_is_plugged_is_told_of_everywhere(monitor: Monitor) -> None:
    assert monitor("device_add", DIMM, slot=2, addr=34 * GIB) == {}
    told = next(each["data"] for each in monitor("query-memory-devices") if each["data"].get("id") == "d")
    assert told == {
        "id": "d",
        "addr": 34 * GIB,
        "size": 128 * MIB,
        "slot": 2,
        "node": 0,
        "memdev": "/objects/plain",
        "hotplugged": True,
        "hotpluggable": True,
    }
    for name in set(told) - {"id"}:
        assert monitor.get("/machine/peripheral/d", name) == told[name]
    assert monitor("query-memory-size-summary") == {"base-memory": BOOT, "plugged-memory": 256 * MIB}
    assert monitor.get("/machine/peripheral/d/memdev", "size") == 128 * MIB


def test_a_dimm_without_an_id_is_among_the_anonymous(monitor: Monitor) -> None:
    monitor("device_add", driver="pc-dimm", memdev="/objects/plain")
    assert monitor.get("/machine/peripheral-anon/device[0]", "memdev") == "/objects/plain"
    said = monitor.problem("qom-set", path="/machine/peripheral-anon/device[0]", property="slot", value=2)
    assert said == "Attempt to set property 'slot' on anonymous device (type 'pc-dimm') after it was realized"


def test_a_dimm_may_be_called_what_another_object_is_called(monitor: Monitor) -> None:
    monitor("device_add", DIMM, id="plain", memdev="plain")
    assert monitor.problem("device_add", DIMM, id="x", memdev="plain") == (
        "can't use already busy memdev: plain"  # the link finds the backend, not the DIMM
    )
    assert monitor.problem("qom-get", path="plain", property="size") == (
        "DeviceNotFound: Device 'plain' not found"
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"driver": 1}, "Parameter 'driver' is missing"),
        ({"driver": "nix"}, "'nix' is not a valid device model name"),
        ({"driver": "device"}, "Parameter 'driver' expects a non-abstract device type"),
        ({"driver": "hv-balloon"}, "Bus 'vmbus' does not support hotplugging"),
        ({"bus": "isa"}, "Bus 'isa' not found"),
        ({"id": "zero"}, "Duplicate device ID 'zero'"),
        ({"id": "hvb"}, "Duplicate device ID 'hvb'"),
        ({"memdev": ""}, "'memdev' property must be set"),
        ({"memdev": 1}, "Invalid parameter type for 'memdev', expected: string"),
        ({"memdev": "nix"}, "DeviceNotFound: Device 'nix' not found"),
        ({"memdev": "hvb"}, "Invalid parameter type for 'memdev', expected: memory-backend"),
        ({"memdev": "first"}, "can't use already busy memdev: first"),
        ({"memdev": "pc.ram"}, "can't use already busy memdev: pc.ram"),
        ({"memdev": "first", "slot": 0}, "slot 0 is busy"),
        ({"nix": 1}, "Property 'pc-dimm.nix' not found"),
        ({"size": 1}, "Property 'pc-dimm.size' is not writable"),
        ({"slot": "0"}, "Invalid parameter type for 'slot', expected: integer"),
        ({"slot": 1 << 31}, "Parameter 'slot' expects int32_t"),
        ({"slot": 3}, "invalid slot number 3, valid range is [0-2]"),
        ({"slot": -2}, "invalid slot number -2, valid range is [0-2]"),
        ({"node": 1 << 32}, "Parameter 'node' expects uint32_t"),
        ({"node": 1}, "'DIMM property node has value 1' which exceeds the number of numa nodes: 1"),
        ({"addr": "x"}, "Parameter 'addr' expects uint64"),
    ],
)
def test_a_dimm_that_cannot_be_is_refused_and_leaves_nothing(
    monitor: Monitor, changes: dict[str, object], said: str
) -> None:
    assert monitor.problem("device_add", DIMM | changes) == said


def test_slots_run_out(monitor: Monitor) -> None:
    monitor("device_add", DIMM)
    monitor("device_add", DIMM, id="e", memdev="small")
    monitor("object-add", RAM)
    assert monitor.problem("device_add", DIMM, id="f", memdev="r") == "no free slots available"


@pytest.mark.parametrize(
    ("identity", "said"),
    [
        ("nix", "DeviceNotFound: Device 'nix' not found"),
        ("/nix", "DeviceNotFound: Device '/nix' not found"),
        ("plain", "DeviceNotFound: Device 'plain' not found"),
        ("/objects/plain", "/objects/plain is not a device"),
        ("", " is not a device"),
        ("hvb", "Bus 'vmbus' does not support hotplugging"),
    ],
)
def test_only_a_dimm_can_be_taken_away(monitor: Monitor, identity: str, said: str) -> None:
    assert monitor.problem("device_del", id=identity) == said


def test_the_balloon_shows_what_it_was_made_with(monitor: Monitor) -> None:
    names = ("instanceid", "memdev", "addr", "status-report", "x-post-init-wait", "x-startup", "hotpluggable")
    instance, memdev, address, *rest = (monitor.get("hvb", name) for name in names)
    assert len(instance) == 36
    assert memdev == "/objects/added"
    assert rest == [True, 5, "boot", False]
    assert monitor.get("hvb", "free-page-reporting") is False  # which no embedded guest does
    told = next(each["data"] for each in monitor("query-memory-devices") if each["type"] == "hv-balloon")
    assert told == {
        "id": "hvb",
        "memaddr": address,
        "max-size": 256 * MIB,
        "memdev": "/objects/added",
        "size": 0,
    }
    said = monitor.problem("qom-set", path="hvb", property="status-report", value=False)
    assert said == (
        "Attempt to set property 'status-report' on device 'hvb' (type 'hv-balloon') after it was realized"
    )


@pytest.mark.parametrize(
    ("path", "name", "value", "said"),
    [
        ("plain", "size", 1, "cannot change property size of memory-backend-memfd "),
        ("plain", "share", 1, "Invalid parameter type for 'share', expected: boolean"),
        ("plain", "share", True, "cannot change property value"),
        ("plain", "hugetlbsize", "x", "cannot change property value"),
        ("plain", "merge", 1, "Invalid parameter type for 'merge', expected: boolean"),
        ("plain", "type", "x", "Property 'memory-backend-memfd.type' is not writable"),
        ("plain", "mem-path", "x", "Property 'memory-backend-memfd.mem-path' not found"),
        ("nix", "size", 1, "DeviceNotFound: Device 'nix' not found"),
        ("zero", "size", 1, "Property 'pc-dimm.size' is not writable"),
        (
            "zero",
            "memdev",
            "plain",
            "Attempt to set link property 'memdev' on device 'zero' (type 'pc-dimm') after it was realized",
        ),
        ("zero", "memdev", "nix", "DeviceNotFound: Device 'nix' not found"),
        ("zero", "realized", 0, "Invalid parameter type for 'realized', expected: boolean"),
        (
            "zero",
            "realized",
            False,
            "the device 'zero' is in use by the guest; device_del asks the guest to release it",
        ),
    ],
)
def test_a_property_that_cannot_be_set_so_is_refused(
    monitor: Monitor, path: str, name: str, value: object, said: str
) -> None:
    assert monitor.problem("qom-set", path=path, property=name, value=value) == said


def test_memory_that_the_host_has_not_cannot_be_made_resident(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "host_memory", lambda: HostMemory(512 * MIB, 64 * MIB))
    said = "prealloc: 128 MiB are needed at once, but the host can give only 48 MiB"
    assert monitor.problem("object-add", RAM, prealloc=True).startswith(said)
    monitor("object-add", RAM)
    assert monitor.problem("qom-set", path="r", property="prealloc", value=True).startswith(said)
    assert monitor.get("r", "prealloc") is False


def test_what_is_set_is_read_back_and_forgotten_with_the_object(monitor: Monitor) -> None:
    for name in ("merge", "dump"):
        monitor("qom-set", path="plain", property=name, value=False)
        assert monitor.get("plain", name) is False
        assert monitor.get("small", name) is True
    monitor("object-del", id="plain")
    monitor("object-add", RAM, id="plain")
    assert monitor.get("plain", "merge") is True


def test_what_a_file_holds_can_be_declared_worthless_later(monitor: Monitor, tmp_path: Path) -> None:
    path = tmp_path / "memory"
    file = RAM | {"qom-type": "memory-backend-file", "mem-path": str(path), "share": True, "size": 4 * MIB}
    monitor("object-add", file, prealloc=True)
    assert monitor.get("r", "discard-data") is False
    monitor("qom-set", path="r", property="discard-data", value=True)
    monitor("object-del", id="r")
    assert path.stat().st_blocks == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "exactly one of 'pages' and 'size' is required"),
        ({"pages": 1, "size": 4096}, "exactly one of 'pages' and 'size' is required"),
        ({"pages": 0}, "Parameter 'pages' expects whole pages of 4 KiB, at least one"),
        ({"size": 4097}, "Parameter 'size' expects whole pages of 4 KiB, at least one"),
        ({"size": -4096}, "Parameter 'size' expects at most what was hot-added, 0 bytes (0 B)"),
        ({"pages": 1}, "Parameter 'pages' expects at most what was hot-added, 0 pages (0 B)"),
    ],
)
def test_memory_that_cannot_be_asked_back_is_said_so(
    monitor: Monitor, arguments: dict[str, object], said: str
) -> None:
    assert monitor.problem("x-hot-remove", arguments) == said


def test_more_than_was_added_and_a_guest_that_does_not_know_how_are_told_apart(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HotAddedMemory, "added_bytes", 8 * MIB)
    most = "Parameter 'size' expects at most what was hot-added, 8388608 bytes (8 MiB)"
    assert monitor.problem("x-hot-remove", size=8 * MIB + 4096) == most
    said = "the guest cannot hot remove memory, or another hot remove waits for it"
    assert monitor.problem("x-hot-remove", size=8 * MIB) == said


WORDS = (
    "plain",
    "small",
    "r",
    "d",
    "",
    "/objects/plain",
    "hvb",
    "size",
    "slot",
    "merge",
    "pc-dimm",
    "nix",
    "memory-backend-memfd",
)
VALUES = st.sampled_from((*WORDS, 0, 1, -1, 4097, 4 * MIB, 33 * GIB, (1 << 64) - 1, 1.5, True, False, None))
NESTED = VALUES | st.lists(VALUES, max_size=2) | st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=2)
NAMES = ("qom-type", "id", "size", "share", "hugetlb", "mem-path", "driver", "memdev", "addr", "slot", "node")
ARGUMENTS = st.dictionaries(
    st.sampled_from((*NAMES, "path", "property", "value", "pages", "nix")), NESTED, max_size=6
)


@given(requests=st.lists(st.tuples(st.sampled_from(sorted(COMMANDS)), ARGUMENTS), max_size=15))
@settings(max_examples=60, deadline=None)
def test_whatever_a_client_asks_it_is_answered_or_refused(
    requests: list[tuple[str, dict[str, object]]],
) -> None:
    with huge_pages_held():  # that is what some of it may be made of
        machine = Machine(VmOptions("one", MemoryOptions(BOOT, 2 * GIB, 3), objects=OBJECTS), lambda *_: None)
        monitor = Monitor(machine)
        for name, arguments in requests:
            defaults = {"object-add": RAM, "device_add": DIMM}.get(name, {})
            with contextlib.suppress(QmpCommandError):
                monitor(name, {**defaults, **arguments})
            monitor.everything()
        play(machine.close())
