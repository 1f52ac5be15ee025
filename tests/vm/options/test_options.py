"""The options of a machine, written as QEMU writes them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynmem.errors import ConfigError
from dynmem.units import GIB, MIB, NS_PER_MS
from dynmem.vm.options import actions, boot, combinations, console
from dynmem.vm.options import machine as options
from dynmem.vm.options import memory as memory_options
from dynmem.vm.options.actions import ActionOptions, PanicAction, RebootAction
from dynmem.vm.options.boot import BootOptions
from dynmem.vm.options.console import ConsoleKind, ConsoleOptions
from dynmem.vm.options.machine import BalloonOptions, GuestOptions, VmOptions
from dynmem.vm.options.memory import BackendOptions, DimmOptions, MemoryOptions
from dynmem.vm.options.text import split_options
from dynmem.wire.versions import VERSION_WIN10


def test_a_doubled_comma_is_a_comma() -> None:
    assert options.parse_qmp("unix:/tmp/a,,b,server=on,wait=off") == Path("/tmp/a,b")


def test_a_socket_may_lie_under_a_name_that_is_no_text() -> None:
    path = options.parse_qmp("unix:/tmp/\udce4,server=on,wait=off")  # a byte 0xe4, as Python hands it over
    assert os.fsencode(path) == b"/tmp/\xe4"


KEYS = st.from_regex(r"[a-z]{1,8}", fullmatch=True)


@given(st.dictionaries(KEYS, st.text(st.characters(blacklist_characters="\0"))))
def test_any_text_can_be_a_value(values: dict[str, str]) -> None:
    text = ",".join(f"{key}={value.replace(',', ',,')}" for key, value in values.items())
    if values:
        assert split_options("x", text, implied="first") == values


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512M", 512),
        ("512", 512),
        ("1G", 1024),
        ("size=1.5G", 1536),
        ("512M,maxmem=512M", 512),
        ("64MiB", 64),
    ],
)
def test_memory_is_in_mebibytes_unless_said_otherwise(text: str, size: int) -> None:
    assert memory_options.parse_memory(text) == MemoryOptions(size * MIB, size * MIB)


def test_memory_may_grow_to_its_maximum_from_the_next_boundary_of_32_gib_on() -> None:
    options = memory_options.parse_memory("256M,maxmem=8G,slots=2")
    assert options == MemoryOptions(256 * MIB, 8 * GIB, 2)
    assert options.device_memory(options.size).start == 32 * GIB
    assert len(options.device_memory(options.size)) >= 8 * GIB - 256 * MIB
    large = memory_options.parse_memory("32G,maxmem=1000G")
    assert large.device_memory(large.size).start == 32 * GIB
    assert large.device_memory(large.size).stop <= 1024 * GIB


def test_a_device_has_qemus_defaults() -> None:
    (quiet, _), (told, dimms) = (
        options.parse_devices(("hv-balloon",)),
        options.parse_devices(
            (
                "driver=hv-balloon,id=b,status-report=on,x-post-init-wait=50,memdev=m,addr=0x800000000",
                "pc-dimm,memdev=n",
                "pc-dimm,id=d,memdev=o,slot=1,addr=0x900000000,node=0",
            )
        ),
    )
    assert quiet == BalloonOptions("hv-balloon", status_report=False)
    assert told == BalloonOptions(
        "b", status_report=True, post_init_wait_ns=50 * NS_PER_MS, memdev="m", address=32 * GIB
    )
    assert dimms == (DimmOptions("n"), DimmOptions("o", "d", 36 * GIB, 1))


def test_a_guest_may_start_with_the_size_it_had() -> None:
    starts = [options.parse_devices((f"hv-balloon,x-startup={how}",))[0] for how in ("boot", "last")]
    assert [start is not None and start.startup_last for start in starts] == [False, True]


def test_a_guest_may_report_free_pages_unless_it_is_off() -> None:
    balloons = [options.parse_devices((f"hv-balloon{how}",))[0] for how in ("", ",free-page-reporting=off")]
    assert [balloon is not None and balloon.free_page_reporting for balloon in balloons] == [True, False]


def test_an_object_is_a_backend_with_qemus_properties() -> None:
    texts = (
        "memory-backend-ram,id=a,size=1G",
        "memory-backend-memfd,id=b,size=4096,share=off,hugetlb=on,hugetlbsize=2M",
        "qom-type=memory-backend-file,id=c,size=2M,mem-path=/dev/shm,share=on,prealloc=on,discard-data=on",
    )
    assert memory_options.parse_objects(texts) == (
        BackendOptions("memory-backend-ram", "a", GIB),
        BackendOptions("memory-backend-memfd", "b", 4096, share=False, hugetlb=True, hugetlb_size=2 * MIB),
        BackendOptions(
            "memory-backend-file",
            "c",
            2 * MIB,
            share=True,
            prealloc=True,
            mem_path=Path("/dev/shm"),
            discard_data=True,
        ),
    )


def test_a_machine_may_boot_from_an_object() -> None:
    assert options.parse_machine("embedded,memory-backend=m") == "m"
    assert options.parse_machine("memory-backend=m") == "m"
    assert options.parse_machine("embedded") is None


def one_device(text: str) -> object:
    return options.parse_devices((text,))


def one_action(text: str) -> object:
    return actions.parse_actions((text,), no_reboot=False)


def test_a_kernel_is_booted_with_its_initrd_and_command_line_on_a_machine_of_its_own_type() -> None:
    kernel, initrd = Path("vmlinuz"), Path("initrd")
    assert boot.parse_boot(kernel, None, None) == BootOptions(kernel)
    assert boot.parse_boot(kernel, initrd, "quiet") == BootOptions(kernel, initrd, "quiet")
    assert boot.parse_boot(None, None, None) is None
    machine = VmOptions("one", MemoryOptions(64 * MIB, 64 * MIB), boot=BootOptions(kernel)).machine
    assert machine == "kvm"
    assert options.parse_machine("kvm,memory-backend=m", machine) == "m"
    with pytest.raises(ConfigError, match="embedded is not the type of this machine: remove --kernel"):
        options.parse_machine("embedded", machine)


@pytest.mark.parametrize(("initrd", "append", "named"), [(Path("i"), None, "initrd"), (None, "", "append")])
def test_what_belongs_to_a_kernel_is_refused_without_one(
    initrd: Path | None, append: str | None, named: str
) -> None:
    with pytest.raises(ConfigError, match=f"--{named} .*: add --kernel FILE"):
        boot.parse_boot(None, initrd, append)


def test_processors_and_the_vmbus_version_are_written_as_people_write_them() -> None:
    assert [boot.parse_processors(text) for text in ("1", "cpus=8", "64")] == [1, 8, 64]
    assert boot.parse_vmbus_version("4.0") == VERSION_WIN10


def test_a_console_is_a_terminal_a_file_a_socket_or_nothing() -> None:
    assert console.parse_serial("none") == ConsoleOptions() == ConsoleOptions(ConsoleKind.NONE)
    assert console.parse_serial("stdio") == ConsoleOptions(ConsoleKind.STDIO)
    assert console.parse_serial("file:a,b") == ConsoleOptions(ConsoleKind.FILE, Path("a,b"))
    socket = ConsoleOptions(ConsoleKind.SOCKET, Path("a,b"))
    assert console.parse_serial("unix:a,,b,server=on,wait=off") == socket


def test_resets_and_crashes_lead_to_what_qemu_leads_them_to() -> None:
    shutdown, reset = RebootAction.SHUTDOWN, RebootAction.RESET
    assert actions.parse_actions((), no_reboot=False) == ActionOptions(reset, PanicAction.SHUTDOWN)
    assert actions.parse_actions((), no_reboot=True) == ActionOptions(shutdown, PanicAction.SHUTDOWN)
    both = ("panic=pause", "reboot=shutdown,panic=exit-failure")
    assert actions.parse_actions(both, no_reboot=False) == ActionOptions(shutdown, PanicAction.EXIT_FAILURE)
    assert actions.parse_actions(("reboot=reset",), no_reboot=True).reboot is reset  # the last word counts


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"vp_count": 2}, "--smp 2: the embedded guest has one virtual processor"),
        (
            {"console": ConsoleOptions(ConsoleKind.STDIO)},
            "--serial stdio: .* name a file, like file:/dev/stdout",
        ),
        ({"console": ConsoleOptions(ConsoleKind.SOCKET, Path("s"))}, "--serial unix: the embedded guest"),
    ],
)
def test_options_that_do_not_go_together_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        combinations.check(VmOptions("one", MemoryOptions(64 * MIB, 128 * MIB, 1), **wrong))


def test_a_kernel_may_have_processors_a_terminal_and_dimms() -> None:
    terminal = ConsoleOptions(ConsoleKind.STDIO)
    kernel = BootOptions(Path("vmlinuz"))
    memory, dimms = MemoryOptions(64 * MIB, 128 * MIB, 1), (DimmOptions("m"),)
    combinations.check(VmOptions("one", memory, boot=kernel, vp_count=8, console=terminal, dimms=dimms))


def test_keys_of_a_guest_that_are_not_the_machines_go_to_its_workload() -> None:
    text = "embedded,workload=sine,seed=7,low=5%,program=/bin/x"
    assert options.parse_guest(text) == GuestOptions("sine,low=5%", 7, Path("/bin/x"))
    assert options.parse_guest("embedded") == GuestOptions()


@pytest.mark.parametrize(
    ("parse", "text", "said"),
    [
        (memory_options.parse_memory, "12X", "'12X' is not a size"),
        (memory_options.parse_memory, "64M,maxmem", "maxmem has no value: write maxmem=512M"),
        (memory_options.parse_memory, "64M,maxmem=1G,slots", "slots has no value: write slots=1"),
        (memory_options.parse_memory, "1M", "between 32 MiB and 1 TiB"),
        (
            memory_options.parse_memory,
            "64M,maxmem=32M",
            "maxmem 32 MiB is below the size 64 MiB: raise maxmem",
        ),
        (
            memory_options.parse_memory,
            "64M,maxmem=1000000001",
            "(a bare number is in MiB: maxmem=1000000001 is 953.67 TiB)",
        ),
        (memory_options.parse_memory, "2G,maxmem=64", "(a bare number is in MiB: maxmem=64 is 64 MiB)"),
        (memory_options.parse_memory, "67108864", "(a bare number is in MiB: size=67108864 is 64 TiB)"),
        (options.parse_machine, "q35", "unknown machine type 'q35'; the types are embedded and kvm"),
        (options.parse_machine, "foo,memory-backend=m", "unknown machine type 'foo'"),
        (memory_options.parse_memory, "64M,slots=3", "set maxmem above the size"),
        (
            memory_options.parse_memory,
            "64M,maxmem=1G,slots=257",
            "slots must be a whole number from 0 to 256",
        ),
        (memory_options.parse_memory, "64M,maxmem=1T", "maxmem can be at most 992.06 GiB"),
        (memory_options.parse_memory, "64M,holes=3", "unknown key 'holes'; the keys are size, maxmem, slots"),
        (memory_options.parse_memory, "maxmem=64M", "size is missing"),
        (memory_options.parse_memory, "67108865B", "whole pages"),
        (one_device, "virtio-balloon", "the devices are hv-balloon and pc-dimm"),
        (one_device, "hv-balloon,status-report=maybe", "status-report must be on or off, not 'maybe'"),
        (one_device, "hv-balloon,addr=x", "addr must be a whole number"),
        (one_device, "hv-balloon,x-startup=never", "x-startup is one of boot, last, not 'never'"),
        (one_device, "hv-balloon,id=1b", "id must be a letter and then letters"),
        (one_device, "pc-dimm,id=a", "memdev is missing"),
        (one_device, "pc-dimm,memdev=m,slot=-1", "slot must be a whole number from 0 to 256"),
        (memory_options.parse_object, "secret,id=a", "unknown object 'secret'"),
        (memory_options.parse_object, "memory-backend-ram,size=1M", "id is missing"),
        (memory_options.parse_object, "memory-backend-ram,id=a", "size is missing"),
        (memory_options.parse_object, "memory-backend-ram,id=a,size=1M,hugetlb=on", "unknown key 'hugetlb'"),
        (memory_options.parse_object, "memory-backend-file,id=a,size=1M", "mem-path is missing"),
        (options.parse_machine, "memory-backend=", "the id of an --object"),
        (one_device, "hv-balloon,x-post-init-wait=-1", "x-post-init-wait must be a whole number"),
        (one_device, "hv-balloon,id=a,id=b", "id is given twice"),
        (one_device, "hv-balloon,,", "unknown device"),
        (one_device, "hv-balloon,", "nothing stands between two commas"),
        (options.parse_qmp, "tcp:localhost:4444,server=on,wait=off", "write it like unix:"),
        (options.parse_qmp, "unix:/tmp/x", "add server=on"),
        (options.parse_qmp, "unix:/tmp/x,server=on", "add wait=off"),
        (options.parse_qmp, "unix:" + "x" * 108 + ",server=on,wait=off", "at most 107 bytes"),
        (options.parse_guest, "linux", "unknown kind of guest 'linux'"),
        (options.parse_guest, "embedded,seed=x", "seed must be a whole number"),
        (console.parse_serial, "pty", "write none, stdio, file:PATH or unix:PATH,server=on,wait=off"),
        (console.parse_serial, "file:", "write none, stdio, file:PATH"),
        (console.parse_serial, "unix:/run/vm/con", "the console only listens: add server=on"),
        (boot.parse_processors, "0", "1 to 64 virtual processors"),
        (boot.parse_processors, "65", "cpus must be a whole number from 0 to 64"),
        (boot.parse_processors, "2,sockets=2", "unknown key 'sockets'"),
        (
            boot.parse_vmbus_version,
            "6.0",
            "the versions are 0.13, 1.1, 2.4, 3.0, 4.0, 4.1, 5.0, 5.1, 5.2, 5.3",
        ),
        (one_action, "panic=run", "panic is one of pause, shutdown, exit-failure, none, not 'run'"),
        (one_action, "watchdog=none", "unknown key 'watchdog'; the keys are panic, reboot"),
        (one_device, "hv-balloon,free-page-reporting=1", "free-page-reporting must be on or off"),
        (options.parse_machine, "kvm", "kvm is not the type of this machine: add --kernel FILE"),
        (options.parse_name, "", "1 to 64 printable characters"),
        (options.parse_name, "a\nb", "printable"),
    ],
)
def test_a_wrong_option_is_refused_with_a_sentence_that_names_it(
    parse: Callable[[str], object], text: str, said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(text)
    assert said in str(refused.value)
    assert repr(text) in str(refused.value)


def test_there_is_one_balloon_at_most() -> None:
    with pytest.raises(ConfigError, match="Only one balloon device is supported"):
        options.parse_devices(("hv-balloon", "hv-balloon"))
    assert options.parse_devices(()) == (None, ())


def test_two_devices_or_two_objects_have_different_ids() -> None:
    with pytest.raises(ConfigError, match="two devices have the id 'a'"):
        options.parse_devices(("hv-balloon,id=a", "pc-dimm,id=a,memdev=m"))
    with pytest.raises(ConfigError, match="two objects have the id 'a'"):
        memory_options.parse_objects(("memory-backend-ram,id=a,size=1M",) * 2)
