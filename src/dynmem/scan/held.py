"""What a process holds of the host's memory, and how much of it is the guest's, from what may be read.

    /proc/PID/status   everybody may read it: resident and swapped anonymous memory, huge pages
    RAM files          their blocks (`ram_files`): exact, also where another process is the guest
    /proc/PID/smaps    which mapping holds what: tells the guest's memory from the process's own, and finds
                       what of shared memory is in swap. The kernel walks the page tables for it

The last two need the rights of the VM's user, or root.
"""

from collections.abc import Callable, Collection, Mapping
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from dynmem.limits import SCAN_SMAPS_LINES_MAX
from dynmem.procfs import PROC
from dynmem.ram_files import RamFiles, find_ram_files, fits_block
from dynmem.units import KIB

RIGHTS: Final = "run this as root or as the VM's user"
_STATUS_BYTES_MAX: Final = 1 << 16
_HUGE: Final = ("Private_Hugetlb", "Shared_Hugetlb")


class Held(NamedTuple):
    """What a process holds. Bytes.

    Attributes:
        resident_bytes: In the host's memory; program files that it maps are not counted.
        swapped_bytes: In the host's swap.
        guest_bytes: What of both is its guest's memory; the process's own is in it where `own` says so.
        huge_bytes: Reserved huge pages.
        has_own: Whether the process's own memory could not be distinguished from the guest's.
        unseen: What could not be read, and why: a sentence, or "".
    """

    resident_bytes: int
    swapped_bytes: int
    guest_bytes: int
    huge_bytes: int
    has_own: bool
    unseen: str = ""


class _Mapped(NamedTuple):
    """What the mappings hold. Bytes; None: no mapping looks like the guest's memory."""

    ram: int | None
    shared_swap: int


def measure(
    pid: int,
    blocks: Collection[int],
    *,
    walks: bool = True,
    proc: Path = PROC,
    find: Callable[[int, tuple[int, ...] | None, Path], RamFiles] = find_ram_files,
) -> Held:
    """Return what a process holds. *blocks* are the sizes of the pieces of its guest's memory.

    With *walks* its mappings are looked at as well. Raises OSError if it has ended.
    """
    status = _status(proc / str(pid) / "status")
    anonymous, shared = status.get("RssAnon", 0), status.get("RssShmem", 0)
    swapped, huge = status.get("VmSwap", 0), status.get("HugetlbPages", 0)
    files, mapped = RamFiles(), None
    unseen = "" if walks else "its mappings were not looked at: there was no time left"
    try:
        files = find(pid, tuple(blocks) or None, proc)
        mapped = _mappings(proc / str(pid) / "smaps", blocks) if walks else None
    except (PermissionError, ValueError):
        unseen = f"its mappings cannot be read: its process's own memory counts as the guest's: {RIGHTS}"
    except OSError:
        if not (proc / str(pid)).exists():
            raise
        unseen = "its mappings cannot be read"
    in_files = _in_files(files)
    if in_files is None:
        both = anonymous + shared + huge + swapped
        told = mapped.ram if mapped is not None else None
        swap = swapped + (mapped.shared_swap if mapped is not None else 0)
        guest = both if told is None else told
        return Held(anonymous + shared + huge, swap, guest, huge, told is None, unseen)
    ram, others = in_files
    shared_swap = min(mapped.shared_swap if mapped is not None else 0, ram + others)
    resident = anonymous + max(shared, ram + others - shared_swap)
    return Held(resident, swapped + shared_swap, ram, max(huge, files.huge_bytes), False, unseen)


def state_of(pid: int, proc: Path = PROC) -> str:
    """Return the letter of a process's state (proc_pid_status(5)); "" if it has ended."""
    try:
        with (proc / str(pid) / "status").open("rb") as file:
            lines = file.read(_STATUS_BYTES_MAX).decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.split()[1] for line in lines if line.startswith("State:") and line.split()[1:]), "")


def _status(path: Path) -> Mapping[str, int]:
    """Return the figures of /proc/PID/status that are in kB. Raises OSError."""
    found: dict[str, int] = {}
    with path.open("rb") as file:
        for line in file.read(_STATUS_BYTES_MAX).decode(errors="replace").splitlines():
            name, _, rest = line.partition(":")
            words = rest.split()
            if len(words) == 2 and words[1] == "kB" and words[0].isdecimal() and len(words[0]) < 16:
                found[name] = int(words[0]) * KIB
    return found


def _in_files(files: RamFiles) -> tuple[int, int] | None:
    """Return what RAM files and other shared memory take; None if there are none, or one has gone."""
    if not files.ram:
        return None
    try:
        return sum(each.held_bytes() for each in files.ram), sum(each.held_bytes() for each in files.others)
    except OSError:
        return None


def _mappings(path: Path, blocks: Collection[int]) -> _Mapped:
    """Return what the mappings hold: a mapping of the size of a block, or a little more, is guest memory.

    Raises OSError, and ValueError for what the kernel does not write.
    """
    ram = swap = 0
    found = is_ram = is_shared = False
    with path.open(encoding="ascii", errors="replace") as lines:
        for line in islice(lines, SCAN_SMAPS_LINES_MAX):
            name, _, rest = line.partition(":")
            if " " in name:  # the first line of a mapping: addresses, rights, file
                is_shared = name.split()[1].endswith("s")
            elif name == "Size":
                size = _kib(rest)
                is_ram = any(fits_block(size, block) for block in blocks)
                found = found or is_ram
            elif name == "Swap":
                swap += _kib(rest) if is_shared else 0
                ram += _kib(rest) if is_ram else 0
            elif is_ram and (name == "Rss" or name in _HUGE):
                ram += _kib(rest)
    return _Mapped(ram if found else None, swap)


def _kib(text: str) -> int:
    words = text.split()
    if len(words) != 2 or len(words[0]) > 15:
        raise ValueError(f"{text!r} is not a number of kB")
    return int(words[0]) * KIB
