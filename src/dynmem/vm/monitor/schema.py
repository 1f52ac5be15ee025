"""The arguments, results and events of a machine's monitor, by QEMU's names (QEMU qapi/*.json).

Members of our own begin with ``x-`` or are optional ones that QEMU's clients ignore.
"""

from typing import Final

from dynmem.qmp.types import ANY, BOOL, EMPTY, INT, SIZE, STR, UINT32, Array, Enum, Member, Object

# results

RUN_STATES: Final = Enum(("guest-panicked", "paused", "prelaunch", "running", "shutdown"))
STATUS: Final = Object((Member("running", BOOL), Member("status", RUN_STATES)))
NAME: Final = Object((Member("name", STR, is_optional=True),))
_NUMBERS: Final = ("node-id", "drawer-id", "book-id", "socket-id", "die-id", "cluster-id", "module-id")
CPUS: Final = Array(
    Object(
        (
            Member("cpu-index", INT),
            Member("qom-path", STR),
            Member("thread-id", INT),
            Member(
                "props",
                Object(
                    tuple(Member(name, INT, is_optional=True) for name in (*_NUMBERS, "core-id", "thread-id"))
                ),
                is_optional=True,
            ),
            Member("target", Enum(("x86_64",))),
        )
    )
)
BALLOON_INFO: Final = Object((Member("actual", INT),))
STATUS_REPORT: Final = Object((Member("committed", SIZE), Member("available", SIZE)))
MEMORY_SIZES: Final = Object((Member("base-memory", SIZE), Member("plugged-memory", SIZE, is_optional=True)))
POLICIES: Final = Enum(("default", "preferred", "bind", "interleave"))
MEMDEVS: Final = Array(
    Object(
        (
            Member("id", STR, is_optional=True),
            Member("size", SIZE),
            Member("merge", BOOL),
            Member("dump", BOOL),
            Member("prealloc", BOOL),
            Member("share", BOOL),
            Member("reserve", BOOL, is_optional=True),
            Member("host-nodes", Array(INT)),
            Member("policy", POLICIES),
        )
    )
)
_DIMM_INFO: Final = Object(
    (
        Member("id", STR, is_optional=True),
        Member("addr", INT),
        Member("size", INT),
        Member("slot", INT),
        Member("node", INT),
        Member("memdev", STR),
        Member("hotplugged", BOOL),
        Member("hotpluggable", BOOL),
    )
)
_HV_BALLOON_INFO: Final = Object(
    (
        Member("id", STR, is_optional=True),
        Member("memaddr", SIZE, is_optional=True),
        Member("max-size", SIZE),
        Member("memdev", STR, is_optional=True),
        Member("size", SIZE, is_optional=True),  # added now, in bytes; QEMU does not report it
    )
)
MEMORY_DEVICES: Final = Array(
    Object(
        (Member("type", Enum(("dimm", "hv-balloon"))),),
        "type",
        {
            "dimm": Object((Member("data", _DIMM_INFO),)),
            "hv-balloon": Object((Member("data", _HV_BALLOON_INFO),)),
        },
    )
)
_SLOT_STATUS: Final = Object(
    (
        Member("device", STR, is_optional=True),
        Member("slot", STR),
        Member("slot-type", Enum(("DIMM",))),
        Member("source", INT),
        Member("status", INT),
    )
)
SLOT_STATUSES: Final = Array(_SLOT_STATUS)
QOM_PROPERTIES: Final = Array(
    Object(
        (
            Member("name", STR),
            Member("type", STR),
            Member("description", STR, is_optional=True),
            Member("default-value", ANY, is_optional=True),
        )
    )
)
CHANNELS: Final = Array(
    Object(
        (
            Member("relid", INT),
            Member("name", STR),
            Member("interface", STR),
            Member("instance", STR),
            Member("state", STR),
            Member("faults", INT),
            Member("fault", STR, is_optional=True),
        )
    )
)
FAULTS: Final = Array(Object((Member("kind", STR), Member("count", INT))))
ZERO_PAGES: Final = Object(
    (
        *(Member(name, SIZE) for name in ("looked-at", "zero", "discarded", "left-out")),
        Member("complete", BOOL),
    )
)
HV_BALLOON_STATE: Final = Object(
    (
        Member("id", STR),
        Member("state", STR),
        Member("target", INT),
        Member("actual", INT),
        Member("resident", INT),
        Member("at-floor", BOOL),
        Member("resets", INT),
        Member(
            "free-page-reporting",
            Object((Member("calls", INT), Member("ranges", INT), Member("discarded", INT))),
            is_optional=True,
        ),
        Member(
            "operations",
            Array(
                Object(
                    (
                        Member("kind", STR),
                        Member("asked", INT),
                        Member("posted", INT),
                        Member("answered", INT),
                        Member("outcome", STR),
                    )
                )
            ),
        ),
    )
)

# arguments

VALUE: Final = Object((Member("value", INT),))
IDENTITY: Final = Object((Member("id", STR),))
QOM_PATH: Final = Object((Member("path", STR),))
QOM_GET: Final = Object((Member("path", STR), Member("property", STR)))
QOM_SET: Final = Object((Member("path", STR), Member("property", STR), Member("value", ANY)))
DEVICE_ADD: Final = Object(
    (Member("driver", STR), Member("bus", STR, is_optional=True), Member("id", STR, is_optional=True))
)
HOT_REMOVE: Final = Object((Member("pages", INT, is_optional=True), Member("size", SIZE, is_optional=True)))
_BACKEND: Final = (
    Member("dump", BOOL, is_optional=True),
    Member("merge", BOOL, is_optional=True),
    Member("prealloc", BOOL, is_optional=True),
    Member("prealloc-threads", UINT32, is_optional=True),
    Member("share", BOOL, is_optional=True),
    Member("size", SIZE),
)
_BACKENDS: Final = {
    "memory-backend-file": Object(
        (*_BACKEND, Member("discard-data", BOOL, is_optional=True), Member("mem-path", STR))
    ),
    "memory-backend-memfd": Object(
        (*_BACKEND, Member("hugetlb", BOOL, is_optional=True), Member("hugetlbsize", SIZE, is_optional=True))
    ),
    "memory-backend-ram": Object(_BACKEND),
}
OBJECT_ADD: Final = Object(
    (Member("qom-type", Enum(tuple(_BACKENDS))), Member("id", STR)), "qom-type", _BACKENDS
)

# events

_REASONS: Final = Enum(
    (
        "host-error",
        "host-qmp-quit",
        "host-qmp-system-reset",
        "host-signal",
        "host-ui",
        "guest-shutdown",
        "guest-reset",
        "guest-panic",
    )
)
_ENDING: Final = Object((Member("guest", BOOL), Member("reason", _REASONS)))
_UNPLUGGED: Final = Object((Member("device", STR, is_optional=True), Member("path", STR)))
_CRASH: Final = Object(
    (Member("type", Enum(("hyper-v",))),),
    "type",
    {"hyper-v": Object(tuple(Member(f"arg{number}", SIZE) for number in range(1, 6)))},
)
EVENTS: Final = {
    "ACPI_DEVICE_OST": Object((Member("info", _SLOT_STATUS),)),
    "BALLOON_CHANGE": BALLOON_INFO,
    "DEVICE_DELETED": _UNPLUGGED,
    "DEVICE_UNPLUG_GUEST_ERROR": _UNPLUGGED,
    "GUEST_PANICKED": Object(
        (Member("action", Enum(("pause", "poweroff", "run"))), Member("info", _CRASH, is_optional=True))
    ),
    "HV_BALLOON_STATUS_REPORT": STATUS_REPORT,
    "MEMORY_DEVICE_SIZE_CHANGE": Object(
        (Member("id", STR, is_optional=True), Member("size", SIZE), Member("qom-path", STR))
    ),
    "RESET": _ENDING,
    "RESUME": EMPTY,
    "SHUTDOWN": _ENDING,
    "STOP": EMPTY,
    "X_HV_BALLOON_HOT_REMOVED": Object((Member("id", STR), Member("asked", INT), Member("removed", INT))),
}
