"""What this host offers for guest memory: memory files, tmpfs, huge pages, discards, figures of pressure."""

import os
from pathlib import Path
from typing import Final, NamedTuple

from dynmem.errors import RemoteProtocolError
from dynmem.findings import Finding, Verdict
from dynmem.memory import abilities
from dynmem.procfs import meminfo
from dynmem.units import GIB, KIB, format_size

_SHM: Final = Path("/dev/shm")  # noqa: S108 - a file system, not a file
_HUGE_PAGES: Final = Path("/sys/kernel/mm/hugepages")
_PRESSURE: Final = Path("/proc/pressure/memory")
_ROOM_BYTES: Final = GIB  # a tmpfs of a container has 64 MiB, one of a host half its memory


def examine() -> list[Finding]:
    """Return what was found about guest memory."""
    return [memory_files(), tmpfs(), huge_pages(), batched_discards(), pressure()]


def memory_files() -> Finding:
    """Make a memory file that can be sealed, as the memory of every guest is one."""
    try:
        os.close(os.memfd_create("doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    except OSError as error:
        detail = f"memfd_create fails: {error.strerror}: dynmem vm needs it"
        return Finding("memory files", Verdict.MISSING, detail, "let the sandbox that this runs in allow it")
    return Finding("memory files", Verdict.OK, "guest memory can be sealed memory files")


def tmpfs(place: Path = _SHM) -> Finding:
    """Look at the file system for memory files that have a name."""
    subject = f"tmpfs {place}"
    try:
        system = os.statvfs(place)
    except OSError as error:
        detail = f"{error.strerror}: no --object memory-backend-file can be there"
        return Finding(subject, Verdict.LIMITED, detail, f"as root: mount -t tmpfs tmpfs {place}")
    size, free = system.f_blocks * system.f_frsize, system.f_bavail * system.f_frsize
    detail = f"{format_size(free)} free of {format_size(size)}"
    if size < _ROOM_BYTES:
        step = f"as root: mount -o remount,size=50% {place}; of a container: --shm-size"
        return Finding(subject, Verdict.LIMITED, f"{detail}: little for --object memory-backend-file", step)
    return Finding(subject, Verdict.OK, detail)


def huge_pages(folder: Path = _HUGE_PAGES) -> Finding:
    """Look for reserved huge pages."""
    try:
        pools = {_page_bytes(path): path for path in folder.iterdir()}
        counts = {size: _counts(path) for size, path in sorted(pools.items())}
    except (OSError, ValueError):
        counts = {}
    if not counts:
        detail = "this kernel has none: hugetlb=on of a memory backend cannot be used"
        return Finding("huge pages", Verdict.LIMITED, detail)
    used = {size: count for size, count in counts.items() if count.total}
    reserved = [f"{count.total} of {format_size(size)}, {count.free} free" for size, count in used.items()]
    if reserved:
        return Finding("huge pages", Verdict.OK, f"reserved: {'; '.join(reserved)}")
    detail = "none are reserved, which only hugetlb=on of a memory backend needs"
    smallest = pools[min(pools)]
    return Finding("huge pages", Verdict.OK, detail, f"as root: echo 512 > {smallest}/nr_hugepages")


class _Count(NamedTuple):
    total: int
    free: int


def _page_bytes(pool: Path) -> int:
    return int(pool.name.removeprefix("hugepages-").removesuffix("kB")) * KIB


def _counts(pool: Path) -> _Count:
    return _Count(*(int((pool / name).read_text()) for name in ("nr_hugepages", "free_hugepages")))


def batched_discards(found: abilities.Abilities | None = None) -> Finding:
    """Try whether many ranges can be discarded by one call."""
    found = abilities.probe() if found is None else found
    if found.batched_dontneed and found.batched_remove:
        return Finding("process_madvise", Verdict.OK, "memory is discarded with one call for many ranges")
    detail = "memory is discarded with one call for each range, which takes longer"
    return Finding("process_madvise", Verdict.LIMITED, detail, "use a kernel of Linux 6.13 or later")


def pressure(path: Path = _PRESSURE) -> Finding:
    """Look for the figures of how long programs wait for memory, with what the host has."""
    try:
        total, available = meminfo("MemTotal", "MemAvailable")
        memory = f"{format_size(available)} of {format_size(total)} available"
    except (OSError, RemoteProtocolError) as error:
        detail = f"what this host has is not known: {error}: dynmem run needs it"
        return Finding("memory figures", Verdict.MISSING, detail, "mount /proc")
    try:
        path.read_bytes()
    except OSError:
        detail = f"{memory}; no figures of pressure (PSI), which would show a host that is short"
        return Finding("memory figures", Verdict.LIMITED, detail, "boot this host with psi=1")
    return Finding("memory figures", Verdict.OK, f"{memory}; with figures of pressure (PSI)")
