"""What is asked of two monitors, a real QEMU's and ours, about memory: commands good and bad, by scenes.

Nothing here says what the answers are. They are compared with each other, and the differences that stay are
listed with their reasons in memory_differences.py.
"""

import json
import re
from typing import NamedTuple

MIB: int = 1 << 20
GIB: int = 1 << 30
RAM, MEMFD, FILE = "memory-backend-ram", "memory-backend-memfd", "memory-backend-file"
FOLDER: str = "{folder}"  # stands for a folder of the machine's own, in what is sent and in what is answered


class FromBase(NamedTuple):
    """An address: so many bytes above where device memory begins, which differs between the machines."""

    offset: int


class Step(NamedTuple):
    """One command; `events` are waited for before the next one. `slot` is the DIMM a guest gives back."""

    execute: str
    arguments: dict[str, object] | None = None
    events: tuple[str, ...] = ()
    slot: int | None = None

    @property
    def text(self) -> str:
        """As the table of differences names it."""
        arguments = self.arguments or {}
        words = [f"{name}={_shown(value)}" for name, value in arguments.items()]
        return " ".join([self.execute, *words])


class Scene(NamedTuple):
    """Steps for one machine, started with `memory` and `options`, which both programs understand.

    Nothing runs in either; with `runs` our guest does, and gives DIMMs back by itself.
    """

    name: str
    memory: str
    steps: list[Step]
    machine: str = ""  # further options of --machine
    objects: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    balloon: bool = False
    runs: bool = False


def _shown(value: object) -> str:
    if isinstance(value, FromBase):
        return f"base+{value.offset:#x}"
    is_word = isinstance(value, str) and re.fullmatch(r"[a-z/{][^ ]*", value)
    return str(value) if is_word else json.dumps(value, ensure_ascii=False)


def do(execute: str, **arguments: object) -> Step:
    return Step(execute, {name.replace("_", "-"): value for name, value in arguments.items()})


def make(kind: str, identity: str, size: object, **more: object) -> Step:
    return do("object-add", qom_type=kind, id=identity, size=size, **more)


def file(identity: str, size: object, path: str, **more: object) -> Step:
    return make(FILE, identity, size, mem_path=f"{FOLDER}/{path}", **more)


def plug(**arguments: object) -> Step:
    return do("device_add", driver="pc-dimm", **arguments)


def get(path: object, name: object) -> Step:
    return do("qom-get", path=path, property=name)


def put(path: object, name: object, value: object) -> Step:
    return do("qom-set", path=path, property=name, value=value)


LOOK: list[Step] = [do("query-memdev"), do("query-memory-devices"), do("query-memory-size-summary")]
RESET: Step = Step("system_reset", events=("RESET",))

BAD_SIZES: tuple[object, ...] = ("128M", 0, 1.5, 134217728.0, True, None, [], {})

RAM_BACKENDS: list[Step] = [
    *LOOK,
    do("qom-list", path="/objects"),
    make(RAM, "r1", 128 * MIB),
    make(RAM, "r1", 128 * MIB),
    do("object-add", qom_type=RAM, id="r2"),
    *(make(RAM, "r2", size) for size in BAD_SIZES),
    *(make(RAM, "r2", 1 << power) for power in (50, 62, 63, 64)),
    make(RAM, "r2", MIB, nix=1),
    *(make(kind, "r2", MIB) for kind in ("nix", "", "memory-backend")),
    do("object-add", qom_type=1, id="r2", size=MIB),
    do("object-add", qom_type=RAM, size=MIB),
    do("object-add", id="r2", size=MIB),
    Step("object-add"),
    do("object-add", qom_type=RAM, id=5, size=MIB),
    *(make(RAM, identity, MIB) for identity in ("5x", "", "a b", "a/b", "é", "a.b-c_d", "x" * 200)),
    *(make(RAM, "r3", MIB, share=value) for value in ("on", 1, True)),
    make(RAM, "r4", MIB, prealloc="yes"),
    make(RAM, "r4", MIB, prealloc=True),
    make(RAM, "r5", MIB, hugetlb=True),
    make(RAM, "r5", MIB, mem_path="/x"),
    make(RAM, "r5", MIB, props={"x": 1}),
    make(RAM, "r5", MIB, merge=False, dump=False),
]

MEMFD_BACKENDS: list[Step] = [
    make(MEMFD, "m1", 128 * MIB),
    make(MEMFD, "m2", MIB, share=False),
    make(MEMFD, "m4", MIB, hugetlbsize=2 * MIB),
    make(MEMFD, "m5", 2 * MIB, hugetlb="x"),
    make(MEMFD, "m6", 1 << 40, hugetlb=True),
    make(MEMFD, "m7", 2 * MIB, hugetlb=True, hugetlbsize=3 * MIB),
    make(MEMFD, "m7", 2 * MIB, hugetlb=True, hugetlbsize=0),
    make(MEMFD, "m7", 2 * MIB, hugetlb=True, hugetlbsize="2M"),
    make(MEMFD, "m7", 2 * MIB, hugetlb=True, hugetlbsize=4096),
    make(MEMFD, "m7", 3 * MIB, hugetlb=True, hugetlbsize=2 * MIB),
    do("object-add", qom_type=MEMFD, id="m8"),
    make(MEMFD, "m8", 0),
    make(MEMFD, "m9", 1 << 50),
    make(MEMFD, "m10", MIB, nix=1),
    make(MEMFD, "m11", MIB, prealloc=True),
    make(MEMFD, "m12", MIB, mem_path="/x"),
]

FILE_BACKENDS: list[Step] = [
    make(FILE, "f1", MIB),
    do("object-add", qom_type=FILE, id="f1", mem_path=f"{FOLDER}/f1"),
    file("f1", MIB, "f1", nix=1),
    file("f2", MIB, "f2", share=True),
    file("f3", MIB, "nix/f3", share=True),
    file("f4", MIB, "", share=True),
    file("f5", 2 * MIB, "f2", share=True),
    file("f5", 4097, "f5", share=True),
    file("f5", 0, "f5"),
    make(FILE, "f6", MIB, mem_path=""),
    make(FILE, "f6", MIB, mem_path=1),
    file("f7", MIB, "f7", share=True, discard_data=True),
    file("f8", MIB, "f8", share=True, prealloc=True),
    make(FILE, "f9", MIB, mem_path="/dev/null", share=True),
]

WITHOUT: list[Step] = [  # properties and values that ours does without
    make(RAM, "r1", 4097),
    make(RAM, "r2", 1),
    make(RAM, "r3", MIB, policy="bind"),
    make(RAM, "r3", MIB, policy="nix"),
    make(RAM, "r4", MIB, reserve=False),
    make(RAM, "r5", MIB, prealloc=True, prealloc_threads=2),
    make(RAM, "r6", MIB, prealloc=True, prealloc_threads=0),
    make(MEMFD, "m1", MIB, seal=False),
    make(MEMFD, "m2", 4097),
    file("f1", MIB, "f1"),
    file("f2", MIB, "f2", share=True, align=4096),
    file("f3", MIB, "f3", share=True, offset=4096),
    file("f4", MIB, "f4", share=True, pmem=True),
    file("f5", MIB, "f5", share=True, readonly=True),
]

OBJECTS: list[Step] = [
    *RAM_BACKENDS,
    *MEMFD_BACKENDS,
    *FILE_BACKENDS,
    do("query-memdev"),
    do("query-memdev", nix=1),
    do("qom-list", path="/objects"),
    do("query-memory-size-summary"),
    Step("object-del"),
    *(do("object-del", id=identity) for identity in ("nix", 1, "", "/objects/r1")),
    do("object-del", id="r1", nix=1),
    *(do("object-del", id=identity) for identity in ("r3", "r3", "f2", "m1")),
    make(RAM, "r3", MIB),
    do("query-memdev"),
]

COMMON: tuple[str, ...] = ("size", "share", "prealloc", "type")
OTHERS: tuple[str, ...] = ("merge", "dump", "policy", "host-nodes", "reserve", "prealloc-threads")
OF_MEMFD: tuple[str, ...] = ("hugetlb", "hugetlbsize", "seal")
OF_FILE: tuple[str, ...] = ("mem-path", "discard-data", "align", "offset", "pmem", "readonly", "rom")
BAD_PATHS: tuple[object, ...] = ("", "/nix", "nix", "/objects/nix", "/objects/r1/size", "/objects/r1/nix", 1)

PROPERTIES: list[Step] = [
    make(RAM, "r1", 128 * MIB),
    make(MEMFD, "m1", 128 * MIB),
    make(MEMFD, "m2", 4 * MIB, share=False),
    file("f1", MIB, "f1", share=True, discard_data=True),
    file("f2", MIB, "f2", share=True),
    *(do("qom-list", path=path) for path in ("/objects/r1", "m1", "f1", "/", "/objects", "/objects/")),
    *(do("qom-list", path=path) for path in ("//objects//r1", "objects", "objects/r1")),
    *(do("qom-list", path=path) for path in ("/machine/peripheral", "/machine/peripheral-anon")),
    *(do("qom-list", path=path) for path in BAD_PATHS),
    Step("qom-list"),
    do("qom-list", path="/objects", nix=1),
    *(get("/objects/r1", name) for name in COMMON + OTHERS),
    *(get("m1", name) for name in COMMON + OF_MEMFD),
    *(get("m2", name) for name in COMMON + OF_MEMFD),
    *(get("/objects/f1", name) for name in COMMON + OF_FILE),
    *(get("f2", name) for name in COMMON + OF_FILE),
    *(get(path, "size") for path in BAD_PATHS),
    *(get("r1", name) for name in ("nix", "", 1, "mem-path", "hugetlb")),
    *(get(path, "type") for path in ("/objects", "/", "/machine/peripheral")),
    get("/objects", "r1"),
    do("qom-get", path="r1"),
    do("qom-get", property="size"),
    Step("qom-get"),
    *(put("r1", "size", value) for value in (256 * MIB, "x", 0)),
    *(put("r1", "share", value) for value in (True, False)),
    put("r1", "type", "x"),
    put("r1", "nix", 1),
    put("nix", "size", 1),
    put("/objects", "type", 1),
    do("qom-set", path="r1", property="prealloc"),
    do("qom-set", path="r1", value=1),
    Step("qom-set"),
    put("f2", "prealloc", 1),
    put("f2", "prealloc", True),
    get("f2", "prealloc"),
    put("f2", "prealloc", False),
    get("f2", "prealloc"),
    put("m1", "size", MIB),
    put("m1", "hugetlb", True),
    put("m1", "hugetlbsize", 2 * MIB),
    *(put("f1", name, value) for name, value in (("mem-path", "x"), ("share", False), ("discard-data", 1))),
    put("f1", "discard-data", False),
    get("f1", "discard-data"),
    *(put("r1", name, value) for name, value in (("merge", False), ("dump", False))),
    do("query-memdev"),
    put("r1", "policy", "bind"),
]

BAD_DIMMS: list[Step] = [
    plug(id="d1"),
    *(plug(id="d1", memdev=memdev) for memdev in ("nix", "/objects/nix", 1, "", "/objects")),
    do("device_add", id="d1", memdev="r1"),
    Step("device_add"),
    *(do("device_add", driver=driver, id="d1") for driver in ("nix", "", 1, RAM, "device")),
    plug(id="d1", memdev="r1", nix=1),
    *(plug(id="d1", memdev="r1", addr=value) for value in ("x", -1, None, 1.5, True, 1 << 64)),
    *(plug(id="d1", memdev="r1", slot=value) for value in ("x", "0", -2, 4, 1 << 31, True, None)),
    *(plug(id="d1", memdev="r1", node=value) for value in (1, -1, "0", 1 << 32)),
    plug(id="d1", memdev="r1", size=5),
    *(plug(id="d1", memdev="r1", addr=value) for value in (1, FromBase(4096), FromBase(2 * MIB - 1))),
    *(plug(id="d1", memdev="r1", addr=value) for value in (2 * MIB, 1 << 63, (1 << 64) - 2 * MIB)),
    plug(id="d1", memdev="r1", addr=FromBase(48 * GIB)),
    *(plug(id="d1", memdev=memdev) for memdev in ("odd", "odd3", "page", "big")),
    plug(id="d1", memdev="big", addr=FromBase(0)),
]

DIMMS: list[Step] = [
    make(RAM, "r1", 128 * MIB),
    make(MEMFD, "m1", 128 * MIB),
    make(MEMFD, "m2", 256 * MIB),
    make(RAM, "odd", MIB),
    make(RAM, "odd3", 3 * MIB),
    make(RAM, "page", 4096),
    make(RAM, "big", 4 * GIB),
    make(RAM, "most", 1792 * MIB),
    *(make(RAM, identity, 128 * MIB) for identity in ("a", "b", "c")),
    *BAD_DIMMS,
    *LOOK,
    plug(id="d1", memdev="r1"),
    *LOOK,
    plug(id="d1", memdev="m1"),
    plug(id="d2", memdev="r1"),
    plug(id="d2", memdev="m1", slot=0),
    *(plug(id="d2", memdev="m1", addr=FromBase(offset)) for offset in (0, 64 * MIB)),
    plug(id="d2", memdev="most"),
    plug(memdev="m1", addr=FromBase(512 * MIB), slot=3),
    plug(id="d3", memdev="/objects/m2"),
    *LOOK,
    plug(id="5", memdev="a"),
    plug(id="d5", memdev="b"),
    *LOOK,
    *(do("object-del", id=identity) for identity in ("r1", "m1", "c")),
    *(do("qom-list", path=path) for path in ("/machine/peripheral", "/machine/peripheral-anon")),
    *(do("qom-list", path=path) for path in ("/machine/peripheral/d1", "d1")),
    *(
        get("/machine/peripheral/d1", name)
        for name in ("addr", "slot", "node", "size", "memdev", "type", "id")
    ),
    *(get("d1", name) for name in ("hotplugged", "hotpluggable", "realized", "nix")),
    *(get("d3", name) for name in ("addr", "slot", "size", "memdev")),
    *(get("/machine/peripheral-anon/device[0]", name) for name in ("addr", "slot", "memdev")),
    *(put("d1", name, 1) for name in ("addr", "slot", "node", "size", "hotplugged", "type", "nix")),
    put("d1", "memdev", "a"),
    Step("device_del"),
    *(do("device_del", id=identity) for identity in ("nix", "/nix", "/objects/r1", "r1", "/machine", "", 1)),
    do("device_del", id="d1", nix=1),
    do("device_del", id="d1"),
    do("device_del", id="d1"),
    do("device_del", id="/machine/peripheral/d3"),
    do("device_del", id="device[0]"),
    do("device_del", id="/machine/peripheral-anon/device[0]"),
    *LOOK,
]

GAPS: list[Step] = [
    *(make(RAM, f"r{number}", 128 * MIB) for number in range(4)),
    make(MEMFD, "page", 4096),
    plug(id="d0", memdev="r0", addr=FromBase(128 * MIB)),
    plug(id="d1", memdev="page", addr=FromBase(4096)),
    plug(id="d2", memdev="r1"),
    plug(id="d3", memdev="r2", addr=FromBase(382 * MIB)),
    do("query-memory-devices"),
    make(RAM, "r4", 126 * MIB),
    plug(id="d4", memdev="r4"),
    plug(id="d5", memdev="r3"),
    *LOOK,
    RESET,
    *LOOK,
]

ODD_NAMES: list[Step] = [
    *(make(RAM, f"r{number}", 2 * MIB) for number in range(4)),
    *(plug(id=identity, memdev=f"r{number}") for number, identity in enumerate(("", "a b/c", "5", 1))),
    do("query-memory-devices"),
    *(do("qom-list", path=path) for path in ("/machine/peripheral", "/machine/peripheral-anon")),
    get("/machine/peripheral/5", "slot"),
    plug(),
    do("device_del", id="/machine/peripheral-anon/device[0]"),
]

ONE_SLOT: list[Step] = [
    make(RAM, "r1", 128 * MIB),
    make(RAM, "r2", 128 * MIB),
    plug(id="d1", memdev="r1", slot=-1),
    plug(id="d2", memdev="r2"),
    *(plug(id="d2", memdev="r2", slot=slot) for slot in (0, 1)),
]

PLAIN: list[Step] = [
    *LOOK,
    make(RAM, "r1", 128 * MIB),
    plug(id="d1", memdev="r1"),
    plug(id="d1", memdev="r1", addr=FromBase(0)),
    *(do("device_add", driver="hv-balloon", **more) for more in ({}, {"id": "b"}, {"memdev": "r1"})),
    do("balloon", value=128 * MIB),
    do("query-balloon"),
    do("query-hv-balloon-status-report"),
    RESET,
    do("system_reset", nix=1),
    do("query-status"),
    do("query-name"),
    do("query-version"),
]

BALLOON: list[Step] = [
    do("query-balloon"),
    *(do("balloon", value=value) for value in (0, -1, -(1 << 63), "1", 1.5, None)),
    Step("balloon"),
    *(do("balloon", value=value) for value in (1, 128 * MIB, 256 * MIB, 1 << 62)),
    do("query-balloon"),
    do("query-hv-balloon-status-report"),
    RESET,
    RESET,
    *LOOK,
    do("query-balloon"),
]

BOOT_OBJECT: list[Step] = [
    *LOOK,
    do("object-del", id="boot"),
    get("boot", "size"),
    plug(id="d1", memdev="boot"),
    make(RAM, "r1", 128 * MIB),
    plug(id="d1", memdev="r1"),
    *LOOK,
]

FROM_THE_START: list[Step] = [
    *LOOK,
    *(get("d0", name) for name in ("hotplugged", "hotpluggable", "slot", "addr")),
    plug(id="d2", memdev="m0"),
    make(MEMFD, "m2", 128 * MIB),
    plug(id="d2", memdev="m2"),
    do("object-del", id="m0"),
    RESET,
    *LOOK,
]

UNPLUG: list[Step] = [
    make(RAM, "r1", 128 * MIB),
    make(RAM, "r2", 128 * MIB),
    plug(id="d1", memdev="r1"),
    plug(memdev="r2"),
    *LOOK,
    Step("device_del", {"id": "d1"}, events=("DEVICE_DELETED",), slot=0),
    *LOOK,
    do("device_del", id="d1"),
    plug(id="d1", memdev="r1"),
    RESET,
    *LOOK,
    Step("device_del", {"id": "/machine/peripheral/d1"}, events=("DEVICE_DELETED",), slot=0),
    Step("device_del", {"id": "/machine/peripheral-anon/device[0]"}, events=("DEVICE_DELETED",), slot=1),
    do("object-del", id="r1"),
    do("object-del", id="r2"),
    *LOOK,
]

ROOMY: str = "256M,maxmem=2G,slots=4"
SCENES: list[Scene] = [
    Scene("objects", ROOMY, OBJECTS),
    Scene("what ours does without", ROOMY, WITHOUT),
    Scene("properties", ROOMY, PROPERTIES),
    Scene("DIMMs", ROOMY, DIMMS),
    Scene("gaps", "256M,maxmem=768M,slots=8", GAPS),
    Scene("odd names", "256M,maxmem=2G,slots=8", ODD_NAMES),
    Scene("one slot", "256M,maxmem=1G,slots=1", ONE_SLOT),
    Scene("a fixed size", "256M", PLAIN),
    Scene("a balloon", "256M", BALLOON, balloon=True),
    Scene(
        "boot memory is an object",
        "256M,maxmem=1G,slots=4",
        BOOT_OBJECT,
        machine="memory-backend=boot",
        objects=("memory-backend-memfd,id=boot,size=256M",),
    ),
    Scene(
        "DIMMs from the start",
        "256M,maxmem=1G,slots=4",
        FROM_THE_START,
        objects=("memory-backend-ram,id=m0,size=128M", "memory-backend-memfd,id=m1,size=64M"),
        devices=("pc-dimm,id=d0,memdev=m0", "pc-dimm,id=d1,memdev=m1,slot=2"),
    ),
    Scene("unplug", "256M,maxmem=1G,slots=4", UNPLUG, runs=True),
    Scene("a size below zero", "256M", [make(RAM, "r1", -1)]),
]
