"""What keeps a VM's pages on the host: each source alone, and what that leaves to virtio-mem."""

import pytest

from dynmem.discovery.pins import pins
from dynmem.discovery.qemu_options import started_as

GIB = 1 << 30


@pytest.mark.parametrize(
    ("options", "links", "devices", "locked", "kinds"),
    [
        ((), (), (), 0, []),
        (("-device", "vfio-pci,host=01:00.0"), (), (), 0, ["vfio"]),
        (("-device", '{"driver":"vfio-pci","host":"0000:01:00.0"}'), (), (), 0, ["vfio"]),
        ((), ("/dev/vfio/12",), (), 0, ["vfio"]),
        ((), ("anon_inode:[vfio-device]",), (), 0, ["vfio"]),
        ((), (), ("virtio-balloon-pci", "vfio-pci"), 0, ["vfio"]),
        (("-netdev", "vhost-vdpa,id=n,vhostdev=/dev/vhost-vdpa-0"), (), (), 0, ["vdpa"]),
        ((), ("/dev/vhost-vdpa-0",), (), 0, ["vdpa"]),
        (("-device", "vhost-vdpa-device-pci,vhostdev=x"), (), (), 0, ["vdpa"]),
        (("-object", "sev-guest,id=s"), (), (), 0, ["confidential"]),
        (("-object", "tdx-guest,id=t"), (), (), 0, ["confidential"]),
        (("-machine", "q35,confidential-guest-support=s"), (), (), 0, ["confidential"]),
        (("-overcommit", "mem-lock=on"), (), (), 0, ["locked"]),
        (("-overcommit", "mem-lock=on-fault"), (), (), 0, ["locked"]),
        (("-overcommit", "mem-lock=off"), (), (), 0, []),
        ((), (), (), 4 * GIB, ["locked"]),
        ((), (), (), GIB, []),  # a ring or two of a device that locks a little
        (("-device", "vfio-pci,host=01:00.0"), (), (), 4 * GIB, ["vfio"]),  # which explains what is locked
        (("-device", "vfio-pci,host=1"), ("/dev/vhost-vdpa-0",), (), 0, ["vfio", "vdpa"]),
        (("-device", "virtio-net-pci"), ("/dev/kvm", "/dev/vhost-net"), ("virtio-net-pci",), 0, []),
    ],
)
def test_each_source_alone_says_what_pins_memory(
    options: tuple[str, ...], links: tuple[str, ...], devices: tuple[str, ...], locked: int, kinds: list[str]
) -> None:
    started = started_as(["qemu-system-x86_64", *options])
    found = list(pins(started, links, devices, locked_bytes=locked, size=4 * GIB))
    assert [each.kind for each in found] == kinds
    assert [each.leaves_virtio_mem for each in found] == [kind == "vfio" for kind in kinds]
    assert all(each.reason for each in found)
