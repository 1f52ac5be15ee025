"""How much of the host's memory a VM really holds, and how that is known.

There are three sources; the best one that can be read is used and named:

1. the blocks of the files that are its RAM (`ram_files`): exact, swapped pages included. What the process
   holds besides is its anonymous memory and other shared memory;
2. Pss, swapped Pss and reserved huge pages of its process (proc_pid_smaps_rollup(5)): guest memory and the
   process's own, which is measured separately as far as mappings of the size of RAM can be recognized. The
   kernel walks the page tables for it, so it is read in a thread and at most 5 % of the time;
3. memory of its cgroup, only if no other process is in it.

Guest memory and what the process holds besides are told apart in the first two, so that a VM is charged the
same whatever its memory is made of. Reserved huge pages (hugetlbfs) are in neither Rss nor Pss, and have come
out of MemAvailable when they were set aside, not when they are used.

Configured, actual, guest-reported and resident are four quantities: nothing here is derived from the others.
"""

import re
import time
from pathlib import Path
from typing import Final, NamedTuple

from dynmem.cgroups import memory_groups
from dynmem.manager.sweep.process import Process
from dynmem.procfs import bytes_of, is_shortage
from dynmem.ram_files import RamFiles, find_ram_files, fits_block
from dynmem.units import KIB, PAGE_SIZE

# Measurements between two searches of the descriptors: memory may be plugged.
_LOOK_AGAIN: Final = 30
# A measurement of Pss is followed by a pause this many times as long.
_PSS_SHARE: Final = 20
# Below this, measuring is cheaper than handing it to a thread.
_PSS_QUICK_S: Final = 0.001
# What of a process's memory is its alone.
_OWN: Final = re.compile(rb"\n(?:RssAnon|VmSwap):\s*(\d+) kB")
# What of a mapping is memory of the host: a fair share of shared pages, but reserved huge pages whole.
_HELD: Final = (b"Pss:", b"SwapPss:", b"Private_Hugetlb:", b"Shared_Hugetlb:")


class Resident(NamedTuple):
    """What a VM holds of the host's memory.

    Attributes:
        bytes_held: Bytes; None: not known.
        source: Where the figure comes from, or why it is not known.
        overhead_bytes: The part that is known not to be guest memory.
        huge_bytes: How much of the guest's RAM is reserved huge pages, touched or not.
    """

    bytes_held: int | None
    source: str
    overhead_bytes: int = 0
    huge_bytes: int = 0

    @property
    def guest_bytes(self) -> int | None:
        """Guest memory, with that part of the process's own which cannot be told from it."""
        return None if self.bytes_held is None else max(0, self.bytes_held - self.overhead_bytes)


def _kib(line: bytes) -> int:
    """Return the figure of a line of /proc in bytes."""
    return int(line.split()[1]) * KIB


def _own_bytes(pid: int) -> int:
    """Return the anonymous memory of one process, swapped or not (proc_pid_status(5))."""
    return sum(int(figure) for figure in _OWN.findall(bytes_of(f"/proc/{pid}/status"))) * KIB


def _held_bytes(pid: int) -> int:
    """Return what all mappings of one process hold."""
    with Path(f"/proc/{pid}/smaps_rollup").open("rb") as lines:
        return sum(_kib(line) for line in lines if line.startswith(_HELD))


class _Mappings(NamedTuple):
    """What all mappings of a process hold, from one walk.

    Attributes:
        held: Bytes.
        outside: What those hold that are not the guest's RAM; 0 if none looks like RAM.
        huge: How much of that RAM is reserved huge pages. Bytes.
    """

    held: int
    outside: int
    huge: int


def _mappings(pid: int, blocks: tuple[int, ...]) -> _Mappings:
    """Return what the mappings of a process hold, the guest's RAM told from the others.

    Both sums come from the same walk: the share of a library that counts as this process's changes whenever
    another program that uses it starts or ends.
    """
    outside = ram = huge = size = held = 0
    is_ram = False
    with Path(f"/proc/{pid}/smaps").open("rb") as lines:
        for line in lines:
            if line.startswith(b"Size:"):
                size = _kib(line)
                is_ram = any(fits_block(size, block) for block in blocks)
                ram += is_ram
            elif line.startswith(b"KernelPageSize:") and is_ram and _kib(line) > PAGE_SIZE:
                huge += size
            elif line.startswith(_HELD):
                held += _kib(line)
                outside += 0 if is_ram else _kib(line)
    return _Mappings(held, outside, huge) if ram else _Mappings(held, 0, 0)


def _cgroup_bytes(pid: int) -> int | None:
    """Return the memory of the process's cgroup if no other process is in it, else None."""
    groups = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8")
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    for group in memory_groups(groups, mounts):
        try:
            if (group.folder / "cgroup.procs").read_text(encoding="ascii").split() == [str(pid)]:
                figures = [
                    group.folder / group.usage,
                    *(group.folder.glob(group.huge_usage) if group.huge_usage else ()),
                ]
                return sum(int(each.read_text(encoding="ascii")) for each in figures)
        except (OSError, ValueError):
            continue
    return None


class ResidentMeter:
    """Measures one process; once its RAM files are found, a measurement costs one stat per file."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._files = RamFiles()
        self._uses = self._next_search = 0
        self._blocks: tuple[int, ...] | None = None
        self._pss: Resident | None = None
        self._pss_until = 0.0
        self._pss_cost_s = 1.0
        self._outside = self._huge = 0

    @property
    def is_quick(self) -> bool:
        """Whether the next `measure` takes microseconds; otherwise it belongs in a thread."""
        if self._uses >= self._next_search:
            return False
        now = time.monotonic()
        return bool(self._files.ram) or now < self._pss_until or self._pss_cost_s < _PSS_QUICK_S

    def measure(self, blocks: tuple[int, ...] | None) -> Resident:
        """Return the figure now; it never raises: the source of an unknown figure is the reason.

        *blocks* are the sizes of the pieces that RAM is made of (bytes), where they are known.
        """
        pid = self._process.pid
        refusal = ""
        if blocks != self._blocks:
            self._blocks, self._next_search = blocks, 0  # only now is it known how much RAM to look for
        is_looking = self._uses >= self._next_search
        if is_looking:
            later = 0 if self._next_search else pid % _LOOK_AGAIN  # not all VMs at once
            self._next_search = self._uses + _LOOK_AGAIN + later
            try:
                self._files = find_ram_files(pid, blocks)
            except (OSError, ValueError) as error:
                self._files, refusal = RamFiles(), _refusal(f"/proc/{pid}", error)
        self._uses += 1
        if self._files.ram:
            try:
                return self._from_files(pid)
            except (OSError, ValueError):
                self._files, self._next_search = RamFiles(), 0  # closed: look again next time
        return self._from_pss(refusal, is_looking=is_looking)

    def guest_bytes_now(self) -> int | None:
        """Return what the guest holds now, where that takes microseconds; else None. It never raises.

        Only what `measure` has found is read. It may be running in a thread meanwhile.
        """
        ram, before = self._files.ram, self._pss
        try:
            if ram:
                return sum(each.held_bytes() for each in ram)
            if before is None or before.bytes_held is None or self._pss_cost_s >= _PSS_QUICK_S:
                return None
            now = time.monotonic()
            if now < self._pss_until:
                return before.guest_bytes
            held = _held_bytes(self._process.pid)
        except (OSError, ValueError):
            return None
        self._pss_cost_s = time.monotonic() - now
        self._pss_until = now + (_PSS_SHARE + 1) * self._pss_cost_s
        self._pss = before._replace(bytes_held=held)
        return self._pss.guest_bytes

    def _from_files(self, pid: int) -> Resident:
        files = self._files
        ram = sum(each.held_bytes() for each in files.ram)
        besides = _own_bytes(pid) + sum(each.held_bytes() for each in files.others)
        huge = files.huge_bytes
        source = "blocks of its RAM files" + (", huge pages" if huge else "")
        return Resident(ram + besides, source, besides, huge)

    def _from_pss(self, refusal: str, *, is_looking: bool) -> Resident:
        now = time.monotonic()
        if self._pss is not None and now < self._pss_until and not is_looking:
            return self._pss
        pid = self._process.pid
        try:
            if is_looking and self._blocks is not None:
                held, self._outside, self._huge = _mappings(pid, self._blocks)
            else:
                held = _held_bytes(pid)
            source = "Pss and swap of its process" + (", and its huge pages" if self._huge else "")
            self._pss = Resident(held, source, self._outside, self._huge)
        except (OSError, ValueError) as error:
            self._pss = self._from_cgroup(refusal or _refusal("smaps_rollup", error))
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
        return Resident(None, f"unknown {refusal}")


def _refusal(what: str, error: Exception) -> str:
    """Return why something cannot be read, and what to do about it."""
    step = (
        "raise the limit of open files for dynmem"
        if is_shortage(error)
        else "run dynmem as root or as the VM's user"
    )
    return f"({what}: {error}): {step}"
