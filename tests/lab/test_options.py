"""What a guest is refused before QEMU is started, and what QEMU is told."""

from pathlib import Path

import pytest

from dynmem.errors import ConfigError
from dynmem.lab.image import Image
from dynmem.lab.qemu import QemuGuest
from dynmem.lab.workload import Load
from dynmem.units import MIB

IMAGE = Image(Path("/k/vmlinuz"), Path("/k/initrd"), "6.1")


def value_after(command: list[str], option: str) -> list[str]:
    return [command[i + 1] for i, word in enumerate(command) if word == option]


@pytest.mark.parametrize("name", ["", "a b", "-x", "a,b", "a/b", "x" * 42])
def test_a_name_that_could_not_be_a_file_or_an_option_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        QemuGuest(name, 256 * MIB, Path("/t"), image=IMAGE)


@pytest.mark.parametrize("size", [0, 64 * MIB, 256 * MIB + 4096])
def test_a_size_that_linux_does_not_boot_in_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match="whole MiB, 96 MiB or more"):
        QemuGuest("g", size, Path("/t"), image=IMAGE)


def test_a_folder_too_deep_for_a_socket_is_refused_with_its_path() -> None:
    with pytest.raises(ConfigError, match=r"too long for a unix socket \(107 bytes\)"):
        QemuGuest("g", 256 * MIB, Path("/" + "d" * 99), image=IMAGE)
    QemuGuest("g", 256 * MIB, Path("/" + "d" * 95), image=IMAGE)


def test_commas_in_a_path_do_not_end_an_option() -> None:
    command = QemuGuest("g", 256 * MIB, Path("/a,b"), image=IMAGE).command()
    assert "socket,id=mon0,path=/a,,b/g.qmp,server=on,wait=off" in value_after(command, "-chardev")


def test_each_monitor_has_a_socket_of_its_own() -> None:
    guest = QemuGuest("g", 256 * MIB, Path("/t"), image=IMAGE)
    command = guest.command()
    assert value_after(command, "-mon") == ["chardev=mon0,mode=control", "chardev=mon1,mode=control"]
    assert guest.qmp_path != guest.lab_qmp_path


def test_ram_is_one_shared_memfd_and_the_load_is_on_the_kernels_command_line() -> None:
    load = Load(curve="steps", low_bytes=MIB, high_bytes=9 * MIB)
    command = QemuGuest("g", 300 * MIB, Path("/t"), image=IMAGE, load=load).command()
    assert value_after(command, "-object") == ["memory-backend-memfd,id=ram0,size=300M,share=on"]
    assert f" dynmem.load={load.argument()}" in value_after(command, "-append")[0]


def test_properties_of_the_balloon_are_passed_on_and_no_balloon_means_no_device() -> None:
    full = QemuGuest("g", 256 * MIB, Path("/t"), image=IMAGE, free_page_reporting=True).command()
    assert value_after(full, "-device") == [
        "virtio-balloon-pci,id=balloon0,free-page-reporting=on,deflate-on-oom=off"
    ]
    assert (
        value_after(QemuGuest("g", 256 * MIB, Path("/t"), image=IMAGE, balloon=False).command(), "-device")
        == []
    )


def test_memory_to_plug_is_a_virtio_mem_that_has_plugged_nothing_and_the_guest_puts_it_online_or_not() -> (
    None
):
    command = QemuGuest("g", 256 * MIB, Path("/t"), image=IMAGE, plug_bytes=384 * MIB).command()
    assert value_after(command, "-m") == ["256M,maxmem=640M"]
    assert value_after(command, "-device")[-1] == "virtio-mem-pci,id=plug0,memdev=plug-ram,requested-size=0"
    assert value_after(command, "-object")[-1].startswith("memory-backend-memfd,id=plug-ram,size=384M,")
    assert "memhp_default_state=online_movable" in value_after(command, "-append")[0]
    offline = QemuGuest("g", 256 * MIB, Path("/t"), image=IMAGE, plug_bytes=384 * MIB, onlines=False)
    assert "memhp_default_state=offline" in value_after(offline.command(), "-append")[0]
