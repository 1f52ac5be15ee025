"""What a process holds, from files like those of /proc."""

import mmap
import os
from pathlib import Path

import pytest

from dynmem.ram_files import RamFile, RamFiles
from dynmem.scan.held import measure, state_of

MIB = 1 << 20
STATUS = """Name:\tqemu
State:\tS (sleeping)
RssAnon:\t  614400 kB
RssFile:\t  20480 kB
RssShmem:\t  0 kB
VmSwap:\t  102400 kB
HugetlbPages:\t  0 kB
"""


def mapping(size_mib: int, rss_mib: int, swap_mib: int, *, rights: str = "rw-p", huge_mib: int = 0) -> str:
    figures = (("Size", size_mib), ("Rss", rss_mib), ("Private_Hugetlb", huge_mib), ("Swap", swap_mib))
    lines = "".join(f"{name}:  {value * 1024} kB\n" for name, value in figures)
    return f"7f0000000000-7f0040000000 {rights} 00000000 00:00 0    [some: name]\n{lines}VmFlags: rd wr mr\n"


def tree(root: Path, status: str = STATUS, smaps: str = "", *, pid: int = 7) -> Path:
    folder = root / str(pid)
    (folder / "fd").mkdir(parents=True)
    (folder / "maps").write_text("")
    (folder / "status").write_text(status)
    (folder / "smaps").write_text(smaps)
    return root


def test_private_memory_is_told_from_the_process_s_own_by_its_mapping(tmp_path: Path) -> None:
    smaps = mapping(1024, 500, 80) + mapping(64, 64, 20)
    held = measure(7, [1024 * MIB], proc=tree(tmp_path, smaps=smaps))
    assert (held.resident_bytes, held.swapped_bytes) == (600 * MIB, 100 * MIB)
    assert (held.guest_bytes, held.has_own) == (580 * MIB, False)


def test_huge_pages_of_the_guest_s_mapping_are_its_memory(tmp_path: Path) -> None:
    smaps = mapping(1024, 0, 0, huge_mib=512)
    status = STATUS.replace("HugetlbPages:\t  0 kB", "HugetlbPages:\t  524288 kB")
    held = measure(7, [1024 * MIB], proc=tree(tmp_path, status, smaps))
    assert (held.guest_bytes, held.huge_bytes, held.has_own) == (512 * MIB, 512 * MIB, False)


def test_without_the_right_to_its_mappings_the_whole_process_counts_and_that_is_said(tmp_path: Path) -> None:
    def refuse(*_: object) -> RamFiles:
        raise PermissionError(13, "no")

    held = measure(7, [1024 * MIB], proc=tree(tmp_path), find=refuse)
    assert (held.guest_bytes, held.has_own) == (700 * MIB, True)
    assert "run this as root or as the VM's user" in held.unseen


def test_shared_memory_counts_by_the_blocks_of_its_file_and_its_swap_apart(tmp_path: Path) -> None:
    ram = tmp_path / "ram"
    ram.write_bytes(b"x" * 3 * MIB)
    info = ram.stat()
    file = RamFile(str(ram), (info.st_dev, info.st_ino), 64 * MIB, frozenset({64 * MIB}), is_huge=False)
    smaps = mapping(64, 1, 1, rights="rw-s")
    status = STATUS.replace("102400 kB", "0 kB")
    held = measure(7, [64 * MIB], proc=tree(tmp_path, status, smaps), find=lambda *_: RamFiles((file,)))
    assert held.guest_bytes == info.st_blocks * 512
    assert held.swapped_bytes == MIB
    assert held.resident_bytes == 600 * MIB + held.guest_bytes - MIB


def test_ram_files_are_looked_for_in_the_same_folder_as_everything_else(tmp_path: Path) -> None:
    with os.fdopen(os.memfd_create("ram"), "r+b") as file:
        file.truncate(16 * MIB)
        with mmap.mmap(file.fileno(), 16 * MIB) as memory:
            memory[: 4 * MIB] = b"x" * (4 * MIB)
            held = measure(os.getpid(), [16 * MIB], proc=tree(tmp_path, pid=os.getpid()))
    assert (held.resident_bytes, held.guest_bytes) == (600 * MIB, 700 * MIB)


def test_a_process_that_has_ended_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        measure(8, [], proc=tree(tmp_path))
    assert state_of(8, tmp_path) == ""
    assert state_of(7, tmp_path) == "S"


@pytest.mark.parametrize(
    "smaps",
    ["Size: x kB\n", "Size:\n", "Swap: " + "9" * 5000 + " kB\n", "\x00" * 100, ": :\n", "a b\n Size 1 2 3:"],
)
def test_files_that_the_kernel_does_not_write_raise_nothing(tmp_path: Path, smaps: str) -> None:
    head = "7f00-7f01 rw-s 0 00:00 0\n"
    status = "RssAnon: -5 kB\nVmSwap: " + "9" * 5000 + " kB\nState:\n"
    held = measure(7, [MIB], proc=tree(tmp_path, status, head + smaps))
    assert held.resident_bytes == 0
    assert state_of(7, tmp_path) == ""
