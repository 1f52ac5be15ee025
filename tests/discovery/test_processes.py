"""Which processes are VMs, and what they are called."""

from pathlib import Path

import pytest

from dynmem.discovery.processes import command_line, is_vm, running_vms
from dynmem.discovery.qemu_options import name_of


@pytest.mark.parametrize(
    ("arguments", "expected", "name"),
    [
        (["/usr/bin/qemu-system-x86_64", "-name", "guest=web,debug-threads=on"], True, "web"),
        (["/usr/libexec/qemu-kvm", "-name", "db,process=x"], True, "db"),
        (["/usr/bin/kvm", "-id", "100", "-name", "shop,debug-threads=on"], True, "shop"),
        (["/usr/bin/kvm", "-name", "guest=a,,b,process=x"], True, "a,b"),
        (["/usr/bin/kvm", "-name", "process=x,guest=web"], True, "web"),
        (["qemu-img", "convert"], False, None),
        (["python3", "-m", "dynmem", "vm", "--name=web", "-m", "1G"], True, "web"),
        (["python3", "/opt/bin/dynmem", "vm", "-name", "shop"], True, "shop"),
        (["/opt/bin/dynmem", "vm", "--name", "a,b=c"], True, "a,b=c"),
        (["/opt/bin/dynmem", "vm", "--name=a=b"], True, "a=b"),
        (["/opt/bin/dynmem", "run", "--config", "vm"], False, None),
        (["python3", "-P", "-m", "dynmem.guest"], False, None),
        (["postgres", "vm"], False, None),
        (["qemu-system-x86_64", "-name"], True, None),
        (["qemu-system-x86_64", "-name", "guest=a\nb"], True, None),
        (["qemu-system-x86_64", "-name", "x" * 65], True, None),
        ([], False, None),
    ],
)
def test_vms_are_known_by_their_command_line(arguments: list[str], expected: bool, name: str | None) -> None:
    assert (is_vm(arguments), name_of(arguments)) == (expected, name)


def test_a_command_line_is_read_no_further_than_its_first_mebibyte(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cmdline").write_bytes(b"x" * (1 << 21))
    assert list(map(len, command_line(7, tmp_path))) == [1 << 20]


def test_processes_that_are_no_vms_and_those_that_vanish_are_left_out(tmp_path: Path) -> None:
    for pid, text in ((7, b"qemu-system-x86_64\0-m\0512\0"), (8, b"bash\0"), (9, b"")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cmdline").write_bytes(text)
    (tmp_path / "10").mkdir()  # it has ended: its folder is still listed, and nothing is in it
    (tmp_path / "meminfo").write_text("")
    assert list(running_vms(tmp_path)) == [7]
    assert command_line(10, tmp_path) == []
