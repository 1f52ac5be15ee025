"""How much of the host's memory a VM really holds, and how that is known.

There are three sources; the best one that can be read is used and named:

1. the blocks of the files that are its RAM (memfd, /dev/shm, hugetlbfs), found among the descriptors of its
   process: exact, the guest's memory and nothing else, swapped pages included;
2. Pss plus swapped Pss of its process (proc_pid_smaps_rollup(5)): private guest memory and the process's own.
   The kernel walks the page tables for it, so it is read in a thread and at most 5 % of the time;
3. memory of its cgroup, only if no other process is in it.

Configured, actual, guest-reported and resident are four quantities: nothing here is derived from the others.
"""

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from dynmem.limits import PROC_DESCRIPTORS_MAX
from dynmem.manager.sweep.process import Process
from dynmem.units import KIB, MIB, STAT_BLOCK_BYTES

# Smaller shared files are ROMs, video memory and rings.
RAM_FILE_BYTES_MIN: Final = 16 * MIB
_RAM_LINKS: Final = ("/memfd:", "/dev/shm/", "/dev/hugepages", "/anon_hugepage")  # noqa: S108
# Measurements between two searches of the descriptors: memory may be plugged.
_LOOK_AGAIN: Final = 30
# A measurement of Pss is followed by a pause this many times as long.
_PSS_SHARE: Final = 20
# Below this, measuring is cheaper than handing it to a thread.
_PSS_QUICK_S: Final = 0.001


class Resident(NamedTuple):
    """What a VM holds of the host's memory.

    Attributes:
        bytes_held: Bytes; None: not known.
        source: Where the figure comes from, or why it is not known.
        overhead_bytes: The part that is known not to be guest memory.
    """

    bytes_held: int | None
    source: str
    overhead_bytes: int = 0


def _ram_descriptors(pid: int, blocks: tuple[int, ...] | None) -> tuple[str, ...]:
    """Return the paths under /proc/PID/fd of the files that are guest RAM; empty if RAM is not in files."""
    folder = f"/proc/{pid}/fd"
    files: dict[tuple[int, int], tuple[str, int]] = {}
    for number, name in enumerate(os.listdir(folder)):  # noqa: PTH208 - only names are wanted, fast
        if number >= PROC_DESCRIPTORS_MAX:
            break
        path = f"{folder}/{name}"
        try:
            if not os.readlink(path).startswith(_RAM_LINKS):  # noqa: PTH115
                continue
            info = os.stat(path)  # noqa: PTH116
        except OSError:
            continue  # closed since
        if stat.S_ISREG(info.st_mode) and info.st_size >= RAM_FILE_BYTES_MIN:
            files[info.st_dev, info.st_ino] = (path, info.st_size)
    # Files too small for all RAM are something else (video memory, a vhost-user helper's), or not all of it.
    if blocks is not None and sum(size for _, size in files.values()) < sum(blocks):
        return ()
    return tuple(path for path, _ in files.values())


def _pss_and_swap(pid: int) -> int:
    """Return Pss + SwapPss of one process in bytes."""
    with Path(f"/proc/{pid}/smaps_rollup").open("rb") as lines:
        return sum(int(line.split()[1]) for line in lines if line.startswith((b"Pss:", b"SwapPss:"))) * KIB


def _pss_outside_ram(pid: int, blocks: tuple[int, ...]) -> int:
    """Return Pss + SwapPss of all mappings but the guest's RAM; 0 if no mapping looks like RAM.

    QEMU maps each RAM block at once, so RAM is a mapping of a block's size, or a little more when the kernel
    has merged it with a neighbour.
    """
    outside = ram = size = 0
    with Path(f"/proc/{pid}/smaps").open("rb") as lines:
        for line in lines:
            if line.startswith(b"Size:"):
                size = int(line.split()[1]) * KIB
            elif line.startswith((b"Pss:", b"SwapPss:")):
                if any(block <= size <= block + RAM_FILE_BYTES_MIN for block in blocks):
                    ram += 1
                else:
                    outside += int(line.split()[1]) * KIB
    return outside if ram else 0


def _cgroup_files(pid: int) -> Iterator[tuple[Path, str]]:
    """Yield (folder, name of the usage file) of the process's memory cgroups, version 2 first."""
    for line in sorted(Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines()):
        _, controllers, path = line.split(":", 2)
        if path == "/":
            continue  # the root group is the whole host
        if controllers == "":
            yield Path("/sys/fs/cgroup" + path), "memory.current"
        elif "memory" in controllers.split(","):
            yield Path("/sys/fs/cgroup/memory" + path), "memory.usage_in_bytes"


def _cgroup_bytes(pid: int) -> int | None:
    """Return the memory of the process's cgroup if no other process is in it, else None."""
    for folder, name in _cgroup_files(pid):
        try:
            if (folder / "cgroup.procs").read_text(encoding="ascii").split() == [str(pid)]:
                return int((folder / name).read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
    return None


class ResidentMeter:
    """Measures one process; once its RAM files are found, a measurement costs one stat per file."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._files: tuple[str, ...] = ()
        self._uses = 0
        self._blocks: tuple[int, ...] | None = None
        self._pss: Resident | None = None
        self._pss_until = 0.0
        self._pss_cost_s = 1.0
        self._overhead = 0

    @property
    def is_quick(self) -> bool:
        """Whether the next `measure` takes microseconds; otherwise it belongs in a thread."""
        if self._uses % _LOOK_AGAIN == 0:
            return False
        now = time.monotonic()
        return bool(self._files) or now < self._pss_until or self._pss_cost_s < _PSS_QUICK_S

    def measure(self, blocks: tuple[int, ...] | None) -> Resident:
        """Return the figure now; it never raises: the source of an unknown figure is the reason.

        *blocks* are the sizes of the pieces that RAM is made of (bytes), where they are known.
        """
        pid = self._process.pid
        refusal = ""
        if blocks != self._blocks:
            self._blocks, self._uses = blocks, 0  # only now is it known how much RAM to look for
        is_looking = self._uses % _LOOK_AGAIN == 0
        if is_looking:
            try:
                self._files = _ram_descriptors(pid, blocks)
            except OSError as error:
                self._files, refusal = (), f"/proc/{pid}/fd: {error.strerror}"
        self._uses += 1
        try:
            held = sum(os.stat(path).st_blocks for path in self._files) * STAT_BLOCK_BYTES  # noqa: PTH116
        except OSError:
            self._files, self._uses = (), 0  # closed: look again next time
            held = 0
        if self._files:
            return Resident(held, "blocks of its RAM files")
        return self._from_pss(refusal, is_looking=is_looking)

    def _from_pss(self, refusal: str, *, is_looking: bool) -> Resident:
        now = time.monotonic()
        if self._pss is not None and now < self._pss_until and not is_looking:
            return self._pss
        pid = self._process.pid
        try:
            if is_looking and self._blocks is not None:
                self._overhead = _pss_outside_ram(pid, self._blocks)
            self._pss = Resident(_pss_and_swap(pid), "Pss and swap of its process", self._overhead)
        except (OSError, ValueError) as error:
            self._pss = self._from_cgroup(refusal or f"smaps_rollup: {error}")
        after = time.monotonic()
        self._pss_cost_s = after - now
        self._pss_until = after + _PSS_SHARE * self._pss_cost_s
        return self._pss

    def _from_cgroup(self, refusal: str) -> Resident:
        try:
            held = _cgroup_bytes(self._process.pid)
        except (OSError, ValueError):
            held = None
        if held is not None:
            return Resident(held, "memory of its cgroup")
        return Resident(None, f"unknown ({refusal}): run dynmem as root or as the VM's user")
