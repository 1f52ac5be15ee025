"""A first configuration for the VMs of a host, with a comment on each line, written to be read and corrected.

A VM that dynmem cannot manage as it is stands there too, behind `#`, with the reason and the next step.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from dynmem.discovery.find import LIBVIRT, OURS, PROXMOX, FoundMonitor, FoundVm
from dynmem.discovery.keepers import is_keepers_own, libvirt_of
from dynmem.errors import printable
from dynmem.limits import MANAGER_NAME_MAX, MANAGER_VMS_MAX, UNIX_PATH_BYTES_MAX, WEIGHT_MAX
from dynmem.manager.config_file import SLUSH, is_name
from dynmem.manager.step.facts import MonitorKind
from dynmem.policy import MemorySettings
from dynmem.units import GIB, MIB, format_size, parse_size

_DEFAULTS: Final = MemorySettings()
# The part of the host that stays outside the budget: the kernel, the VMs' own processes, everything else.
_HOST_SHARE: Final = 8
# A guess at what a guest lives with: a quarter, and no less than this.
_GUESS_SHARE: Final = 4
_GUESS_BYTES_MIN: Final = 256 * MIB
_MINIMUM_BYTES_MIN: Final = 16 * MIB
_SHARES: Final = 1000  # Proxmox's middle, which is our middle weight
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9._-]+")
# What tells two VMs of one name apart: a dash and a number.
_SUFFIX_MAX: Final = 11
_WIDTH: Final = 34
_KINDS: Final[dict[MonitorKind, str]] = {
    "own": "for dynmem alone: nobody else stays connected to it",
    "borrowed": "Proxmox's own: visited when nobody is connected, for 100 ms at most",
}
# A remark is no longer than this: nothing of it may fill a screen.
_REMARK_MAX: Final = 300


class Sized(NamedTuple):
    """A VM that was found, and its size.

    Attributes:
        vm: The VM.
        boot_bytes: What it boots with; 0: not known.
        problem: Why its monitor cannot be used; "" if nothing is known against it.
    """

    vm: FoundVm
    boot_bytes: int
    problem: str = ""


def initial(found: Sequence[Sized], unseen: Sequence[str], host_bytes: int, date: str) -> str:
    """Return the text of the file."""
    budget = _whole(host_bytes - host_bytes // _HOST_SHARE)
    room = budget - parse_size(SLUSH)
    lines = [
        f"# A first configuration, written by `dynmem config init` on {date}. Read it, correct it, and check",
        "# it with `dynmem run --config FILE --check`. Every key is explained in docs/config.md.",
        *(f"# Not seen: {_remark(sentence)}." for sentence in unseen),
        "",
        "[host]",
        _line("budget", _size(budget), f"all guests together; this host has {format_size(host_bytes)}"),
        _line("slush", f'"{SLUSH}"', "the part of it that is never granted"),
        "",
        "[manager]",
        _line("mode", '"observe"', 'changes nothing; "advise" prints commands, "enforce" acts'),
        _line("period", '"1s"', "from one look at the VMs to the next"),
    ]
    uri = next((_libvirt_of(each.vm) for each in found if _is_domain(each.vm)), "")
    if uri:
        lines.append(_line("libvirt", f'"{uri}"', "whose domains are reached by its API"))
    names: set[str] = set()
    for each in found[:MANAGER_VMS_MAX]:
        name = _name(each.vm, names)
        names.add(name)
        lines += ["", *_table(each, name, room, uri)]
    if len(found) > MANAGER_VMS_MAX:
        lines += [
            "",
            f"# {len(found) - MANAGER_VMS_MAX} more VMs were found: {MANAGER_VMS_MAX} can be managed.",
        ]
    if not found:
        lines += ["", "# No VM was found. Each has a table like this:", *_commented(_example())]
    return "\n".join(lines) + "\n"


def _table(each: Sized, name: str, room: int, uri: str) -> Iterator[str]:
    """Yield the lines of one VM; *uri* is the libvirt that the file names."""
    vm, maximum = each.vm, each.boot_bytes
    if vm.proxmox is not None:
        maximum = vm.proxmox.maximum_bytes
    boot = maximum = _whole(maximum)
    is_domain, origin = _is_domain(vm), "what it boots with"
    if boot and vm.started.pluggable_bytes and not is_domain:
        maximum = _whole(boot + vm.started.pluggable_bytes)
        origin = f"what it boots with, {format_size(boot)}, and what its virtio-mem can plug"
    monitor, kind = _monitor(vm)
    problem = each.problem or _problem(vm, monitor, maximum, room)
    if is_domain and _libvirt_of(vm) != uri:
        problem = f"it is of {_libvirt_of(vm)}, and one libvirt can be managed"
    shown = vm.monitors[0].path if monitor is None and vm.monitors else monitor and monitor.path
    path = str(shown) if problem == "" else _way_for_us(vm, str(shown or f"/run/vm/{name}.qmp"))
    minimum, why = _minimum(vm, boot, room)
    weight, why_weight = _weight(vm)
    who = f"pid {vm.pid}, {vm.keeper}" if vm.pid else vm.keeper
    called = "" if name == vm.name else f"; it calls itself {vm.name}"
    way = [
        _line("qmp", json.dumps(path, ensure_ascii=False), "its monitor"),
        _line("monitor", f'"{kind}"', _KINDS[kind]),
    ]
    if is_domain:
        way = [_line("libvirt", f'"{vm.started.uuid}"', "the UUID of the domain; its name would do")]
    lines = [
        "[[vm]]",
        _line("name", f'"{name}"', f"{who}{called}"),
        *way,
        _line("minimum", _size(minimum), f"it is never shrunk below; {why}"),
        _line("maximum", _size(maximum), f"it is never grown above; {origin}"),
        _line("buffer", str(_DEFAULTS.buffer_percent), "percent on top of what its guest uses"),
        _line("weight", str(weight), f"1 to {WEIGHT_MAX}, within a priority; {why_weight}"),
        _line("priority", f'"{_DEFAULTS.priority}"', "low, normal or high: who is served first"),
    ]
    if vm.proxmox is not None and vm.proxmox.is_moved:
        why = "Proxmox changes its size, too; true: enforce mode sets its shares to 0"
        lines.append(_line("takeover", "false", why))
    if not problem:
        yield from lines
        return
    yield f"# {name} cannot be managed yet: {_remark(problem)}."
    yield from _commented(lines)


def _problem(vm: FoundVm, monitor: FoundMonitor | None, maximum: int, room: int) -> str:
    """Return why a VM cannot be managed as it is, and what to do; "" if it can."""
    if vm.proxmox is not None and vm.proxmox.minimum_bytes is None:
        return (
            f"it has no balloon device: run `qm set {vm.proxmox.number} --delete balloon` and start it again"
        )
    if monitor is None and not _is_domain(vm):
        return _no_monitor(vm)
    path = "/" if monitor is None else str(monitor.path)
    if not path.startswith("/") or not path.isprintable() or len(path.encode()) > UNIX_PATH_BYTES_MAX:
        return "the path of its monitor cannot stand in this file: start it with a plain one"
    if not maximum:
        return "its size is not known: write it as maximum"
    if room < _MINIMUM_BYTES_MIN or maximum < _MINIMUM_BYTES_MIN:
        return "it is smaller than any guest that runs, or the budget is"
    return ""


def _no_monitor(vm: FoundVm) -> str:
    if vm.started.number is not None:
        path = f"/run/qemu-server/{vm.started.number}-dynmem.qmp"
        args = f"-chardev socket,id=dynmem,path={path},server=on,wait=off -mon chardev=dynmem,mode=control"
        return (
            f"its monitor is Proxmox's: give it one for dynmem, beside what `args` has already, with"
            f" `qm set {vm.started.number} --args '{args}'`, and start it again"
        )
    if vm.keeper == LIBVIRT:
        return (
            "its monitor is libvirt's, and it was started without a UUID: start it again, or give it one more"
        )
    if vm.monitors:
        return "its monitor serves another client: start it with one more, for dynmem"
    return f"{vm.problem or 'it has no monitor'}: start it with -qmp unix:PATH,server=on,wait=off"


def _way_for_us(vm: FoundVm, otherwise: str) -> str:
    """Return the path that a monitor for dynmem is proposed to have."""
    if vm.keeper == PROXMOX:
        return f"/run/qemu-server/{vm.started.number}-dynmem.qmp"
    return otherwise if otherwise.isprintable() else "/run/vm/name.qmp"


def _is_domain(vm: FoundVm) -> bool:
    """Return whether a VM is reached by libvirt: one of its domains without a monitor for dynmem."""
    return vm.is_domain and _monitor(vm)[0] is None


def _libvirt_of(vm: FoundVm) -> str:
    return libvirt_of([each.path for each in vm.monitors])


def _monitor(vm: FoundVm) -> tuple[FoundMonitor | None, MonitorKind]:
    """Return the monitor to use, and how: one for dynmem, or Proxmox's own, which is mostly free."""
    for each in vm.monitors:
        if _is_free(vm, each):
            return each, "own"
    for each in vm.monitors:
        if vm.keeper == PROXMOX and is_keepers_own(each.path):
            return each, "borrowed"
    return None, "own"


def _is_free(vm: FoundVm, monitor: FoundMonitor) -> bool:
    """Return whether a monitor can be dynmem's: not one that Proxmox or libvirt uses, connected or not."""
    if vm.keeper == OURS:
        return True  # it serves several clients
    return not monitor.is_taken and not is_keepers_own(monitor.path)


def _minimum(vm: FoundVm, maximum: int, room: int) -> tuple[int, str]:
    """Return the least that a VM should keep, and how that was found."""
    if vm.proxmox is not None and 0 < (vm.proxmox.minimum_bytes or 0) < maximum:
        minimum, why = vm.proxmox.minimum_bytes or 0, "what Proxmox has as balloon"
    else:
        minimum, why = max(maximum // _GUESS_SHARE, _GUESS_BYTES_MIN), "a guess: a quarter"
    return _whole(max(_MINIMUM_BYTES_MIN, min(minimum, maximum, room))), why


def _weight(vm: FoundVm) -> tuple[int, str]:
    shares = vm.proxmox.shares if vm.proxmox is not None else 0
    if not shares:
        return _DEFAULTS.weight, "the middle"
    weight = min(WEIGHT_MAX, max(1, shares * _DEFAULTS.weight // _SHARES))
    return weight, f"Proxmox's shares of {shares}"


def _name(vm: FoundVm, taken: set[str]) -> str:
    """Return a name that the file can have, and no VM before has."""
    plain = _NOT_IN_NAMES.sub("-", vm.name).lstrip("._-")[:MANAGER_NAME_MAX]
    name = plain if is_name(plain) else f"vm-{vm.pid}"
    stem, number = name[: MANAGER_NAME_MAX - _SUFFIX_MAX], vm.pid or 2
    while name in taken:
        name, number = f"{stem}-{number}", number + 1
    return name


def _whole(size: int) -> int:
    return size // MIB * MIB


def _size(size: int) -> str:
    return f'"{size // GIB}GiB"' if size and size % GIB == 0 else f'"{size // MIB}MiB"'


def _line(key: str, value: str, comment: str) -> str:
    return f"{f'{key} = {value}':<{_WIDTH}} # {_remark(comment)}"


def _remark(text: str) -> str:
    """Return a text as a remark can have it, whatever names and paths are in it: one line."""
    return printable(text)[:_REMARK_MAX]


def _commented(lines: Sequence[str]) -> list[str]:
    return [f"# {line}" for line in lines]


def _example() -> list[str]:
    return [
        "[[vm]]",
        _line("name", '"web"', "letters, digits, dot, dash, underscore"),
        _line("qmp", '"/run/vm/web.qmp"', "-qmp unix:/run/vm/web.qmp,server=on,wait=off"),
        _line("minimum", '"1GiB"', "it is never shrunk below"),
        _line("maximum", '"4GiB"', "it is never grown above"),
    ]
