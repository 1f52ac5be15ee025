"""What keeps a VM's pages on the host, so that a balloon takes them from the guest and returns nothing.

    a device that was passed through (VFIO)   its DMA may reach all memory: all of it is pinned. virtio-mem
                                              works beside it, since QEMU unmaps what is unplugged
    vhost-vdpa                                the same, and QEMU forbids virtio-mem beside it
    a confidential guest                      its memory is encrypted, or is in no mapping of the host
    locked memory                             was told not to leave

Sources: the VM's command line, the files that its process has open, the devices that its monitor lists, and
what the kernel says is locked or pinned. Each of them may be missing; none is asked for anything here.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal, NamedTuple

from dynmem.discovery.qemu_options import StartedAs
from dynmem.units import format_size

Kind = Literal["vfio", "vdpa", "confidential", "locked"]

#: How the sentences begin.
VFIO, VDPA, LOCKED = "VFIO", "vhost-vdpa", "it was started with its memory locked"
#: Objects that make a guest confidential (QEMU qapi/qom.json).
CONFIDENTIAL: Final = frozenset({"sev-guest", "sev-snp-guest", "tdx-guest", "pef-guest", "s390-pv-guest"})
_VFIO_FILES: Final = ("/dev/vfio/", "anon_inode:[vfio")
_VDPA_FILES: Final = ("/dev/vhost-vdpa",)


class Pin(NamedTuple):
    """One thing that keeps pages on the host.

    Attributes:
        kind: What it is.
        reason: The same as a sentence.
    """

    kind: Kind
    reason: str

    @property
    def leaves_virtio_mem(self) -> bool:
        """Return whether memory that virtio-mem unplugs goes back to the host all the same."""
        return self.kind == "vfio"


def pins(
    started: StartedAs,
    links: Sequence[str] = (),
    devices: Iterable[str] = (),
    *,
    locked_bytes: int = 0,
    size: int = 0,
) -> Iterator[Pin]:
    """Yield what keeps a VM's pages on the host.

    *links* are the files that its process has open, *devices* the types of its devices by its monitor, and
    *locked_bytes* what is locked or pinned of its *size* (0: not known).
    """
    drivers = [*(each.get("driver", "") for each in started.devices), *devices]
    nets = [each.get("type", "") for each in started.netdevs]
    explained = False
    if any(each.startswith("vfio-") for each in drivers) or _any(links, _VFIO_FILES):
        explained = True
        yield Pin("vfio", f"{VFIO}: a device that was passed through pins all of its memory")
    if any(each.startswith("vhost-vdpa") for each in (*drivers, *nets)) or _any(links, _VDPA_FILES):
        explained = True
        yield Pin("vdpa", f"{VDPA} pins all of its memory")
    kinds = [each.get("qom-type", "") for each in started.objects]
    if any(each in CONFIDENTIAL for each in kinds) or "confidential-guest-support" in started.machine:
        explained = True
        yield Pin("confidential", "confidential memory cannot be taken back")
    if started.locks_memory:
        yield Pin("locked", LOCKED)
    elif not explained and size and 2 * locked_bytes >= size:  # what is explained above locks it, too
        yield Pin("locked", f"{format_size(locked_bytes)} of its memory is locked or pinned")


def _any(links: Sequence[str], starts: tuple[str, ...]) -> bool:
    return any(each.startswith(starts) for each in links)
