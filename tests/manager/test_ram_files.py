"""Which files of a process are its guest's RAM, wherever they lie and however it holds them.

The processes are real, and so are their file systems: mounted where no program expects them, in a mount
namespace of the process's own, and gone with it.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.rigs import machine_wide

from dynmem.cgroups import memory_groups
from dynmem.manager.sweep.process import Process
from dynmem.manager.sweep.resident import Resident, ResidentMeter
from dynmem.ram_files import find_ram_files
from dynmem.units import MIB

FILES = "blocks of its RAM files"
# argv: a folder to mount on, then for each: file system, size in MiB, how it is mapped, what is touched.
HOLDER = """
import ctypes, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
folder = sys.argv[1]
kept = []
for number, (kind, size, how, touched) in enumerate(each.split(",") for each in sys.argv[2:]):
    size, touched = int(size) << 20, int(touched) << 20
    if kind == "anonymous":
        fd = -1
    elif kind.startswith("memfd"):
        fd = os.memfd_create("ram", 4 if kind == "memfd-huge" else 0)
    elif kind == "here":
        fd = os.open(os.path.join(folder, "ram"), os.O_RDWR | os.O_CREAT)
    else:
        assert not libc.unshare(0x20000), "unshare"
        assert not libc.mount(b"none", b"/", None, 0x44000, None), "private"
        assert not libc.mount(b"none", folder.encode(), kind.encode(), 0, None), "mount"
        fd = os.open(os.path.join(folder, "ram"), os.O_RDWR | os.O_CREAT)
        os.unlink(os.path.join(folder, "ram"))
    if how == "written":
        os.ftruncate(fd, size)
        os.posix_fallocate(fd, 0, touched)
        kept.append(fd)
        continue
    if kind == "anonymous":
        ram = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE)
    else:
        os.ftruncate(fd, size)
        ram = mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE if how == "private" else mmap.MAP_SHARED)
    if how == "split":
        ram = [mmap.mmap(fd, size // 2), mmap.mmap(fd, size // 2, offset=size // 2)]
        ram[0][:touched] = b"y" * touched
    elif touched:
        ram[:touched] = b"y" * touched
    if how == "closed":
        os.close(fd)
    kept.append(ram)
print("ready", flush=True)
for line in sys.stdin:
    fd, path = line.split()
    os.dup2(os.open(path, os.O_RDONLY), int(fd))
    print("done", flush=True)
"""

root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting, and looking at closed files, takes root")


@contextlib.contextmanager
def holding(folder: object, *files: str) -> Iterator[tuple[subprocess.Popen[str], Process]]:
    """A process that holds these files."""
    command = [sys.executable, "-c", HOLDER, str(folder), *files]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            process = Process.of(child.pid)
            assert process is not None
            yield child, process
            process.close()
        finally:
            child.kill()


def measured(folder: object, blocks: tuple[int, ...], *files: str) -> Resident:
    """Measure a process that holds these files."""
    with holding(folder, *files) as (_, process):
        return ResidentMeter(process).measure(tuple(block * MIB for block in blocks))


@pytest.mark.parametrize(
    "how",
    [
        "memfd,64,shared,24",
        pytest.param("tmpfs,64,shared,24", marks=root),
        pytest.param("memfd,64,closed,24", marks=root),
        "memfd,64,split,24",
    ],
)
def test_shared_ram_is_the_blocks_of_its_file_wherever_that_lies(how: str, tmp_path: object) -> None:
    resident = measured(tmp_path, (64,), how)
    assert (resident.guest_bytes, resident.source) == (24 * MIB, FILES)


def test_ram_of_several_nodes_is_all_its_files(tmp_path: object) -> None:
    resident = measured(tmp_path, (64,), "memfd,32,shared,24", "memfd,32,shared,8")
    assert (resident.guest_bytes, resident.source) == (32 * MIB, FILES)


def test_memory_that_is_no_ram_counts_as_the_process_own(tmp_path: object) -> None:
    """An NVDIMM, say: its size is not among those of the RAM."""
    resident = measured(tmp_path, (64, 32), "memfd,100,shared,40", "memfd,32,shared,2", "memfd,64,shared,8")
    assert (resident.guest_bytes, resident.source) == (10 * MIB, FILES)
    assert resident.overhead_bytes >= 40 * MIB


def test_a_file_that_is_open_and_not_mapped_is_no_ram(tmp_path: object) -> None:
    """A disk image in /dev/shm, beside RAM that is anonymous."""
    resident = measured(tmp_path, (64,), "memfd,80,written,80", "anonymous,64,private,24")
    assert resident.source == "Pss and swap of its process"
    assert resident.guest_bytes is not None
    assert 24 * MIB <= resident.guest_bytes < 28 * MIB


def test_shared_memory_larger_than_the_ram_is_not_taken_for_it(tmp_path: object) -> None:
    """An ivshmem, say, beside RAM that is anonymous."""
    resident = measured(tmp_path, (64,), "memfd,100,shared,40", "anonymous,64,private,24")
    assert resident.source == "Pss and swap of its process"
    assert resident.guest_bytes is not None
    assert 24 * MIB <= resident.guest_bytes < 28 * MIB


def test_a_file_that_is_mapped_privately_holds_nothing_of_what_the_guest_wrote(tmp_path: object) -> None:
    """As QEMU maps a memory-backend-file unless it is told share=on."""
    resident = measured(tmp_path, (64,), "memfd,64,private,24")
    assert resident.source == "Pss and swap of its process"
    assert resident.guest_bytes is not None
    assert 24 * MIB <= resident.guest_bytes < 28 * MIB


def test_a_file_of_an_ordinary_disk_is_not_what_the_host_has_lost(tmp_path: object) -> None:
    if os.statvfs(str(tmp_path)).f_fsid == os.statvfs("/dev/shm").f_fsid:
        pytest.skip("temporary files lie in memory here")
    with holding(tmp_path, "here,64,shared,24") as (_, process):
        assert find_ram_files(process.pid, (64 * MIB,)).ram == ()


def test_a_descriptor_that_stands_for_another_file_is_not_taken_for_the_ram(tmp_path: object) -> None:
    with holding(tmp_path, "memfd,64,shared,24") as (child, process):
        meter = ResidentMeter(process)
        assert meter.measure((64 * MIB,)).guest_bytes == 24 * MIB
        (file,) = find_ram_files(process.pid, (64 * MIB,)).ram
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(f"{file.path.rpartition('/')[2]} {sys.executable}\n")
        child.stdin.flush()
        assert child.stdout.readline() == "done\n"
        with pytest.raises(OSError, match="another file"):
            file.held_bytes()
        resident = meter.measure((64 * MIB,))
        assert resident.source == "Pss and swap of its process"
        expected = 24 * MIB if os.geteuid() == 0 else None
        assert expected is None or meter.measure((64 * MIB,)).guest_bytes == expected


@pytest.mark.usefixtures("huge_pages")
@pytest.mark.parametrize(
    ("how", "source"),
    [
        ("memfd-huge,32,shared,8", f"{FILES}, huge pages"),
        pytest.param("hugetlbfs,32,shared,8", f"{FILES}, huge pages", marks=root),
        ("memfd-huge,32,private,8", "Pss and swap of its process, and its huge pages"),
    ],
)
def test_huge_pages_are_counted_although_they_are_in_neither_rss_nor_pss(
    how: str, source: str, tmp_path: object
) -> None:
    with machine_wide.reserved(16):
        resident = measured(tmp_path, (32,), how)
    assert resident.guest_bytes is not None
    assert (resident.guest_bytes // MIB, resident.source) == (8, source)
    assert resident.huge_bytes == 32 * MIB


V1 = "30 29 0:27 {root} /sys/fs/cgroup/memory rw - cgroup none rw,memory"
V2 = "31 29 0:28 {root} {point} rw shared:5 - cgroup2 none rw"


@pytest.mark.parametrize(
    ("groups", "mounts", "expected"),
    [
        ("0::/vm/web", V2.format(root="/", point="/sys/fs/cgroup"), "/sys/fs/cgroup/vm/web/memory.current"),
        # a host with both: version 2 is where systemd puts it, without a memory controller
        ("5:memory:/web\n0::/", V1.format(root="/"), "/sys/fs/cgroup/memory/web/memory.usage_in_bytes"),
        ("0::/pod/a/vm", V2.format(root="/pod/a", point="/groups"), "/groups/vm/memory.current"),
        ("0::/elsewhere", V2.format(root="/pod/a", point="/groups"), None),
        ("0::/", V2.format(root="/", point="/sys/fs/cgroup"), None),
        ("0::/vm/web", "22 1 0:5 / /proc rw - proc proc rw", None),
    ],
)
def test_the_cgroups_of_a_process_are_where_their_hierarchy_is_mounted(
    groups: str, mounts: str, expected: str | None
) -> None:
    found = [f"{each.folder}/{each.usage}" for each in memory_groups(groups, mounts)]
    assert found == ([] if expected is None else [expected])
