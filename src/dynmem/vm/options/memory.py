"""The options about memory: ``-m``, ``--object memory-backend-*``, ``--device pc-dimm``.

The monitor's object-add and device_add use the same classes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dynmem.errors import ConfigError
from dynmem.limits import (
    GUEST_ADDRESS_BYTES_MAX,
    VM_DIMM_SLOTS_MAX,
    VM_MEMORY_BYTES_MAX,
    VM_MEMORY_BYTES_MIN,
)
from dynmem.units import GIB, PAGE_SIZE, format_size
from dynmem.vm.options.text import Keys

BACKEND_KINDS: Final = ("memory-backend-ram", "memory-backend-memfd", "memory-backend-file")
DEVICE_MEMORY_ALIGNMENT: Final = 32 * GIB  # the largest alignment that a guest can ask of a hot add
AUTOMATIC_MEMDEV: Final = "hv-balloon-memory"
_BACKEND_KEYS: Final = {
    "memory-backend-ram": ("id", "size", "share", "prealloc"),
    "memory-backend-memfd": ("id", "size", "share", "prealloc", "hugetlb", "hugetlbsize"),
    "memory-backend-file": ("id", "size", "share", "prealloc", "mem-path", "discard-data"),
}
_DIMM_KEYS: Final = ("id", "memdev", "addr", "slot", "node")
_ADDRESS_MAX: Final = (1 << 64) - 1
_NODE_MAX: Final = 0xFFFF_FFFF


@dataclass(frozen=True)
class MemoryOptions:
    """``-m``.

    Attributes:
        size: Bytes of boot memory.
        maximum: Bytes of all memory together, boot memory included.
        slots: Slots for DIMMs.
    """

    size: int
    maximum: int
    slots: int = 0

    @property
    def can_grow(self) -> bool:
        """Whether there is room for memory devices."""
        return self.maximum > self.size

    def device_memory(self, boot_end: int, addresses: int = GUEST_ADDRESS_BYTES_MAX) -> range:
        """Return the addresses for memory devices, in bytes, above boot memory that ends at `boot_end`.

        They are all their sizes, and the gaps that alignment may need: a DIMM may be aligned to a huge page
        of 1 GiB, and hv-balloon's memory to 32 GiB. Raises ConfigError if the guest, whose `addresses` are
        those below this number, has too few.
        """
        whose = ""
        if addresses < GUEST_ADDRESS_BYTES_MAX:
            whose = f" (this host's processors have {format_size(addresses)} of them)"
        if boot_end > addresses:
            raise ConfigError(f"too few addresses{whose} for {format_size(self.size)}: take a smaller size")
        if not self.can_grow:
            return range(0)
        base = -(-boot_end // DEVICE_MEMORY_ALIGNMENT) * DEVICE_MEMORY_ALIGNMENT
        room, sizes = min(addresses, GUEST_ADDRESS_BYTES_MAX) - base, self.maximum - self.size
        if room < sizes:
            raise ConfigError(
                f"too few addresses above {format_size(base)}, where added memory begins{whose}:"
                f" maxmem can be at most {format_size(max(0, room) + self.size)} with this size"
            )
        return range(base, base + min(sizes + self.slots * GIB + DEVICE_MEMORY_ALIGNMENT, room))


@dataclass(frozen=True)
class BackendOptions:
    """A memory backend, with QEMU's properties.

    Attributes:
        kind: Its type.
        identity: Its id.
        size: Bytes.
        share: Whether it is shared; None: the default of its kind.
        prealloc: Whether it is resident at once.
        hugetlb: Whether it uses reserved huge pages.
        hugetlb_size: Their bytes; 0: the system's default.
        mem_path: Its file, or the folder for an unnamed one.
        discard_data: Whether closing frees the file's content.
    """

    kind: str
    identity: str
    size: int
    share: bool | None = None
    prealloc: bool = False
    hugetlb: bool = False
    hugetlb_size: int = 0
    mem_path: Path | None = None
    discard_data: bool = False


@dataclass(frozen=True)
class DimmOptions:
    """A pc-dimm.

    Attributes:
        memdev: The id of its backend.
        identity: Its id, if it has one.
        address: Where it lies in guest memory, in bytes; 0: anywhere.
        slot: Its DIMM slot; None: any.
        node: Its NUMA node.
    """

    memdev: str
    identity: str | None = None
    address: int = 0
    slot: int | None = None
    node: int = 0


def parse_memory(text: str) -> MemoryOptions:
    """Parse ``512M``, ``512`` (MiB), ``size=512M,maxmem=2G,slots=4``."""
    keys = Keys("memory", text, implied="size")
    keys.only(("size", "maxmem", "slots"))
    size = keys.size("size")
    if not VM_MEMORY_BYTES_MIN <= size <= VM_MEMORY_BYTES_MAX or size % PAGE_SIZE:
        least, most = format_size(VM_MEMORY_BYTES_MIN), format_size(VM_MEMORY_BYTES_MAX)
        how = keys.how_read("size")
        raise keys.wrong(f"a size is between {least} and {most}, in whole pages of 4 KiB{how}")
    options = MemoryOptions(size, keys.size("maxmem", size), keys.integer("slots", 0, VM_DIMM_SLOTS_MAX))
    if options.maximum < size:
        numbers = f"maxmem {format_size(options.maximum)} is below the size {format_size(size)}"
        how = keys.how_read("size", "maxmem")
        raise keys.wrong(f"{numbers}: raise maxmem, or leave it out{how}")
    if options.maximum % PAGE_SIZE:
        raise keys.wrong("maxmem must be whole pages of 4 KiB")
    if options.slots and not options.can_grow:
        raise keys.wrong("slots are for memory up to maxmem: set maxmem above the size")
    try:
        options.device_memory(size)
    except ConfigError as error:
        raise keys.wrong(f"{error}{keys.how_read('maxmem')}") from error
    return options


def parse_object(text: str) -> BackendOptions:
    """Parse ``memory-backend-ram,id=ID,size=SIZE[,share=on][,prealloc=on]``, or ``-memfd`` or ``-file``."""
    keys = Keys("object", text, implied="qom-type")
    kind = keys.take("qom-type") or ""
    if kind not in BACKEND_KINDS:
        raise keys.wrong(f"unknown object {kind!r}; the objects are {', '.join(BACKEND_KINDS)}")
    keys.only(_BACKEND_KEYS[kind])
    identity = keys.identity()
    if identity is None:
        raise keys.wrong("id is missing")
    path = keys.text("mem-path")
    if kind == "memory-backend-file" and not path:
        raise keys.wrong("mem-path is missing")
    return BackendOptions(
        kind=kind,
        identity=identity,
        size=keys.size("size", unit="B"),
        share=keys.switch("share"),
        prealloc=keys.flag("prealloc", default=False),
        hugetlb=keys.flag("hugetlb", default=False),
        hugetlb_size=keys.size("hugetlbsize", 0, unit="B"),
        mem_path=Path(path) if path else None,
        discard_data=keys.flag("discard-data", default=False),
    )


def parse_objects(texts: tuple[str, ...]) -> tuple[BackendOptions, ...]:
    """Parse all ``--object`` options."""
    objects = tuple(parse_object(text) for text in texts)
    names = [backend.identity for backend in objects]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--object: two objects have the id {name!r}: rename one")
    return objects


def dimm_of(keys: Keys) -> DimmOptions:
    """Parse the rest of ``--device pc-dimm,memdev=ID[,id=ID][,addr=N][,slot=N][,node=N]``."""
    keys.only(_DIMM_KEYS)
    memdev = keys.text("memdev")
    if not memdev:
        raise keys.wrong("memdev is missing: the id of an --object memory-backend-*")
    return DimmOptions(
        memdev=memdev,
        identity=keys.identity(),
        address=keys.integer("addr", 0, _ADDRESS_MAX),
        slot=keys.integer("slot", 0, VM_DIMM_SLOTS_MAX) if "slot" in keys else None,
        node=keys.integer("node", 0, _NODE_MAX),
    )
