"""The host's memory, from what the kernel says: what decides, and what an operator wants to see beside it.

    source                         what it says                        what it is for
    /proc/meminfo                  MemAvailable, MemTotal, swap        without the first two, nothing happens
    /proc/spl/kstat/zfs/arcstats   what ZFS's cache could give back    counts as available
    /proc/pressure/memory          how long programs wait for memory   shown
    /sys/block/zram*/mm_stat       what compressed swap takes          shown: MemAvailable is less by it
    /sys/kernel/mm/ksm             what merged pages save              shown: no VM is granted it
    /sys/kernel/mm/hugepages       pages that were set aside           shown: MemAvailable is less by them
    /sys/devices/system/node       memory by NUMA node                 shown, where there are several

Each may be absent, which is None and not zero; may vanish while it is read; or may be forbidden or not in the
kernel's form, which is said in a sentence. Whatever it is, the rest is read.
"""

import errno
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from dynmem.errors import RemoteProtocolError
from dynmem.limits import MANAGER_FIGURE_BYTES_MAX
from dynmem.manager.step.facts import HostFacts, NodeFacts
from dynmem.procfs import PROC, meminfo
from dynmem.units import KIB, PAGE_SIZE

SYS: Final = Path("/sys")
_FILE_BYTES_MAX: Final = 1 << 16
_ENTRIES_MAX: Final = 1024  # of a folder
_DIGITS_MAX: Final = 20
# Not there, or switched off at boot (psi=0).
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.EOPNOTSUPP})
# What of the ARC is in no use at the moment (module/zfs/arc.c, arc_kstat_update).
_EVICTABLE: Final = tuple(
    f"{state}_evictable_{kind}" for state in ("mru", "mfu") for kind in ("data", "metadata")
)


class HostMeter:
    """Measures this host; *proc* and *system* are where /proc and /sys are mounted."""

    def __init__(self, proc: Path = PROC, system: Path = SYS) -> None:
        self._proc = proc
        self._system = system
        self._unseen: list[str] = []
        self._last: HostFacts | None = None

    def measure(self) -> HostFacts:
        """Return everything. Raises OSError and RemoteProtocolError where MemAvailable cannot be known."""
        self._unseen = []
        available, total, swap_total, swap_free = self._meminfo()
        some, full = self._pressure()
        huge, huge_free = self._huge_pages()
        self._last = HostFacts(
            mem_available_bytes=available,
            mem_total_bytes=total,
            arc_bytes=self._arc(),
            swap_total_bytes=swap_total,
            swap_free_bytes=swap_free,
            zram_bytes=self._zram(),
            ksm_saved_bytes=self._ksm(),
            huge_bytes=huge,
            huge_free_bytes=huge_free,
            pressure_some_percent=some,
            pressure_full_percent=full,
            nodes=tuple(self._nodes()),
            unseen=tuple(self._unseen),
        )
        return self._last

    def measure_again(self) -> HostFacts:
        """Return what decides as it is now, and the rest as `measure` found it last. Raises as `measure`."""
        before = self._last
        if before is None:
            return self.measure()
        self._unseen = []
        available, total, swap_total, swap_free = self._meminfo()
        return msgspec.structs.replace(
            before,
            mem_available_bytes=available,
            mem_total_bytes=total,
            arc_bytes=self._arc(),
            swap_total_bytes=swap_total,
            swap_free_bytes=swap_free,
        )

    def _meminfo(self) -> tuple[int, int, int | None, int | None]:
        path = self._proc / "meminfo"
        try:
            available, total, swap, swap_free = meminfo(
                "MemAvailable", "MemTotal", "SwapTotal", "SwapFree", path=path
            )
        except RemoteProtocolError:
            available, total = meminfo("MemAvailable", "MemTotal", path=path)
            return available, total, None, None
        return available, total, swap, swap_free

    def _arc(self) -> int | None:
        """Return what ZFS's cache could give back: what is in no use, down to its least size."""
        path = self._proc / "spl" / "kstat" / "zfs" / "arcstats"
        text = self._text(path)
        if text is None:
            return None
        figures: dict[str, int] = {}
        for line in text.splitlines():
            words = line.split()
            if len(words) == 3 and (figure := _number(words[2])) is not None:
                figures[words[0]] = figure
        if "size" not in figures or "c_min" not in figures:
            self._not_said(path)
            return None
        above = max(0, figures["size"] - figures["c_min"])
        unused = [figures[name] for name in _EVICTABLE if name in figures]
        return min(above, sum(unused)) if len(unused) == len(_EVICTABLE) else above

    def _pressure(self) -> tuple[float | None, float | None]:
        """Return for which part of the last ten seconds some programs, and all, have waited for memory."""
        path = self._proc / "pressure" / "memory"
        text = self._text(path)
        if text is None:
            return None, None
        found: dict[str, float] = {}
        for line in text.splitlines():
            who, _, rest = line.partition(" avg10=")
            word = rest.partition(" ")[0]
            whole, dot, part = word.partition(".")
            if dot and _number(whole) is not None and _number(part) is not None:
                found[who] = min(100.0, float(word))
        if "some" not in found:
            self._not_said(path)
        return found.get("some"), found.get("full")

    def _zram(self) -> int | None:
        """Return what compressed swap takes of memory; None: there is none."""
        found = []
        for folder in self._folders(self._system / "block", "zram"):
            text = self._text(folder / "mm_stat")
            words = (text or "").split()
            if text is None:
                continue
            used = _number(words[2]) if len(words) > 2 else None
            if used is None:
                self._not_said(folder / "mm_stat")
            else:
                found.append(used)
        return sum(found) if found else None

    def _ksm(self) -> int | None:
        pages = self._figure(self._system / "kernel" / "mm" / "ksm" / "pages_sharing")
        return None if pages is None else pages * PAGE_SIZE

    def _huge_pages(self) -> tuple[int | None, int | None]:
        """Return the size of all pools of huge pages, and what of them nobody has or has reserved."""
        total = free = 0
        is_known = False
        for folder in self._folders(self._system / "kernel" / "mm" / "hugepages", "hugepages-"):
            size = _number(folder.name.removeprefix("hugepages-").removesuffix("kB"))
            names = ("nr_hugepages", "free_hugepages", "resv_hugepages")
            counts = [count for name in names if (count := self._figure(folder / name)) is not None]
            if size is None or len(counts) != len(names):
                continue
            is_known = True
            total += counts[0] * size * KIB
            free += max(0, counts[1] - counts[2]) * size * KIB
        return (total, free) if is_known else (None, None)

    def _nodes(self) -> Iterator[NodeFacts]:
        """Yield the host's NUMA nodes, in their order."""
        numbered = []
        for folder in self._folders(self._system / "devices" / "system" / "node", "node"):
            number = _number(folder.name.removeprefix("node"))
            if number is not None:
                numbered.append((number, folder))
        for number, folder in sorted(numbered):
            text = self._text(folder / "meminfo")
            if text is None:
                continue
            figures: dict[str, int] = {}
            for line in text.splitlines():
                words = line.split()  # Node 0 MemFree: 1024 kB
                if len(words) == 5 and words[4] == "kB" and (figure := _number(words[3])) is not None:
                    figures[words[2]] = figure * KIB
            if "MemTotal:" not in figures or "MemFree:" not in figures:
                self._not_said(folder / "meminfo")
                continue
            caches = ("Active(file):", "Inactive(file):", "SReclaimable:")
            available = figures["MemFree:"] + sum(figures.get(name, 0) for name in caches)
            yield NodeFacts(number, figures["MemTotal:"], available)

    def _figure(self, path: Path) -> int | None:
        text = self._text(path)
        if text is None:
            return None
        figure = _number(text.strip())
        if figure is None:
            self._not_said(path)
        return figure

    def _folders(self, folder: Path, begin: str) -> list[Path]:
        try:
            entries = islice(folder.iterdir(), _ENTRIES_MAX)
            return sorted(each for each in entries if each.name.startswith(begin))
        except OSError as error:
            self._failed(folder, error)
            return []

    def _text(self, path: Path) -> str | None:
        """Return what a file says; None if it is not there or cannot be read."""
        try:
            with path.open("rb") as file:
                return file.read(_FILE_BYTES_MAX).decode("ascii", errors="replace")
        except OSError as error:
            self._failed(path, error)
            return None

    def _failed(self, path: Path, error: OSError) -> None:
        if error.errno not in _ABSENT:
            step = ": run dynmem as root" if isinstance(error, PermissionError) else ""
            self._unseen.append(f"{path} cannot be read ({error.strerror}){step}")

    def _not_said(self, path: Path) -> None:
        self._unseen.append(f"{path} is not in the kernel's form: what it says is left out")


def _number(text: str) -> int | None:
    """Return a number of the kernel's; None if it is none, or no memory is as large."""
    if not text.isascii() or not text.isdecimal() or len(text) > _DIGITS_MAX:
        return None
    return min(int(text), MANAGER_FIGURE_BYTES_MAX)
