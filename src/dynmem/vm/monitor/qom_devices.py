"""Devices as objects with properties, in QEMU's words (QEMU hw/core/qdev*.c, hw/mem/pc-dimm.c).

Every device is realized: what it was made with can no longer be set. `DIMM_ARGUMENTS` are the arguments of
device_add for a DIMM besides its id and memdev.
"""

from collections.abc import Callable, Iterable
from typing import Final

from dynmem.qmp.types import BOOL, INT32, UINT32, UINT64, Type, read, wrong
from dynmem.space.dimm import UNASSIGNED_SLOT, PcDimm
from dynmem.units import NS_PER_MS
from dynmem.vm.balloon.device import INSTANCE, HvBalloon
from dynmem.vm.monitor.qom import Node, Property, Read, Write, link, linked
from dynmem.vm.monitor.qom_backends import BACKEND
from dynmem.vm.options.machine import STARTUP_BOOT, STARTUP_LAST

DIMM: Final = "pc-dimm"
HV_BALLOON: Final = "hv-balloon"
DIMM_ARGUMENTS: Final[dict[str, Type]] = {"addr": UINT64, "slot": INT32, "node": UINT32}
READ_ONLY: Final = ("type", "hotplugged", "hotpluggable", "size")  # of a DIMM


def dimm_node(path: str, dimm: PcDimm, memdev: Node | None, root: Callable[[], Node]) -> Node:
    """Return the object of a DIMM at `path`; `memdev` is that of its backend."""
    region = dimm.get_memory_region()

    def properties(_: Node) -> Iterable[Property]:
        named = _Named(dimm.identity, DIMM)
        return (
            *_of_every_device(named, is_hotplugged=dimm.hotplugged, is_hotpluggable=True),
            named.fixed_link("memdev", memdev, root),
            named.fixed("node", "uint32", lambda: dimm.node),
            named.fixed("addr", "uint64", dimm.get_addr),
            named.fixed("slot", "int32", lambda: UNASSIGNED_SLOT if dimm.slot is None else dimm.slot),
            Property("size", "uint64", lambda: region.size),
        )

    return Node(path, DIMM, "device", properties=properties)


def balloon_node(
    path: str, balloon: HvBalloon, memdev: Node | None, root: Callable[[], Node], *, reports_free_pages: bool
) -> Node:
    """Return the object of hv-balloon at `path`; `memdev` is that of its backend, if it has one.

    `reports_free_pages`: whether the guest is offered that, which no embedded guest is.
    """
    hot_added, options = balloon.hot_added, balloon.options

    def properties(_: Node) -> Iterable[Property]:
        named = _Named(balloon.identity, HV_BALLOON)
        startup = STARTUP_LAST if options.startup_last else STARTUP_BOOT
        return (
            *_of_every_device(named, is_hotplugged=False, is_hotpluggable=False),
            named.fixed("instanceid", "str", lambda: str(INSTANCE)),
            named.fixed_link("memdev", memdev, root),
            named.fixed("addr", "uint64", lambda: 0 if hot_added is None else hot_added.get_addr()),
            named.fixed("status-report", "bool", lambda: options.status_report),
            named.fixed("free-page-reporting", "bool", lambda: reports_free_pages),
            named.fixed("x-post-init-wait", "uint32", lambda: options.post_init_wait_ns // NS_PER_MS),
            named.fixed("x-startup", "str", lambda: startup),
        )

    return Node(path, HV_BALLOON, "device", properties=properties)


class _Named:
    """A device's name in errors."""

    def __init__(self, identity: str | None, kind: str) -> None:
        self.name: Final = "anonymous device" if identity is None else f"device '{identity}'"
        self.kind: Final = kind

    def fixed(self, name: str, kind: str, reads: Read) -> Property:
        """Return a property that can no longer be set."""

        def write(_: object) -> None:
            raise wrong(
                f"Attempt to set property '{name}' on {self.name} (type '{self.kind}') after it was realized"
            )

        return Property(name, kind, reads, write)

    def fixed_link(self, name: str, target: Node | None, root: Callable[[], Node]) -> Property:
        """Return a link to a backend that can no longer be set; a write checks the value first."""

        def write(value: object) -> None:
            linked(root(), name, value, BACKEND)
            raise wrong(
                f"Attempt to set link property '{name}' on {self.name} (type '{self.kind}') after it was"
                " realized"
            )

        return link(name, BACKEND, lambda: target, write)


def _of_every_device(named: _Named, *, is_hotplugged: bool, is_hotpluggable: bool) -> Iterable[Property]:
    return (
        link("parent_bus", "bus", lambda: None),
        Property("realized", "bool", lambda: True, _realize(named)),
        Property("hotplugged", "bool", lambda: is_hotplugged),
        Property("hotpluggable", "bool", lambda: is_hotpluggable),
    )


def _realize(named: _Named) -> Write:
    """Return the writer of `realized`: unrealizing would take the device from the guest without asking."""

    def write(value: object) -> None:
        if read(BOOL, value, "realized") is False:
            raise wrong(f"the {named.name} is in use by the guest; device_del asks the guest to release it")

    return write
