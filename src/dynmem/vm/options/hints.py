"""Errors at the start, for the person who wrote the options: which option, and what would help.

The words of an error are QEMU's, as a client of the monitor gets them; the hint in brackets behind them has
the numbers and the next step.
"""

import contextlib
import errno
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final

from dynmem.errors import ConfigError, DynmemError, RemoteProtocolError
from dynmem.memory.backend import BackendError
from dynmem.memory.host_memory import free_bytes
from dynmem.procfs import meminfo
from dynmem.space.region import NoFreeSlotError, NoRoomError, NoSlotsError
from dynmem.units import KIB, MIB, format_size
from dynmem.vm.options.memory import BackendOptions, MemoryOptions

_HUGE_PAGES: Final = Path("/sys/kernel/mm/hugepages")
_PREALLOC: Final = "qemu_prealloc_mem: "  # a function of QEMU's

Hint = Callable[[DynmemError], str]


def no_hint(_: DynmemError) -> str:
    """Return "": there is no hint."""
    return ""


@contextlib.contextmanager
def naming(option: str, hint: Hint = no_hint) -> Iterator[None]:
    """Turn errors into a ConfigError about `option`, with a hint in brackets if there is one."""
    try:
        yield
    except DynmemError as error:
        more = hint(error)
        text = str(error).removeprefix(_PREALLOC)
        raise ConfigError(f"{option}: {text} ({more})" if more else f"{option}: {text}") from None


def there_are(objects: Collection[str]) -> str:
    """Return a phrase about the present objects."""
    if not objects:
        return "there are none: add --object memory-backend-ram,id=ID,size=SIZE"
    return f"there are {', '.join(repr(identity) for identity in objects)}"


def backend_hint(options: BackendOptions, error: DynmemError) -> str:
    """Return what helps with an ``--object`` that cannot be made."""
    if options.size == 0:
        return "give it a size, like size=512M"
    if not isinstance(error, BackendError):
        return ""
    if options.kind == "memory-backend-memfd" and options.hugetlb:
        return _hint_of_huge_pages(options, error)
    if error.errno == errno.ENOSPC and options.mem_path is not None:
        with contextlib.suppress(OSError):
            path = options.mem_path if options.mem_path.exists() else options.mem_path.parent
            free, asked = format_size(free_bytes(path)), format_size(options.size)
            return f"{free} free at {path}, {asked} needed"
    return ""


def _hint_of_huge_pages(options: BackendOptions, error: BackendError) -> str:
    size = options.hugetlb_size or _usual_huge_page()
    folder = _HUGE_PAGES / f"hugepages-{size // KIB}kB"
    if not size or not folder.is_dir():
        there = ", ".join(sorted(path.name.removeprefix("hugepages-") for path in _HUGE_PAGES.glob("*")))
        return f"this host has huge pages of {there}" if there else "this host has no huge pages"
    if options.size % size:
        return f"the size must be a multiple of a huge page, {format_size(size)}"
    if error.errno != errno.ENOMEM:
        return ""
    free, reserved = (int((folder / name).read_text()) for name in ("free_hugepages", "nr_hugepages"))
    needed = options.size // size
    return (
        f"{needed} huge pages of {format_size(size)} are needed: HugePages_Free is {free}, nr_hugepages"
        f" {reserved}; as root: echo {reserved - free + needed} > {folder}/nr_hugepages"
    )


def _usual_huge_page() -> int:
    """Return the bytes of the system's default huge page; 0: it has none."""
    try:
        (size,) = meminfo("Hugepagesize")
    except RemoteProtocolError:
        return 0
    return size


def boot_hint(memory: MemoryOptions, identity: str, size: int) -> str:
    """Return what helps if boot memory and its object differ in size."""
    return f"-m is {format_size(memory.size)}, object {identity!r} is {format_size(size)}: make them equal"


def device_hint(
    memory: MemoryOptions, *, objects: dict[str, int], memdev: str, used: int, error: DynmemError
) -> str:
    """Return what helps with a ``--device`` that cannot be plugged.

    `objects` are backends and their bytes, `used` the bytes of maxmem that other devices use.
    """
    if memdev and memdev not in objects:
        return there_are(objects)
    if isinstance(error, NoRoomError):
        left, wanted = memory.maximum - memory.size - used, objects.get(memdev, 0)
        return (
            f"maxmem leaves {format_size(left)} for it, object {memdev!r} has {format_size(wanted)}: raise"
            f" maxmem to {-(-(memory.size + used + wanted) // MIB)}M"
        )
    if isinstance(error, NoSlotsError):
        return "for example -m 256M,maxmem=2G,slots=1"
    if isinstance(error, NoFreeSlotError):
        return f"-m has slots={memory.slots}: raise it"
    return ""
