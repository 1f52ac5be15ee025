"""Where our monitor answers otherwise than QEMU 10, and why it stays so.

Each entry holds what ours answers, so that it cannot become something else unnoticed.
"""

from typing import NamedTuple


class Difference(NamedTuple):
    """What ours answers to a step, and the reason."""

    ours: object
    reason: str


def _wrong(text: str, reason: str) -> Difference:
    return Difference({"error": {"class": "GenericError", "desc": text}}, reason)


def _unexpected(name: str, reason: str) -> Difference:
    return _wrong(f"Parameter '{name}' is unexpected", reason)


def _lists(types: dict[str, str], reason: str) -> Difference:
    """An answer to qom-list."""
    properties = [{"name": name, "type": kind} for name, kind in types.items()]
    return Difference({"return": sorted(properties, key=lambda entry: entry["name"])}, reason)


GREETING: dict[str, str] = {
    "version": "each says its own; ours is the QEMU whose commands it has, QEMU's is Debian's",
    "capabilities": "no command of ours takes so long that one would have to be executed out of band",
}

SCHEMA: dict[str, str] = {  # what only QEMU's has
    "ACPI_DEVICE_OST": "a slot here is always one for a DIMM: no processor comes or goes",
    "query-acpi-ospm-status": "a slot here is always one for a DIMM: no processor comes or goes",
    "GUEST_PANICKED": "a guest here reports its crash as on Hyper-V, and is never an s390x",
    "RESET": "there are no snapshots here, no window and no other subsystem that resets",
    "SHUTDOWN": "there are no snapshots here, no window and no other subsystem that resets",
    "object-add": "of all kinds of object there are memory backends here, with the properties they have here",
    "query-cpus-fast": "a guest here is always an x86_64",
    "query-memory-devices": "of all kinds of memory device there are DIMMs and hv-balloon here",
    "query-qmp-schema": "no enum value and no member here has a feature such as deprecated",
    "query-status": "no migration, no watchdog, no debugger and no disks here: fewer states",
}

OUR_SCHEMA: dict[str, tuple[set[str], str]] = {  # what only ours has
    "query-memory-devices": (
        {"gives [].(type=hv-balloon) data.size?: int"},
        "hv-balloon's size now, which QEMU does not tell",
    ),
}

BALLOON_PROPERTIES: dict[str, str] = {  # of hv-balloon, that only one of the two has
    "free-page-reporting": "ours: QEMU's hv-balloon has none",
    "legacy-memdev": "no property here for how a link was called before it was one",
    "x-post-init-wait": "ours: how long the guest is left alone after the handshake; fixed in QEMU",
    "x-startup": "ours: which size a reset goes back to; in QEMU always the one at boot",
}

_WHOLE_PAGES = "a backend here is whole pages: what is discarded is whole pages too"
_NO_NUMA = "nodes of the host are not chosen here: memory comes from where the kernel takes it"
_FILE = "a file is mapped here from its start, by pages, for reading and writing"
_SEALED = "memory that two processes share here is always sealed against being cut short"

_MAKE_FILE = "object-add qom-type=memory-backend-file id"

_WITHOUT: dict[str, Difference] = {
    "object-add qom-type=memory-backend-ram id=r1 size=4097": _wrong(
        "backend 'memory-backend-ram' memory size must be multiple of 4 KiB", _WHOLE_PAGES
    ),
    "object-add qom-type=memory-backend-ram id=r2 size=1": _wrong(
        "backend 'memory-backend-ram' memory size must be multiple of 4 KiB", _WHOLE_PAGES
    ),
    "object-add qom-type=memory-backend-memfd id=m2 size=4097": _wrong(
        "backend 'memory-backend-memfd' memory size must be multiple of 4 KiB", _WHOLE_PAGES
    ),
    "object-add qom-type=memory-backend-ram id=r3 size=1048576 policy=bind": _unexpected("policy", _NO_NUMA),
    "object-add qom-type=memory-backend-ram id=r3 size=1048576 policy=nix": _unexpected("policy", _NO_NUMA),
    "object-add qom-type=memory-backend-ram id=r4 size=1048576 reserve=false": _unexpected(
        "reserve", "swap is reserved here as the kernel is set up to do it"
    ),
    "object-add qom-type=memory-backend-memfd id=m1 size=1048576 seal=false": _unexpected("seal", _SEALED),
    f"{_MAKE_FILE}=f1 size=1048576 mem-path={{folder}}/f1": _wrong(
        "object 'f1': the embedded guest is another process and would not see the private pages of a file:"
        " add share=on",
        "QEMU's guest is in its own process",
    ),
    f"{_MAKE_FILE}=f2 size=1048576 mem-path={{folder}}/f2 share=true align=4096": _unexpected("align", _FILE),
    f"{_MAKE_FILE}=f3 size=1048576 mem-path={{folder}}/f3 share=true offset=4096": _unexpected(
        "offset", _FILE
    ),
    f"{_MAKE_FILE}=f4 size=1048576 mem-path={{folder}}/f4 share=true pmem=true": _unexpected(
        "pmem", "no persistent memory here: what a guest had is gone with it"
    ),
    f"{_MAKE_FILE}=f5 size=1048576 mem-path={{folder}}/f5 share=true readonly=true": _unexpected(
        "readonly", _FILE
    ),
}

_INSIDE = "no properties here for QEMU's insides: its region, its threads, the name in a migration"
_OF_RAM = {
    "dump": "bool",
    "host-nodes": "int",
    "merge": "bool",
    "policy": "HostMemPolicy",
    "prealloc": "bool",
    "prealloc-threads": "int",
    "reserve": "bool",
    "share": "bool",
    "size": "int",
    "type": "string",
}
_ABSENT = ("align", "offset", "pmem", "readonly", "rom")

_PROPERTIES: dict[str, Difference] = {
    **{
        f"qom-list path={path}": _lists(_OF_RAM, _INSIDE)
        for path in ("/objects/r1", "//objects//r1", "objects/r1")
    },
    "qom-list path=m1": _lists({**_OF_RAM, "hugetlb": "bool", "hugetlbsize": "int", "seal": "bool"}, _INSIDE),
    "qom-list path=f1": _lists(
        {**_OF_RAM, "mem-path": "string", "discard-data": "bool"}, f"{_INSIDE}; {_FILE}"
    ),
    "qom-list path=/": _lists(
        {"machine": "child<embedded-machine>", "objects": "child<container>", "type": "string"},
        "another machine here, and no backends of other kinds and no character devices",
    ),
    **{
        f"qom-get path={path} property={name}": _wrong(
            f"Property 'memory-backend-file.{name}' not found", _FILE
        )
        for path in ("/objects/f1", "f2")
        for name in _ABSENT
    },
    "qom-set path=m1 property=hugetlb value=true": _wrong(
        "cannot change property value", "QEMU takes it, and the memory stays of small pages"
    ),
    "qom-set path=r1 property=policy value=bind": _wrong("cannot change property value", _NO_NUMA),
}

_REGION = "QEMU's pc has room for 1 GiB more per slot; ours, for one boundary of 32 GiB"
_AT = "device_add driver=pc-dimm id=d1 memdev=r1 addr="
_LEGACY = BALLOON_PROPERTIES["legacy-memdev"]
_OF_DIMM = {
    "addr": "uint64",
    "hotpluggable": "bool",
    "hotplugged": "bool",
    "memdev": "link<memory-backend>",
    "node": "uint32",
    "parent_bus": "link<bus>",
    "realized": "bool",
    "size": "uint64",
    "slot": "int32",
    "type": "string",
}


def _outside(address: str) -> Difference:
    return _wrong(
        f"can't add memory device [{address}:0x8000000],"
        " usable range for memory devices [base+0x0:0x970000000]",
        _REGION,
    )


_DIMMS: dict[str, Difference] = {
    f"{_AT}2097152": _outside("0x200000"),
    f"{_AT}9223372036854775808": _outside("0x8000000000000000"),
    f"{_AT}18446744073707454464": _outside("0xffffffffffe00000"),
    f"{_AT}base+0xc00000000": _outside("base+0xc00000000"),
    **{f"qom-list path={path}": _lists(_OF_DIMM, _LEGACY) for path in ("/machine/peripheral/d1", "d1")},
}

_EMPTY = "an empty id is none here; QEMU makes a device without a name that has one"
_NAMED = {"node": 0, "size": 2 << 20, "hotplugged": True, "hotpluggable": True}


def _dimm(number: int, **identity: str) -> object:
    place = {"slot": number, "addr": f"base+{number << 21:#x}", "memdev": f"/objects/r{number}"}
    return {"type": "dimm", "data": {**identity, **place, **_NAMED}}


_ODD_NAMES: dict[str, Difference] = {
    "query-memory-devices": Difference(
        {"return": [_dimm(0), _dimm(1, id="a b/c"), _dimm(2, id="5"), _dimm(3)]}, _EMPTY
    ),
    "qom-list path=/machine/peripheral": Difference(
        {
            "return": [
                {"name": "5", "type": "child<pc-dimm>"},
                {"name": "a b/c", "type": "child<pc-dimm>"},
                {"name": "type", "type": "string"},
            ]
        },
        _EMPTY,
    ),
    "qom-list path=/machine/peripheral-anon": Difference(
        {
            "return": [
                {"name": "device[0]", "type": "child<pc-dimm>"},
                {"name": "device[1]", "type": "child<pc-dimm>"},
                {"name": "type", "type": "string"},
            ]
        },
        _EMPTY,
    ),
}

_NO_BUS = "QEMU has a VMBus with KVM only"

DIFFERENCES: dict[str, dict[str, Difference]] = {
    "what ours does without": _WITHOUT,
    "properties": _PROPERTIES,
    "DIMMs": _DIMMS,
    "odd names": _ODD_NAMES,
    "a fixed size": {
        **{
            f"device_add driver=hv-balloon{more}": _wrong("Bus 'vmbus' does not support hotplugging", _NO_BUS)
            for more in ("", " id=b", " memdev=r1")
        },
        "query-version": Difference(
            {"return": {"qemu": {"major": 10, "minor": 2, "micro": 2}, "package": "dynmem 0.1.0"}},
            GREETING["version"],
        ),
    },
    "a balloon": {
        "query-hv-balloon-status-report": _wrong(
            "guest memory status reporting not enabled",
            f"{_NO_BUS}, so that virtio-balloon stands in for hv-balloon there",
        ),
        "query-memory-devices": Difference(
            {"return": [{"type": "hv-balloon", "data": {"id": "b", "max-size": 0}}]},
            "an hv-balloon without memory is an empty memory device, virtio-balloon is none",
        ),
    },
    "a size below zero": {
        "object-add qom-type=memory-backend-ram id=r1 size=-1": _wrong(
            "backend 'memory-backend-ram' memory size must be multiple of 4 KiB",
            "QEMU takes it for 2 to the 64 less 1, and aborts",
        ),
        "afterwards": Difference([], "QEMU is gone"),
    },
}
