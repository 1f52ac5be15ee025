"""What memory a VM has and may get, as its monitor reports it: boot memory, DIMMs, what devices can add.

    boot    base memory and DIMMs (not NVDIMMs): what `actual` is with an empty balloon and nothing hot-added
    limit   the most that `actual` can become: boot, and all that hv-balloon has behind it
    added   what hv-balloon has hot-added now; QEMU does not report it, dynmem vm does

QEMU's `actual` leaves out what virtio-mem has plugged, and so do these three.

Sources: QEMU qapi/machine.json, query-memory-size-summary and query-memory-devices. Its plugged-memory does
not help: QEMU counts all that hv-balloon could ever add.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from dynmem.errors import RemoteProtocolError
from dynmem.limits import MANAGER_DEVICES_MAX, QMP_PATH_MAX
from dynmem.manager.step.facts import HV_BALLOON
from dynmem.manager.sweep.demand import BOOT_BYTES_MIN, fields, number, size, word
from dynmem.manager.sweep.monitor import Monitor
from dynmem.qmp.errors import QmpCommandError, TooMuchError
from dynmem.units import PAGE_SIZE

# An NVDIMM is another kind: it is no RAM, QEMU does not count it in `actual`, and no balloon can have it.
DIMM: Final = "dimm"
VIRTIO_MEM: Final = "virtio-mem"
_DEVICES: Final = "query-memory-devices"


class Listed(NamedTuple):
    """A virtio-mem device as the list of memory devices has it. Bytes.

    Attributes:
        backend: Its memory backend, which tells it from the others: a device need not have a name.
        block_bytes: What it plugs and unplugs at a time.
        size_bytes: What its guest has plugged.
        requested_bytes: What its guest is to have plugged.
        max_bytes: The most that can be requested.
    """

    backend: str
    block_bytes: int
    size_bytes: int
    requested_bytes: int
    max_bytes: int


class VmMemory(NamedTuple):
    """The memory of one VM. Bytes.

    Attributes:
        boot_bytes: Base memory and DIMMs.
        limit_bytes: The most that `actual` can become.
        added_bytes: What has been hot-added; None: not reported.
        blocks: The sizes of the pieces that RAM is made of.
        virtio_mems: The virtio-mem devices, in the order of their addresses.
    """

    boot_bytes: int
    limit_bytes: int
    added_bytes: int | None
    blocks: tuple[int, ...]
    virtio_mems: tuple[Listed, ...] = ()

    @property
    def plugged_bytes(self) -> int:
        """What virtio-mem has plugged."""
        return sum(each.size_bytes for each in self.virtio_mems)

    def without_added(self, actual_bytes: int, grown_bytes: int = 0) -> int:
        """Return what the VM would have of *actual_bytes* if nothing had been hot-added.

        Where what was added is not reported, it is at least *grown_bytes*, and at least what lies above the
        boot size. That errs on the safe side: the guest then seems to have given less, and to need more.
        """
        if self.added_bytes is None:
            if self.limit_bytes <= self.boot_bytes:
                return actual_bytes
            return min(actual_bytes - grown_bytes, self.boot_bytes)
        return actual_bytes - self.added_bytes


class Grown:
    """The least that must have been hot-added since the last reset: how far a size stood above the boot size.

    What was added stays until a reset, also where the balloon takes it. A size counts once two looks in a row
    agree: the first may have read it with a DIMM that the boot size was read without.
    """

    def __init__(self) -> None:
        self.bytes: int = 0
        self._last: int = 0

    def saw(self, above_bytes: int) -> None:
        """Take in how far the VM's size is above its boot size."""
        self.bytes = max(self.bytes, min(self._last, above_bytes))
        self._last = above_bytes


async def read_memory(monitor: Monitor, base_bytes: int) -> VmMemory:
    """Read what there is beside *base_bytes*. Raises as QmpClient.execute, and RemoteProtocolError."""
    try:
        devices = await monitor.query(_DEVICES)
    except QmpCommandError:
        devices = []  # a monitor without the command has no such devices
    if not isinstance(devices, list):
        raise RemoteProtocolError(f"the reply to {_DEVICES} is not a list of devices")
    if len(devices) > MANAGER_DEVICES_MAX:
        raise TooMuchError(f"{len(devices)} memory devices, at most {MANAGER_DEVICES_MAX} are read")
    dimms: list[int] = []
    most: list[int] = []
    mems: list[tuple[int, Listed]] = []
    added: int | None = 0
    for device in devices:
        kind, data = _device(device)
        if kind == DIMM:
            dimms.append(size(data.get("size"), "the size of a DIMM"))
        elif kind == HV_BALLOON:
            most.append(size(data.get("max-size"), "the max-size of hv-balloon"))
            if most[-1]:
                added = size(data["size"], "the size of hv-balloon") if "size" in data else None
        elif kind == VIRTIO_MEM and "size" in data:
            mems.append((number(data.get("memaddr"), "the address of a virtio-mem"), _virtio_mem(data)))
    boot = base_bytes + sum(dimms)
    listed = tuple(each for _, each in sorted(mems))
    pieces = (base_bytes, *dimms, *most, *(each.max_bytes for each in listed))
    blocks = tuple(piece for piece in pieces if piece)
    return VmMemory(boot, boot + sum(most), added, blocks, listed)


def _virtio_mem(data: Mapping[str, object]) -> Listed:
    """Return a virtio-mem device; RemoteProtocolError if its figures contradict each other."""
    block = size(data.get("block-size"), "the block-size of a virtio-mem", least=PAGE_SIZE)
    most = size(data.get("max-size"), "the max-size of a virtio-mem")
    plugged = size(data.get("size"), "the size of a virtio-mem")
    requested = size(data.get("requested-size"), "the requested-size of a virtio-mem")
    if max(plugged, requested) > most or any(each % block for each in (plugged, requested)):
        raise RemoteProtocolError(
            f"a virtio-mem has plugged {plugged} of {requested}, at most {most}, in blocks of {block}: no"
            " device has these sizes"
        )
    backend = word(data.get("memdev"), longest=QMP_PATH_MAX)
    return Listed(backend or "", block, plugged, requested, most)


async def read_base(monitor: Monitor) -> int:
    """Return the memory that the VM was started with, DIMMs excluded. Bytes; raises as `read_memory`."""
    command = "query-memory-size-summary"
    reply = fields(await monitor.query(command), command)
    return size(reply.get("base-memory"), "base-memory", least=BOOT_BYTES_MIN)


def _device(device: object) -> tuple[object, Mapping[str, object]]:
    """Return the kind of one memory device and its properties."""
    entry = fields(device, _DEVICES)
    return entry.get("type"), fields(entry.get("data"), _DEVICES)
