"""Find the files that are a process's guest RAM: by how they are mapped and what they lie on, not by a path.

RAM in a file is a regular file of tmpfs or hugetlbfs (that of memfd_create(2) is one, too) which the process
maps shared. Where the file system is mounted, in which mount namespace, and whether the file still has a name
makes no difference. A file that is only open (a disk image in /dev/shm) is no RAM. Nor is one that is mapped
privately: what the guest writes is then memory of the process, and not of the file.
"""

import ctypes
import os
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from dynmem.limits import PROC_DESCRIPTORS_MAX, PROC_MAPPINGS_MAX, PROC_RAM_FILES_MAX
from dynmem.procfs import PROC
from dynmem.units import MIB, STAT_BLOCK_BYTES

# Smaller shared files are ROMs, video memory and rings.
_RAM_FILE_BYTES_MIN: Final = 16 * MIB
# linux/magic.h, and statfs(2): the type comes first.
_TMPFS: Final = 0x0102_1994
_HUGETLBFS: Final = 0x9584_58F6
_STATFS_BYTES: Final = 120
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def fits_block(size: int, block: int) -> bool:
    """Return whether a mapping or file of this size can be a piece of RAM: as large, or a little larger.

    QEMU maps each block of RAM at once, and the kernel may merge the mapping with a neighbour.
    """
    return 0 <= size - block <= _RAM_FILE_BYTES_MIN


class _Mapping(NamedTuple):
    """All shared mappings of one file.

    Attributes:
        name: The file as the kernel shows it: a name for people, and the same as its descriptor's.
        range: The addresses of the first one, as /proc/PID/map_files names them.
        sizes: Their sizes. Bytes.
    """

    name: str
    range: str
    sizes: list[int]


class RamFile(NamedTuple):
    """A file that is memory, held by way of /proc/PID.

    Attributes:
        path: The way to it.
        key: Its device and inode: a descriptor's number may come to stand for another file.
        size: Its size, or what is mapped of it if that is less. Bytes.
        sizes: Its size and those of its mappings.
        is_huge: Whether it is made of huge pages that the host has set aside.
    """

    path: str
    key: tuple[int, int]
    size: int
    sizes: frozenset[int]
    is_huge: bool

    def beyond(self, block: int) -> int | None:
        """Return how much larger it is than a piece of RAM; None if it cannot be that piece."""
        return min((size - block for size in self.sizes if fits_block(size, block)), default=None)

    def held_bytes(self) -> int:
        """Return what it takes of the host, swapped pages included; OSError if it is there no more."""
        info = os.stat(self.path)  # noqa: PTH116 - hot
        if (info.st_dev, info.st_ino) != self.key:
            raise FileNotFoundError(f"{self.path} is another file now")
        return info.st_blocks * STAT_BLOCK_BYTES


class RamFiles(NamedTuple):
    """The shared memory of a process.

    Attributes:
        ram: The guest's RAM; empty if that is not in files, or not all of it.
        others: Other memory: an NVDIMM's, that of a virtio-mem, video memory.
    """

    ram: tuple[RamFile, ...] = ()
    others: tuple[RamFile, ...] = ()

    @property
    def huge_bytes(self) -> int:
        """How much of the RAM is huge pages that the host has set aside, touched or not."""
        return sum(each.size for each in self.ram if each.is_huge)


def find_ram_files(pid: int, blocks: tuple[int, ...] | None, proc: Path = PROC) -> RamFiles:
    """Return the files that are RAM, and the others; *blocks* are the sizes of its pieces where known.

    Raises OSError if the process may not be looked into.
    """
    files = _memory_files(proc / str(pid))
    if blocks is None:
        return RamFiles(tuple(files))
    left = list(files)
    ram: list[RamFile] = []
    missing: list[int] = []
    for block in blocks:
        fits = [(beyond, each) for each in left if (beyond := each.beyond(block)) is not None]
        if not fits:
            missing.append(block)
            continue
        _, best = min(fits, key=lambda pair: pair[0])
        ram.append(best)
        left.remove(best)
    # A piece may be in several files, one for each NUMA node or slot: in none that is larger than itself.
    parts = [each for each in left if each.size <= max(missing, default=0)]
    if sum(each.size for each in parts) < sum(missing):
        return RamFiles()
    return RamFiles((*ram, *parts), tuple(each for each in left if each not in parts))


def _memory_files(process: Path) -> list[RamFile]:
    """Return the files of memory that a process maps shared, each once; *process* is its folder in /proc."""
    mappings = _shared_mappings(process / "maps")
    names = {each.name for each in mappings.values()}
    folder = f"{process}/fd"
    paths: dict[tuple[int, int], str] = {}
    for number, name in enumerate(os.listdir(folder)):  # noqa: PTH208 - only names are wanted, fast
        if number >= PROC_DESCRIPTORS_MAX or len(paths) == len(mappings):
            break
        path = f"{folder}/{name}"
        try:
            # Names first: a stat of a file that lies on a dead server would not return.
            if os.readlink(path) in names:  # noqa: PTH115
                info = os.stat(path)  # noqa: PTH116
                paths.setdefault((info.st_dev, info.st_ino), path)
        except OSError:
            continue  # closed since
    found = []
    for key, mapping in mappings.items():
        # Closed after it was mapped: root can still reach it.
        path = paths.get(key) or f"{process}/map_files/{mapping.range}"
        try:
            file = _memory_file(path, key, mapping)
        except OSError:
            continue
        if file is not None:
            found.append(file)
    return found


def _memory_file(path: str, key: tuple[int, int], mapping: _Mapping) -> RamFile | None:
    """Return a file if it is memory; OSError if it cannot be reached."""
    kind = _file_system(path)
    if kind not in (_TMPFS, _HUGETLBFS):
        return None
    info = os.stat(path)  # noqa: PTH116
    if (info.st_dev, info.st_ino) != key or not stat.S_ISREG(info.st_mode):
        return None
    size = min(info.st_size, sum(mapping.sizes))
    if size < _RAM_FILE_BYTES_MIN:
        return None
    return RamFile(path, key, size, frozenset((info.st_size, *mapping.sizes)), kind == _HUGETLBFS)


def _shared_mappings(maps: Path) -> dict[tuple[int, int], _Mapping]:
    """Return the large files that a process maps shared, by device and inode (proc_pid_maps(5))."""
    sizes: dict[tuple[int, int], int] = {}
    for key, _, begin, end in _shared_lines(maps):
        sizes[key] = sizes.get(key, 0) + end - begin
    large = (key for key, size in sizes.items() if size >= _RAM_FILE_BYTES_MIN)
    found = {key: _Mapping("", "", []) for key in islice(large, PROC_RAM_FILES_MAX)}
    del sizes
    for key, name, begin, end in _shared_lines(maps):
        if key in found:
            if not found[key].sizes:
                found[key] = _Mapping(name, f"{begin:x}-{end:x}", [])
            found[key].sizes.append(end - begin)
    return {key: mapping for key, mapping in found.items() if mapping.sizes}


def _shared_lines(maps: Path) -> Iterator[tuple[tuple[int, int], str, int, int]]:
    """Yield device and inode, name, begin and end of each shared mapping of a process."""
    with maps.open("rb") as lines:
        for line in islice(lines, PROC_MAPPINGS_MAX):
            # Of the hundreds of lines a few are shared mappings: only those are taken apart.
            flags = line.find(b" ") + 1
            if line[flags + 3 : flags + 4] != b"s":
                continue
            text = line.decode(errors="surrogateescape").rstrip("\n")
            addresses, _, _, device, inode, *name = text.split(maxsplit=5)
            if inode != "0":
                major, minor = (int(part, 16) for part in device.split(":"))
                begin, end = (int(part, 16) for part in addresses.split("-"))
                yield (os.makedev(major, minor), int(inode)), "".join(name), begin, end


def _file_system(path: str) -> int:
    """Return the type of the file system that a file lies on (statfs(2)); OSError."""
    told = ctypes.create_string_buffer(_STATFS_BYTES)
    if _LIBC.statfs(os.fsencode(path), told):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return int.from_bytes(told.raw[:8], "little")
