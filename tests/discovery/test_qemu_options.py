"""What command lines say: as people, Proxmox and libvirt write them, and as an enemy does."""

import random

import pytest

from dynmem.discovery.qemu_options import MonitorOption, StartedAs, fields_of, started_as

MIB = 1 << 20
QEMU = "qemu-system-x86_64"


def started(*arguments: str) -> StartedAs:
    return started_as([QEMU, *arguments])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("-m", "4096"), 4096 * MIB),
        (("-m", "2G,slots=4,maxmem=8G"), 2048 * MIB),
        (("-m", "size=1g"), 1024 * MIB),
        (("-m", "maxmem=8G"), 128 * MIB),
        ((), 128 * MIB),
        (("-m", "much"), 128 * MIB),
        (("-readconfig", "vm.cfg"), 0),
    ],
)
def test_memory_is_what_qemu_would_take_it_for(arguments: tuple[str, ...], expected: int) -> None:
    assert started(*arguments).memory_bytes == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("-qmp", "unix:/run/web.qmp,server=on,wait=off"), [MonitorOption("/run/web.qmp")]),
        (("-qmp", "unix:/run/web.qmp,server,nowait"), [MonitorOption("/run/web.qmp")]),
        (("-qmp", "unix:/run/a,,b.qmp,server=on"), [MonitorOption("/run/a,b.qmp")]),
        (("-qmp", "tcp:localhost:4444,server=on"), []),
        (("-qmp", "unix:/run/manager.sock"), []),  # it connects to somebody
        (("-monitor", "unix:/run/web.hmp,server=on"), []),  # for people
        (
            ("-chardev", "socket,id=q,path=/run/q,server=on", "-mon", "q,mode=control"),
            [MonitorOption("/run/q")],
        ),
        (("-chardev", "socket,id=q,path=/run/q,server=on", "-mon", "chardev=q"), []),  # for people
        (("-chardev", "socket,id=q,path=/run/q,server=on"), []),  # a serial line, or a guest agent
        (
            ("-chardev", "socket,id=c,fd=22,server=on,wait=off", "-mon", "chardev=c,id=m,mode=control"),
            [MonitorOption("", 22)],
        ),
        (("-chardev", "socket,id=e,path=/run/e,reconnect=5", "-mon", "chardev=e,mode=control"), []),
    ],
)
def test_monitors_are_those_that_speak_qmp_and_listen(
    arguments: tuple[str, ...], expected: list[MonitorOption]
) -> None:
    assert list(started(*arguments).monitors) == expected


def test_devices_are_read_from_both_of_qemus_spellings() -> None:
    vm = started(
        *("-device", "virtio-balloon-pci,id=balloon0,free-page-reporting=on"),
        *("-device", '{"driver":"vfio-pci","host":"0000:01:00.0","id":"gpu","multifunction":true,"x":["y"]}'),
        *("-object", '{"qom-type":"memory-backend-memfd","id":"ram","size":67108864}'),
    )
    assert vm.devices == (
        {"driver": "virtio-balloon-pci", "id": "balloon0", "free-page-reporting": "on"},
        {"driver": "vfio-pci", "host": "0000:01:00.0", "id": "gpu", "multifunction": "on"},
    )
    assert vm.objects == ({"qom-type": "memory-backend-memfd", "id": "ram", "size": "67108864"},)


def test_a_vm_of_proxmox_has_its_number_and_its_own_monitor() -> None:
    line = "/usr/bin/kvm -id 100 -name shop,debug-threads=on -no-shutdown"
    line += " -chardev socket,id=qmp,path=/var/run/qemu-server/100.qmp,server=on,wait=off"
    line += " -mon chardev=qmp,mode=control"
    line += " -chardev socket,id=qmp-event,path=/var/run/qmeventd.sock,reconnect=5"
    line += " -mon chardev=qmp-event,mode=control -m 4096"
    vm = started_as(line.split())
    assert (vm.number, vm.name, vm.memory_bytes) == (100, "shop", 4096 * MIB)
    assert vm.monitors == (MonitorOption("/var/run/qemu-server/100.qmp"),)


@pytest.mark.parametrize(
    ("arguments", "locks"),
    [
        (("-overcommit", "mem-lock=on"), True),
        (("-overcommit", "mem-lock=on-fault,cpu-pm=on"), True),
        (("-realtime", "mlock=on"), True),
        (("-overcommit", "cpu-pm=on"), False),
    ],
)
def test_locked_memory_is_known_by_its_option(arguments: tuple[str, ...], locks: bool) -> None:
    assert started(*arguments).locks_memory is locks


def test_no_command_line_says_nothing() -> None:
    assert started_as(()).memory_bytes == 0


def test_whatever_stands_on_a_command_line_raises_nothing() -> None:
    chance = random.Random(5)
    words = ["-m", "-device", "-object", "-mon", "-chardev", "-qmp", "-name", "-id", "-uuid", "-machine"]
    pieces = [
        "{",
        "}",
        '{"driver":',
        "[" * 2000,
        ",",
        ",,",
        "=",
        "unix:",
        "socket",
        "id=q",
        "path=",
        "server",
    ]
    pieces += ["9" * 5000, "size=", "fd=", "fd=-1", "\x00", "\ud800", "virtio-balloon", "²", "mode=control"]
    for _ in range(2000):
        line = [QEMU]
        for _ in range(6):
            line += [chance.choice(words), "".join(chance.choices(pieces, k=chance.randrange(5)))]
        started_as(line)


def test_a_value_with_very_many_properties_is_read_up_to_a_limit() -> None:
    assert len(fields_of(",".join(f"k{number}=1" for number in range(100_000)), "driver")) < 10_000


@pytest.mark.parametrize(
    ("objects", "devices", "mib"),
    [
        (["memory-backend-memfd,id=a,size=2G"], ["virtio-mem-pci,memdev=a"], 2048),
        (
            ['{"qom-type":"memory-backend-memfd","id":"a","size":1073741824}'],
            ['{"driver":"virtio-mem-pci","id":"v","memdev":"a"}'],
            1024,
        ),
        (["memory-backend-ram,id=a,size=1G"], ["pc-dimm,memdev=a"], 0),
        (["memory-backend-ram,id=a,size=wide"], ["virtio-mem-pci,memdev=a", "virtio-mem-pci,memdev=b"], 0),
        ([], ["virtio-mem-pci"], 0),
        (["memory-backend-ram,id=a,size=99999999T"], ["virtio-mem-pci,memdev=a"], 0),
    ],
)
def test_what_virtio_mem_can_plug_is_what_its_memory_has(
    objects: list[str], devices: list[str], mib: int
) -> None:
    words = [word for each in objects for word in ("-object", each)]
    words += [word for each in devices for word in ("-device", each)]
    assert started_as([QEMU, *words]).pluggable_bytes == mib << 20
