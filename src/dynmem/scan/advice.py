"""The worst thing about a VM, and the one command or option that would change it.

One table: what is wrong, and who runs the VM. The commands are for people to judge and to type. Names come
from command lines that anybody may write, so they are quoted for a shell.
"""

import itertools
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from dynmem.cgroups import Limit
from dynmem.discovery.find import BY_HAND, LIBVIRT, OURS, PROXMOX, FoundVm
from dynmem.discovery.pins import LOCKED
from dynmem.errors import printable
from dynmem.scan.judge import ABSENT, BALLOON, INEFFECTIVE, Give, Verdict, leaves_virtio_mem
from dynmem.scan.monitored import VIRTIO_MEM, Monitored
from dynmem.scan.visit import VIRTIO_BALLOON
from dynmem.units import KIB, MIB, format_size

# What is wrong.
LIMITED, PINNED, UNDRIVEN, UNPLUGGED = "limit", "pinned", "no-driver", "not-plugged"
STRANDED, SPARE, STOPPED = "stranded", "spare", "stopped"
DEVICELESS, MUTE, TAKEN, FORBIDDEN = "no-device", "no-statistics", "monitor-taken", "not-permitted"
UNREACHABLE, FINE = "no-monitor", "none"
#: The worst first.
ORDER: Final = (
    *(LIMITED, PINNED, UNDRIVEN, UNPLUGGED, STRANDED, SPARE, STOPPED, DEVICELESS, MUTE, TAKEN),
    *(FORBIDDEN, UNREACHABLE),
    FINE,
)
#: What is worth a line: a quarter of a GiB, and a sixteenth of the VM.
_WORTH_BYTES: Final = 256 * MIB
_WORTH_PART: Final = 16
# What a QEMU needs beside its guest's memory, for a limit to be safe.
_BESIDE_BYTES: Final = 512 * MIB

_OWN_MONITOR: Final = "-qmp unix:/run/dynmem-{word}.qmp,server=on,wait=off"
_BALLOON: Final = (
    '`{{"execute": "balloon", "arguments": {{"value": {target}}}}}` to its monitor, or `dynmem run`'
)
_VIRTIO_MEM: Final = (
    "at its next start, a part of its memory by virtio-mem, which works all the same: a smaller -m with"
    " maxmem={mib}M, -object memory-backend-ram,id=vmem,size={half}M"
    " -device virtio-mem-pci,memdev=vmem,requested-size={half}M"
)
_DRIVER: Final = (
    "in the guest: `modprobe virtio_balloon` (Linux), or the balloon driver and its service of virtio-win"
    " (Windows)"
)
_PLUG: Final = (
    "in the guest: the driver virtio_mem, and `memhp_default_state=online_movable` on the command line of its"
    " kernel"
)
_UNLOCK: Final = "leave out `mem-lock=on` at its next start, if no program in it needs locked memory"
_HMP: Final = "`qm monitor {number}`, then "
CHANGES: Final[Mapping[str, Mapping[str, str]]] = {
    PINNED: {
        BY_HAND: _VIRTIO_MEM,
        LIBVIRT: "`virsh edit {name}`: a smaller <memory>, and a device <memory model='virtio-mem'>",
        PROXMOX: "in its `args:`, " + _VIRTIO_MEM,
    },
    UNDRIVEN: {BY_HAND: _DRIVER, LIBVIRT: _DRIVER, PROXMOX: _DRIVER},
    UNPLUGGED: {BY_HAND: _PLUG, LIBVIRT: _PLUG, PROXMOX: _PLUG},
    STRANDED: {
        BY_HAND: "`-device virtio-balloon-pci,free-page-reporting=on`, at its next start",
        LIBVIRT: "`virsh edit {name}`, for the next start: <memballoon freePageReporting='on'/>",
        PROXMOX: _HMP + "`balloon {target_mib}`; newer versions of Proxmox turn free page reporting on",
    },
    SPARE: {
        BY_HAND: _BALLOON,
        LIBVIRT: "`virsh setmem {name} {target_kib}K --live`",
        PROXMOX: _HMP + "`balloon {target_mib}`",
        OURS: _BALLOON,
    },
    STOPPED: dict.fromkeys((BY_HAND, LIBVIRT, PROXMOX, OURS), "`kill -CONT {pid}`, if nothing debugs it"),
    DEVICELESS: {
        BY_HAND: "`-device virtio-balloon-pci,free-page-reporting=on,deflate-on-oom=on`, at its next start",
        LIBVIRT: "`virsh edit {name}`: <memballoon model='virtio' autodeflate='on' freePageReporting='on'/>",
        PROXMOX: "`qm set {number} --balloon {half}`, then stop and start it",
        OURS: "`--device hv-balloon`, at its next start",
    },
    MUTE: {
        BY_HAND: '`{{"execute": "qom-set", "arguments": {{"path": "{path}", "property":'
        ' "guest-stats-polling-interval", "value": 2}}}}` to its monitor',
        LIBVIRT: "`virsh dommemstat {name} --period 2 --live`",
        PROXMOX: _HMP + "`qom-set {path} guest-stats-polling-interval 2`",
    },
    TAKEN: {
        BY_HAND: "if `dynmem run` manages it, `dynmem status`; else a monitor of its own for dynmem, at its"
        " next start: `" + _OWN_MONITOR + "`",
        LIBVIRT: "`virsh dommemstat {name}` says what its guest reports",
        PROXMOX: "`qm set {number} --args '" + _OWN_MONITOR + "'` (beside the args that it has), at its next"
        " start",
    },
    FORBIDDEN: dict.fromkeys((BY_HAND, LIBVIRT, PROXMOX, OURS), "`sudo dynmem scan`"),
    UNREACHABLE: {
        BY_HAND: "a monitor for dynmem, at its next start: `" + _OWN_MONITOR + "`",
        OURS: "a monitor, at its next start: `--qmp unix:/run/dynmem-{word}.qmp,server=on,wait=off`",
        LIBVIRT: "`virsh dommemstat {name}` says what its guest reports",
    },
}


class Advice(NamedTuple):
    """The worst line of a VM.

    Attributes:
        kind: What is wrong, in a word of `ORDER`.
        finding: What is wrong, in a sentence; "" if nothing is.
        change: What would change it; "" if nothing is wrong, or nothing would.
        size: How much memory it is about. Bytes.
    """

    kind: str
    finding: str = ""
    change: str = ""
    size: int = 0


class Case(NamedTuple):
    """What is known of a VM.

    Attributes:
        vm: The VM.
        told: What its monitor says.
        size: Its size. Bytes.
        state: Of its driver.
        back: Whether discards work.
        gives: What it could give.
        stranded: What is stranded; None: not known.
        limit: The tightest limit above it.
        problem: Why its monitor was not asked, or not all.
        is_forbidden: Whether this user may not ask it.
        is_stopped: Whether a signal has stopped its process.
    """

    vm: FoundVm
    told: Monitored
    size: int
    state: Verdict
    back: Verdict
    gives: Give
    stranded: int | None
    limit: Limit | None
    problem: str
    is_forbidden: bool = False
    is_stopped: bool = False


def advise(case: Case) -> Advice:
    """Return the worst line of a VM, and what would change it."""
    wrong = itertools.chain(_wrong_with_memory(case), _wrong_with_access(case))
    kind, finding, size = next(wrong, (FINE, "", 0))
    if kind == LIMITED and case.limit is not None:
        return Advice(kind, finding, raise_limit(case.limit, case.size), size)
    template = CHANGES.get(kind, {}).get(case.vm.keeper, "")
    if kind == PINNED and not leaves_virtio_mem(case.back):
        template = _UNLOCK if case.back.evidence == LOCKED else ""
    if case.vm.name.startswith("-") and "{name}" in template:
        template = ""  # virsh would take it for an option
    return Advice(kind, finding, _filled(template, case, size), size)


def _wrong_with_memory(case: Case) -> Iterator[tuple[str, str, int]]:
    """Yield what is wrong with the memory of a VM, the worst first: a word of `ORDER`, a sentence, bytes."""
    told, stranded, gives, limit = case.told, case.stranded or 0, case.gives.size or 0, case.limit
    worth = max(_WORTH_BYTES, case.size // _WORTH_PART)
    if limit is not None and limit.size < case.size:
        below = f"{_shown(limit.file)} limits it to {format_size(limit.size)}, below its size"
        yield (
            LIMITED,
            f"{below}: it can be killed or swapped while the host has memory",
            case.size - limit.size,
        )
    if case.back.word == INEFFECTIVE and told.balloons and not told.virtio_mems:
        yield PINNED, f"its balloon returns nothing: {case.back.evidence}", stranded
    if case.state.word == ABSENT:
        kind = UNDRIVEN if told.balloons else UNPLUGGED
        yield kind, f"no driver replies: {case.state.evidence}", 0
    if stranded >= worth and told.reports_free_pages is not True:
        what = f"{format_size(stranded)} or more is free in its guest and held on the host"
        yield STRANDED, f"{what}, and no free page reporting returns it", stranded
    if gives >= worth:
        yield SPARE, f"it could give back {format_size(gives)} now ({case.gives.knob})", gives


def _wrong_with_access(case: Case) -> Iterator[tuple[str, str, int]]:
    """Yield why a VM cannot be asked or moved, likewise."""
    told = case.told
    if case.is_stopped:
        yield STOPPED, case.problem or "its process is stopped", 0
    if told.devices is not None and not told.balloons and not told.virtio_mems:
        yield DEVICELESS, "nothing can move its memory: it has no balloon and no virtio-mem", 0
    if VIRTIO_BALLOON in told.balloons and told.interval_s == 0:
        yield MUTE, "its guest is not asked for statistics, so what it needs is not known", 0
    if case.vm.monitors and not told.is_known:
        kind = FORBIDDEN if case.is_forbidden else TAKEN
        yield kind, case.problem or "its monitor could not be asked", 0
    if not case.vm.monitors and not told.is_known:
        yield UNREACHABLE, case.problem or "it has no monitor that can be asked", 0


def raise_limit(limit: Limit, size: int) -> str:
    """Return the command that raises a limit so that a VM of this size fits below it."""
    wanted = size + size // _WORTH_PART + _BESIDE_BYTES
    unit = limit.file.parent.name
    if unit.endswith((".scope", ".service", ".slice")) and limit.file.name in ("memory.max", "memory.high"):
        setting = {"memory.max": "MemoryMax", "memory.high": "MemoryHigh"}[limit.file.name]
        return f"`systemctl set-property {shlex.quote(_shown(unit))} {setting}={wanted}`"
    return f"`echo {wanted} > {shlex.quote(_shown(limit.file))}`"


def _filled(template: str, case: Case, size: int) -> str:
    told, vm = case.told, case.vm
    if not template or (case.gives.knob == VIRTIO_MEM and template is CHANGES[SPARE].get(vm.keeper)):
        return _shrink_virtio_mem(case, size) if template else ""
    target = max(MIB, (told.actual_bytes or case.size) - (case.gives.size or 0))
    if case.gives.knob != BALLOON:
        target = told.actual_bytes or case.size
    word = "".join(each if each.isalnum() else "-" for each in vm.name)
    return template.format(
        name=shlex.quote(vm.name),
        number=vm.started.number,
        pid=vm.pid,
        word=word,
        mib=case.size // MIB,
        half=case.size // 2 // MIB,
        target=target,
        target_mib=target // MIB,
        target_kib=target // KIB,
        path=told.balloon_path.replace("\\", "\\\\").replace('"', '\\"'),
    )


def _shrink_virtio_mem(case: Case, size: int) -> str:
    wanted = max(0, sum(each.size for each in case.told.virtio_mems) - size)
    if case.vm.keeper == LIBVIRT:
        name = shlex.quote(case.vm.name)
        return f"`virsh update-memory-device {name} --requested-size {wanted // KIB}K --live`"
    return f"set requested-size of its virtio-mem to {wanted} (`qom-set`)"


def _shown(path: Path | str) -> str:
    """Return a path as it can be printed."""
    return printable(str(path))
